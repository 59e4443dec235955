"""What a block and a message cost: all that the simulator knows of a network and of a machine."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import Range, check_range, whole
from blocklocal.splitting.partition import partition

COST, SIGNED = Range(0, 1e18), Range(-1e18, 1e18)  # seconds or bytes
BANDWIDTH = Range(1e-6, math.inf)  # bytes per second
DEVICES, MICRO_BATCHES = whole(1, 1024), whole(1, 16_384)
CHUNKS, QUEUE = whole(1, 64), whole(1, 1024)
PER_DEVICE = whole(1, 2 * int(CHUNKS.high))
MAY_BE_NEGATIVE = ("forward_overhead", "backward_input_overhead", "backward_weight_overhead")


@dataclass(frozen=True)
class BlockCosts:
    """One block, for a whole batch, in seconds and bytes.

    A pass over one of m micro-batches takes overhead + (seconds − overhead) / m; bytes are divided by m.

    Raises:
        InputError: a value is outside its range, or weight_bytes are more than activation_bytes.
    """

    forward: float
    """Forward pass."""
    backward_input: float
    """Gradient of the block's input (B)."""
    backward_weight: float
    """Gradient of the block's parameters (W); B + W is one ordinary backward pass."""
    update: float = 0.0
    """Optimiser step."""
    loss: float = 0.0
    """What block-local learning adds: the local loss forward and backward, and the update of what belongs to it."""
    local_backward: float | None = None
    """The block's own backward pass under a local loss, which needs no gradient of its input. Default: B + W."""
    forward_overhead: float = 0.0
    """The part of a forward pass that does not shrink with the micro-batch (below 0: small ones are more efficient)."""
    backward_input_overhead: float = 0.0
    """The same of B."""
    backward_weight_overhead: float = 0.0
    """The same of W."""
    forward_bytes: float = 0.0
    """The output, as it goes to the next block."""
    backward_bytes: float = 0.0
    """The gradient of the output, as it comes back from the next block."""
    activation_bytes: float = 0.0
    """What is kept from the forward pass until B."""
    weight_bytes: float | None = None
    """The part of it that is kept on until W. Default: all."""
    local_bytes: float | None = None
    """What is kept at the peak of a local step, local loss included. Default: activation_bytes."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and field.default is None:
                continue
            check_range(field.name, value, SIGNED if field.name in MAY_BE_NEGATIVE else COST)
        if self.kept_for_weight > self.activation_bytes:
            raise InputError(
                f"weight_bytes ({self.weight_bytes}) are a part of activation_bytes ({self.activation_bytes}): "
                "give at most as many."
            )

    @property
    def kept_for_weight(self) -> float:
        return self.activation_bytes if self.weight_bytes is None else self.weight_bytes

    @property
    def after_forward(self) -> float:
        """Seconds of a local step from the block's output to its updated parameters."""
        backward = self.backward_input + self.backward_weight if self.local_backward is None else self.local_backward
        return self.loss + backward + self.update

    @property
    def backprop_step(self) -> float:
        """Seconds of forward and backward."""
        return self.forward + self.backward_input + self.backward_weight

    @property
    def local_step(self) -> float:
        """Seconds of a whole local step."""
        return self.forward + self.after_forward

    @property
    def kept_in_step(self) -> float:
        """Bytes at the peak of a local step."""
        return self.activation_bytes if self.local_bytes is None else self.local_bytes


@dataclass(frozen=True)
class Link:
    """A directed connection between two devices.

    Attributes:
        bandwidth: bytes per second.
        latency: seconds that every message is under way.
    """

    bandwidth: float = math.inf
    latency: float = 0.0

    def __post_init__(self) -> None:
        check_range("bandwidth", self.bandwidth, BANDWIDTH)
        check_range("latency", self.latency, COST)


def uniform_costs(
    devices: int,
    per_device: int = 2,
    *,
    forward: float = 1.0,
    backward_input: float = 1.0,
    backward_weight: float = 1.0,
    update: float = 0.0,
    loss: float = 0.0,
    overhead: float = 0.0,
    activation_bytes: float = 0.0,
    message_bytes: float = 0.0,
) -> list[BlockCosts]:
    """Equal blocks, `per_device` for each device.

    Seconds and activation bytes are those of a device's share of the network and a whole batch (its blocks divide
    them).

    Args:
        overhead: of each pass of the share, in seconds.
        message_bytes: of every boundary, in each direction.
    """
    check_range("devices", devices, DEVICES)
    check_range("per_device", per_device, PER_DEVICE)
    block = BlockCosts(
        forward / per_device,
        backward_input / per_device,
        backward_weight / per_device,
        update=update / per_device,
        loss=loss / per_device,
        forward_overhead=overhead / per_device,
        backward_input_overhead=overhead / per_device,
        backward_weight_overhead=overhead / per_device,
        forward_bytes=message_bytes,
        backward_bytes=message_bytes,
        activation_bytes=activation_bytes / per_device,
    )
    return [block] * (devices * per_device)


def group(blocks: Sequence[BlockCosts], groups: int, seconds: Sequence[float]) -> list[list[BlockCosts]]:
    """Neighbouring blocks for every device (or chunk), so that the largest sum of `seconds` is as small as possible.

    Raises:
        InputError: there are more groups than blocks.
    """
    if groups > len(blocks):
        raise InputError(f"{len(blocks)} blocks cannot fill {groups} stages: give more blocks, or fewer devices.")
    if len(blocks) % groups == 0 and len(set(blocks)) == 1:  # `partition` is cubic
        sizes = [len(blocks) // groups] * groups
    else:
        sizes = partition(seconds, groups)
    return [list(blocks[end - size : end]) for end, size in zip(accumulate(sizes), sizes, strict=True)]
