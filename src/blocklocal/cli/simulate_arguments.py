"""What `blocklocal simulate` takes: dataclasses, which tyro turns into flags and help."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import CLASSES, IMAGE_SIZE, THREADS, check_range, check_settings, whole
from blocklocal.network.settings import Learning
from blocklocal.runs.settings import Model
from blocklocal.simulate.costs import BANDWIDTH, CHUNKS, COST, DEVICES, MICRO_BATCHES, QUEUE, SIGNED
from blocklocal.simulate.measure import REPEATS

MOST_NUMBERS = 100  # of devices, in one sweep
RANGES = {
    "devices": DEVICES,
    "micro_batches": MICRO_BATCHES,
    "chunks": CHUNKS,
    "queue": QUEUE,
    "bandwidth": BANDWIDTH,
    "latency": COST,
    "batch_size": whole(1, 10**7),
    "image_size": IMAGE_SIZE,
    "channels": whole(1, 65_536),
    "classes": CLASSES,
    "threads": THREADS,
    "repeats": REPEATS,
}


@dataclass(frozen=True)
class Uniform:
    """Equal devices, the default: each flag is for the share of the network on one device, and a whole batch."""

    forward: float = 1.0
    """Seconds of the forward pass (F)."""
    backward_input: float = 1.0
    """Seconds of the gradient of the input (B)."""
    backward_weight: float = 1.0
    """Seconds of the gradient of the weights (W)."""
    update: float = 0.0
    """Seconds of the optimiser step."""
    loss: float = 0.0
    """Seconds of block-local's local loss, forward and backward."""
    overhead: float = 0.0
    """Seconds of each F, B and W that do not shrink with the micro-batch."""
    activation_bytes: float = 2.0**30
    """Bytes kept from F until B and W."""
    message_bytes: float = 2.0**20
    """Bytes that cross each boundary, in each direction."""

    def __post_init__(self) -> None:
        for each in fields(self):
            check_range(each.name, getattr(self, each.name), SIGNED if each.name == "overhead" else COST)


@dataclass(frozen=True)
class Measurement:
    """With --measure: the batch, of noise, and how long to look."""

    batch_size: int = 128
    """Samples."""
    image_size: int = 32
    """Pixels a side."""
    channels: int = 3
    """Channels of the images."""
    classes: int = 10
    """Classes."""
    threads: int | None = None
    """CPU threads; default: torch's own choice. Give what a device of yours will have."""
    repeats: int = 7
    """Each time is the median of so many."""

    def __post_init__(self) -> None:
        check_settings(self, RANGES)


@dataclass(frozen=True)
class SimulateArguments:
    """Compare GPipe, 1F1B, interleaved 1F1B, ZB-H1, ZB-H2, ZB-V and block-local learning on many devices.

    Every operation runs as early as its messages, its device and its links allow. Printed are the seconds from batch to
    batch, the idle share, the most bytes of activations on a device, the bytes on the wire per batch, and for
    block-local the seconds until the last device starts (fill).

    Left out: time to start kernels and to hand over messages (but for --overhead and --latency); cores, memory or
    network that devices share, and sending that slows computing; jitter and slow devices; links that differ; weights,
    their gradients and optimiser state in memory; recomputed activations; data parallelism and its all-reduce; the way
    of the batch and the targets to the devices; what micro-batches do to BatchNorm, and a schedule to accuracy.
    Assumed: B and W can be run apart at no cost; on ZB-H2 and ZB-V a device goes on to its next step without waiting
    for the others, which needs an optimiser step that is validated afterwards; block-local does not cut the batch.
    """

    schedules: tuple[str, ...] = ()
    """gpipe, 1f1b, interleaved, zb-h1, zb-h2, zb-v, block-local. Default: all that fit the costs."""
    devices: tuple[int, ...] = (4,)
    """Numbers of devices; several make a sweep."""
    micro_batches: int | None = None
    """Parts of a batch (block-local does not cut it). Default: 4 per device."""
    chunks: int = 2
    """Chunks per device of the interleaved schedule."""
    queue: int = 2
    """Messages that a block-local device holds before its sender must wait."""
    bandwidth: float = math.inf
    """Bytes per second of every link, in each direction."""
    latency: float = 0.0
    """Seconds that every message is under way beside that."""
    uniform: Uniform = field(default_factory=Uniform)
    costs: Path | None = None
    """Costs of every block from a JSON file instead."""
    measure: bool = False
    """Measure the costs of the blocks of --model instead, on this machine."""
    model: Model = field(default_factory=Model)
    learning: Learning = field(default_factory=Learning)
    measurement: Measurement = field(default_factory=Measurement)
    save_costs: Path | None = None
    """With --measure: write the costs to this file."""
    json: Path | None = None
    """Write the results to this file."""
    plot: Path | None = None
    """Write a picture (PNG and SVG): a timeline of up to 16 devices, or idle share against several numbers of them."""

    overwrite: bool = False
    """With --save-costs, --json or --plot: replace a file that blocklocal did not write."""

    def __post_init__(self) -> None:
        if not 0 < len(self.devices) <= MOST_NUMBERS:
            raise InputError(f"give from 1 to {MOST_NUMBERS} numbers of devices, not {len(self.devices)}.")
        check_settings(self, RANGES)
        _check_source(self)


def _check_source(given: SimulateArguments) -> None:
    """Costs come from one place; settings of another would be ignored."""
    if given.measure and given.costs is not None:
        raise InputError("give --costs FILE or --measure, not both.")
    if (given.measure or given.costs is not None) and given.uniform != Uniform():
        raise InputError("seconds and bytes are given by flags, and --costs or --measure brings others: take one.")
    defaults = (Model(), Learning(), Measurement(), None)
    if not given.measure and (given.model, given.learning, given.measurement, given.save_costs) != defaults:
        raise InputError("the settings of a network and its batch are read with --measure only: add it.")
