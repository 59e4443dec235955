"""`blocklocal simulate`: pipeline schedules and block-local learning on many devices, by event simulation."""

import math
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blocklocal._common.errors import InputError
from blocklocal._common.screen import console, is_terminal
from blocklocal._common.written import check_target, signed_json, write_file
from blocklocal.cli.arguments import parse
from blocklocal.cli.simulate_arguments import SimulateArguments
from blocklocal.report.save import picture_paths

if TYPE_CHECKING:
    from rich.status import Status

    from blocklocal.simulate import BlockCosts, Link, Result
    from blocklocal.simulate.costs_file import CostsFile

MOST_SPANS = 20_000  # that a timeline shows: more take minutes to draw, and nobody can tell them apart


def simulate(arguments: list[str]) -> None:
    """Compare pipeline schedules and block-local learning on 2 to 1,024 devices, by event simulation."""
    from blocklocal.simulate import Link
    from blocklocal.simulate.table import print_table, row

    given = parse(SimulateArguments, arguments, "blocklocal simulate")
    link = Link(given.bandwidth, given.latency)
    _check_plot(given)
    for path in (given.save_costs, given.json, *_pictures(given)):
        if path is not None:
            check_target(path, overwrite=given.overwrite)
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
        write_file(given.json, signed_json(content, indent=1), overwrite=given.overwrite)
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
            save_costs(given.save_costs, costs, overwrite=given.overwrite)
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

    from blocklocal.runs.build import build_network, check_memory_for
    from blocklocal.runs.config import Config, Machine
    from blocklocal.runs.facts import DatasetInfo
    from blocklocal.runs.machine import set_threads
    from blocklocal.runs.usual import suited
    from blocklocal.simulate.costs_file import CostsFile
    from blocklocal.simulate.measure import measure

    m = given.measurement
    threads = set_threads(m.threads)
    names = tuple(str(i) for i in range(m.classes))
    facts = DatasetInfo(names, m.channels, m.image_size, m.image_size, (0.0,) * m.channels, (1.0,) * m.channels)
    config = suited(Config(model=given.model, learning=given.learning, machine=Machine(threads=m.threads)), facts)
    check_memory_for(config, facts, m.batch_size)
    network = build_network(config, facts, torch.device("cpu"), fits=True)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(m.batch_size, m.channels, m.image_size, m.image_size, generator=draw)
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.randint(0, m.classes, (m.batch_size,), generator=draw)
    parts = _micro_batches(given, max(given.devices))
    blocks = measure(network, x, y, micro_batches=parts, repeats=m.repeats)
    how = {"model": config.model.model, "width": config.model.width, "threads": threads, "torch": torch.__version__}
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


def _pictures(given: SimulateArguments) -> list[Path]:
    return [] if given.plot is None else picture_paths(given.plot.parent / given.plot.stem)


def _plot(given: SimulateArguments, costs: "CostsFile | None", results: "list[Result]", link: "Link") -> None:
    from blocklocal.report.save import save_named
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
    for path in save_named(figure, given.plot.parent / given.plot.stem, overwrite=given.overwrite):
        print(f"picture: {path}")
