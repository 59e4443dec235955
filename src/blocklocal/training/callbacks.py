"""What may watch a training run, or change it: the base class of every callback."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError, shown

if TYPE_CHECKING:
    from blocklocal.training.loop import Trainer

Record = dict[str, Any]
HOOKS = ("start", "step", "epoch", "end")


class Callback:
    """Four hooks that do nothing: derive from it, and override those that you want.

        class Losses(Callback):
            def epoch(self, trainer, record):
                print(record["epoch"], record["loss"])

        Trainer(network, callbacks=[Losses()]).fit(train)

    Callbacks are called in the order in which they were given, `end` in the opposite one. What a hook raises ends the
    training; the network stays usable, and another `fit` goes on after the last finished step.
    """

    def start(self, trainer: "Trainer") -> None:
        """Before the first step of a `fit`; shapes, optimisers and schedules are made.

        Args:
            trainer: whose training starts; `trainer.network` is the network, `trainer.epoch` the epoch, from 0.
        """

    def step(self, trainer: "Trainer", losses: Sequence[float]) -> None:
        """After training steps: after every one on the CPU, after every `look_every` on CUDA.

        Args:
            trainer: `trainer.step` counts the steps taken so far.
            losses: of the latest step, one per block (0 for a block without a loss of its own).
        """

    def epoch(self, trainer: "Trainer", record: Record) -> None:
        """After an epoch and its validation.

        Args:
            trainer: `trainer.epoch` is the number of finished epochs.
            record: the epoch's figures, as in `metrics.jsonl`: epoch (from 1), step, loss, train_top1 and
                validation_top1 (percent) per block, lr, seconds and more.
        """

    def end(self, trainer: "Trainer", error: BaseException | None) -> None:
        """When a `fit` that has started ends, however it ends.

        Args:
            trainer: whose training ends.
            error: what ended it (`Stopped` where `should_stop` said so); None after the last epoch. It is raised on.
        """


def check_callbacks(given: Iterable[Callback]) -> list[Callback]:
    """A list of them.

    Raises:
        InputError: it is no list, one is not a `Callback`, or has hooks under their older names.
    """
    if not isinstance(given, Iterable):
        raise InputError(f"callbacks must be a list, as in callbacks=[Losses()], not {shown(given)}.")
    callbacks = list(given)
    for each in callbacks:
        if not isinstance(each, Callback):
            what = f"the class {each.__name__}: give {each.__name__}()" if isinstance(each, type) else shown(each)
            raise InputError(f"a callback must be an instance of a class derived from blocklocal.Callback, not {what}.")
        older = [f"on_{hook}" for hook in HOOKS if hasattr(each, f"on_{hook}")]
        if older:
            raise InputError(
                f"{type(each).__name__} has {' and '.join(older)}, which nobody calls: the hooks of a callback are "
                f"named {', '.join(HOOKS)}."
            )
    return callbacks


@contextmanager
def running(callbacks: Sequence[Callback], trainer: "Trainer") -> Generator[None, None, None]:
    """Call `start` of all, and `end` of those that have started, also where one of them fails."""
    with ExitStack() as ends:
        for each in callbacks:
            each.start(trainer)
            ends.push(_Ending(each, trainer))
        yield


class _Ending:
    """`Callback.end` as the exit of a `with`; whatever it returns, the error goes on."""

    def __init__(self, callback: Callback, trainer: "Trainer"):
        self.callback, self.trainer = callback, trainer

    def __enter__(self) -> "_Ending":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.callback.end(self.trainer, error)
