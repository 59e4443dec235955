"""The blocks of a streamed network while they rest: what must be known of each, and how a learner is made of one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.adapters import usage
from blocklocal.block.average import swap
from blocklocal.block.learner import BlockLearner
from blocklocal.network.saved import SavedNetwork
from blocklocal.streaming.deferred import Deferred
from blocklocal.streaming.homes import Home
from blocklocal.streaming.resting import Blueprint, Optimisation
from blocklocal.streaming.weights import Weights, names_in_model


@dataclass(frozen=True)
class Known:
    """What must be known of blocks while they rest.

    Attributes:
        resting: whether they rest at home; before the first chunk is over, they are drawn.
        anew: those (by their place here) whose optimiser begins anew.
        restarts: those whose schedule begins anew.
        late: of chained twins, by the block's index: the messages under way to the block before.
        rate: the present learning rate, of the last block.
    """

    resting: bool = False
    anew: frozenset[int] = frozenset()
    restarts: frozenset[int] = frozenset()
    late: dict[int, Tensor] = field(default_factory=dict)
    rate: float | None = None


class Stock:
    """Gives block learners, from what rests at home or as the ordinary construction makes them.

    Args:
        shapes: the learners that are streamed here, without content.
        model: the user's whole model, without content.
        made: knows the content that the ordinary construction gives.
        weights: a file or folder of the model's weights to start from, or None.
        device: where learners are made.

    Attributes:
        known: what must be known of the blocks; a value, so that a chunk that fails can put it back.
        layout: the memory layout that learners get, if any.
        averaged: whether learners are given with the running means of their weights, to be looked at.
    """

    def __init__(
        self,
        shapes: Sequence[BlockLearner],
        model: nn.Module,
        made: Deferred,
        home: Home,
        *,
        weights: Path | str | None,
        device: torch.device,
        optimisation: Optimisation,
    ):
        self.shapes, self.model, self.made, self.home, self.device = shapes, model, made, home, device
        self.known = Known()
        self.layout: torch.memory_format | None = None
        self.averaged = False
        self._optimisation, self._first = optimisation, None
        self._weights = None if weights is None else Weights(weights)
        if self._weights is not None:
            self._weights.check(model)

    @property
    def places(self) -> range:
        """Of the blocks here, counted from 0."""
        return range(len(self.shapes))

    # --- learners

    def fetch(self, k: int, *, optimizer: bool = True) -> BlockLearner:
        """The k-th block as it rests.

        Args:
            optimizer: whether its optimiser is read too; else it has one that begins anew.
        """
        if not self.known.resting:
            return self.drawn(k)
        blueprint = self._blueprint(k)
        wanted = (optimizer or self.averaged) and k not in self.known.anew  # means are kept with optimisers
        saved = self.home.fetch(blueprint.learner, optimizer=wanted)
        learner = blueprint.restored(saved, self._optimisation)
        if k in self.known.restarts:
            learner.begin_schedule(self._optimisation[0], self._optimisation[1])
        if self.averaged and learner.optimizer is not None:
            swap(learner.optimizer)
        return learner

    def drawn(self, k: int) -> BlockLearner:
        """The k-th block as the ordinary construction makes it, with a new optimiser.

        Raises:
            InputError: the construction draws nothing on the device meta, and no weights are given.
        """
        if self._weights is None and not usage(self.model).draws_on_meta:
            raise InputError(
                f"{type(self.model).__name__} draws no weights on torch's meta device, where a streamed network is "
                "built, so it would begin with others than the ordinary one: write them once "
                "(safetensors.torch.save_model(model, file)) and give weights=file, or train it whole."
            )
        return self._blueprint(k).drawn(self._optimisation, self._given(self.shapes[k]))

    def note(self, learner: BlockLearner) -> None:
        """Remember what must be known of a block while it rests."""
        late, rate = self.known.late, self.known.rate
        if learner.late is not None:
            late = {**late, learner.index: learner.late.clone()}
        if learner.index == self.shapes[-1].index and learner.optimizer is not None:
            rate = learner.optimizer.param_groups[0].get("lr")
        self.known = replace(self.known, late=late, rate=rate)

    def _blueprint(self, k: int) -> Blueprint:
        return Blueprint(self.shapes[k], self.made, self.device, self._finish)

    def _finish(self, learner: BlockLearner) -> None:
        if self.layout is not None:
            learner.to(memory_format=self.layout)  # type: ignore[call-overload]

    def _given(self, shape: BlockLearner) -> dict[str, Tensor]:
        """What of a block comes from the given weights."""
        if self._weights is None:
            return {}
        names = names_in_model(shape, self.model)
        found = self._weights.read(list(names.values()))
        return {name: found[own] for name, own in names.items()}

    # --- all blocks at once

    def configure(self, optimisation: Optimisation) -> None:
        """Every block begins with an optimiser of its own and a schedule, when it is fetched next.

        Raises:
            InputError: one cannot be built.
        """
        rate = None
        for shape in self.shapes:
            shape.configure(*optimisation)
            rate = shape.optimizer.param_groups[0].get("lr") if shape.optimizer else None
            shape.optimizer = shape.schedule = None
        self._optimisation, self._first = optimisation, rate
        self.known = replace(self.known, anew=frozenset(self.places), restarts=frozenset(), rate=rate)

    def restart(self) -> None:
        """Every block begins its schedule anew, when it is fetched next; its optimiser keeps its momenta."""
        self.known = replace(self.known, restarts=frozenset(self.places), rate=self._first)

    def take(self, saved: SavedNetwork, note: Callable[[], object]) -> None:
        """Blocks rest in a checkpoint from now on. Nothing has changed where one of them cannot be read.

        Args:
            saved: the checkpoint, in the home's own folder or elsewhere.
            note: reads every block and notes it.

        Raises:
            InputError: it is damaged, or its optimisers are others; or the home holds other blocks already.
        """
        before = self.known
        anew = frozenset() if saved.optimizers else frozenset(self.places)
        self.known = Known(resting=True, anew=anew, rate=before.rate)
        try:
            with self.home.opened(saved, self.shapes):
                if saved.optimizers:
                    note()
        except BaseException:
            self.known = before
            raise

    def commit(self, state: Callable[[], dict[str, Any]]) -> None:
        """What was taken since the last commit counts from now on."""
        self.home.commit(state, self.shapes)
        self.known = replace(self.known, resting=True, anew=frozenset(), restarts=frozenset())
