"""A block learner without content, and how one with content is made of what rests of it."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.optim import Optimizer
from blocklocal.block.schedules import Schedule
from blocklocal.streaming.deferred import Deferred
from blocklocal.streaming.replacing import replace_tensors
from blocklocal.training.checkpoint_draft import Saved
from blocklocal.training.learner_state import unpack
from blocklocal.training.optimizer_check import check_optimizer

Optimisation = tuple[Optimizer, Schedule, int]


@dataclass(frozen=True)
class Blueprint:
    """A block learner on the meta device, and what is needed to make one with content.

    Attributes:
        learner: without content and without an optimiser. A learner that is made has its modes.
        made: knows the content that the ordinary construction gives.
        device: where learners are made.
        finish: brings a learner with content into the layout of training.
    """

    learner: BlockLearner
    made: Deferred
    device: torch.device
    finish: Callable[[BlockLearner], object]

    def drawn(self, optimisation: Optimisation, given: Mapping[str, Tensor] | None = None) -> BlockLearner:
        """The learner as the ordinary construction makes it, with a new optimiser.

        Args:
            given: tensors that have these values instead, by name.
        """
        learner = self._filled(given or {})
        learner.configure(*optimisation)
        return learner

    def restored(self, saved: Saved, optimisation: Optimisation) -> BlockLearner:
        """The learner with what was saved of it, and an optimiser; one whose state was not saved begins anew."""
        values = unpack(saved.weights)
        learner = self._filled({name: value for name, value in values.items() if isinstance(value, Tensor)})
        if any(name.endswith("_extra_state") for name in values):  # what a module keeps beside its tensors
            learner.load_state_dict(values, strict=False)
        learner.configure(*optimisation)
        if learner.optimizer is not None and saved.optimizer["optimizer"] is not None:
            _check(saved, learner)
            assert learner.schedule is not None
            learner.optimizer.load_state_dict(saved.optimizer["optimizer"])
            learner.schedule.load_state_dict(saved.optimizer["schedule"])
        return learner

    def _filled(self, values: Mapping[str, Tensor]) -> BlockLearner:
        """A learner with these tensors by name. The others (tables that are in no state_dict) are as at the start."""
        learner = copy.deepcopy(self.learner)
        shapes, copied = tensors_by_name(self.learner), tensors_by_name(learner)
        rest = [name for name in shapes if name not in values]
        drawn = dict(zip(rest, self.made.content([shapes[name] for name in rest]), strict=True))
        found = {id(copied[name]): values[name] if name in values else drawn[name] for name in shapes}
        fill(learner, found, self.device)
        self.finish(learner)
        return learner


def _check(saved: Saved, learner: BlockLearner) -> None:
    try:
        check_optimizer(saved.optimizer, learner)
    except ValueError as error:
        raise InputError(
            f"what was saved of block {saved.index + 1} is of another optimiser or schedule ({error}): go on with the "
            "ones that it was trained with."
        ) from error


def tensors_by_name(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters, buffers and plain attributes that are tensors, by name, each tensor once."""
    plain = {
        f"{prefix}.{name}": value
        for prefix, part in module.named_modules()
        for name, value in vars(part).items()
        if isinstance(value, Tensor)
    }
    return {**plain, **dict(module.named_parameters()), **dict(module.named_buffers())}


def fill(learner: BlockLearner, values: Mapping[int, Tensor], device: torch.device) -> None:
    """Put tensors with content in the place of those without; what was one tensor stays one."""

    def other(shape: Tensor) -> Tensor | None:
        return values[id(shape)].to(device) if id(shape) in values else None

    replace_tensors(learner, other)
