"""A trainer's batches, epoch by epoch, and how they go on where training was stopped in the middle of an epoch.

`Batches` know their epochs by number. A loader with `state_dict` and `load_state_dict` (torchdata's
`StatefulDataLoader`) says itself where it stands. Any other one is run through from the start of the epoch, which
gives the same batches only if its order is the same.
"""

import logging
from collections.abc import Iterator
from typing import Any, Protocol, TypeGuard

from torch.utils.data import SequentialSampler

from blocklocal.network.edge import XY, pair
from blocklocal.training.loaders import Loader, batches, knows_epochs
from blocklocal.training.plain_state import from_plain, to_plain

log = logging.getLogger("blocklocal")


class Stateful(Protocol):
    """A loader that says where it stands."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...


class Feed:
    """The batches of a trainer."""

    def __init__(self) -> None:
        self._loader: object = None  # that of the epoch in progress
        self._given = 0  # batches of that epoch
        self._saved: Any = None  # what a checkpoint has kept of a loader
        self._told = False

    def batches(self, train: Loader, epoch: int, start: int) -> Iterator[XY]:
        """The batches of an epoch from position `start`.

        Raises:
            InputError: what a checkpoint kept of the loader cannot be read.
        """
        if knows_epochs(train) or not _is_stateful(train):
            self._loader = None
            if start and not knows_epochs(train) and not _keeps_order(train):
                self._warn(train, start)
            yield from batches(train, epoch, start)
            return
        went_on = train is self._loader and self._given == start and start > 0
        state, self._saved = self._saved, None
        if state is not None:
            train.load_state_dict(from_plain(state))
        elif went_on:
            train.load_state_dict(train.state_dict())
        passed = 0 if state is not None or went_on else start
        self._loader, self._given = train, start - passed
        for batch in train:
            self._given += 1
            if self._given > start:
                yield pair(batch)

    def state(self, step_in_epoch: int) -> dict[str, Any]:
        """What a checkpoint keeps of the loader, JSON-able: {"loader": …}, or nothing.

        Args:
            step_in_epoch: batches of the epoch that were trained on; 0 after its end.
        """
        loader = self._loader
        if loader is None or not _is_stateful(loader) or step_in_epoch not in (0, self._given):
            return {}
        try:
            return {"loader": to_plain(loader.state_dict())}
        except TypeError as error:
            if not self._told:
                log.warning("the state of the training loader holds %s, which a checkpoint cannot keep", error)
            self._told = True
            return {}

    def restore(self, saved: object) -> None:
        """Go on from what `state` gave; the next `batches` begin there."""
        self._saved = saved

    def _warn(self, train: object, start: int) -> None:
        log.warning(
            "the training loader (%s) cannot go on in the middle of an epoch: its first %d batches are read and passed "
            "over, and where it shuffles, the others are not those that were left. Give blocklocal's Batches, or a "
            "loader with state_dict (torchdata's StatefulDataLoader).",
            type(train).__name__,
            start,
        )


def _is_stateful(train: object) -> TypeGuard[Stateful]:
    return callable(getattr(train, "state_dict", None)) and callable(getattr(train, "load_state_dict", None))


def _keeps_order(train: object) -> bool:
    """Whether a loader gives the same batches in every epoch: a list, or a DataLoader that does not shuffle."""
    return isinstance(train, list | tuple) or isinstance(getattr(train, "sampler", None), SequentialSampler)
