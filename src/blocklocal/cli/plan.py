"""`blocklocal plan`: what a run with one block at a time in memory would need."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from blocklocal.cli.arguments import Settings, parse_with_base
from blocklocal.runs.config import Config
from blocklocal.streaming.settings import Streaming

VISIT = 16  # steps, where neither a visit nor memory is given


@dataclass(frozen=True)
class PlanArguments:
    """What a run with one block at a time in memory would need; nothing is trained."""

    settings: Settings = field(default_factory=Config)
    streaming: Streaming = field(default_factory=Streaming)
    recipe: str | None = None
    """Start from a named recipe (see `blocklocal recipes`); other flags change it."""
    config: Path | None = None
    """Start from a saved config.json (or a run folder); other flags change it."""
    trust: bool = False
    """Let the code of a model of its own, which a run or configuration names, run on this machine."""
    measure: bool = True
    """Take one step of each kind of block, and write and remove a small file, to predict the time."""


def plan(arguments: list[str]) -> None:
    """What a run with one block at a time in memory would need, beside other ways to train."""
    from blocklocal.cli.train import chooses_blocks
    from blocklocal.runs.build import open_session
    from blocklocal.runs.facts import DatasetInfo
    from blocklocal.runs.machine import find_device
    from blocklocal.runs.planning import pace_of, plan_run
    from blocklocal.runs.sets import load_data
    from blocklocal.runs.usual import suited
    from blocklocal.streaming.place import store_folder
    from blocklocal.streaming.plan_table import plan_lines

    given = parse_with_base(PlanArguments, arguments, "blocklocal plan")
    streaming = given.streaming if given.streaming.wanted else replace(given.streaming, visit=VISIT)
    config, device = given.settings, find_device(given.settings.machine.device)
    data = load_data(config)
    facts = DatasetInfo.of(data, variance=config.model.variance)
    config = suited(config, facts)
    planned = plan_run(
        config,
        facts,
        streaming,
        device,
        samples=len(data.train),
        choose_blocks=chooses_blocks(arguments),
    )
    pace = None
    if given.measure:
        session = open_session(planned.config, data, streaming=planned.streaming.looked_at)
        pace = pace_of(session, planned, store_folder(given.streaming.store) or Path())
    print("\n".join(plan_lines(planned.plan, pace)))
