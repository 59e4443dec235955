"""`blocklocal simulate`: pipeline schedules and block-local learning on many devices, by event simulation."""

import json
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal.cli.arguments import parse
from blocklocal.config import Model
from blocklocal.errors import InputError
from blocklocal.files import write_text
from blocklocal.ranges import THREADS, check_range, check_settings, whole
from blocklocal.screen import console, is_terminal
from blocklocal.settings import Learning
from blocklocal.simulate.costs import BANDWIDTH, CHUNKS, COST, DEVICES, MICRO_BATCHES, QUEUE, SIGNED
from blocklocal.simulate.measure import REPEATS

if TYPE_CHECKING:
    from rich.status import Status

    from blocklocal.simulate import BlockCosts, Link, Result
    from blocklocal.simulate.costs_file import CostsFile

MOST_NUMBERS = 100  # of devices, in one sweep
MOST_SPANS = 20_000  # that a timeline shows: more take minutes to draw, and nobody can tell them apart
RANGES = {
    "devices": DEVICES,
    "micro_batches": MICRO_BATCHES,
    "chunks": CHUNKS,
    "queue": QUEUE,
    "bandwidth": BANDWIDTH,
    "latency": COST,
    "batch_size": whole(1, 10**7),
    "image_size": whole(1, 16_384),
    "channels": whole(1, 65_536),
    "classes": whole(1, 10**6),
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


def simulate(arguments: list[str]) -> None:
    """Compare pipeline schedules and block-local learning on 2 to 1,024 devices, by event simulation."""
    from blocklocal.simulate import Link
    from blocklocal.simulate.table import print_table, row

    given = parse(SimulateArguments, arguments, "blocklocal simulate")
    link = Link(given.bandwidth, given.latency)
    _check_plot(given)
    costs = _given_costs(given)
    results: list[Result] = []
    with _status() as status:
        for devices in given.devices:
            blocks = _uniform(given, devices) if costs is None else costs.blocks
            for name in _schedules(given, devices, len(blocks)):
                status.update(f"{name} on {devices} devices")
                results.append(_simulate(given, name, blocks, devices, link))
    size = None if costs is None else costs.batch_size
    print_table(results, size, console(sys.stdout))
    if given.json is not None:
        conditions = {"link": {"bandwidth": _finite(given.bandwidth), "latency": given.latency}, "batch_size": size}
        content = {**conditions, "results": [row(result, size) for result in results]}
        write_text(given.json, json.dumps(content, indent=1) + "\n")
    if given.plot is not None:
        _plot(given, costs, results, link)


def _status() -> "Status":
    """What is being simulated, where somebody looks on."""
    shown = console(sys.stderr, None)
    return (shown if is_terminal(sys.stderr) else console(None)).status("")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON knows no infinity


def _given_costs(given: SimulateArguments) -> "CostsFile | None":
    """Costs from a file or measured; None: uniform ones, which depend on the number of devices."""
    from blocklocal.simulate.costs_file import load_costs, save_costs

    if given.costs is not None:
        costs = load_costs(given.costs)
    elif given.measure:
        costs = _measure(given)
        if given.save_costs is not None:
            save_costs(given.save_costs, costs)
    else:
        return None
    largest = _micro_batches(given, max(given.devices))
    if costs.batch_size is not None and largest > costs.batch_size:
        raise InputError(
            f"a batch of {costs.batch_size} samples cannot be cut into {largest} micro-batches: give "
            "--micro-batches, or a larger batch."
        )
    return costs


def _micro_batches(given: SimulateArguments, devices: int) -> int:
    return 4 * devices if given.micro_batches is None else given.micro_batches


def _measure(given: SimulateArguments) -> "CostsFile":
    import torch

    from blocklocal.config import Config, Machine
    from blocklocal.simulate.costs_file import CostsFile
    from blocklocal.simulate.measure import measure
    from blocklocal.training.build import Facts, build_network, check_memory_for, set_threads

    m = given.measurement
    threads = set_threads(m.threads)
    names = tuple(str(i) for i in range(m.classes))
    facts = Facts(names, m.channels, m.image_size, m.image_size, (0.0,) * m.channels, (1.0,) * m.channels)
    config = Config(model=given.model, learning=given.learning, machine=Machine(threads=m.threads))
    check_memory_for(config, facts, m.batch_size)
    network = build_network(config, facts, torch.device("cpu"))
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(m.batch_size, m.channels, m.image_size, m.image_size, generator=draw)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, m.classes, (m.batch_size,), generator=draw)
    parts = _micro_batches(given, max(given.devices))
    blocks = measure(network, x, y, micro_batches=parts, repeats=m.repeats)
    how = {"model": given.model.model, "width": given.model.width, "threads": threads, "torch": torch.__version__}
    return CostsFile(blocks, m.batch_size, {**how, "micro_batches": parts, "machine": platform.processor()})


def _uniform(given: SimulateArguments, devices: int) -> "list[BlockCosts]":
    from blocklocal.simulate import uniform_costs

    u = given.uniform
    return uniform_costs(
        devices,
        math.lcm(2, given.chunks),  # blocks that both ZB-V and the interleaved schedule can deal out evenly
        **vars(u),
    )


def _schedules(given: SimulateArguments, devices: int, blocks: int) -> list[str]:
    """The schedules asked for, or all that have enough blocks."""
    from blocklocal.simulate import SCHEDULES

    if given.schedules:
        return list(given.schedules)
    known = SCHEDULES.items.values()
    divides = _micro_batches(given, devices) % devices == 0
    fits = [s.name for s in known if (s.chunks or given.chunks) * devices <= blocks and (s.chunks or divides)]
    if not fits:
        raise InputError(f"{blocks} blocks cannot fill {devices} devices: take fewer devices, or cut into more blocks.")
    return fits


def _simulate(
    given: SimulateArguments, name: str, blocks: "Sequence[BlockCosts]", devices: int, link: "Link"
) -> "Result":
    from blocklocal.simulate import simulate as run

    return run(name, blocks, devices, given.micro_batches, link=link, chunks=given.chunks, depth=given.queue)


def _check_plot(given: SimulateArguments) -> None:
    from blocklocal.simulate.plots import MOST_DEVICES

    if given.plot is None:
        return
    if len(given.devices) == 1 and given.devices[0] > MOST_DEVICES:
        raise InputError(
            f"a timeline shows at most {MOST_DEVICES} devices, not {given.devices[0]}: leave --plot out, or give "
            "several numbers of devices for curves."
        )
    longest = 3 * _micro_batches(given, given.devices[0]) * given.devices[0] * max(2, given.chunks)
    if len(given.devices) == 1 and longest > MOST_SPANS:
        raise InputError(
            f"a timeline of some {longest:,} operations cannot be read (at most {MOST_SPANS:,}): leave --plot out, or "
            "give fewer --micro-batches."
        )
    if not given.plot.parent.is_dir():
        raise InputError(f"the folder of --plot, {given.plot.parent}, is not there: make it, or give another.")


def _plot(given: SimulateArguments, costs: "CostsFile | None", results: "list[Result]", link: "Link") -> None:
    from blocklocal.report.save import save_figure
    from blocklocal.simulate import timeline
    from blocklocal.simulate.plots import gantt, idle_curves

    assert given.plot is not None
    if len(given.devices) > 1:
        figure = idle_curves(results)
    else:
        devices = given.devices[0]
        blocks = _uniform(given, devices) if costs is None else costs.blocks
        options = {"link": link, "chunks": given.chunks, "depth": given.queue}
        shown = {r.schedule: timeline(r.schedule, blocks, devices, given.micro_batches, **options) for r in results}
        figure = gantt(shown)
    for path in save_figure(figure, given.plot.parent, given.plot.stem):
        print(f"picture: {path}")
