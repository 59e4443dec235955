"""Memory of large tensors on the CPU: pages of their own, and for blocks that come and go, those of blocks before them.

The C library would keep freed tensors in its heap. Blocks that come and go leave holes there, which do not fit the next
one. Pages of one's own go back to the system; but to get new ones from it costs more than to fill them.
"""

import mmap
import threading
import weakref
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from math import prod

import torch
from torch import Tensor

OWN_PAGES = 2**20  # bytes of a tensor
_PRIVATE: dict[str, int] = (
    {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
)  # a fork has its own


class Pages:
    """Pages of tensors that are gone, kept for those that come.

    What is kept and what is in use together are never more than what has been in use at a time, where tensors come
    through `used` alone.
    """

    def __init__(self) -> None:
        self._given: deque[mmap.mmap] = deque()  # by any thread, at any moment: where a tensor's last holder lets go
        self._kept: dict[int, list[mmap.mmap]] = {}
        self._closed = False

    @contextmanager
    def used(self) -> Generator[None]:
        """Within it, `room` in this thread takes from here."""
        before, _HERE.pages = getattr(_HERE, "pages", None), self
        try:
            yield
        finally:
            _HERE.pages = before

    def take(self, size: int) -> mmap.mmap:
        """Pages of so many bytes, with any content."""
        while self._given:
            pages = self._given.popleft()
            self._kept.setdefault(len(pages), []).append(pages)
        fitting = self._kept.get(size)
        if fitting:
            return fitting.pop()
        self._forget(size)
        return _new(size)

    def give(self, pages: mmap.mmap) -> None:
        if not self._closed:
            self._given.append(pages)

    def close(self) -> None:
        """Everything goes back to the system, and what is in use, when it is let go of."""
        self._closed = True
        self._given.clear()
        self._kept.clear()

    def _forget(self, size: int) -> None:
        """Let go of that many bytes of other sizes, where so many are kept."""
        for other in list(self._kept):
            while self._kept[other] and size > 0:
                size -= len(self._kept[other].pop())


_HERE = threading.local()


def room(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """An empty tensor on the CPU; a large one in pages of its own, which go back when it is freed."""
    size = prod(shape) * dtype.itemsize
    if size < OWN_PAGES:
        return torch.empty(tuple(shape), dtype=dtype)
    kept: Pages | None = getattr(_HERE, "pages", None)
    if kept is None:
        return torch.frombuffer(_new(size), dtype=dtype).view(*shape)
    pages = kept.take(size)
    held = memoryview(pages)  # what the tensor holds; gone when it is
    weakref.finalize(held, kept.give, pages).atexit = False
    return torch.frombuffer(held, dtype=dtype).view(*shape)


def _new(size: int) -> mmap.mmap:
    """Large ones, where the system has them.

    Raises:
        MemoryError: there are none left.
    """
    try:
        pages = mmap.mmap(-1, size, **_PRIVATE)
    except OSError as error:  # what reads a file would take it for an error of the file
        raise MemoryError(f"there is no memory for a tensor of {size:,} bytes ({error.strerror})") from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            pages.madvise(mmap.MADV_HUGEPAGE)
    return pages
