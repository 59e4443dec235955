"""Files of tensors in the safetensors format, written and read one tensor at a time, with their checksum on the way.

The safetensors library itself holds a second copy of everything while it writes (`save`) or needs the file to stay
mapped (`safe_open`). A block that is fetched and written back again and again should be in memory once. The format is
eight bytes with the length of a JSON header, the header, and the values of all tensors in a row; any reader of
safetensors opens these files.
"""

import io
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

import msgspec
import torch
from msgspec import Meta, Struct
from torch import Tensor

from blocklocal._common.files import open_bytes
from blocklocal.schemas.checkpoint import Checksum
from blocklocal.training.checksums import PIECE, Summed
from blocklocal.training.pages import room

MOST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
NAMES = {dtype: name for name, dtype in DTYPES.items()}
_Size = Annotated[int, Meta(ge=0)]


class _Entry(Struct):
    dtype: str
    shape: list[_Size]
    data_offsets: tuple[_Size, _Size]


class SummedFile(io.RawIOBase):
    """A file that is being written, with the checksum of what has gone into it. Its errors are OSErrors."""

    def __init__(self, path: Path):
        self._file, self._summed = path.open("wb", buffering=0), Summed()
        self.failed: OSError | None = None  # for a library that hides why writing failed

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        try:
            for start in range(0, len(view), PIECE):
                self._write_all(view[start : start + PIECE])
        except OSError as error:
            self.failed = error
            raise
        return len(view)

    def _write_all(self, piece: memoryview) -> None:
        self._summed.update(piece)
        while piece:
            piece = piece[self._file.write(piece) or 0 :]

    def close(self) -> None:
        self._file.close()
        super().close()

    @property
    def checksum(self) -> Checksum:
        return self._summed.checksum


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Checksum:
    """Write tensors by name; they may share memory, and are written once per name.

    Raises:
        OSError: the file cannot be written whole, as on a full disk.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # the library's order
    entries, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = _Entry(NAMES[tensor.dtype], list(tensor.shape), (begin, end))
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % 8)
    with SummedFile(path) as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _, tensor in ordered:
            file.write(memory(tensor.detach().contiguous().cpu()))
        return file.checksum


def read_tensors(path: Path, *, most: int, noted: Checksum | None = None) -> tuple[dict[str, Tensor], Checksum]:
    """The tensors of a file by name, in memory of their own, and the checksum of what was read.

    Args:
        most: bytes that the file may have.
        noted: a checksum, of whose kind the one that is returned is.

    Raises:
        InputError: it is no ordinary file, or cannot be read.
        ValueError: its content is not of this format.
    """
    with open_bytes(path, what="tensors in the safetensors format", most=most) as (file, size):
        entries, head = read_header(file, size)
        summed, tensors = Summed(noted), {}
        summed.update(head)
        for name, entry in entries:
            tensor = room(entry.shape, DTYPES[entry.dtype])
            view = memory(tensor)
            for start in range(0, len(view), PIECE):
                piece = view[start : start + PIECE]
                if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                    raise ValueError("it ends early")
                summed.update(piece)
            tensors[name] = tensor
    return tensors, summed.checksum


def read_header(file: BinaryIO, size: int) -> tuple[list[tuple[str, _Entry]], bytes]:
    """(what the file of `size` bytes holds, in the order of its values; the bytes up to the first value).

    Raises:
        ValueError: the values do not fill the file one after the other, or a type is unknown.
    """
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(MOST_HEADER, size - 8):
        raise ValueError("it has no header")
    header = file.read(length)
    try:
        known = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        known.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in known.items()}
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    end = 0
    ordered = sorted(entries.items(), key=lambda item: item[1].data_offsets)
    for name, entry in ordered:
        if entry.dtype not in DTYPES:
            raise ValueError(f"{name} is of the unknown type {entry.dtype}")
        begin, end = end, end + prod(entry.shape) * DTYPES[entry.dtype].itemsize
        if entry.data_offsets != (begin, end):
            raise ValueError(f"{name} is not where its shape says")
    if 8 + length + end != size:
        raise ValueError("it is not as long as its header says")
    return ordered, start + header


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not a copy of them."""
    return memoryview(cast(Any, tensor.reshape(-1).view(torch.uint8).numpy()))
