"""The networks that a run is held against: the frozen one, and a run of another rule, backprop by default."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal._common.seeds import seeded
from blocklocal.network.network import BlockLocal
from blocklocal.report.table import BACKPROP
from blocklocal.rules import RULES
from blocklocal.runs.build import build_network, build_streamed
from blocklocal.runs.checkpoints import checkpoint_to_look, find_checkpoint
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.looking import built_to_look
from blocklocal.runs.origin import load_settings, open_settings
from blocklocal.runs.saved import load_facts
from blocklocal.runs.settings import Optimisation
from blocklocal.streaming.settings import Streaming
from blocklocal.streaming.streamed import Streamed

AS_ONE = "which trains all blocks as one, so none of them can be fetched by itself"
SAME_MODEL = ("model", "width", "model_options")
SAME_CUT = ("blocks", "at", "balance")  # of a rule that learns block by block
# What decides which images a run has learned, and which are held out; where the set lies may differ.
SAME_DATA = ("train_size", "validation", "image_size", "split_seed")
TRAINING = (*(field.name for field in fields(Optimisation)), "batch_size", "augment")


@dataclass(frozen=True)
class Opened:
    """A run's trained network.

    Attributes:
        config: as the run is opened here (see `runs.origin.open_settings`).
        settings: as its user gave them.
        epoch: the one it is in, counted from 0, or its last.
        visit: steps that a block takes in a row, where one at a time is in memory; None: all of them are.
    """

    folder: Path
    checkpoint: Path
    config: Config
    settings: Config
    facts: DatasetInfo
    network: BlockLocal | Streamed
    epoch: int
    visit: int | None = None

    @property
    def rule(self) -> str:
        return self.config.learning.rule


def open_run(
    folder: Path,
    checkpoint: str | None = None,
    device: str | None = None,
    *,
    trust: bool = False,
    visit: int | None = None,
) -> Opened:
    """Load a run from its newest checkpoint, or a named one.

    Args:
        visit: one block at a time is in memory, with so many batches in a row.

    Raises:
        InputError: there is no run or no such checkpoint, the code of a user's own model may not run (`trust`), or its
            rule has no blocks that could be looked at one at a time.
    """
    config, facts = open_settings(folder, trust=trust), load_facts(folder)
    path = checkpoint_to_look(folder, checkpoint)
    if visit is not None and is_one(folder):
        raise InputError(f"{folder} was trained under the rule {config.learning.rule}, {AS_ONE}: leave out --visit.")
    network, state = built_to_look(config, facts, folder, path, device, visit)
    network.epoch = min(int(state.get("epoch", 0)), config.optimisation.epochs - 1)
    return Opened(folder, path, config, load_settings(folder), facts, network, network.epoch, visit)


def initial_network(run: Opened) -> BlockLocal | Streamed:
    """The run's network as it was before training, on the same device and with the same cut."""
    made = run.config, run.facts, run.network.device, run.network.split.starts
    if run.visit is None:
        return build_network(*made)
    return build_streamed(*made, Streaming(run.visit).looked_at, run.folder, trains=False)


@torch.no_grad()
def follow_statistics(network: BlockLocal, batches: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set BatchNorm's statistics to their mean over batches (x, y), as they follow the data in a frozen block."""
    with kept_modes([network]), mean_statistics(network.split.blocks):
        network.train()
        for t, (a, _) in enumerate(batches):
            for k, learner in enumerate(network.learners):
                with seeded("diagnose", network.seed, k, t):  # dropout
                    a = learner(a)


@contextmanager
def mean_statistics(blocks: Iterable[nn.Module]) -> Generator[None]:
    """BatchNorm's statistics become their mean over the batches on which these blocks run."""
    norms = [module for block in blocks for module in block.modules() if isinstance(module, _BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over batches
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum


def is_one(folder: Path) -> bool:
    """Whether a run was trained as one block, whatever its cut."""
    return RULES.get(load_settings(folder).learning.rule).whole


def find_backprop(run: Opened) -> Path | None:
    """A backprop run beside this one, of the same model and data; the most alike in training and seed.

    The layout is that of `blocklocal compare`: runs in one folder.
    """
    found = []
    for folder in sorted(run.folder.absolute().parent.iterdir()):
        if not (folder / "config.json").is_file() or folder.samefile(run.folder):
            continue
        try:
            config, facts = load_settings(folder), load_facts(folder)
        except InputError:  # something else's config.json, or a damaged run: not what is looked for
            continue
        fits = config.learning.rule == BACKPROP and not obstacles(run, config, facts)
        if fits and find_checkpoint(folder, required=False) is not None:
            found.append((len(differing(run.settings, config, (*TRAINING, "seed"))), folder))
    return min(found)[1] if found else None


def open_against(run: Opened, folder: Path, device: str | None = None, *, trust: bool = False) -> Opened:
    """The run to hold `run` against, at `run`'s cut.

    A rule that learns end to end (backprop) leaves nothing of its cut in the weights: any will do.

    Raises:
        InputError: its model or data are others, or its cut.
    """
    other = open_run(folder, device=device, trust=trust, visit=run.visit)
    found, cuts = obstacles(run, other.settings, other.facts), (run.network.split, other.network.split)
    if not found and cuts[0].starts != cuts[1].starts:
        if other.network.rule.whole:
            return replace(other, network=_cut_as(run, other))
        found = [f"blocks {', '.join(cuts[1].names)} there, {', '.join(cuts[0].names)} here"]  # measured: no setting
    if found:
        raise InputError(
            f"{folder} cannot be held against {run.folder}: {'; '.join(found)}. Expected a run of the same model and "
            f"data, and of the same cut where it learned block by block. {how_to_get(run)}"
        )
    return other


def _cut_as(run: Opened, other: Opened) -> BlockLocal:
    """The other run's network, trained as it is, cut as `run`'s is."""
    network = build_network(other.config, other.facts, other.network.device, run.network.split.starts)
    network.split.model.load_state_dict(other.network.split.model.state_dict())
    return network


def obstacles(run: Opened, config: Config, facts: DatasetInfo) -> list[str]:
    """In what another run's model, data or (where it matters) cut differ, as far as its settings tell."""
    cut = () if RULES.get(config.learning.rule).whole else SAME_CUT
    found = differing(run.settings, config, (*SAME_MODEL, *cut, *SAME_DATA))
    if not found and facts != run.facts:
        names = config.data.data, run.settings.data.data
        found = [f"data {names[0]} there, {names[1]} here (classes, sizes or pixels differ)"]
    return found


def differing(config: Config, other: Config, names: Sequence[str]) -> list[str]:
    """The settings of these names that differ: `width 8 there, 16 here`."""
    here, there = config.flat(), other.flat()
    return [f"{name} {there[name]} there, {here[name]} here" for name in names if there[name] != here[name]]


def how_to_get(run: Opened) -> str:
    """What to type for a backprop run to compare with."""
    folder = run.folder.with_name(f"{run.folder.name}-backprop")
    return f"To train one: blocklocal train --config {run.folder} --rule backprop --output {folder}"
