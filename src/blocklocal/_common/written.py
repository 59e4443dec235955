"""Files that the user names: written through links and into devices, and never over a file that is not ours.

A regular file is replaced at once and whole: a kill or a full disk leaves what was there before. What is no regular
file (`/dev/null`, `/dev/stdout`, a FIFO) is written into and stays what it is.
"""

import json
import os
import re
import secrets
import stat
import sys
from pathlib import Path
from typing import Any

from blocklocal import __version__
from blocklocal._common.errors import InputError

SIGNATURE = f"blocklocal {__version__}"
HEAD = 4096  # bytes of a file in which its signature stands
OURS = (
    rb'^\s*\{\s*"written_by": ?"blocklocal [0-9]',
    rb"^\x89PNG\r\n\x1a\n.*tEXtSoftware\x00blocklocal [0-9]",
    rb"^<\?xml.*<dc:title>blocklocal [0-9]",
)
HANDED_OVER = ("/dev/fd/", "/proc/")  # names of files that are open already


def signed_json(content: dict[str, Any], **options: Any) -> bytes:
    """A JSON object as bytes that `check_target` recognises. Half a surrogate pair is written as its escape."""
    text = json.dumps({"written_by": SIGNATURE, **content}, **options)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def check_target(path: Path, *, overwrite: bool = False) -> None:
    """Raise InputError where `write_file` would.

    That is for a folder, a disk, a file that we did not write, and a path in a folder that is not there.
    """
    found = _status(path)
    if found is None:
        if not os.path.isdir(os.path.dirname(os.path.realpath(path))):
            raise InputError(f"the folder that {path} is to be in is not there: make it, or give another name.")
        return
    if _standard_stream(found) is not None:
        return
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"{path} is a folder: give the name of a file in it.")
    if stat.S_ISBLK(found.st_mode):
        raise InputError(f"{path} is a disk and is not written over: give the name of a file.")
    if stat.S_ISREG(found.st_mode) and found.st_size and not overwrite and not _is_ours(path):
        raise InputError(
            f"{path} exists and was not written by blocklocal: give another name, or --overwrite to replace it."
        )


def write_file(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """Write `content` where `path` leads.

    Raises:
        InputError: `check_target` refuses the path.
        OSError: it cannot be written.
    """
    check_target(path, overwrite=overwrite)
    found = _status(path)
    stream = None if found is None else _standard_stream(found)
    if stream is not None:
        _write_through(stream, content)
    elif found is not None and (not stat.S_ISREG(found.st_mode) or os.path.abspath(path).startswith(HANDED_OVER)):
        with path.open("wb") as file:
            file.write(content)
    else:
        _replace(Path(os.path.realpath(path)), content, found)


def _status(path: Path) -> os.stat_result | None:
    """Of what a path leads to, through links; None where nothing is there."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _standard_stream(found: os.stat_result) -> int | None:
    """The number of standard output or standard error, where the path leads to one of them."""
    for number in (1, 2):
        try:
            if os.path.samestat(found, os.fstat(number)):
                return number
        except OSError:  # it is closed
            continue
    return None


def _is_ours(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(HEAD)
    return any(re.search(pattern, head, re.DOTALL) for pattern in OURS)


def _write_through(number: int, content: bytes) -> None:
    """In order with what is printed, and without cutting off a file that standard output was led to."""
    sys.stdout.flush()
    sys.stderr.flush()
    with open(os.dup(number), "wb") as file:
        file.write(content)


def _replace(target: Path, content: bytes, found: os.stat_result | None) -> None:
    draft = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            if found is not None:
                os.fchmod(file.fileno(), stat.S_IMODE(found.st_mode))
            file.write(content)
        os.replace(draft, target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
