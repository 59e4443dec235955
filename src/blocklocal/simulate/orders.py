"""In which order every device runs its operations, one function per schedule.

An operation is a code: kind (forward F, input gradient B, weight gradient W, or both gradients in one backward pass),
chunk of the network, micro-batch. An order is an int32 array of codes, made by weaving columns: at step i every column
gives the operation of the micro-batch it has reached, or nothing while that lies outside the batch.
"""

from collections.abc import Callable
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int32]
Column = Callable[[NDArray[np.int64]], NDArray[np.int64]]
NOTHING = -1


class Kind(IntEnum):
    """What an operation does."""

    FORWARD = 0
    INPUT = 1
    WEIGHT = 2
    BACKWARD = 3


class MicroBatches:
    """How a batch is cut: `micro_batches` of it, `chunks` of the network over all devices."""

    def __init__(self, micro_batches: int, chunks: int):
        self.micro_batches, self.chunks = micro_batches, chunks

    def codes(self, kind: Kind, chunk: int | NDArray, micro: NDArray) -> NDArray[np.int64]:
        """Codes of one operation per micro-batch; `NOTHING` for micro-batches that do not exist."""
        inside = (micro >= 0) & (micro < self.micro_batches)
        return np.where(inside, (micro * self.chunks + chunk) * len(Kind) + kind, NOTHING)

    def decode(self, codes: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """(kind, chunk, micro-batch) of every code."""
        return codes % len(Kind), codes // len(Kind) % self.chunks, codes // (len(Kind) * self.chunks)

    def column(self, kind: Kind, chunk: int, ahead: int = 0) -> Column:
        """At step i, the operation of micro-batch i + ahead."""
        return lambda steps: self.codes(kind, chunk, steps + ahead)


def weave(first: int, end: int, *columns: Column) -> Codes:
    """Steps first … end − 1: at each, the operation of every column in turn."""
    steps = np.arange(first, end)
    woven = np.stack([column(steps) for column in columns], axis=1).ravel()
    return woven[woven != NOTHING].astype(np.int32)


def gpipe(device: int, devices: int, batch: MicroBatches) -> Codes:
    """All forward passes, then all backward passes (Huang et al. 2019, arXiv 1811.06965)."""
    m = batch.micro_batches
    return weave(-m, m, batch.column(Kind.FORWARD, device, m), batch.column(Kind.BACKWARD, device))


def one_forward_one_backward(device: int, devices: int, batch: MicroBatches) -> Codes:
    """Forward passes run ahead by the distance to the last device, no further (Narayanan et al. 2019)."""
    ahead = devices - 1 - device
    columns = batch.column(Kind.FORWARD, device, ahead), batch.column(Kind.BACKWARD, device)
    return weave(-ahead, batch.micro_batches, *columns)


def interleaved(device: int, devices: int, batch: MicroBatches) -> Codes:
    """1F1B over several chunks per device, in turns of `devices` micro-batches (Narayanan et al. 2021, 2104.04473)."""
    chunks = batch.chunks // devices
    ahead = 2 * (devices - 1 - device) + (chunks - 1) * devices
    total = chunks * batch.micro_batches

    def column(kind: Kind, ahead: int) -> Column:
        def at(steps: NDArray[np.int64]) -> NDArray[np.int64]:
            turn, place = np.divmod(steps + ahead, devices * chunks)
            chunk, micro = np.divmod(place, devices)
            own = chunk if kind is Kind.FORWARD else chunks - 1 - chunk
            return batch.codes(kind, own * devices + device, turn * devices + micro)

        return at

    return weave(-ahead, total, column(Kind.FORWARD, ahead), column(Kind.BACKWARD, 0))


def zero_bubble(reach: int) -> Callable[[int, int, MicroBatches], Codes]:
    """ZB-H1 (reach 1) and ZB-H2 (reach 2) of Qi et al. 2023, arXiv 2401.10241, figure 3.

    Forward passes run ahead by `reach` × the distance to the last device, and W waits behind B by `reach` × the
    distance to the first: B passes travel back without waiting for any W, which fill the end of the batch instead.
    """

    def order(device: int, devices: int, batch: MicroBatches) -> Codes:
        ahead, behind = reach * (devices - 1 - device), reach * device
        return weave(
            -ahead,
            batch.micro_batches + behind,
            batch.column(Kind.FORWARD, device, ahead),
            batch.column(Kind.INPUT, device),
            batch.column(Kind.WEIGHT, device, -behind),
        )

    return order


def zero_bubble_v(device: int, devices: int, batch: MicroBatches) -> Codes:
    """ZB-V (Qi et al. 2023, section 6; arXiv 2405.15362): chunk d and, on the way back, chunk 2p − 1 − d on device d.

    The hand-made order for F = B = W. It needs 2p − 1 micro-batches to fill; with fewer, the missing ones are left out.
    """
    n, p, d = max(batch.micro_batches, 2 * devices - 1), devices, device
    down, up = d, 2 * p - 1 - d
    F, B, W = Kind.FORWARD, Kind.INPUT, Kind.WEIGHT
    at = batch.column
    phases = [
        weave(0, 2 * (p - d) - 1, at(F, down)),
        weave(0, d, at(F, up), at(F, down, 2 * (p - d) - 1)),
        weave(0, p - d, at(F, up, d), at(B, up), at(W, up)),
        weave(
            *(0, n - p),
            *(at(F, down, 2 * p - 1 - d), at(B, down), at(W, down)),
            *(at(F, up, p), at(B, up, p - d), at(W, up, p - d)),
        ),
        weave(n - p, n - p + d, at(B, down), at(B, up, p - d)),
        weave(n - p, n - d, at(B, down, d), at(W, down)),
        weave(n - d, n, at(W, up)),
        weave(n - d, n, at(W, down)),
    ]
    return np.concatenate(phases)
