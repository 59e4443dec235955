"""Checksums of files, taken while their content is written or read.

XXH128 sees damage as surely as a cryptographic digest and costs a tenth of it: a block that is fetched and written back
again and again is summed each time. Against somebody who changes files on purpose neither helps, as the list of
checksums lies beside them. Checkpoints of older versions have SHA-256.
"""

import hashlib
from pathlib import Path
from typing import BinaryIO

import xxhash
from msgspec import UNSET

from blocklocal.schemas.checkpoint import Checksum

PIECE = 2**20  # bytes that are read, summed and written at a time


class Summed:
    """The size and the sum of what it has been given.

    Args:
        like: a noted checksum, whose kind of sum this one is; None for the present kind.

    Attributes:
        bytes: how many have been given so far.
    """

    def __init__(self, like: Checksum | None = None):
        self._older = like is not None and like.sha256 is not UNSET
        self._sum, self.bytes = hashlib.sha256() if self._older else xxhash.xxh3_128(), 0

    def update(self, piece: bytes | memoryview) -> None:
        self._sum.update(piece)
        self.bytes += len(piece)

    @property
    def checksum(self) -> Checksum:
        digest = self._sum.hexdigest()
        return Checksum(self.bytes, sha256=digest) if self._older else Checksum(self.bytes, xxh128=digest)


def checksum(content: bytes, like: Checksum | None = None) -> Checksum:
    summed = Summed(like)
    summed.update(content)
    return summed.checksum


def checksum_of(file: BinaryIO, like: Checksum | None = None) -> Checksum:
    """Of what is left to be read of an open file."""
    summed, piece = Summed(like), memoryview(bytearray(PIECE))
    while count := file.readinto(piece):  # type: ignore[attr-defined]
        summed.update(piece[:count])
    return summed.checksum


def checksum_at(path: Path, like: Checksum | None = None) -> Checksum:
    """Of the file at a path."""
    with path.open("rb") as file:
        return checksum_of(file, like)
