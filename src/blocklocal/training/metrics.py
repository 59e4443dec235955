"""A user's own metrics: of the network's output and y as the loader gave it."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from blocklocal._common.errors import InputError, shown
from blocklocal.block.target import Asked, given_of


@runtime_checkable
class Accumulating(Protocol):
    """A metric that takes batches and says its value at the end, as those of torchmetrics do."""

    def update(self, output: Tensor, y: Any) -> object: ...

    def compute(self) -> Any: ...

    def reset(self) -> object: ...


Metric = Callable[[Tensor, Any], Any] | Accumulating
Metrics = Mapping[str, Metric]


def check_metrics(metrics: object) -> dict[str, Metric]:
    """Raise InputError for what is no mapping from names to metrics."""
    if metrics is None:
        return {}
    if not isinstance(metrics, Mapping):
        raise InputError(f"metrics must be a mapping, name → function (output, y), not {shown(metrics)}.")
    for name, metric in metrics.items():
        if not isinstance(name, str) or not (callable(metric) or isinstance(metric, Accumulating)):
            raise InputError(
                f"the metric {shown(name)} must be a function (output, y) → one number, or an object with update, "
                f"compute and reset (as of torchmetrics), not {shown(metric)}."
            )
    return dict(metrics)


class Measuring:
    """Own metrics over the batches of a split. A function's value is the mean over batches, by their size."""

    def __init__(self, metrics: Metrics):
        self.metrics = metrics
        self.sums = {name: 0.0 for name, metric in metrics.items() if not isinstance(metric, Accumulating)}
        self.samples = 0
        for metric in metrics.values():
            if isinstance(metric, Accumulating):
                metric.reset()

    def add(self, scores: Tensor, y: Asked) -> None:
        """Take in a batch: the output's scores, units last, and its targets."""
        output = scores.movedim(-1, 1) if scores.dim() > 3 else scores
        self.samples += len(y)
        for name, metric in self.metrics.items():
            if isinstance(metric, Accumulating):
                metric.update(output, given_of(y))
            else:
                self.sums[name] += _number(name, metric(output, given_of(y))) * len(y)

    def found(self) -> dict[str, float]:
        """The value of every metric."""
        ends = {name: m.compute() for name, m in self.metrics.items() if isinstance(m, Accumulating)}
        means = {name: total / max(self.samples, 1) for name, total in self.sums.items()}
        return {name: means[name] if name in means else _number(name, ends[name]) for name in self.metrics}


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, int | float) and not isinstance(value, torch.Tensor):
        return float(value)
    raise InputError(f"the metric {name!r} must give one number, not {shown(value)}.")
