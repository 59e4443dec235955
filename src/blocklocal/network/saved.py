"""A checkpoint, as a network takes it."""

from pathlib import Path
from typing import Any, Protocol

from blocklocal.block.learner import BlockLearner


class SavedNetwork(Protocol):
    """A complete checkpoint of a network of this architecture, as a network takes it."""

    @property
    def path(self) -> Path:
        """Its folder."""
        ...

    @property
    def step(self) -> int:
        """Steps that the network had taken."""
        ...

    @property
    def optimizers(self) -> bool:
        """Whether optimisers are taken too; else they begin anew."""
        ...

    def read(self, learner: BlockLearner) -> Any:
        """What is saved of a learner, checked as far as that is possible for one without content."""
        ...

    def check(self, learner: BlockLearner, saved: Any) -> None:
        """Whether a learner can go on with what was read."""
        ...

    def give(self, learner: BlockLearner, saved: Any) -> None:
        """Load what was read."""
        ...
