"""Sizes in words, and whether this machine can hold them."""

from blocklocal.errors import InputError
from blocklocal.limits import available_bytes


def in_bytes(size: float) -> str:
    """A size with a unit: 1536 → 1.5 KiB."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while size >= 1000 and len(units) > 1:
        size /= 1024
        units.pop(0)
    return f"{size:.{0 if size >= 100 else 1}f} {units[0]}"


def check_memory(what: str, parts: dict[str, int], remedy: str, available: int | None = None) -> None:
    """Raise InputError where the parts, bytes by name, are more than is free (`available`; default: of main memory)."""
    free, needed = available_bytes() if available is None else available, sum(parts.values())
    if free is None or needed <= free:
        return
    each = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items() if size)
    raise InputError(
        f"{what} would need at least {in_bytes(needed)} of memory ({each}), and {in_bytes(free)} are free here: "
        f"{remedy}."
    )
