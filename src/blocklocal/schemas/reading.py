"""From a file to a checked value: opened, decoded and checked here and nowhere else."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.files import MOST, read_bytes
from blocklocal.schemas.kinds import Plain
from blocklocal.schemas.words import explain

T = TypeVar("T")


class NotJson(ValueError):
    """These bytes are no JSON text; says why."""


def parse(raw: bytes, *, gaps: bool = False) -> Any:
    """The JSON value of these bytes.

    Undecodable bytes of a file name stay what Python makes of them (U+DC80 to U+DCFF); other halves of a surrogate pair
    are no text.

    Args:
        gaps: NaN and infinities, which Python writes for a figure that is not defined, become null.

    Raises:
        NotJson: they are no JSON.
    """
    try:
        text = raw.decode("utf-8-sig")
        value = json.loads(text, parse_constant=(lambda _: None) if gaps else None)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        if re.search(r"(?<!\\)(\\\\)*\\u0000", text):
            raise NotJson("it holds a null character")
    except UnicodeDecodeError as error:
        raise NotJson(f"byte {error.start + 1} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise NotJson("it holds half of a surrogate pair") from error
    except json.JSONDecodeError as error:
        raise NotJson(f"line {error.lineno}: {error.msg}") from error
    except RecursionError as error:
        raise NotJson("it is nested too deeply") from error
    except NotJson:
        raise
    except ValueError as error:  # Python reads whole numbers of up to 4,300 digits
        raise NotJson("it holds a number of thousands of digits") from error
    return value


def check(value: Any, kind: type[T] | Any, *, where: object, what: str) -> T:
    """`value` as `kind`.

    Args:
        where: where it stands (a file, or a line of it), for the message.
        what: what is expected there, for the message.

    Raises:
        InputError: it is of another kind.
    """
    _refuse_unknown(value, kind, where)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}: {explain(str(error), value)}. Expected {what}.") from error
    except RecursionError as error:
        raise InputError(f"{where} is nested too deeply. Expected {what}.") from error
    except UnicodeEncodeError as error:  # msgspec looks keys up as UTF-8
        raise InputError(f"{where} has a key that is not UTF-8 ({error.object[:60]!r}). Expected {what}.") from error


def read_json(path: Path, kind: type[T] | Any, *, what: str, gaps: bool = False, most: int = MOST) -> T:
    """The JSON value of a file as `kind`.

    Keys that a dataclass does not have are refused; of a `Struct`, where it says `forbid_unknown_fields=True`.

    Args:
        what: what the file is expected to hold, for the message.
        gaps: see `parse`.

    Raises:
        InputError: anything is wrong with the file.
    """
    return check(_decoded(path, what, gaps, most), kind, where=path, what=what)


def read_rows(path: Path, kind: Any, *, what: str, most: int = MOST) -> Any:
    """As `read_json` with `gaps`, but the plain value with all its keys; what no schema lists is of bounded depth."""
    value = _decoded(path, what, True, most)
    check(value, Plain, where=path, what=what)
    check(value, kind, where=path, what=what)
    return value


def _decoded(path: Path, what: str, gaps: bool, most: int) -> Any:
    try:
        return parse(read_bytes(path, what=what, most=most), gaps=gaps)
    except NotJson as error:
        raise InputError(f"{path} is damaged: it is not valid JSON ({error}). Expected {what}.") from error


def _refuse_unknown(value: Any, kind: Any, where: object) -> None:
    if not dataclasses.is_dataclass(kind) or not isinstance(value, dict):
        return
    known = [field.name for field in dataclasses.fields(kind)]
    for key in value:
        if key not in known:
            raise InputError(f"{where}: {unknown('key', key, known)}")
