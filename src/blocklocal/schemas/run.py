"""Schemas of what a run writes while it trains and when it is over. A key that does not apply is null or absent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from blocklocal._common.errors import InputError
from blocklocal._common.files import is_there
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal.schemas.kinds import MOST_BLOCKS, Error, Name, Number, Percent, Seconds, Seed, Share, Text, Whole

_PerBlock = Meta(max_length=MOST_BLOCKS)
Figures = Annotated[list[Number | None], _PerBlock]
Errors = Annotated[list[Error | None], _PerBlock]
Percents = Annotated[list[Percent | None], _PerBlock]
Ordinal = Annotated[int, Meta(ge=1, le=10**9)]
Classes = Annotated[list[Text], Meta(max_length=MOST_CLASSES)]
SUMMARISED = {
    "augment": "",
    "second_view": "",
    "labelled": 1.0,
    "repeat_labelled": 0.0,
    "mix": "",
    "class_weights": "",
    "pretrained": False,
    "lora": None,
}
"""Settings of data and model that a summary carries beside their names, and what they usually are."""


def summarised(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a run's settings that its summary carries."""
    return {name: settings[name] for name in SUMMARISED if name in settings}


def check_run_folder(folder: Path) -> None:
    """Raise InputError where there is no folder of this name, or the folder of a comparison."""
    if not folder.is_dir():
        raise InputError(f"there is no run folder {folder}: give the folder that a training has written.")
    if is_there(folder / "compare.json") and not is_there(folder / "config.json"):
        raise InputError(f"{folder} is a comparison of runs, not a run: {_a_run_of(folder)}.")


def check_settings_there(folder: Path) -> None:
    """As `check_run_folder`, and raise InputError where the run's settings are missing."""
    check_run_folder(folder)
    if not is_there(folder / "config.json"):
        raise InputError(
            f"{folder} is neither a run (its config.json is missing) nor a comparison (it has no compare.json): "
            f"{_a_run_of(folder)}."
        )


def _a_run_of(folder: Path) -> str:
    """What to give instead of a folder that is no run."""
    runs = sorted(file.parent for file in folder.glob("[!.]*/config.json"))
    if not runs and any(folder.glob("step-*/state.json")):
        return "it has checkpoints alone, as save writes them; make the network anew, and give load(network, FOLDER)"
    return f"give one of its runs, such as {runs[0]}" if runs else "give the folder that a training has written"


def _measured() -> list[str]:
    """The series of accuracies and errors."""
    return [name for name in Epoch.__struct_fields__ if name.startswith(("train_", "validation_"))]


class Epoch(Struct):
    """A line of `metrics.jsonl`: one epoch, every series with an entry per block."""

    epoch: Ordinal
    loss: Annotated[list[Number | None], Meta(min_length=1, max_length=MOST_BLOCKS)]
    train_top1: Percents | None = None
    validation_top1: Percents | None = None
    train_mean_iou: Percents | None = None
    validation_mean_iou: Percents | None = None
    train_rmse: Errors | None = None
    validation_rmse: Errors | None = None
    train_mae: Errors | None = None
    validation_mae: Errors | None = None
    train_r2: Errors | None = None
    validation_r2: Errors | None = None
    metrics: dict[Text, Number | None] | None = None
    message: Figures | None = None
    parts: Annotated[list[dict[Text, Number | None]], _PerBlock] | None = None
    step: Whole | None = None
    seconds: Seconds | None = None
    images_per_second: Number | None = None
    lr: Number | None = None

    def __post_init__(self) -> None:
        for key in (*_measured(), "message", "parts"):
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
    kept_epoch: Ordinal | None = None
    stopped: Text | None = None
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
    block_test_mean_iou: Percents | None = None
    block_test_rmse: Errors | None = None
    block_test_mae: Errors | None = None
    block_test_r2: Errors | None = None
    test_mean_iou: Percent | None = None
    test_rmse: Error | None = None
    test_mae: Error | None = None
    test_r2: Error | None = None
    combined_test_rmse: Error | None = None
    train_rmse: Error | None = None
    validation_rmse: Error | None = None
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
    augment: Text | None = None
    second_view: Text | None = None
    labelled: Number | None = None
    repeat_labelled: Number | None = None
    mix: Text | None = None
    class_weights: Text | None = None
    pretrained: bool | None = None
    lora: Whole | None = None
    consistency: Number | None = None
    barlow: Number | None = None
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


Count = tuple[Whole, Whole, Ordinal]


class Confusion(Struct):
    """`confusion.json`: what the output takes for what on the test split, without the zeros of the matrix.

    Attributes:
        counts: (row asked for, row answered, how often), each pair of rows once. A class is its own row; binary label j
            has row 2j for "no" and 2j + 1 for "yes".
    """

    of: Literal["classes", "labels"]
    names: Classes
    counts: Annotated[list[Count], Meta(max_length=10_000_000)]

    def __post_init__(self) -> None:
        rows = len(self.names) * (2 if self.of == "labels" else 1)
        for asked, answered, _ in self.counts:
            if max(asked, answered) >= rows:
                raise ValueError(f"counts has the row {max(asked, answered)}, and there are {rows} rows")
            if self.of == "labels" and asked // 2 != answered // 2:
                raise ValueError(f"counts answers row {asked} with row {answered}, which is of another label")
        if len({count[:2] for count in self.counts}) < len(self.counts):
            raise ValueError("counts has a pair of rows twice")


class Opinion(Struct):
    """What one block says of an example."""

    block: Ordinal
    predicted: Whole
    confidence: Share | None


class Example(Struct):
    """A test image, and what the output and every block predict for it.

    Attributes:
        png: base64.
    """

    png: Annotated[str, Meta(max_length=2**27)]
    label: Whole
    predicted: Whole
    confidence: Share | None
    blocks: Annotated[list[Opinion], _PerBlock]


class Examples(Struct):
    """`examples.json`."""

    classes: Classes
    examples: Annotated[list[Example], Meta(max_length=1_000)]
