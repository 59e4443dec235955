"""What a `Trainer` takes batches from, and what it asks of it."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeGuard

from blocklocal._common.errors import InputError
from blocklocal.network.edge import XY, Loaded, pair


class Loader(Protocol):
    """Batches with a length: (x, y), or tensors by name with `labels` among them (`network.edge.pair`)."""

    def __iter__(self) -> Iterator[Loaded]: ...

    def __len__(self) -> int: ...


class Epochs(Protocol):
    """A loader that knows its epochs by number, as `Batches` does: the batches of one, from step `start` on."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Loaded]: ...


def batches(train: Loader, epoch: int, start: int) -> Iterator[XY]:
    """The batches of an epoch from position `start`: by number from `Epochs`, by skipping from any other loader."""
    if knows_epochs(train):
        yield from map(pair, train.epoch(epoch, start))
        return
    for position, batch in enumerate(train):
        if position >= start:
            yield pair(batch)


def knows_epochs(train: object) -> TypeGuard[Epochs]:
    """Whether it has a method epoch(number, start): many loaders have an `epoch` that is something else."""
    method = getattr(train, "epoch", None)
    if not callable(method):
        return False
    try:
        inspect.signature(method).bind(0, start=0)
    except (TypeError, ValueError):
        return False
    return True


def steps_of(train: Loader) -> int:
    """Batches per epoch.

    Raises:
        InputError: the loader has no length, no batch at all, serves one epoch only, or is none.
    """
    check_loader("training", train)
    try:
        steps = len(train)
    except (TypeError, NotImplementedError):  # no __len__, or one that refuses (a DataLoader of an IterableDataset)
        steps = 0
    if steps < 1:
        raise InputError(
            "the training loader needs a length of at least one batch: give a list, Batches or a DataLoader (of a data "
            "set with a length)."
        )
    return steps


def check_loader(kind: str, loader: object, *, once: bool = False) -> None:
    """Refuse what gives no batches; and an iterator, which is used up after one epoch, unless it is asked `once`."""
    if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
        raise InputError(
            f"the {kind} loader is {_kind(loader)}, which gives no batches: give Batches, a list of (x, y), or a "
            "DataLoader. Wrap images in Batches(data.train, batch_size=64, mean=data.mean, std=data.std)."
        )
    if isinstance(loader, Iterator) and not once:
        raise InputError(
            f"the {kind} loader is an iterator ({type(loader).__name__}), which is used up after one epoch: give the "
            "loader itself, or a list of batches."
        )


def _kind(loader: object) -> str:
    return "None" if loader is None else f"of the kind {type(loader).__name__}"


def first_batch(train: Loader) -> XY:
    """The batch that shapes are read off."""
    for batch in train:
        return pair(batch)
    raise nothing_came(1, len(train))


def nothing_came(epoch: int, steps: int) -> InputError:
    return InputError(
        f"the training loader gave no batch in epoch {epoch}, though its length is {steps}: it must give its batches "
        "anew in every epoch."
    )
