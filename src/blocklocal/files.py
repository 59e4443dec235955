"""Text files: small ones that are there whole or not at all, and ones that are appended to line by line."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Write `text` (UTF-8) in the place of `path`: a kill or a full disk (OSError) leaves what was there before."""
    draft = path.with_name(f".{path.name}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def cut_half_line(path: Path) -> None:
    """A kill or a full disk may have cut the last line short; what is appended would be lost with it."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)
