"""Block-local learning over several devices: no flush, no gradient to wait for, a bounded queue between neighbours.

Device d starts step t when message t of device d − 1 is there. It runs its blocks one after the other, each forward,
local loss, backward and update; the output of its last block leaves right after that block's forward pass. The queue
at the receiver holds `depth` messages from sending until they are taken: a sender waits while it is full.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from blocklocal.simulate.costs import BlockCosts, Link


@dataclass(frozen=True)
class LocalTrace:
    """When every step of every device did what, in seconds, [device, step].

    Attributes:
        taken: it took its message.
        sent: it could send its own.
        ends: it ended.
        arrivals: its message arrived.
    """

    taken: NDArray[np.float64]
    sent: NDArray[np.float64]
    ends: NDArray[np.float64]
    arrivals: NDArray[np.float64]

    def waiting(self, device: int) -> int:
        """Messages in the device's queue at most: arrived, and not taken yet."""
        arrived = np.arange(1, self.taken.shape[1] + 1)
        return int((arrived - np.searchsorted(self.taken[device], self.arrivals[device], "right")).clip(0).max())


def before_sending(share: Sequence[BlockCosts]) -> float:
    """Seconds from taking a message to having the own one."""
    return sum(block.local_step for block in share[:-1]) + share[-1].forward


def run_block_local(shares: Sequence[Sequence[BlockCosts]], link: Link, depth: int, steps: int) -> LocalTrace:
    """Run `steps` steps on devices that hold these blocks.

    Step t of device d needs step t of d − 1, step t − 1 of d, and a place in the queue of d + 1, which step t − depth
    there has freed. All three lie on earlier waves 2t + d, so the devices of a wave are computed at once.
    """
    devices = len(shares)
    head = np.array([before_sending(share) for share in shares])
    tail = np.array([share[-1].after_forward for share in shares])
    transfer = np.array([share[-1].forward_bytes / link.bandwidth for share in shares])
    free, link_free = np.zeros(devices), np.zeros(devices)
    # One device more than there are, which takes all at once; and `depth` steps before the first, always taken.
    taken = np.zeros((devices + 1, depth + steps))
    arrivals = np.zeros((devices + 1, steps))
    sent, ends = np.zeros((devices, steps)), np.zeros((devices, steps))
    for wave in range(2 * (steps - 1) + devices):
        d = np.arange(wave % 2, devices, 2)
        t = (wave - d) // 2
        d, t = d[(t >= 0) & (t < steps)], t[(t >= 0) & (t < steps)]
        start = np.maximum(arrivals[d, t], free[d])
        leaves = np.maximum(start + head[d], taken[d + 1, t])
        taken[d, depth + t], sent[d, t] = start, leaves
        link_free[d] = np.maximum(leaves, link_free[d]) + transfer[d]
        arrivals[d + 1, t] = link_free[d] + link.latency
        free[d] = ends[d, t] = leaves + tail[d]
    return LocalTrace(taken[:-1, depth:], sent, ends, arrivals[:-1])
