"""What a trained run says of image files, and how it is written down."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.extras import needs
from blocklocal._common.screen import printable
from blocklocal._common.written import signed_json
from blocklocal.data.picture import BadImage, open_picture, resize_and_crop, to_array, to_mode
from blocklocal.data.scan import SUFFIXES, LeftOut, list_images
from blocklocal.network.exits import EarlyPrediction, Exits
from blocklocal.network.prediction import Prediction, Temperatures
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.intervals import std_of
from blocklocal.runs.looking import load_network
from blocklocal.runs.sets import normalise
from blocklocal.runs.train import block_names
from blocklocal.uncertainty.foreign import disagreement
from blocklocal.uncertainty.intervals import ConformalIntervals

BATCH_PIXELS = 2**17  # of a batch, so that memory does not grow with the number or the size of the images
MOST_IMAGES = 100  # of a batch


@needs("data")
def predict_each(
    run: Path,
    images: Sequence[Path],
    resize: bool = False,
    checkpoint: str | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
    visit: int | None = None,
    how: "Asking | None" = None,
) -> Iterator["Said"]:
    """What the output, every block and the ensemble say of each image. They come batch by batch.

    Args:
        images: files, and folders of which all images are taken.
        how: what else is asked.

    Raises:
        InputError: the network predicts no numbers, or an image cannot be used; what is said of all before it comes
            first.
    """
    if not images:
        raise InputError("predict needs at least one image file, or folder of images, after the run folder.")
    files = image_files(images)
    _, facts, network = load_network(run, checkpoint, device, trust=trust, visit=visit)
    names, how = block_names(network), how or Asking()
    for paths, pixels, trouble in _batches(files, facts, resize):
        if paths:
            prediction = how.predict(network, normalise(torch.stack(pixels), facts).to(network.device))
            check_numbers(prediction, run)
            for i, path in enumerate(paths):
                yield Said("file", printable(path, lines=False), prediction, i, facts, names, how)
        if trouble is not None:
            raise trouble


@dataclass(frozen=True)
class Asking:
    """What is asked beside the answers.

    Attributes:
        exit: with which samples leave early.
        temperatures: by which logits are divided; `exit` has its own.
        limit: the disagreement of the blocks from which on a sample is said to be foreign; None: nothing is said.
        interval: the intervals of values that are said too.
    """

    exit: Exits | None = None
    temperatures: Temperatures | None = None
    limit: float | None = None
    interval: ConformalIntervals | None = None

    def predict(self, network: Any, x: Tensor) -> Prediction:
        """What a network, whole or with one block at a time in memory, says of a batch."""
        if self.exit is not None:
            return network.predict(x, self.exit)
        return network.predict(x, temperatures=self.temperatures)


def image_files(given: Sequence[Path]) -> list[Path]:
    """The files, and all images in the folders and below, by their suffixes.

    Raises:
        InputError: there is no image in a folder.
    """
    found: list[Path] = []
    for path in given:
        inside = list_images(path, LeftOut()) if path.is_dir() else [path]
        if not inside:
            raise InputError(f"the folder {path} holds no images ({', '.join(SUFFIXES)}): give another one, or files.")
        found += inside
    return found


def _batches(
    images: Sequence[Path], facts: DatasetInfo, resize: bool
) -> Iterator[tuple[list[Path], list[Tensor], InputError | None]]:
    """(files, their pixels, what is wrong with the file after them); the batch with an error is the last."""
    size = max(1, min(MOST_IMAGES, BATCH_PIXELS // (facts.height * facts.width)))
    for start in range(0, len(images), size):
        paths, pixels = [], []
        for path in images[start : start + size]:
            try:
                pixels.append(open_pixels(path, facts, resize))
            except InputError as error:
                yield paths, pixels, error
                return
            paths.append(path)
        yield paths, pixels, None


@dataclass(frozen=True)
class Said:
    """What a network says of one sample: number `i` of the batch `prediction`.

    Attributes:
        kind: what the sample is, `file` or `row`.
        name: of the file, or the row's number.
        how: what else is asked.
    """

    kind: str
    name: str | int
    prediction: Prediction
    i: int
    facts: DatasetInfo
    names: list[str]
    how: Asking

    def lines(self) -> Iterator[str]:
        """For people."""
        early = self.prediction
        at = f"  (block {_last_block(early, self.i)})" if isinstance(early, EarlyPrediction) else ""
        unlike = ""
        if foreign := self._foreign():
            unlike = f"  {'unlike' if foreign['foreign'] else 'like'} the training data ({foreign['disagreement']:.3f})"
        inside = "".join(f"  {name} {value:.6g}" for name, value in self._interval().items())
        yield f"{self.name}: {describe_prediction(self.prediction, self.i, self.facts)}{inside}{at}{unlike}"
        for name, block in self._others():
            yield f"    {name:32} {describe_prediction(block, self.i, self.facts)}"

    def row(self) -> dict[str, Any]:
        """For a table: file or row, label and confidence of the output, then of every block and of the ensemble."""
        found: dict[str, Any] = {
            self.kind: self.name,
            **self._answer(self.prediction),
            **self._interval(),
            **self._left(),
            **self._foreign(),
        }
        for name, block in self._others():
            found |= {f"{name} {key}": value for key, value in self._answer(block).items()}
        return found

    def entry(self) -> dict[str, Any]:
        """For JSON: as `row`, nested, with the probabilities of all classes."""
        others = {name: self._answer(block) for name, block in self._others()}
        if self.facts.predicts_values:
            return {self.kind: self.name, **self._answer(self.prediction), **self._interval(), "others": others}
        probabilities = dict(zip(self.facts.classes, self.prediction.probabilities[self.i].tolist(), strict=True))
        said = {self.kind: self.name, **self._answer(self.prediction), **self._left(), **self._foreign()}
        return {**said, "probabilities": probabilities, "others": others}

    def _answer(self, prediction: Prediction) -> dict[str, Any]:
        if self.facts.predicts_values:
            return self._values(prediction)
        if self.facts.predicts_labels:
            labels, sure = (t[self.i].tolist() for t in (prediction.label, prediction.confidence))
            named = zip(self.facts.classes, labels, sure, strict=True)
            return {key: value for name, y, p in named for key, value in ((name, y), (f"{name} confidence", p))}
        label, confidence = int(prediction.label[self.i]), prediction.confidence[self.i].item()
        return {"label": self.facts.classes[label], "confidence": confidence}

    def _values(self, prediction: Prediction) -> dict[str, float]:
        """By name; with the standard deviation behind each where one is predicted."""
        values = prediction.values[self.i].tolist()
        if not self.facts.variance:
            return dict(zip(self.facts.classes, values, strict=True))
        deviations = prediction.variance[self.i].sqrt().tolist()
        named = zip(self.facts.classes, values, deviations, strict=True)
        return {key: each for name, value, std in named for key, each in ((name, value), (f"{name} std", std))}

    def _interval(self) -> dict[str, float]:
        """Where it is asked: the ends of the interval of every value."""
        if self.how.interval is None:
            return {}
        said = self.prediction
        low, high = (ends[self.i].tolist() for ends in self.how.interval(said.values, std_of(said)))
        named = zip(self.facts.classes, low, high, strict=True)
        return {key: each for name, a, b in named for key, each in ((f"{name} low", a), (f"{name} high", b))}

    def _left(self) -> dict[str, int]:
        """With early exit, the block that has answered."""
        early = self.prediction
        return {"block": _last_block(early, self.i)} if isinstance(early, EarlyPrediction) else {}

    def _foreign(self) -> dict[str, Any]:
        """Where it is asked: how far the blocks lie apart, and whether that is much."""
        if self.how.limit is None:
            return {}
        known = [each.probabilities[self.i].log() for each in self.prediction.blocks if each is not None]
        score = disagreement([each.unsqueeze(0) for each in known]).item()
        return {"disagreement": score, "foreign": score > self.how.limit}

    def _others(self) -> Iterator[tuple[str, Prediction]]:
        if not self.prediction.blocks:  # early exit: the others were not asked
            return
        for name, block in zip(self.names, self.prediction.blocks, strict=True):
            if block is not None and len(self.names) > 1:
                yield name, block
        if self.prediction.combined is not None:
            yield "ensemble", self.prediction.combined


def _last_block(prediction: EarlyPrediction, i: int) -> int:
    """Counted from 1; of several answers that of the last one."""
    return int(prediction.block[i].max())


def predictions_file(path: Path, said: Sequence[Said], run: Path) -> bytes:
    """The content of a file of predictions, by its suffix: .csv, a row per sample; or .json.

    Raises:
        InputError: for another suffix.
    """
    check_suffix(path)
    if path.suffix.lower() == ".json":
        return signed_json({"run": str(run), "predictions": [each.entry() for each in said]}, indent=1)
    return "".join(f"{line}\r\n" for line in rows_of_text(said)).encode("utf-8", "backslashreplace")


def rows_of_text(said: Iterable[Said]) -> Iterator[str]:
    """Lines of CSV, the names of the columns first."""
    for number, each in enumerate(said):
        row = each.row()
        if not number:
            yield _line(list(row))
        yield _line(list(row.values()))


def _line(cells: Sequence[object]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(cells)
    return out.getvalue()


def check_suffix(path: Path) -> None:
    """Raise InputError for a file of predictions that is to be neither CSV nor JSON."""
    if path.suffix.lower() not in (".csv", ".json"):
        raise InputError(f"predictions are written as .csv or .json, not {path.name!r}: give such a name.")


def check_numbers(prediction: Prediction, run: Path) -> None:
    """Raise InputError where a network predicts no numbers."""
    every = [prediction, *prediction.blocks, prediction.combined]
    if not all(bool(each.probabilities.isfinite().all()) for each in every if each is not None):
        raise InputError(
            f"the network of {run} predicts probabilities that are no numbers: its weights are damaged, or its "
            "training diverged. Give an older --checkpoint, or train it again (with a smaller --lr)."
        )


def describe_prediction(prediction: Prediction, i: int, facts: DatasetInfo) -> str:
    """`shirt  87.3 %`, or the values by name."""
    if facts.predicts_labels:
        named = zip(facts.classes, prediction.label[i].tolist(), prediction.confidence[i].tolist(), strict=True)
        return "  ".join(f"{name} {'yes' if y else 'no'} {100 * p:.1f} %" for name, y, p in named)
    if facts.predicts_values:
        stds = [f" ± {std:.3g}" for std in prediction.variance[i].sqrt().tolist()] if facts.variance else repeat("")
        values = zip(facts.classes, prediction.values[i].tolist(), stds, strict=False)
        return "  ".join(f"{name} {value:.6g}{std}" for name, value, std in values)
    return f"{facts.classes[int(prediction.label[i])]}  {100 * prediction.confidence[i].item():.1f} %"


def open_pixels(path: Path, facts: DatasetInfo, resize: bool) -> Tensor:
    """uint8 [C, H, W] of an image file in the model's colours.

    Raises:
        InputError: it is unreadable or of another size.
    """
    try:
        image = to_mode(open_picture(path).image, "L" if facts.channels == 1 else "RGB")
        if resize:
            image = resize_and_crop(image, (facts.width, facts.height))
    except BadImage as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise InputError(f"there is no image {path}.") from error
        raise InputError(f"{path} cannot be decoded as an image ({error}).") from error
    if image.size != (facts.width, facts.height):
        raise InputError(
            f"{path} has {image.size[0]}x{image.size[1]} pixels, the model takes {facts.width}x{facts.height}: "
            "give --resize to scale and crop it."
        )
    return torch.from_numpy(to_array(image).copy())
