"""What this machine can hold, and whether something fits into it."""

from __future__ import annotations

import re
from pathlib import Path

from blocklocal._common.errors import InputError

_MEMINFO = Path("/proc/meminfo")
_MEMBERSHIP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
_NO_LIMIT = 2**60  # what version 1 writes where there is no limit is above this


def available_bytes() -> int | None:
    """Bytes of memory that a process here can still take: what is free, or less where a container sets a limit.

    None where the system does not say.
    """
    known = [size for size in (_free(), _left_in_group()) if size is not None]
    return min(known) if known else None


def check_memory(what: str, parts: int | dict[str, int], remedy: str, available: int | None = None) -> None:
    """Raise InputError where something needs more bytes than are free.

    Args:
        parts: the bytes, or those of each part by name.
        available: bytes that are free (default: of main memory).
    """
    free = available_bytes() if available is None else available
    needed = parts if isinstance(parts, int) else sum(parts.values())
    if free is None or needed <= free:
        return
    named = {} if isinstance(parts, int) else parts
    each = ", ".join(f"{name} {in_bytes(size)}" for name, size in named.items() if size)
    raise InputError(
        f"{what} would need at least {in_bytes(needed)} of memory{f' ({each})' if each else ''}, and {in_bytes(free)} "
        f"are free here: {remedy}."
    )


def parse_bytes(text: str) -> int:
    """The inverse of `in_bytes`: `4GiB`, `512 MiB`; G, GB and GiB mean the same, 1024³ bytes.

    Raises:
        InputError: it is no size, or none above 0.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(?:i?B)?\s*", text, re.IGNORECASE)
    size = int(float(found[1]) * 1024 ** " KMGT".index(found[2].upper())) if found else 0
    if size < 1:
        raise InputError(f"{text!r} is no size of memory: give one such as 4GiB or 512MiB.")
    return size


def in_bytes(size: float) -> str:
    """A size with a unit: 1536 → 1.5 KiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.{0 if size >= 100 else 1}f} {units[0]}"


def _free() -> int | None:
    """MemAvailable: free memory and what the kernel gives back when asked."""
    for line in _lines(_MEMINFO):
        name, _, size = line.partition(":")
        if name == "MemAvailable":
            return int(size.split()[0]) * 1024
    return None


def _left_in_group() -> int | None:
    """Limit less use of the control group and of those above it; the file cache counts as free."""
    left = [size for folder in _groups() if (size := _left(folder)) is not None]
    return min(left) if left else None


def _groups() -> list[Path]:
    """The folders of this process's control groups that limit memory, and all above them (versions 1 and 2)."""
    folders: list[Path] = []
    for line in _lines(_MEMBERSHIP):
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top = _CGROUPS / "memory" if controllers else _CGROUPS
        own = top / path.lstrip("/")
        folders += [folder for folder in (own, *own.parents) if folder == top or top in folder.parents]
    return folders


def _left(folder: Path) -> int | None:
    for limit_name, use_name, cache_name in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        limit, use = _number(folder / limit_name), _number(folder / use_name)
        if limit is not None and use is not None and limit < _NO_LIMIT:
            pairs = (line.split() for line in _lines(folder / "memory.stat"))
            cache = next((int(pair[1]) for pair in pairs if len(pair) == 2 and pair[0] == cache_name), 0)
            return max(0, limit - use + cache)
    return None


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None  # "max" is no limit


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:  # another system, or not to be read from here
        return []
