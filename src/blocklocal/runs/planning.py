"""The plan of a streamed run: from its settings and the memory that it may use, before anything is built or written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from blocklocal._common.errors import InputError
from blocklocal._common.limits import available_bytes, parse_bytes
from blocklocal.network.network import BlockLocal
from blocklocal.rules import RULES
from blocklocal.runs.build import RunContext, cut_on_meta
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.machine import precision_of
from blocklocal.streaming.choice import choose
from blocklocal.streaming.homes import free_on_disk
from blocklocal.streaming.pace import Pace, measure
from blocklocal.streaming.place import RAM
from blocklocal.streaming.plan import Plan, check_room, plan
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed
from blocklocal.streaming.suitable import check_known, check_rule, check_trained
from blocklocal.training.checkpoint_draft import KEEP


@dataclass(frozen=True)
class Planned:
    """What a run is to be: its settings with the chosen blocks, how they are streamed, and what that needs."""

    config: Config
    streaming: Streaming
    plan: Plan


def plan_run(
    config: Config,
    facts: DatasetInfo,
    streaming: Streaming,
    device: torch.device,
    *,
    samples: int,
    choose_blocks: bool = False,
    starts: Sequence[int] | None = None,
) -> Planned:
    """The plan of a streamed run.

    Args:
        samples: training samples of an epoch.
        choose_blocks: whether `streaming.memory` decides the number of blocks; else it is that of the settings.
        starts: of a cut that was measured before.

    Raises:
        InputError: it does not fit into `streaming.memory`, or its rule or cut cannot be streamed.
    """
    check_rule(RULES.get(config.learning.rule), config.learning.scope)  # before anything is built
    x = facts.example(config.inputs(min(config.data.batch_size, samples)), "meta")
    steps = -(-samples // config.data.batch_size)  # of an epoch, at whose end a visit ends too
    optimizer, precision = config.optimisation.build(), precision_of(config, device)

    def build(blocks: int) -> BlockLocal:
        network = cut_on_meta(config if config.model.at else config.edit(blocks=blocks), facts, starts)
        check_known(network)
        check_trained(network, streaming.visit or 1)
        return network

    home = RAM if streaming.store == RAM else "files"
    if streaming.memory:
        count = None if choose_blocks and not config.model.at else config.model.blocks
        made = choose(
            parse_bytes(streaming.memory),
            build,
            x,
            optimizer,
            blocks=count,
            visit=streaming.visit and min(streaming.visit, steps),
            longest=min(steps, config.learning.message_delay) if _chained(build) else steps,
            home=home,
            precision=precision,
            device=device,
        )
    else:
        assert streaming.visit is not None
        with torch.device("meta"):
            network = build(config.model.blocks)
        made = plan(
            network,
            x,
            optimizer,
            visit=min(streaming.visit, steps),
            most=streaming.blocks_in_memory,
            cache=streaming.boundary_cache,
            home=home,
            precision=precision,
            device=device,
        )
    made = replace(made, keep=KEEP)
    chosen = replace(streaming, visit=made.visit, blocks_in_memory=made.most, boundary_cache=made.cache, memory="")
    if not config.model.at:
        config = config.edit(blocks=len(made.blocks))
    return Planned(config, chosen, made)


def _chained(build: Callable[[int], BlockLocal]) -> bool:
    """Whether messages go from twin to twin, where a network is built of so many blocks."""
    with torch.device("meta"):
        return any(learner.twin is not None and learner.twin.chained for learner in build(2).learners)


def check_planned(planned: Planned, device: torch.device, folder: Path) -> None:
    """Refuse a run for which there is no room.

    Args:
        folder: where its files will lie; what lies there already takes no more room.

    Raises:
        InputError: memory or disk are too small, with the sizes.
    """
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    disk = free_on_disk(folder) + bytes_in(folder) if planned.plan.on_disk else None
    check_room(planned.plan, memory=memory, disk=disk)


def bytes_in(folder: Path) -> int:
    """Of all files below it; 0 where there is no such folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def pace_of(session: RunContext, planned: Planned, folder: Path) -> Pace:
    """How fast this machine runs it, from one step of each kind of block and a small file in `folder`."""
    if not isinstance(session.network, Streamed):
        raise InputError("the pace of a streamed run is that of a streamed network.")
    x, y = next(iter(session.batches.epoch(0)))
    return measure(session.network, planned.plan, x, y, None if planned.plan.home == RAM else folder)
