"""Checkpoints of a streamed run whose blocks rest in the run's own folder: every chunk of steps is one."""

from collections.abc import Sequence
from pathlib import Path

from blocklocal.training.loop import Trainer
from blocklocal.training.observers import Checkpoints


class Commits(Checkpoints):
    """After an epoch, and where training stops, the newest chunk gets the state that training is in then."""

    def save(self, trainer: Trainer) -> Path:
        trainer.network.commit(trainer.state)
        return self.folder

    def step(self, trainer: Trainer, losses: Sequence[float]) -> None:
        """Nothing: the chunk is a checkpoint."""
