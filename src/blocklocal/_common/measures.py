"""What accuracies and errors are called where people read them: one word for records, tables, plots and the screen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measure:
    """How good an answer is.

    Attributes:
        name: in records, behind "train_" or "validation_".
        title: for people.
        unit: behind a number, with its space.
        digits: behind the point.
        higher: whether more is better.
    """

    name: str
    title: str
    unit: str = ""
    digits: int = 3
    higher: bool = False

    @property
    def percent(self) -> bool:
        """Whether it lies between 0 and 100."""
        return self.unit == " %"

    @property
    def heading(self) -> str:
        """Title and unit in few letters: top-1 (%), RMSE."""
        return f"{self.title} ({self.unit.strip()})" if self.unit else self.title

    def text(self, value: float) -> str:
        return f"{value:.{self.digits}f}{self.unit}"


TOP1 = Measure("top1", "top-1", " %", 1, higher=True)
MEASURES = {
    each.name: each
    for each in (
        Measure("perplexity", "perplexity", digits=2),
        Measure("bits_per_byte", "bits per byte"),
        TOP1,
        Measure("mean_iou", "mean IoU", " %", 1, higher=True),
        Measure("rmse", "RMSE"),
        Measure("mae", "MAE"),
        Measure("r2", "R²", higher=True),
        Measure("gaussian_nll", "NLL"),
        Measure("inside90", "inside 90 %", " %", 1),
    )
}


def known_in(record: Mapping[str, Any], prefix: str = "validation_") -> list[Measure]:
    """The measures of a record, or of a summary; the one that counts comes first."""
    return [each for each in MEASURES.values() if f"{prefix}{each.name}" in record]


def main_of(records: Iterable[Mapping[str, Any]], prefix: str = "validation_") -> Measure:
    """The measure that counts in records; accuracy where none has any."""
    for record in records:
        for each in known_in(record, prefix):
            values = record[f"{prefix}{each.name}"]
            if any(value is not None for value in (values if isinstance(values, list) else [values])):
                return each
    return TOP1
