"""A run diagnosed: its newest checkpoint, the untrained network and a run of another rule, looked at in one way."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.data import Batches, Images
from blocklocal.data.answers import UNKNOWN
from blocklocal.data.samples import SampleBatches, Samples
from blocklocal.data.text_set import TextPart
from blocklocal.diagnose.diagnosis import Diagnosis, Messages, assemble
from blocklocal.diagnose.gradients import gradient_cosines
from blocklocal.diagnose.hints import find_hints
from blocklocal.diagnose.measure import Measured, measure
from blocklocal.diagnose.picture import save_picture
from blocklocal.diagnose.references import (
    AS_ONE,
    TRAINING,
    Opened,
    differing,
    find_backprop,
    follow_statistics,
    how_to_get,
    initial_network,
    is_one,
    open_against,
    open_run,
)
from blocklocal.diagnose.streamed import Following, measure_streamed, nothing, streamed_cosines
from blocklocal.diagnose.text import TextDiagnosis, TextMeasured, measure_text, text_blocks, text_hints
from blocklocal.network.network import BlockLocal
from blocklocal.report.table import BACKPROP
from blocklocal.runs.facts import AnyPart, AnySet, DatasetInfo
from blocklocal.runs.origin import load_settings
from blocklocal.runs.run import check_facts
from blocklocal.runs.sets import AnyBatches, evaluation_batches, load_data, training_batches
from blocklocal.streaming.cache import FileCache
from blocklocal.streaming.settings import VISIT
from blocklocal.streaming.streamed import Streamed

_ASKED = {"labels": "binary labels", "values": "values", "pixels": "a class per pixel", "shares": "shares of classes"}
HELD_SHARE = 5  # one image in so many is held out, where the run has no validation split


def silent(line: str) -> None:
    """Print nothing."""


@dataclass(frozen=True)
class Pieces:
    """The images (or rows) that probes are fitted on and scored on, and the split that the latter are from."""

    fit: AnyPart
    held: AnyPart
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
    visit: int | None = None,
    say: Callable[[str], None] = silent,
) -> Diagnosis | TextDiagnosis:
    """What holds a run back, block by block; nothing is written, and the test images are not looked at.

    Args:
        against: the run to hold it against; default: a backprop run of the same model and data in the same folder, if
            there is one.
        images: at most so many training images fit the probes, without augmentation, and at most so many validation
            images score them; without a validation split, a fifth of those training images does.
        batches: training batches over which gradients are compared.
        trust: the code of a user's own model, which a run names, may run.
        visit: for a network that does not fit, one block at a time is in memory, with so many training batches in a
            row. The figures are the same; the messages between blocks lie in files in the run's folder meanwhile.
        say: gets a line of text as each part begins.

    Raises:
        InputError: the run cannot be diagnosed: no checkpoint, another data set, a run that does not compare, outputs
            that are sequences.
    """
    check_range("images", images, FROM_ONE)
    check_range("batches", batches, FROM_ONE)
    if visit is not None:
        check_range("visit", visit, VISIT)
    run, left_out = open_run(folder, checkpoint, device, trust=trust, visit=visit), list[str]()
    if run.facts.answers is not None and run.facts.answers.kind != "classes":
        raise InputError(
            f"a diagnosis fits linear probes of one class per sample, and the run {folder} is asked for "
            f"{_ASKED[run.facts.answers.kind]}."
        )
    if run.facts.text is not None and visit is not None:
        raise InputError("a run on a text is diagnosed with the whole network in memory: leave out --visit.")
    if run.facts.text is not None and not run.config.data.validation:
        raise InputError(f"the run {folder} has no validation part, on which a diagnosis scores what it fits.")
    other = _other(run, against, device, say, trust, left_out)
    data = load_data(run.config, folder)
    check_facts(DatasetInfo.of(data), folder, run.config)
    pieces = choose_images(data, images)
    what = "images" if run.facts.text is None else "text"
    say(f"{run.checkpoint.name} of {folder}: gradients of {batches} batches, then each network on the {what}.")
    cosines = _cosines(run, islice(training_batches(run.config, data, run.network.device), batches), left_out)
    frozen = initial_network(run)
    if run.facts.text is not None:
        return _of_text(run, frozen, other, pieces, cosines)
    messages = Messages(_sizes(run.network), _sizes(frozen))
    blocks = assemble(run.network.split.names, cosines, messages, _look(run, frozen, other, pieces))
    for line in left_out:
        say(line)
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
        left_out=left_out,
    )


def _of_text(
    run: Opened,
    frozen: BlockLocal | Streamed,
    other: Opened | None,
    pieces: Pieces,
    cosines: Sequence[float | None],
) -> TextDiagnosis:
    """As `diagnose_run`, of tokens."""
    assert run.facts.text is not None
    fit, held = (
        list(evaluation_batches(run.config, part, run.facts, run.network.device).epoch(0))
        for part in (pieces.fit, pieces.held)
    )
    size = run.facts.text.bytes_per_token

    def look(network: BlockLocal | Streamed) -> TextMeasured:
        assert isinstance(network, BlockLocal)
        return measure_text(network, fit, held, size, own=network is run.network)

    found, untrained = look(run.network), look(frozen)
    rule = None if other is None else other.rule
    against = None if other is None else look(other.network)
    blocks = text_blocks(run.network.split.names, cosines, found, untrained, against)
    return TextDiagnosis(
        run=str(run.folder),
        rule=run.rule,
        checkpoint=run.checkpoint.name,
        against=None if other is None else str(other.folder),
        against_rule=rule,
        fitted=found.fitted,
        scored=found.scored,
        scored_on=pieces.split,
        blocks=blocks,
        hints=text_hints(blocks, rule),
    )


def write_diagnosis(diagnosis: Diagnosis | TextDiagnosis, folder: Path) -> list[Path]:
    """Write `diagnosis.json` and `diagnosis.png` into a run folder, and return their paths."""
    paths = [folder / "diagnosis.json", folder / "diagnosis.png"]
    write_text(paths[0], json.dumps(diagnosis.flat(), indent=1) + "\n")
    save_picture(diagnosis, paths[1])
    return paths


def choose_images(data: AnySet, count: int) -> Pieces:
    """At most `count` training and validation images, of those that have a label; see `diagnose_run`.

    Raises:
        InputError: there are too few training images to hold some out, and no validation split.
    """
    fit = _first(data.train, count)
    if len(data.validation):
        return Pieces(fit, _first(data.validation, count), "validation")
    held = len(fit) // HELD_SHARE
    if not held:
        raise InputError(
            f"{len(fit)} training images are too few to hold some out, and the run has no validation split: "
            f"give --images {HELD_SHARE} or more."
        )
    return Pieces(fit.subset(slice(held, None)), fit.subset(slice(0, held)), "training")


def _first(part: AnyPart, count: int) -> AnyPart:
    """The first ones whose class is known."""
    if isinstance(part, TextPart):
        return part.subset(slice(0, count))
    return part.subset((part.labels != UNKNOWN).nonzero().flatten()[:count])


def _other(
    run: Opened,
    against: Path | None,
    device: str | None,
    say: Callable[[str], None],
    trust: bool,
    left_out: list[str],
) -> Opened | None:
    """The run to hold it against, if there is one; `left_out` gets a line if it cannot be looked at as this run is."""
    if against is None and run.rule != BACKPROP:
        against = find_backprop(run)
        if against is None:
            say(f"there is no backprop run of the same model and data beside it. {how_to_get(run)}")
    if against is None:
        return None
    if run.visit is not None and is_one(against):
        left_out.append(
            f"nothing is said of {against}: it was trained under the rule {load_settings(against).learning.rule}, "
            f"{AS_ONE}. Where it fits into memory, leave out --visit."
        )
        return None
    other = open_against(run, against, device, trust=trust)
    training = differing(run.config, other.config, (*TRAINING, "seed"))
    say(f"held against {against}" + (f", which was trained otherwise: {'; '.join(training)}." if training else "."))
    return other


def _cosines(run: Opened, batches: Iterable[tuple[Tensor, Tensor]], left_out: list[str]) -> Sequence[float | None]:
    """Per block; `left_out` gets a line where they cannot be found."""
    if isinstance(run.network, BlockLocal):
        return gradient_cosines(run.network, batches)
    reason = run.network.rule.waits_because(run.network.learning.scope)
    if reason is None:
        return streamed_cosines(run.network, batches, FileCache(run.folder))
    left_out.append(
        f"no cosines: their gradients need the whole network at once, because under the rule {run.rule} {reason}. "
        "Where it fits into memory, leave out --visit."
    )
    return [None] * run.network.count


def _look(run: Opened, frozen: BlockLocal | Streamed, other: Opened | None, pieces: Pieces) -> list[Measured | None]:
    """The run, the untrained network and the other run, on the same images and read in the same way."""
    family, device = run.network.learning.latent_family(), run.network.device
    fit, held = (evaluation_batches(run.config, images, run.facts, device) for images in (pieces.fit, pieces.held))
    statistics = _statistics(run, pieces.fit)

    def look(network: BlockLocal | Streamed) -> Measured:
        if isinstance(network, BlockLocal):
            if network is frozen:
                follow_statistics(network, ((batch[0], batch[1]) for batch in statistics.epoch(0)))
            return measure(network, family, fit, held)
        follow = Following(network, statistics, FileCache(run.folder)) if network is frozen else nothing
        return measure_streamed(network, family, fit, held, FileCache(run.folder), follow)

    networks = [run.network, frozen, None if other is None else other.network]
    return [None if network is None else look(network) for network in networks]


def _statistics(run: Opened, images: AnyPart) -> AnyBatches:
    """Training batches of these images, without augmentation."""
    if isinstance(images, Samples):
        known = (run.facts.mean, run.facts.std) if run.facts.kind == "series" else ((), ())
        size, device = run.config.data.batch_size, run.network.device
        return SampleBatches(images, batch_size=size, mean=known[0], std=known[1], shuffle=True, device=device)
    assert isinstance(images, Images)
    return Batches(
        images,
        batch_size=run.config.data.batch_size,
        mean=run.facts.mean,
        std=run.facts.std,
        shuffle=True,  # a last batch of one image is then left out
        device=run.network.device,
        channels_last=run.config.machine.channels_last,
    )


def _sizes(network: BlockLocal | Streamed) -> list[float | None]:
    """Mean |b| per block of the split; a network in one learner has no messages."""
    return [None for _ in network.split.blocks] if network.rule.whole else network.message_sizes()
