"""What a trained run says of one sample, for people, for a table and for JSON."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError
from blocklocal._common.written import signed_json
from blocklocal.exits.intervals import std_of
from blocklocal.network.exits import EarlyPrediction
from blocklocal.network.prediction import Prediction
from blocklocal.runs.asking import Asking
from blocklocal.runs.facts import DatasetInfo
from blocklocal.uncertainty.foreign import disagreement


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
            word, score = "unlike" if foreign["foreign"] else "like", foreign["disagreement"]
            unlike = f"  {word} the training data (disagreement {score:.3f}, limit {self.how.limit:.3f})"
        inside = "".join(f"  {name} {value:.6g}" for name, value in self._interval().items())
        certain = self._certain()
        inside += f"  set: {', '.join(certain['set']) or 'empty'}" if "set" in certain else ""
        if "sure enough" in certain:
            inside += "  sure enough" if certain["sure enough"] else "  not sure enough"
        yield f"{self.name}: {describe_prediction(self.prediction, self.i, self.facts)}{inside}{at}{unlike}"
        for name, block in self._others():
            yield f"    {name:32} {describe_prediction(block, self.i, self.facts)}"

    def row(self) -> dict[str, Any]:
        """For a table: file or row, label and confidence of the output, then of every block and of the ensemble."""
        found: dict[str, Any] = {
            self.kind: self.name,
            **self._answer(self.prediction),
            **self._interval(),
            **self._certain(),
            **self._left(),
            **self._foreign(),
        }
        if "set" in found:
            found["set"] = " | ".join(found["set"])
        for name, block in self._others():
            found |= {f"{name} {key}": value for key, value in self._answer(block).items()}
        return found

    def entry(self) -> dict[str, Any]:
        """For JSON: as `row`, nested, with the probabilities of all classes."""
        others = {name: self._answer(block) for name, block in self._others()}
        if self.facts.predicts_values:
            return {self.kind: self.name, **self._answer(self.prediction), **self._interval(), "others": others}
        probabilities = dict(zip(self.facts.classes, self.prediction.probabilities[self.i].tolist(), strict=True))
        own = (self._answer(self.prediction), self._certain(), self._left(), self._foreign())
        said = {self.kind: self.name, **{key: value for each in own for key, value in each.items()}}
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

    def _certain(self) -> dict[str, Any]:
        """Where it is asked: the set of classes that holds the truth, and whether the answer is sure enough."""
        found: dict[str, Any] = {}
        if self.how.sets is not None:
            (inside,) = self.how.sets(self.prediction.probabilities[self.i : self.i + 1]).tolist()
            found["set"] = [name for name, there in zip(self.facts.classes, inside, strict=True) if there]
        if self.how.answers_from is not None:
            found["sure enough"] = self.prediction.confidence[self.i].item() >= self.how.answers_from
        return found

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
