"""The boundary cache: the forward messages between two blocks, for the steps of one chunk.

When block k reads its message of a step, nobody else needs it, and block k + 1 will need the one that block k sends. So
there is one place per step, and the cache holds N messages, whatever the number of blocks.
"""

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from blocklocal._common.dense import dense, flat
from blocklocal._common.lock import LOCK, locked
from blocklocal._common.message import Forward, map_message
from blocklocal.training.tensor_file import memory

if TYPE_CHECKING:
    from filelock import BaseFileLock

PREFIX = ".cache-"


class Cache(Protocol):
    """One forward message per step of a chunk."""

    def put(self, step: int, message: Forward) -> None: ...

    def take(self, step: int) -> Forward: ...

    def clear(self) -> None: ...


class MemoryCache:
    """In the memory of the device."""

    def __init__(self) -> None:
        self._messages: dict[int, Forward] = {}

    def put(self, step: int, message: Forward) -> None:
        self._messages[step] = message

    def take(self, step: int) -> Forward:
        return self._messages.pop(step)

    def clear(self) -> None:
        self._messages.clear()


@dataclass(frozen=True)
class _Like:
    """What a tensor of a message is like; it lies in memory as it lay, or else sums over it round in another way."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, t: Tensor) -> "_Like":
        return cls(t.shape, t.stride(), t.dtype, t.device)


class FileCache:
    """In files, one per step of a chunk; they are removed with the cache.

    Args:
        folder: where, in a folder of its own that is made with the first message. None: among the system's own
            temporary files.
    """

    def __init__(self, folder: Path | None):
        self._place = folder
        self._folder: Path | None = None
        self._like: dict[int, Any] = {}  # a message with what its tensors are like in their places

    def put(self, step: int, message: Forward) -> None:
        message = map_message(dense, message)
        self._like[step] = pytree.tree_map_only(Tensor, _Like.of, message)
        with self._path(step).open("wb") as file:
            map_message(lambda t: _written(t, file), message)

    def take(self, step: int) -> Forward:
        like = self._like.pop(step)
        with self._path(step).open("rb") as file:
            return pytree.tree_map_only(_Like, lambda each: _read(each, file), like)

    def clear(self) -> None:
        self._like.clear()

    def _path(self, step: int) -> Path:
        if self._folder is None:
            self._folder = self._made()
        return self._folder / f"step-{step}"

    def _made(self) -> Path:
        """The folder, with a lock that says that it is in use; those of processes that were killed are removed."""
        if self._place is not None:
            self._place.mkdir(parents=True, exist_ok=True)
            clear_caches(self._place)
        made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=self._place))
        weakref.finalize(self, _remove, made, locked(made / LOCK))
        return made


def _written(t: Tensor, file: BinaryIO) -> Tensor:
    file.write(memory(flat(t.detach().cpu())))
    return t


def _read(like: _Like, file: BinaryIO) -> Tensor:
    t = torch.empty_strided(like.shape, like.stride, dtype=like.dtype)
    file.readinto(memory(flat(t)))  # type: ignore[attr-defined]
    return t.to(like.device)


def clear_caches(folder: Path) -> None:
    """Remove what processes that were killed have left of their caches in a folder."""
    for leftover in folder.glob(f"{PREFIX}*"):
        _remove(leftover, locked(leftover / LOCK))


def _remove(folder: Path, lock: "BaseFileLock | None") -> None:
    """Remove the folder of a cache. lock: held by nobody else; None where the cache is in use."""
    if lock is not None:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
