"""What every run of learners with links at its edges does, however its own blocks come into memory."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from blocklocal._common.message import Input, lead
from blocklocal.block.loss import HiddenLoss
from blocklocal.block.targets import Asked, Classes, values_of
from blocklocal.data.epochs import Epochs
from blocklocal.network.edge import check_batch
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.gather import gathered
from blocklocal.parallel.link_edges import LinkEdges
from blocklocal.parallel.processes import Processes
from blocklocal.timeline.recorder import Recorder
from blocklocal.timeline.visits import VisitRecorder


class Linked(Neighbours):
    """Neighbouring learners whose neighbours before and behind are in other processes."""

    processes: Processes
    edges: LinkEdges  # type: ignore[bad-override-mutable-attribute]  # it is set once
    recorder: Recorder | VisitRecorder
    _target_shape: torch.Size  # of one sample

    @property
    def reads_images(self) -> bool:
        """Whether the x of a batch is read here: by the first block, or by hidden blocks that reconstruct the image."""
        losses = [learner.local for learner in self.learners if isinstance(learner.local, HiddenLoss)]
        return self.processes.first or any("image" in local.decoders for local in losses)

    # --- what is asked of neighbours

    def check(self, x: Input, y: Asked) -> tuple[Input, Asked]:
        """As of a whole network. Only the last stage has the output, and all refuse targets that do not fit it.

        Of sequences, whose length may vary, the number of axes is looked at here.
        """
        x, asked = check_batch(x, y, self.targets, self.device, first=self.steps == 0, reads=self.reads_images)
        hard = isinstance(self.targets, Classes) and not values_of(asked).is_floating_point()
        lengths = asked.shape[1:] if len(self._target_shape) == 1 and hard else ()
        expected = lengths if len(lengths) == 1 else self._target_shape
        self.targets.fit(asked, torch.Size((len(asked), *expected)))
        return x, asked

    def prepare(self, x: Input, y: Asked) -> None:
        self.edges.announce([len(y)], training=True)

    def check_input(self, x: Input) -> Input:
        return super().check_input(x) if self.processes.first else x

    def looking(self, x: Input) -> AbstractContextManager[None]:
        self.edges.announce([len(lead(x))], training=False)
        return nullcontext()

    def after_step(self) -> None:
        assert isinstance(self.recorder, Recorder)
        self.recorder.step(self.steps)

    def after_epoch(self, epoch: int) -> None:
        """An epoch is over."""
        self.recorder.totals(epoch)

    # --- what concerns the other processes

    def announced(self, batches: Epochs, *, training: bool) -> "Announced":
        """The batches, told to the links epoch by epoch, so that messages are received ahead."""
        return Announced(self, batches, training)

    def gather(self, build: Callable[[], BlockLocal]) -> BlockLocal | None:
        """The whole network with what all processes have trained, in the first process: to evaluate, save, export.

        Every process must call it, after `finish`. Optimisers stay where they are.

            stage.finish()
            whole = stage.gather(build)
            if whole is not None:
                print(evaluate(whole, test).top1)

        Args:
            build: makes the network, as before training. Only the first process calls it.

        Returns:
            The network in the first process, None in the others.

        Raises:
            InputError: `build` makes another network.
        """
        return gathered(self, self.processes, build)

    def finish(self, *, stop: bool = False) -> None:
        """Hear that no message follows, and tell the next stage.

        Args:
            stop: because the user has asked for it.
        """
        self.edges.finish(stop=stop)


class Announced:
    """`Batches` whose epochs a stage is told of before they begin."""

    def __init__(self, stage: Linked, batches: Epochs, training: bool):
        self.stage, self.batches, self.training = stage, batches, training

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.stage.edges.expect(self.batches.sizes(), training=self.training)
        return iter(self.batches)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        self.stage.edges.expect(self.batches.sizes(start), training=self.training)
        return self.batches.epoch(epoch, start)
