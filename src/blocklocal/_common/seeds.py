"""Named random streams.

Every random draw of the library comes from a stream named by its purpose (for example `("order", seed, epoch)`), so
that adding a draw in one place never shifts the numbers in another, and a run is resumed by naming the same streams.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from contextlib import contextmanager

import torch

_SEED_BITS = 63  # torch.Generator.manual_seed takes a signed 64-bit integer; 63 bits keep it non-negative


def stream_seed(*parts: int | str) -> int:
    """Seed in [0, 2^63) of the stream named by `parts`; the same on every machine, Python version and run.

    An integer and its text are different parts, and so are ("ab", "c") and ("a", "bc").
    """
    named = [f"s{len(part)}:{part}" if isinstance(part, str) else f"i{part:d}" for part in parts]
    digest = hashlib.blake2b("|".join(named).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


def generator(*parts: int | str) -> torch.Generator:
    """A fresh CPU generator at the start of the stream named by `parts`."""
    return torch.Generator().manual_seed(stream_seed(*parts))


@contextmanager
def seeded(*parts: int | str) -> Generator[None, None, None]:
    """Run the body with torch's global RNG at the start of the stream `parts`; put the old state back afterwards.

    CUDA's state is set and restored on every device too, but only where CUDA is in use already: asking for it otherwise
    would start a CUDA context in programs that never use the GPU.
    """
    in_use = torch.cuda.is_available() and torch.cuda.is_initialized()
    devices = list(range(torch.cuda.device_count())) if in_use else []
    with torch.random.fork_rng(devices=devices):
        seed = stream_seed(*parts)
        torch.default_generator.manual_seed(seed)
        if in_use:
            torch.cuda.manual_seed_all(seed)
        yield
