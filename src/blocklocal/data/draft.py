"""A cache file while it is written: images one after the other, then what is said of them, then its name.

It is a safetensors file whose header, at its beginning, is written last into room that was left for it. A kill leaves
no half file under the final name, and what it leaves beside that is removed by the next writer.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal._common.limits import in_bytes

try:
    import fcntl
except ImportError:  # no such locks on this system: what a kill leaves stays there
    fcntl = None  # type: ignore[assignment]

_SUFFIX = ".draft"
_ROOM = 2**20  # bytes of the header for all but the class names
_NAME_ROOM = 16  # bytes for a character of a name, as JSON in JSON escapes it
_COPY = 2**25  # bytes moved at a time
_REMEDY = "free some space, let BLOCKLOCAL_CACHE name a folder with more, or pass a smaller --image-size"


class Draft:
    """An unfinished cache file in `folder`.

    Args:
        classes: the class names, for the room that they take.

    Raises:
        InputError: it cannot be made there.
    """

    def __init__(self, folder: Path, classes: tuple[str, ...]):
        self.folder = folder
        self.data = 8 + _ROOM + _NAME_ROOM * sum(map(len, classes)) + 8 * len(classes)
        self.data += -self.data % 8
        self.end = self.data
        self._tensors: dict[str, dict] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _sweep(folder)
            handle, name = tempfile.mkstemp(dir=folder, suffix=_SUFFIX)
        except OSError as error:
            raise self._trouble(error) from error
        self.path, self._file = Path(name), os.fdopen(handle, "r+b", buffering=0)
        if fcntl is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)  # it goes with this process, however that ends

    def check_space(self, needed: int) -> None:
        """Raise InputError where the disk has no room for so many bytes more."""
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise InputError(
                f"the decoded images need {in_bytes(needed)} on disk, and {self.folder} has {in_bytes(free)} left: "
                f"{_REMEDY}."
            )

    def write(self, data: np.ndarray, at: int) -> None:
        """Write uint8 pixels at a place in the file.

        Raises:
            InputError: the disk is full.
        """
        rest = np.ascontiguousarray(data).reshape(-1).data
        try:
            while rest:
                count = os.pwrite(self._file.fileno(), rest, at)
                rest, at = rest[count:], at + count
        except OSError as error:
            raise self._trouble(error) from error
        self.end = max(self.end, at)

    def spread(self, start: int, count: int, size: int, channels: int) -> None:
        """`count` grey images of `size` bytes from `start` on → the same in `channels` equal channels."""
        step = max(1, _COPY // (size * channels))
        for first in reversed(range(0, count, step)):  # from the end, so that nothing is overwritten unread
            some = min(step, count - first)
            grey = np.frombuffer(os.pread(self._file.fileno(), some * size, start + first * size), np.uint8)
            self.write(grey.reshape(some, 1, size).repeat(channels, 1), start + first * size * channels)

    def add(self, name: str, kind: str, shape: list[int], start: int, end: int) -> None:
        """Say that the bytes from `start` to `end` are this tensor."""
        offsets = [start - self.data, end - self.data]
        self._tensors[name] = {"dtype": kind, "shape": shape, "data_offsets": offsets}
        self.end = end

    def append(self, name: str, values: np.ndarray) -> None:
        """Write values, int64, float32 or uint8, behind everything else."""
        start = self.end + -self.end % 8
        if start > self.end:  # no byte of the file may belong to no tensor
            self.add(f"_fill_{name}", "U8", [start - self.end], self.end, start)
        self.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8), start)
        kind = {"int64": "I64", "float32": "F32", "uint8": "U8"}[values.dtype.name]
        self.add(name, kind, list(values.shape), start, start + values.nbytes)

    def finish(self, meta: dict[str, str], path: Path | None) -> None:
        """Write the header and give the file its name; without one it stays readable for who has it open alone.

        Raises:
            InputError: the disk is full.
        """
        header = json.dumps({"__metadata__": meta, **self._tensors}).encode()
        assert len(header) <= self.data - 8, "the header is larger than the room for it"
        try:
            self.write(np.frombuffer(header.ljust(self.data - 8), np.uint8), 8)
            self.write(np.array([self.data - 8], "<u8").view(np.uint8), 0)
            os.ftruncate(self._file.fileno(), self.end)
            if path is None:
                self.path.unlink()
            else:
                os.replace(self.path, path)
        except OSError as error:
            raise self._trouble(error) from error
        finally:
            self.discard()

    def discard(self) -> None:
        """Close it, and remove it where it has no name yet."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    def _trouble(self, error: OSError) -> InputError:
        return InputError(
            f"decoded images cannot be kept on disk in {self.folder} ({error.strerror or error}): {_REMEDY}; or keep "
            "them in memory, if they fit (--images-in memory)."
        )


def _sweep(folder: Path) -> None:
    """Remove drafts whose writers are gone."""
    if fcntl is None:
        return
    for path in folder.glob(f"*{_SUFFIX}"):
        with suppress(OSError), path.open("rb") as file:  # one that is being written is locked
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()
