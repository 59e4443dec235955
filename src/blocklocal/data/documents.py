"""Documents of text: files of .txt, .md and .rst, lines of .jsonl and rows of .parquet; one after the other.

Lines of .jsonl may ask and answer (`dialogue`).
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError, shown, unknown
from blocklocal.data.dialogue import Parts, is_dialogue, parts_of
from blocklocal.data.scan import LeftOut, files_below

PLAIN = (".txt", ".md", ".rst")
ROWS = (".jsonl", ".parquet")
FIELD = "text"
EMPTY = ("empty document", "empty documents")
OTHER = ("file that is no text by its name", "files that are no text by their names")
BAD_LINE = ("line that is no text inside", "lines that are no text inside")
BAD = ("file that is no text inside", "files that are no text inside")
_MARKS = (b"\xff\xfe", b"\xfe\xff")  # with which UTF-16 begins
_START = 2**12  # bytes that tell what a file is
_HALF = re.compile("[\ud800-\udfff]")  # of a character outside the first 65,536, which JSON may write in two halves
_TABLES = (".csv", ".parquet")
_ABOUT = ("readme", "license", "licence", "citation", "changelog")  # files about the others, and not data themselves


@dataclass(frozen=True)
class Document:
    """One text.

    Attributes:
        name: of its file in the folder; for a line or row with its number behind it.
        parts: texts in a row, and whether the network is asked for each; of a plain document one, which it is.
    """

    name: str
    parts: Parts

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)


def holds_text(path: Path, field: str = "") -> bool:
    """Whether this is a file of text, or a folder with some; of lines and rows, those with a field of text.

    Files that only tell of others, such as README.md, make no text of a folder of tables.
    """
    field = field or FIELD
    if path.is_file():
        return _is_text(path, field)
    if not path.is_dir():
        return False
    files = list(files_below(path, LeftOut()))
    if any(_is_text(file, field) for file in files if not _tells(file)):
        return True
    return any(map(_tells, files)) and not any(file.suffix.lower() in _TABLES for file in files)


def _tells(path: Path) -> bool:
    return path.suffix.lower() in PLAIN and path.stem.lower() in _ABOUT


def _is_text(path: Path, field: str) -> bool:
    suffix = path.suffix.lower()
    return suffix in PLAIN or (suffix == ".jsonl" and _first_has(path, field)) or field in _columns(path)


def _first_has(path: Path, field: str) -> bool:
    """Whether the first line is an object with this field and a text in it."""
    try:
        with path.open("rb") as file:
            found = json.loads(next(iter(_lines_of(file)), b""))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and (isinstance(found.get(field), str) or is_dialogue(found))


def _columns(path: Path) -> list[str]:
    """The columns of texts of a parquet file; none of another one."""
    if path.suffix.lower() != ".parquet":
        return []
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError):
        return []
    return [each.name for each in schema if _is_texts(each.type)]


def _is_texts(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_texts(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


class Documents:
    """The documents of a file or folder, in order of their names; read anew in every pass.

    Args:
        path: a file, or a folder.
        field: of lines and columns, the one that holds the text; "" for `FIELD`.
        skip_bad: leave out what is no UTF-8 text, instead of stopping.

    Attributes:
        left: what the last whole pass has passed over.
        notes: what else there is to say of it, for people.

    Raises:
        InputError: there is nothing of text.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, path: Path, field: str = "", *, skip_bad: bool = False):
        self.path, self.field, self.skip_bad = path, field or FIELD, skip_bad
        self.left = LeftOut()
        self.files = [path] if path.is_file() else self._find()
        if not self.files:
            raise InputError(f"{path} holds no text. Give a folder of {', '.join((*PLAIN, *ROWS))} files, or one.")

    @property
    def sources(self) -> list[str]:
        """The names, from the folder, of the files that it is made of; none of one file."""
        return [file.relative_to(self.path).as_posix() for file in self.files if file != self.path]

    def identity(self) -> list[tuple[str, int, int]]:
        """What a text is made of: path, size and time of change of each file."""
        try:
            return [(str(file.absolute()), (stat := os.stat(file)).st_size, stat.st_mtime_ns) for file in self.files]
        except OSError as error:
            said = f"cannot read {error.filename}: {error.strerror or error}. Remove it, or what links to it."
            raise InputError(said) from error

    def _find(self) -> list[Path]:
        found = sorted(files_below(self.path, self.left))
        for file in found:
            if file.suffix.lower() not in (*PLAIN, *ROWS):
                self.left.add(OTHER, file.name)
        return [file for file in found if file.suffix.lower() in (*PLAIN, *ROWS)]

    def __iter__(self) -> Iterator[Document]:
        """Documents that hold more than white space.

        Raises:
            InputError: a file cannot be read, or is no text.
        """
        self.left = LeftOut()
        if self.path.is_dir():
            self._find()
        for file in self.files:
            name = file.name if file == self.path else file.relative_to(self.path).as_posix()
            try:
                for place, parts in self._read(file):
                    document = Document(f"{name}{place}", parts)
                    if document.text.strip():
                        yield document
                    else:
                        self.left.add(EMPTY, document.name)
            except BadText as error:
                if not self.skip_bad:
                    raise InputError(f"{error} {error.remedy} --skip-bad leaves such files out.") from error
                self.left.add(BAD, name)

    def _read(self, file: Path) -> Iterator[tuple[str, Parts]]:
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            yield from self._rows(file)
            return
        try:
            with file.open("rb") as opened:
                if suffix == ".jsonl":
                    yield from self._lines(file, _lines_of(opened))
                else:
                    yield "", ((_decoded(opened.read(), file), True),)
        except UnicodeDecodeError as error:
            raise BadText(f"{file}: this is no UTF-16 ({error.reason}).", "Save the file as UTF-8 text.") from error
        except OSError as error:
            raise InputError(f"cannot read {file}: {error.strerror or error}. Check its permissions.") from error

    def _lines(self, file: Path, opened: Iterable[bytes]) -> Iterator[tuple[str, Parts]]:
        for number, line in enumerate(opened, start=1):
            if not line.strip():
                continue
            try:
                yield f":{number}", self._line(file, number, line)
            except BadText:
                if not self.skip_bad:
                    raise
                self.left.add(BAD_LINE, f"{file.name}:{number}")

    def _line(self, file: Path, number: int, line: bytes) -> Parts:
        where = f"{file}, line {number}"
        try:
            found = json.loads(_decoded(line, file, number))
        except (ValueError, RecursionError) as error:
            raise BadText(f"{where}: this is no JSON ({error}).", "Write one object per line.") from error
        if not isinstance(found, dict):
            raise BadText(f"{where}: expected an object with the field {self.field!r}.", "Write one per line.")
        if self.field not in found and is_dialogue(found):
            parts = parts_of(found, where)
        elif self.field not in found:
            raise InputError(f"{where}: {unknown('field', self.field, found)} Name the one of the text by --text.")
        elif not isinstance(text := found[self.field], str):
            raise InputError(f"{where}: the field {self.field!r} holds {shown(text)}. Expected a text.")
        else:
            parts = ((text, True),)
        if any(map(_HALF.search, (text for text, _ in parts))):
            raise BadText(f"{where}: the text holds half of a character (\\ud800 to \\udfff).", "Write whole ones.")
        return parts

    def _rows(self, file: Path) -> Iterator[tuple[str, Parts]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = _columns(file)
        try:
            if self.field not in known:
                raise InputError(
                    f"{file}: {unknown('column of texts', self.field, known or ['none'])} Name the one by --text."
                )
            with pq.ParquetFile(file) as opened:
                row = 0
                for batch in opened.iter_batches(1024, columns=[self.field]):
                    for text in batch.column(0).to_pylist():
                        row += 1
                        yield f":{row}", ((text or "", True),)
        except (pa.ArrowException, OSError) as error:
            raise InputError(f"cannot read {file} as parquet: {error}. Write it again.") from error


def _lines_of(file: BufferedReader) -> Iterable[bytes]:
    """Lines in UTF-8, of a file in that or, with a mark, in UTF-16."""
    if file.peek(2)[:2] not in _MARKS:
        return file
    return (line.encode() for line in codecs.getreader("utf-16")(file))


class BadText(InputError):
    """A file that is no text inside.

    Args:
        said: what is wrong, with the place.
        remedy: what to do.
    """

    def __init__(self, said: str, remedy: str):
        super().__init__(said)
        self.remedy = remedy


def _decoded(content: bytes, file: Path, line: int = 0) -> str:
    """UTF-8 with or without its mark, or UTF-16 with one."""
    mark = content[:2]
    if mark in _MARKS:
        encoding = "utf-16"
    elif b"\0" in content[:_START]:
        raise BadText(f"{file} is no text: it holds null bytes.", "Move it away, or if it is UTF-16, save it as UTF-8.")
    else:
        encoding = "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        place = line or content[: error.start].count(b"\n") + 1
        raise BadText(
            f"{file}, line {place}: this is no {encoding.removesuffix('-sig').upper()} (the byte "
            f"{content[error.start]:#x}).",
            "Save the file as UTF-8 text.",
        ) from error
