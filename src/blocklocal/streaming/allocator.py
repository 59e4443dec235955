"""Memory that is let go of goes back to the system at once, so that a process is as large as what it holds."""

import ctypes
import sys

_MMAP_THRESHOLD = -3  # of mallopt
LARGE = 2**18  # bytes


def give_back_at_once(large: int = LARGE) -> bool:
    """Let the C library give back every piece of at least `large` bytes as soon as it is freed, from now on.

    glibc otherwise keeps pieces of up to 32 MiB for later use, in a heap with holes: a process whose pieces come and go
    in many sizes grows to up to twice of what it holds. In return the system must hand out cleared memory for every
    large tensor, which takes time: little in matrix products, more in convolutions on large maps.

    Returns:
        Whether it could be said; only glibc listens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(_MMAP_THRESHOLD, large))


def give_back() -> None:
    """Give the system what the C library keeps of freed memory, all holes of its heaps among it; glibc alone can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None
    if trim is not None:
        trim(0)
