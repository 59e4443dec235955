"""Peak bytes of activations on every device of a trace.

A forward pass keeps its activations until B, and a part of them until W. A message that has arrived and that no
operation has taken yet is in memory too.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from blocklocal.simulate.costs import BlockCosts
from blocklocal.simulate.engine import STAYS, EventLog
from blocklocal.simulate.orders import Kind

TAKES_MESSAGE = np.array([kind is Kind.FORWARD for kind in Kind])
TAKES_GRADIENT = np.array([kind in (Kind.INPUT, Kind.BACKWARD) for kind in Kind])
TIE = 1e-9  # relative: what arrives as an operation ends or starts has not waited


def peak_bytes(trace: EventLog, chunks: Sequence[Sequence[BlockCosts]]) -> list[float]:
    """The peak of each device."""
    m = trace.plan.batch.micro_batches
    kept = np.array([sum(block.activation_bytes for block in blocks) for blocks in chunks]) / m
    for_weight = np.array([sum(block.kept_for_weight for block in blocks) for blocks in chunks]) / m
    frees = np.zeros((len(Kind), len(chunks)))
    frees[Kind.INPUT], frees[Kind.WEIGHT], frees[Kind.BACKWARD] = kept - for_weight, for_weight, kept
    return [_peak(trace, device, chunks, kept, frees) for device in range(len(trace.starts))]


def _peak(trace: EventLog, device: int, chunks: Sequence[Sequence[BlockCosts]], kept: NDArray, frees: NDArray) -> float:
    kind, chunk, _ = trace.plan.batch.decode(trace.plan.orders[device])
    freed = np.cumsum(frees[kind, chunk])
    during = np.cumsum(np.where(kind == Kind.FORWARD, kept[chunk], 0.0)) - np.concatenate([[0.0], freed[:-1]])
    at_end, before_start = during.copy(), np.concatenate([[0.0], (during - frees[kind, chunk])[:-1]])
    ends = trace.ends(device)
    for own in np.unique(chunk):
        for arrivals, size, takers in _messages(trace, int(own), chunks):
            takes = (chunk == own) & takers[kind]
            taken = np.cumsum(takes)
            at_end += size * (np.searchsorted(arrivals, ends * (1 - TIE)) - taken).clip(0)
            before_start += size * (np.searchsorted(arrivals, trace.starts[device] * (1 - TIE)) - taken + takes).clip(0)
    return float(max(at_end.max(), before_start.max()))


def _messages(
    trace: EventLog, chunk: int, chunks: Sequence[Sequence[BlockCosts]]
) -> list[tuple[NDArray, float, NDArray]]:
    """(arrivals in order, bytes of each, whether a kind of operation takes one) of what reaches a chunk by a link."""
    plan, m = trace.plan, trace.plan.batch.micro_batches
    found = []
    if chunk > 0 and plan.link[Kind.FORWARD, chunk - 1] != STAYS:
        arrivals = np.ascontiguousarray(trace.forward_arrivals[chunk])
        found.append((arrivals, chunks[chunk - 1][-1].forward_bytes / m, TAKES_MESSAGE))
    if chunk + 1 < len(chunks) and plan.link[Kind.BACKWARD, chunk + 1] != STAYS:
        arrivals = np.ascontiguousarray(trace.gradient_arrivals[chunk])
        found.append((arrivals, chunks[chunk][-1].backward_bytes / m, TAKES_GRADIENT))
    return found
