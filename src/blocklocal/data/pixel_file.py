"""Pixels that stay on disk: read when they are asked for, by plain reads, so that no memory is kept for the rest.

A memory map would count every page that was ever touched as the process's own; here only the batch that was read is.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError

HERE = hasattr(os, "preadv")  # not on Windows: sets are kept in memory there
_PIECE = 2**25  # bytes read at a time by `split`, whatever it is asked for


class _Handle:
    """An open file, which stays readable when it is renamed or removed; closed with the last of those who share it."""

    def __init__(self, number: int):
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class PixelFile:
    """uint8 [N, C, H, W] in a file, indexed like a tensor in its first dimension.

    Args:
        path: of the file.
        offset: of the first pixel in it, in bytes.
        shape: [N, C, H, W].

    Attributes:
        rows: int64 [N], the places in the file.
    """

    dtype = torch.uint8
    ndim = 4
    device = torch.device("cpu")

    def __init__(self, path: Path, offset: int, shape: Sequence[int]):
        self.path, self._offset = path, offset
        self._file = _Handle(os.open(path, os.O_RDONLY))
        self._image = tuple(shape[1:])
        self.rows = torch.arange(shape[0])

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.rows), *self._image))

    @property
    def place(self) -> tuple[int, int]:
        """Where the bytes of a whole split begin and end in the file."""
        return self._offset, self._offset + len(self.rows) * int(np.prod(self._image))

    def __len__(self) -> int:
        return len(self.rows)

    def subset(self, chosen: Tensor | slice) -> PixelFile:
        """Some of the images, in that order; nothing is read."""
        part = object.__new__(PixelFile)
        part.__dict__.update(self.__dict__)
        part.rows = self.rows[chosen]
        return part

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """uint8 [B, C, H, W], read now.

        Raises:
            InputError: the file is shorter than it was.
        """
        rows = self.rows[chosen].numpy()
        pixels = torch.empty((len(rows), *self._image), dtype=torch.uint8)
        if pixels.numel():
            self._fill(pixels.numpy().reshape(len(rows), -1), rows)
        return pixels

    def split(self, size: int) -> Iterator[Tensor]:
        """All images, read `size` at a time."""
        return (self[slice(start, start + size)] for start in range(0, len(self), size))

    def pieces(self) -> Iterator[Tensor]:
        """All images, in pieces of at most some megabytes."""
        return self.split(max(1, _PIECE // max(1, int(np.prod(self._image)))))

    def _fill(self, out: np.ndarray, rows: np.ndarray) -> None:
        """Read `rows` into out [B, bytes of an image]; neighbours in the file by one read, in the order of the file."""
        size = out.shape[1]
        edges = np.flatnonzero(np.diff(rows) != 1) + 1
        starts = np.concatenate([[0], edges])
        ends = np.concatenate([edges, [len(rows)]])
        for run in np.argsort(rows[starts], kind="stable"):
            first, last = int(starts[run]), int(ends[run])
            self._read(out[first:last].reshape(-1).data, self._offset + int(rows[first]) * size)

    def _read(self, into: memoryview, at: int) -> None:
        while into:
            count = os.preadv(self._file.number, [into], at)
            if not count:
                raise InputError(
                    f"{self.path}, which holds decoded images, was cut short while it was read. Remove it and start "
                    "again: it is made anew."
                )
            into, at = into[count:], at + count


Pixels = Tensor | PixelFile


def in_pieces(pixels: Pixels, size: int) -> Iterator[Tensor]:
    """All images one piece after the other: `size` of them, or of a file as many as need little memory."""
    return pixels.pieces() if isinstance(pixels, PixelFile) else iter(pixels.split(size))
