"""Two rules compared seed by seed: the differences, and how sure their mean is (Student's t: seeds are few)."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Paired:
    """Differences of two rules, one per seed that both have."""

    differences: tuple[float, ...]

    @property
    def mean(self) -> float | None:
        return statistics.fmean(self.differences) if self.differences else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None for fewer than two seeds, which say nothing of their spread."""
        count = len(self.differences)
        if self.mean is None or count < 2:
            return None
        reach = student(count - 1) * statistics.stdev(self.differences) / math.sqrt(count)
        return self.mean - reach, self.mean + reach


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Paired:
    """`ours` minus `theirs` (seed → value) for every seed that both have."""
    return Paired(tuple(value - theirs[seed] for seed, value in ours.items() if seed in theirs))


def student(freedom: int, confidence: float = CONFIDENCE) -> float:
    """The t within which, both ways, Student's distribution with `freedom` degrees of freedom has this share."""
    assert freedom >= 1
    assert 0 < confidence < 1
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def by_seed(rows: Sequence[Mapping[str, object]], key: str = "test_top1") -> dict[int, float]:
    """Seed → value of `key`, of the rows where it is known and finite."""
    found = {row["seed"]: row.get(key) for row in rows}
    return {
        seed: float(value)
        for seed, value in found.items()
        if isinstance(seed, int) and isinstance(value, int | float) and math.isfinite(value)
    }
