"""A run diagnosed: its newest checkpoint, the untrained network and a run of another rule, looked at in one way."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.data import Batches, Images, ImageSet
from blocklocal.diagnose.diagnosis import Diagnosis, Messages, assemble
from blocklocal.diagnose.gradients import gradient_cosines
from blocklocal.diagnose.hints import find_hints
from blocklocal.diagnose.measure import Measured, measure
from blocklocal.diagnose.picture import save_picture
from blocklocal.diagnose.references import (
    TRAINING,
    Opened,
    differing,
    find_backprop,
    follow_statistics,
    how_to_get,
    initial_network,
    open_against,
    open_run,
)
from blocklocal.network.network import BlockLocal
from blocklocal.report.table import BACKPROP
from blocklocal.runs.build import DatasetInfo, evaluation_batches, load_data, training_batches
from blocklocal.runs.run import check_facts

HELD_SHARE = 5  # one image in so many is held out, where the run has no validation split


def silent(line: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Pieces:
    """The images that probes are fitted on and scored on, and the split that the latter are from."""

    fit: Images
    held: Images
    split: str


def diagnose_run(
    folder: Path,
    *,
    against: Path | None = None,
    images: int = 5000,
    batches: int = 8,
    checkpoint: str | None = None,
    device: str | None = None,
    trust: bool = False,
    say: Callable[[str], None] = silent,
) -> Diagnosis:
    """What holds a run back, block by block; nothing is written, and the test images are not looked at.

    Args:
        against: the run to hold it against; default: a backprop run of the same model and data in the same folder, if
            there is one.
        images: at most so many training images fit the probes, without augmentation, and at most so many validation
            images score them; without a validation split, a fifth of those training images does.
        batches: training batches over which gradients are compared.
        trust: the code of a user's own model, which a run names, may run.
        say: gets a line of text as each part begins.

    Raises:
        InputError: the run cannot be diagnosed: no checkpoint, another data set, a run that does not compare, outputs
            that are sequences.
    """
    check_range("images", images, FROM_ONE)
    check_range("batches", batches, FROM_ONE)
    run = open_run(folder, checkpoint, device, trust=trust)
    other = _other(run, against, device, say, trust)
    data = load_data(run.config)
    if not isinstance(data, ImageSet):
        raise InputError(f"diagnose looks at images, and the run {folder} was trained on {run.facts.kind}.")
    check_facts(DatasetInfo.of(data), folder, run.config)
    pieces = choose_images(data, images)
    say(f"{run.checkpoint.name} of {folder}: gradients of {batches} batches, then each network on the images.")
    cosines = gradient_cosines(run.network, islice(training_batches(run.config, data, run.network.device), batches))
    frozen = initial_network(run)
    messages = Messages(_sizes(run.network), _sizes(frozen))
    follow_statistics(frozen, _statistics(run, pieces.fit))
    blocks = assemble(run.network.split.names, cosines, messages, _look(run, frozen, other, pieces))
    rule = None if other is None else other.rule
    return Diagnosis(
        run=str(folder),
        rule=run.rule,
        checkpoint=run.checkpoint.name,
        against=None if other is None else str(other.folder),
        against_rule=rule,
        fitted=len(pieces.fit),
        scored=len(pieces.held),
        scored_on=pieces.split,
        blocks=blocks,
        hints=find_hints(blocks, run.config.learning, rule),
    )


def write_diagnosis(diagnosis: Diagnosis, folder: Path) -> list[Path]:
    """Write `diagnosis.json` and `diagnosis.png` into a run folder, and return their paths."""
    paths = [folder / "diagnosis.json", folder / "diagnosis.png"]
    write_text(paths[0], json.dumps(diagnosis.flat(), indent=1) + "\n")
    save_picture(diagnosis, paths[1])
    return paths


def choose_images(data: ImageSet, count: int) -> Pieces:
    """At most `count` training and validation images; see `diagnose_run`.

    Raises:
        InputError: there are too few training images to hold some out, and no validation split.
    """
    fit = data.train.subset(slice(0, count))
    if len(data.validation):
        return Pieces(fit, data.validation.subset(slice(0, count)), "validation")
    held = len(fit) // HELD_SHARE
    if not held:
        raise InputError(
            f"{len(fit)} training images are too few to hold some out, and the run has no validation split: "
            f"give --images {HELD_SHARE} or more."
        )
    return Pieces(fit.subset(slice(held, None)), fit.subset(slice(0, held)), "training")


def _other(
    run: Opened, against: Path | None, device: str | None, say: Callable[[str], None], trust: bool
) -> Opened | None:
    """The run to hold it against, if there is one."""
    if against is None and run.rule != BACKPROP:
        against = find_backprop(run)
        if against is None:
            say(f"there is no backprop run of the same model and data beside it. {how_to_get(run)}")
    if against is None:
        return None
    other = open_against(run, against, device, trust=trust)
    training = differing(run.config, other.config, (*TRAINING, "seed"))
    say(f"held against {against}" + (f", which was trained otherwise: {'; '.join(training)}." if training else "."))
    return other


def _look(run: Opened, frozen: BlockLocal, other: Opened | None, pieces: Pieces) -> list[Measured | None]:
    """The run, the untrained network and the other run, on the same images and read in the same way."""
    family, device = run.config.learning.latent_family(), run.network.device
    fit, held = (evaluation_batches(run.config, images, run.facts, device) for images in (pieces.fit, pieces.held))
    networks = [run.network, frozen, None if other is None else other.network]
    return [None if network is None else measure(network, family, fit, held) for network in networks]


def _statistics(run: Opened, images: Images) -> Batches:
    """Training batches of these images, without augmentation."""
    return Batches(
        images,
        batch_size=run.config.data.batch_size,
        mean=run.facts.mean,
        std=run.facts.std,
        shuffle=True,  # a last batch of one image is then left out
        device=run.network.device,
        channels_last=run.config.machine.channels_last,
    )


def _sizes(network: BlockLocal) -> list[float | None]:
    """Mean |b| per block of the split; a network in one learner has no messages."""
    return [None for _ in network.split.blocks] if network.rule.whole else network.message_sizes()
