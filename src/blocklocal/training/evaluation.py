"""How good every block is on a split: accuracy or error, likelihood and calibration."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.modes import kept_modes
from blocklocal.block.loss import OutputLoss
from blocklocal.block.targets import MISSING, Asked, Classes, Targets, Values, combined, measured, values_of
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.neighbours import Neighbours, check_network
from blocklocal.network.prediction import Temperatures
from blocklocal.training.confusion import Counts, confusion_counts
from blocklocal.training.loaders import check_loader
from blocklocal.training.metrics import Measuring, Metrics, check_metrics
from blocklocal.training.tally import figures
from blocklocal.uncertainty.measures import calibration_error


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on a set. Accuracies are in percent.

    Attributes:
        top1: None where values are predicted, or where only the user's own loss reads the output.
        top3: None for fewer than 4 classes, for binary labels, values, pixels and tokens.
        nll: nats per target; of values without a variance the mean squared error in squared deviations.
        ece: expected calibration error (15 bins), between 0 and 1; None for binary labels, values, pixels, tokens and
            for a single class.
        block_top1: one entry per block, None where it cannot predict.
        combined_top1: of the ensemble (`combined` of a prediction), None where only the output predicts.
        confusion: what the output took for what, see `confusion_counts`; empty for values.
        measured: every measure of the task by its name, one entry per block: top1 (and mean_iou for pixels), rmse, mae
            and r2 for values (gaussian_nll and inside90 too where they have a variance), or perplexity, bits_per_byte
            and top1 for tokens.
        combined: the same of the ensemble.
        metrics: the user's own, of the output.
    """

    top1: float | None
    top3: float | None
    nll: float | None
    ece: float | None
    block_top1: list[float | None]
    combined_top1: float | None
    confusion: Counts
    measured: dict[str, list[float | None]] = field(default_factory=dict)
    combined: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


Look = Callable[[list[Tensor | None], Asked], None]


@torch.no_grad()
def measure_blocks(
    network: Neighbours,
    batches: Iterable[Loaded],
    look: Look | None = None,
    metrics: Metrics | None = None,
    temperatures: Sequence[float] = (),
) -> tuple[dict[str, list[float | None]], dict[str, float]]:
    """How good every block is in evaluation mode, by the name of the measure; None where it cannot predict.

    The mode of every part of the network is put back afterwards, also after an error. A network that does not know its
    shapes takes them from the first batch. The values of targets are checked on the CPU, and on CUDA in the first batch
    alone. Weights of samples do not count.

    Args:
        network: a network, or a process's share of one.
        batches: (x, y) pairs, x [B, …], y [B] (or [B, T], [B, H, W], [B, L], [B, V]).
        look: gets every batch's logits (one entry per block) and targets.
        metrics: the user's own, of the output, where it is here.
        temperatures: of every block: its logits are divided by it; none for 1 everywhere.

    Returns:
        The measures of the blocks, and the user's own metrics of the output.

    Raises:
        InputError: there is no batch, none has a target, or one is not (x, y).
    """
    sums: list[list[Tensor | None]] = []
    targets, own = network.targets, Measuring(metrics or {})
    with kept_modes([network]):
        network.train(False)
        for y, scores in network.look(map(pair, batches)):
            if not sums or not y.is_cuda:
                targets.check(y)
            has_output = _has_output(network)
            answers = [*scores[:-1], None] if has_output and targets.hidden else scores
            divided = [_divided(each, t) for each, t in zip(answers, temperatures or [1.0] * len(answers), strict=True)]
            sums.append([measured(targets, each, y) for each in divided])
            if has_output and scores[-1] is not None:
                own.add(scores[-1] / temperatures[-1] if temperatures else scores[-1], y)
            if look is not None:
                look(scores, y)
    if not sums:
        raise InputError("nothing to evaluate: there is no batch.")
    return figures(
        targets, [_total(list(each)) for each in zip(*sums, strict=True)]
    ), own.found() if own.samples else {}


def _divided(logits: Tensor | None, temperature: float) -> Tensor | None:
    return logits if logits is None or temperature == 1 else logits / temperature


def _has_output(network: Neighbours) -> bool:
    return isinstance(network.learners[-1].local, OutputLoss)


def _total(sums: list[Tensor | None]) -> Tensor | None:
    known = [each for each in sums if each is not None]
    if not known:
        return None
    total = torch.stack(known).sum(0)
    if not total[1]:
        raise InputError("nothing to evaluate: no sample has a target.")
    return total


def evaluate(
    network: Neighbours,
    batches: Iterable[Loaded],
    *,
    metrics: Metrics | None = None,
    temperatures: Temperatures | None = None,
) -> Evaluation:
    """Measure a network in evaluation mode. It works before any training too.

    The mode of every part of the network is put back afterwards, also after an error: a BatchNorm that was in
    evaluation mode stays there.

    Args:
        network: the network.
        batches: (x, y) pairs on its device, x [B, …], y [B] (or [B, T] for sequences, [B, H, W] for pixels, [B, L] for
            binary labels, [B, V] for values).
        metrics: your own, by name: functions (output, y) → one number, or metrics of torchmetrics.
        temperatures: with which it predicts, and the weights of the ensemble (`FittedExits.temperatures`).

    Returns:
        Measures of the output, of every block and of the ensemble, likelihood and calibration of the output.

    Raises:
        InputError: it is no `BlockLocal`, there is no batch, no sample has a target, a batch is not (x, y), a target is
            out of range, or temperatures are for another number of blocks, or given where values are predicted.
    """
    check_network(network)
    if temperatures is not None:
        _check_temperatures(network, temperatures)
    check_loader("evaluation", batches, once=True)
    output = _Output(network.targets, temperatures)
    divide = () if temperatures is None else temperatures.blocks
    blocks, own = measure_blocks(network, batches, output.add, check_metrics(metrics), divide)
    unknown: list[float | None] = [None for _ in network.learners]
    top1 = blocks.get("top1", unknown)
    together = output.together()
    return Evaluation(
        top1[-1], *output.likelihood(), top1, together.get("top1"), output.confusion(), blocks, together, own
    )


def _check_temperatures(network: Neighbours, temperatures: Temperatures) -> None:
    if isinstance(network.targets, Values):
        raise InputError(
            "temperatures are for classes, labels and tokens here; how good variances are before and after, "
            "`blocklocal calibrate` prints."
        )
    temperatures.check(len(network.learners))


class _Output:
    """What is kept of the output: its logits, but of pixels and tokens, of which there are many, only sums."""

    def __init__(self, targets: Targets, temperatures: Temperatures | None):
        self.temperatures = temperatures
        plain = replace(targets, class_weights=None) if isinstance(targets, Classes) else targets
        self.targets = plain
        self.logits: list[Tensor] = []
        self.wanted: list[Tensor] = []
        self.sums: list[tuple[float, int]] = []
        self.counts: list[Tensor | None] = []

    def add(self, scores: list[Tensor | None], y: Asked) -> None:
        output, wanted = scores[-1], values_of(y)
        if output is None or self.targets.hidden:
            return
        together = combined(self.targets, scores, () if self.temperatures is None else self.temperatures.weights)
        if self.temperatures is not None:
            together, output = _divided(together, self.temperatures.combined), output / self.temperatures.blocks[-1]
        self.counts.append(None if together is None else self.targets.sums(together, y))
        if output.dim() < 4 and not self.targets.large:
            flat = output.dim() == 3  # positions one by one: sequences may differ in length
            self.logits.append((output.flatten(0, 1) if flat else output).float().cpu())
            self.wanted.append((wanted.flatten(0, 1) if flat else wanted).cpu())
            return
        there = int(self.targets.measure(output, wanted)[1].item())
        self.sums.append((self.targets.loss(output.float(), wanted).item() * there, there))

    def together(self) -> dict[str, float]:
        """The measures of the ensemble."""
        total = _total(self.counts)
        return {} if total is None else self.targets.figures(total)

    def confusion(self) -> Counts:
        if not self.logits or isinstance(self.targets, Values):
            return []
        return confusion_counts(self.targets, torch.cat(self.logits), torch.cat(self.wanted))

    def likelihood(self) -> tuple[float | None, float | None, float | None]:
        """(top-3, nll, calibration error)."""
        if self.sums:
            total, count = (sum(each) for each in zip(*self.sums, strict=True))
            return None, total / count, None
        if not self.logits:
            return None, None, None
        wanted = torch.cat(self.wanted)
        self.targets.check(wanted)  # on CUDA those of the first batch alone were looked at
        return _of_output(self.targets, torch.cat(self.logits), wanted)


def _of_output(targets: Targets, logits: Tensor, wanted: Tensor) -> tuple[float | None, float, float | None]:
    nll = targets.likelihood(logits, wanted).item()
    if not isinstance(targets, Classes):
        return None, nll, None
    logits, wanted = logits.flatten(0, -2), targets.hard(wanted).flatten()
    logits, wanted = logits[wanted != MISSING], wanted[wanted != MISSING]
    classes = targets.count
    top3 = None
    if classes > 3:
        hits = (logits.topk(3, dim=-1).indices == wanted.unsqueeze(-1)).any(-1)
        top3 = 100.0 * hits.double().mean().item()
    confidence, label = logits.softmax(-1).max(-1)
    return top3, nll, calibration_error(confidence, label == wanted) if classes > 1 else None
