"""Exits that were fitted on a validation set: calibration by block, and when to leave for a budget or a risk."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.files import write_text
from blocklocal.block.targets import Classes, Values
from blocklocal.exits.answers import Answers, BlockAnswers, answers_of
from blocklocal.exits.choice import Setting, at_budget, at_risk, settings_of
from blocklocal.exits.costs import Costs, costs_of
from blocklocal.exits.curves import Reliability, RiskCurve, reliability, risk_curve
from blocklocal.exits.sureness import Sureness, fit_sureness
from blocklocal.exits.weights import Weights
from blocklocal.network.edge import Loaded, pair
from blocklocal.network.exits import Exits
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Temperatures, are_shares
from blocklocal.schemas import read_json
from blocklocal.uncertainty.measures import adaptive_calibration_error, calibration_error

KNOWN = 0.95  # the share of validation samples that are not taken for foreign


@dataclass(frozen=True)
class Calibration:
    """How good the probabilities of one way to predict are, before its temperature (and weights) and with it.

    Attributes:
        right: the share of right answers; the temperature does not change it, of several blocks the weights do. None
            before, where an older version fitted it.
        nll: nats per answer.
        brier: squared distance of the probabilities from the truth.
        ece: expected calibration error, 15 bins of equal width; `adaptive`: of equal numbers.
    """

    temperature: float
    right: float
    nll_before: float
    nll: float
    brier_before: float
    brier: float
    ece_before: float
    ece: float
    adaptive_before: float
    adaptive: float
    right_before: float | None = None


@dataclass(frozen=True)
class Choice:
    """When to leave, what it came to on the validation set, and what leaving costs."""

    exits: Exits
    setting: Setting
    costs: Costs

    @property
    def prices(self) -> list[float]:
        """Of leaving at each block, as a share of the whole network."""
        count = len(self.costs.blocks)
        return self.costs.leaving([self.exits.asks(k) and k + 1 < count for k in range(count)])


@dataclass(frozen=True)
class FittedExits:
    """What was found on a validation set.

    Attributes:
        own: of every block; None where it cannot predict.
        together: of it and all before it that predict.
        costs: of a sample.
        settings: the ways to leave, each from the safest threshold on.
        samples: of the validation set.
        single: whether a sample has one answer.
        sureness: of the output, where it gives every sample one class; else None.
        reliability: of every block before its temperature and with it; None where it cannot predict.
        risks: curves of risk and coverage, of the "output" and of all blocks "together".
        weights: of every block: how much each up to it counts in what they say together; none for the same each.
        limits: of every score of foreign data (`uncertainty.foreign`) what 95 of 100 validation samples do not exceed.

    Raises:
        InputError: figures are missing, or are no numbers.
    """

    own: list[Calibration | None]
    together: list[Calibration | None]
    costs: Costs
    settings: list[list[Setting]]
    samples: int
    single: bool
    sureness: Sureness | None = None
    reliability: list[tuple[Reliability, Reliability] | None] = field(default_factory=list)
    risks: dict[str, RiskCurve] = field(default_factory=dict)
    limits: dict[str, float] = field(default_factory=dict)
    weights: Weights = ()

    def __post_init__(self) -> None:
        count, figures = len(self.costs.blocks), [each.cost for way in self.settings for each in way]
        sizes = {len(self.own), len(self.together), len(self.costs.answers)}
        temperatures = [each.temperature for each in (*self.own, *self.together) if each is not None]
        sizes |= {len(self.weights)} if self.weights else set()
        for k, row in enumerate(self.weights):
            if any(row) and not are_shares(row, k + 1):
                raise InputError("these exits are damaged, in their weights: fit them again.")
        if sizes != {count} or not self.settings or not all(map(math.isfinite, (*figures, *temperatures))):
            raise InputError("these exits are damaged: fit them again.")

    @property
    def temperatures(self) -> Temperatures:
        """Of every block, and of all together; 1 where a block does not predict."""
        *_, together = self.together
        blocks = tuple(each.temperature if each else 1.0 for each in self.own)
        return Temperatures(blocks, together.temperature if together else 1.0, self.weights[-1] if self.weights else ())

    def for_budget(self, budget: float) -> Choice:
        """The most accurate exits that cost at most this share of the whole network's FLOPs, in the mean over samples.

        Args:
            budget: the share, above 0 and at most 1.

        Raises:
            InputError: there are none, or the share is not above 0 and at most 1.
        """
        _check_share("budget", budget)
        self._check_hidden()
        found = at_budget(self.settings, budget)
        if found is None:
            least = min((each.cost for way in self.settings for each in way), default=1.0)
            raise InputError(f"no exit costs {budget:g} of the whole network or less: the cheapest takes {least:.2f}.")
        return Choice(self._exits(found), found, self.costs)

    def for_risk(self, risk: float) -> Choice:
        """The cheapest exits that change at most this share of the answers, in 95 of 100 validation sets.

        A small set cannot show a small risk: then nobody leaves.

        Args:
            risk: the share, above 0 and at most 1.

        Raises:
            InputError: the share is not above 0 and at most 1.
        """
        _check_share("risk", risk)
        self._check_hidden()
        found = at_risk(self.settings, risk, self.samples, single=self.single)
        return Choice(self._exits(found), found, self.costs)

    def _check_hidden(self) -> None:
        if not any(self.own[:-1]):
            raise InputError(
                "no block but the last predicts here, so there is no exit before the end: train with block-local (but "
                "objective none), greedy or deep-supervision, in two blocks or more."
            )

    def _exits(self, setting: Setting) -> Exits:
        hidden = enumerate(self.own[:-1])
        thresholds = tuple(setting.threshold if k >= setting.first and each else None for k, each in hidden)
        together = tuple(each.temperature if each else 1.0 for each in self.together)
        return Exits(thresholds, setting.by, self.temperatures.blocks, together, self.weights)

    def save(self, path: Path | str) -> None:
        """Write it as JSON.

        Args:
            path: of the file.
        """
        write_text(Path(path), json.dumps(asdict(self), indent=1) + "\n")


def load_exits(path: Path | str) -> FittedExits:
    """What `FittedExits.save` wrote.

    Args:
        path: of the file.

    Raises:
        InputError: it is missing, damaged, or holds what cannot be.
    """
    return read_json(Path(path), FittedExits, what="exits, as `blocklocal calibrate` writes them")


def fit_exits(network: BlockLocal, batches: Callable[[], Iterable[Loaded]] | Iterable[Loaded]) -> FittedExits:
    """Calibrate every block on validation data, and find when a sample may leave.

    The network stays as it is. Never give test data: what is chosen on them is not measured by them.

    Args:
        batches: (x, y) pairs that can be read more than once, as a list or a DataLoader; or a function that gives them.

    Raises:
        InputError: values or pixels are asked for, there is no target, or the batches can be read once only.
    """
    give = batches if callable(batches) else _again(batches)
    first = next((x for x, _ in map(pair, give())), None)
    if first is None:
        raise InputError("there is nothing to fit exits on: there is no batch.")
    network.materialize(first)
    check_exits(network)
    said = answers_of(network, give)
    costs = costs_of(network, network.check_input(first))
    single = len(said.sample) == said.samples
    own, together = (_calibrations(way, said.wanted) for way in (said.own, said.together))
    limits = {name: score.quantile(KNOWN).item() for name, score in said.foreign.items()}
    settings, output = settings_of(said, costs), said.own[-1]
    sureness = None
    if single and isinstance(network.targets, Classes) and output is not None:
        sureness = fit_sureness(*(each[said.wanted] for each in (output.truth, output.sure, output.right)))
    reliable = [None if each is None else _reliability(each, said.wanted) for each in said.own]
    ways = {"output": output, "together": said.together[-1] if any(said.own[:-1]) else None}
    risks = {name: risk_curve(each.sure[said.wanted], each.right[said.wanted]) for name, each in ways.items() if each}
    return FittedExits(
        own, together, costs, settings, _samples(said), single, sureness, reliable, risks, limits, said.weights
    )


def check_exits(network: BlockLocal) -> None:
    """Look whether there is anything to fit.

    Args:
        network: a network that knows its shapes.

    Raises:
        InputError: values are asked for.
    """
    if isinstance(network.targets, Values) or network.targets.hidden:
        raise InputError("calibration needs classes, labels or tokens: of this network no block gives probabilities.")


def _reliability(answers: Answers, wanted: Tensor) -> tuple[Reliability, Reliability]:
    right = answers.right[wanted]
    return reliability(answers.sure_before[wanted], right), reliability(answers.sure[wanted], right)


def _samples(said: BlockAnswers) -> int:
    """Those with an answer that has a target."""
    return len(said.sample[said.wanted].unique())


def _again(batches: Iterable[Loaded]) -> Callable[[], Iterable[Loaded]]:
    if iter(batches) is batches:
        raise InputError(
            "the batches to fit exits on are read more than once: give a list, or a function that gives them."
        )
    return lambda: batches


def _calibrations(way: list[Answers | None], wanted: Tensor) -> list[Calibration | None]:
    return [None if each is None else _calibration(each, wanted) for each in way]


def _calibration(answers: Answers, wanted: Tensor) -> Calibration:
    right, sure = answers.right[wanted], answers.sure[wanted]
    before = answers.sure_before[wanted], answers.right_before[wanted]
    return Calibration(
        temperature=answers.temperature,
        right=right.double().mean().item(),
        right_before=before[1].double().mean().item(),
        nll_before=answers.nll_before,
        nll=answers.nll,
        brier_before=answers.brier_before,
        brier=answers.brier,
        ece_before=calibration_error(*before),
        ece=calibration_error(sure, right),
        adaptive_before=adaptive_calibration_error(*before),
        adaptive=adaptive_calibration_error(sure, right),
    )


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise InputError(f"{name} must be a number above 0 and at most 1, not {value}.")
