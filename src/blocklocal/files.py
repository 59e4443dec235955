"""Text files: small ones that are there whole or not at all, and ones that are appended to line by line."""

import os
import re
from pathlib import Path

from blocklocal.schemas import MIB, is_there, read_bytes

MOST_LINES = 4096 * MIB


def readable(text: str) -> str:
    """`text` with a replacement character for what is no letter: bytes of a name that is not UTF-8, control characters.

    Everything that is shown to people or written as text goes through here; Python cannot write the former at all.
    """
    return re.sub(r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]", "\ufffd", text)


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) in the place of `path`: a kill or a full disk (OSError) leaves what was there before."""
    text = readable(text)
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def cut_half_line(path: Path) -> None:
    """A kill or a full disk may have cut the last line short; what is appended would be lost with it."""
    content = read_bytes(path, what="lines of JSON", most=MOST_LINES) if is_there(path) else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
