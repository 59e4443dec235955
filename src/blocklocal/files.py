"""Text files: small ones that are there whole or not at all, and ones that are appended to line by line."""

import os
from pathlib import Path

from blocklocal.schemas import MIB, is_there, read_bytes

MOST_LINES = 4096 * MIB


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) in the place of `path`: a kill or a full disk (OSError) leaves what was there before.

    Half a surrogate pair, which Python cannot write, becomes its escape, so that JSON stays the JSON it was.
    """
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_bytes(text.encode("utf-8", "backslashreplace"))
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
