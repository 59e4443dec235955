"""Block learners in a row: their settings, optimisers, precision and running means, and how far training is."""

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError, shown
from blocklocal.block.average import swap
from blocklocal.block.factories import OptimizerFactory
from blocklocal.block.learner import BlockLearner
from blocklocal.block.optim import Optimizer, as_optimizer
from blocklocal.block.schedules import Schedule, as_schedule
from blocklocal.block.targets import Targets
from blocklocal.network.saved import SavedNetwork
from blocklocal.network.settings import Learning
from blocklocal.rules import RULES

PROGRESS = "_extra_state"  # the name that torch gives it in a state_dict


class LearnerRow(nn.Module, ABC):
    """Block learners in a row, as they are configured, saved and gone on with.

    Attributes:
        targets: what the network is asked for.
        learning: the settings of rule and local losses.
        steps, epoch: how far training is. They name the random streams of a step (dropout) and the mixing weight, and
            are part of the `state_dict`.
        shares: parts of a batch that are trained on at the same time (replicas).
        averaging: whether the weights are their running means now.
    """

    averaging = False

    def __init__(self, targets: Targets, learning: Learning, optimizer: Optimizer, seed: int, shares: int = 1):
        super().__init__()
        self.targets, self.learning, self.rule = targets, learning, RULES.get(learning.rule)
        self.stream, self.shares = seed, shares
        self.steps, self.epoch = 0, 0
        self._learners = nn.ModuleList()
        self._optimisation: tuple[Optimizer, Schedule, int] = (optimizer, "constant", 1)
        self._autocast: torch.dtype | None = None

    @property
    @abstractmethod
    def count(self) -> int:
        """Number of learners of the whole network."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the learners are."""

    @property
    def learners(self) -> list[BlockLearner]:
        """The block learners that are here, first to last; they know their `index` in the network."""
        return cast(list[BlockLearner], list(self._learners))

    @property
    def units(self) -> list[BlockLearner]:
        """An older name of `learners`."""
        return self.learners

    @property
    def optimizer(self) -> Optimizer:
        """Which optimiser every block has."""
        return self._optimisation[0]

    def configure(
        self, optimizer: Optimizer | OptimizerFactory, schedule: Schedule = "constant", steps: int = 1
    ) -> None:
        """Give every block its own optimiser and learning-rate schedule of `steps` steps.

        Raises:
            InputError: one cannot be built, or a rate of lower blocks is given where all blocks learn as one.
        """
        optimisation = (as_optimizer(optimizer), as_schedule(schedule), steps)
        lower = optimisation[0].lower
        if self.rule.whole and lower != 1:
            raise InputError(
                f"lower={lower:g} is for blocks that learn by themselves, and the rule {self.rule.name} trains all as "
                "one: leave it out."
            )
        for learner in self.learners:
            learner.configure(*optimisation)
        self._optimisation = optimisation

    def autocast(self, dtype: torch.dtype | None) -> None:
        """Run blocks in this precision (for example torch.bfloat16); None: as the parameters are.

        In torch.float16 every block scales its own loss (torch's GradScaler), so that small gradients do not vanish.

        Raises:
            InputError: it is no floating type of torch's.
        """
        if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise InputError(f"autocast takes a floating type, as in torch.bfloat16, or None, not {shown(dtype)}.")
        self._autocast = dtype
        for learner in self.learners:
            learner.cast(dtype)

    @contextmanager
    def averaged(self) -> Generator[None]:
        """Within it, the weights are their running means (EMA): to evaluate, predict or export, and not to train.

            trainer = Trainer(network, ema=0.999)
            trainer.fit(train)
            with network.averaged():
                evaluate(network, test)

        Buffers, such as the statistics of a BatchNorm, are the network's own.

        Raises:
            InputError: its optimisers keep no means.
        """
        if self.optimizer.ema is None:
            raise InputError("this network keeps no running mean of its weights: train it by Trainer(…, ema=0.999).")
        if self.averaging:
            raise InputError("the network's weights are their running means already.")
        with self._swapped():
            self.averaging = True
            try:
                yield
            finally:
                self.averaging = False

    def keep_averages(self) -> None:
        """Put the running means in the place of the weights for good; the optimisers begin anew."""
        for learner in self.learners:
            if learner.optimizer is not None:
                swap(learner.optimizer)
        self.configure(*self._optimisation)

    @contextmanager
    def _swapped(self) -> Generator[None]:
        with ExitStack() as swapped:
            for learner in self.learners:
                swapped.enter_context(learner.averaged())
            yield

    def take(self, saved: SavedNetwork) -> None:
        """Go on from a checkpoint. Nothing has changed where it cannot be read.

        Args:
            saved: the checkpoint.

        Raises:
            InputError: it is damaged, or its optimisers are others.
        """
        found = [saved.read(learner) for learner in self.learners]
        for learner, of_learner in zip(self.learners, found, strict=True):
            saved.check(learner, of_learner)
        for learner, of_learner in zip(self.learners, found, strict=True):
            saved.give(learner, of_learner)
        self.steps = saved.step

    def begin_schedules(self, optimizer: Optimizer, schedule: Schedule) -> None:
        """Begin every block's schedule anew; its optimiser keeps its momenta."""
        for learner in self.learners:
            learner.begin_schedule(optimizer, schedule)

    def rate(self) -> float | None:
        """The present learning rate, of the last block, which learns under every rule; None for no optimiser."""
        optimizer = self.learners[-1].optimizer
        return optimizer.param_groups[0].get("lr") if optimizer else None

    def check_trainable(self) -> None:
        """Raise InputError where the weights are not those that are trained."""
        if self.averaging:
            raise InputError("a network is not trained or saved within averaged(): leave that `with` before.")

    # --- how far training is, in the state_dict

    def get_extra_state(self) -> Tensor:
        """[steps, epoch], so that random streams and the mixing schedule go on after `load_state_dict`."""
        return torch.tensor([self.steps, self.epoch])

    def set_extra_state(self, state: Tensor) -> None:
        known = isinstance(state, Tensor) and state.shape == (2,) and not state.is_floating_point()
        if not known or state.is_complex() or bool((state < 0).any()):
            raise InputError(
                f"{PROGRESS} of a network's state_dict must be two whole numbers from 0 on, steps and epoch, not "
                f"{shown(state)}: load what state_dict() gave, or leave it out."
            )
        self.steps, self.epoch = state.tolist()

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module, older names of learners too. One without `steps` and `epoch` leaves them as they are."""
        named = {re.sub(r"^_units\.", "_learners.", name): value for name, value in state_dict.items()}
        complete = {PROGRESS: self.get_extra_state(), **named} if named else {}
        return super().load_state_dict(complete, strict=strict, assign=assign)
