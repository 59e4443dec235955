"""Schemas of what a run writes while it trains and when it is over. A key that does not apply is null or absent."""

from typing import Annotated

from msgspec import Meta, Struct

from blocklocal.ranges import MOST_CLASSES
from blocklocal.schemas.kinds import MOST_BLOCKS, Name, Number, Percent, Seconds, Seed, Share, Text, Whole

_PerBlock = Meta(max_length=MOST_BLOCKS)
Figures = Annotated[list[Number | None], _PerBlock]
Percents = Annotated[list[Percent | None], _PerBlock]
Ordinal = Annotated[int, Meta(ge=1, le=10**9)]
Classes = Annotated[list[Text], Meta(max_length=MOST_CLASSES)]


class Epoch(Struct):
    """A line of `metrics.jsonl`: one epoch, every series with an entry per block."""

    epoch: Ordinal
    loss: Annotated[list[Number | None], Meta(min_length=1, max_length=MOST_BLOCKS)]
    train_top1: Percents | None = None
    validation_top1: Percents | None = None
    message: Figures | None = None
    parts: Annotated[list[dict[Text, Number | None]], _PerBlock] | None = None
    step: Whole | None = None
    seconds: Seconds | None = None
    images_per_second: Number | None = None
    lr: Number | None = None

    def __post_init__(self) -> None:
        for key in ("train_top1", "validation_top1", "message", "parts"):
            series = getattr(self, key)
            if series is not None and len(series) != len(self.loss):
                raise ValueError(f"{key} has {len(series)} entries for {len(self.loss)} blocks")


class Warned(Struct):
    """A line of `metrics.jsonl`: a warning."""

    text: Text = ""
    epoch: Ordinal | None = None
    block: Ordinal | None = None
    kind: Text | None = None


class Known(Struct):
    """What tables and sentences read of a run: of its `config.json` before it is over, of its `summary.json` then."""

    rule: Name | None = None
    run: Name | None = None
    model: Text | None = None
    data: Text | None = None
    seed: Seed | None = None
    blocks: Whole | None = None
    epochs: Whole | None = None
    width: Whole | None = None
    train_size: Whole | None = None
    validation_size: Whole | None = None
    test_size: Whole | None = None
    skipped: Whole | None = None
    threads: Whole | None = None
    device: Text | None = None
    torch: Text | None = None
    block_names: Annotated[list[Text], _PerBlock] | None = None
    block_test_top1: Percents | None = None
    combined_test_top1: Percent | None = None
    test_top1: Percent | None = None
    test_top3: Percent | None = None
    train_top1: Percent | None = None
    validation_top1: Percent | None = None
    test_nll: Number | None = None
    test_ece: Number | None = None
    seconds: Seconds | None = None
    evaluation_seconds: Seconds | None = None
    images_per_second: Number | None = None
    parameters: Whole | None = None
    local_parameters: Whole | None = None
    processes: Whole | None = None
    replicas: Whole | None = None
    placement: Annotated[list[Whole], _PerBlock] | None = None
    finished: bool = True

    def __post_init__(self) -> None:
        for key in ("rule", "run"):  # they name folders
            name = getattr(self, key)
            if name is not None and (name in (".", "..") or "/" in name or "\\" in name):
                raise ValueError(f"{key} must be a plain name, not a path such as {name[:60]!r}")


class Summary(Known):
    """`summary.json`, and an entry of `compare.json` (where `run` names its folder)."""

    rule: Name  # pyrefly: ignore[bad-override]


class Opinion(Struct):
    """What one block says of an example."""

    block: Ordinal
    predicted: Whole
    confidence: Share | None


class Example(Struct):
    """A test image (`png`: base64), and what the output and every block say of it."""

    png: Annotated[str, Meta(max_length=2**27)]
    label: Whole
    predicted: Whole
    confidence: Share | None
    blocks: Annotated[list[Opinion], _PerBlock]


class Examples(Struct):
    """`examples.json`."""

    classes: Classes
    examples: Annotated[list[Example], Meta(max_length=1_000)]
