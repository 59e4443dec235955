"""Homes: where blocks rest while they are not in memory for training.

A home gives what rests of a block, and takes what a visit has made of it. What it has taken counts from `commit` on,
for all blocks at once: a chunk of steps is there as a whole or not at all.
"""

import gc
import shutil
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from blocklocal._common.errors import InputError
from blocklocal._common.lock import LOCK, locked
from blocklocal.block.learner import BlockLearner
from blocklocal.network.saved import SavedNetwork
from blocklocal.streaming.cache import clear_caches
from blocklocal.training.checkpoint import open_files, read_learner
from blocklocal.training.checkpoint_draft import Draft, Saved, adopt, describe
from blocklocal.training.checkpoint_folder import clear_leftovers, list_checkpoints, remove

if TYPE_CHECKING:
    from filelock import BaseFileLock

State = Callable[[], dict[str, Any]]
PATIENCE = 1.0  # seconds for a process that has just ended to be gone


class Home(Protocol):
    """Where blocks rest. `fetch` and `put` are called from threads of their own, each for one block at a time."""

    def fetch(self, shape: BlockLearner, *, optimizer: bool = True) -> Saved:
        """What rests of the block of this learner without content.

        Args:
            optimizer: whether its optimiser is wanted too.
        """
        ...

    def check_loaded(self) -> None:
        """Refuse to take for new blocks what is none.

        Raises:
            InputError: blocks of an older network rest here, and nobody has loaded them.
        """
        ...

    def opened(self, saved: SavedNetwork, shapes: Sequence[BlockLearner]) -> AbstractContextManager[None]:
        """Blocks are those of this checkpoint from now on; an error in the context takes that back."""
        ...

    def begin(self, step: int) -> None:
        """A chunk of steps begins, which ends with this step."""
        ...

    def put(self, learner: BlockLearner) -> None:
        """Take a learner back; it is not used afterwards."""
        ...

    def commit(self, state: State, shapes: Sequence[BlockLearner]) -> None:
        """What was taken counts from now on.

        Args:
            state: where training stands; it holds "step".
            shapes: all learners, without content.
        """
        ...

    def tidy(self) -> None:
        """After a commit: remove what it supersedes."""
        ...

    def discard(self) -> bool:
        """Give up what was taken since the last commit.

        Returns:
            Whether blocks are as they were then.
        """
        ...

    def close(self) -> None:
        """Nothing is taken from now on; another network may train on what rests here."""
        ...


class HostHome:
    """Host memory. A learner is handed out as it is kept, so an interrupted chunk leaves earlier blocks ahead.

    To undo one, all blocks would have to be here twice; `Streamed` warns where it happens.
    """

    def __init__(self) -> None:
        self._kept: dict[int, Saved] = {}

    def fetch(self, shape: BlockLearner, *, optimizer: bool = True) -> Saved:
        kept = self._kept[shape.index]
        return kept if optimizer else replace(kept, optimizer=dict.fromkeys(kept.optimizer))

    def check_loaded(self) -> None: ...

    @contextmanager
    def opened(self, saved: SavedNetwork, shapes: Sequence[BlockLearner]) -> Generator[None]:
        before, self._kept = self._kept, {shape.index: saved.read(shape) for shape in shapes}
        try:
            yield
        except BaseException:
            self._kept = before
            raise

    def begin(self, step: int) -> None: ...

    def put(self, learner: BlockLearner) -> None:
        self._kept[learner.index] = _on_host(Saved.of(learner))

    def commit(self, state: State, shapes: Sequence[BlockLearner]) -> None: ...

    def tidy(self) -> None: ...

    def discard(self) -> bool:
        return False

    def close(self) -> None: ...


class FileHome:
    """A folder of checkpoints, each of which is complete: every commit is one, and the one before is removed then.

    One network at a time writes here: the first that does keeps the others out until it is closed, or its process ends.

    Args:
        folder: made where it is not there. It may hold checkpoints of a network of the same architecture.
        keep: complete checkpoints that stay.

    Raises:
        InputError: the folder holds other things.
    """

    def __init__(self, folder: Path | str, *, keep: int = 1):
        self.folder, self.keep = Path(folder), keep
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"{self.folder} is a file, and blocks rest in a folder: give another name.")
        named = self.folder.iterdir() if self.folder.is_dir() else ()
        if any(not path.name.startswith(".") for path in named) and not list_checkpoints(self.folder):
            raise InputError(f"the folder {self.folder} holds other things than blocks: give a new one.")
        self.current: Path | None = None
        self._draft: Draft | None = None
        self._done: Draft | None = None  # the last commit
        self._lock: BaseFileLock | None = None
        self._closed = False
        self._found: list[Path] = []  # the complete checkpoints when this one was opened

    @contextmanager
    def opened(self, saved: SavedNetwork, shapes: Sequence[BlockLearner]) -> Generator[None]:
        """One that lies elsewhere becomes one of this folder first.

        Args:
            saved: the checkpoint.
            shapes: the learners.

        Raises:
            InputError: it lies elsewhere, and the folder holds other blocks already.
        """
        self.discard()
        elsewhere = saved.path.parent.resolve() != self.folder.resolve()
        if elsewhere:
            self._own()
        before, others = self.current, list_checkpoints(self.folder)
        self.current = adopt(saved.path, saved.step, self.folder) if elsewhere else saved.path
        try:
            yield
        except BaseException:
            if elsewhere:
                remove(self.current)
            self.current = before
            raise
        for path in others if elsewhere else ():
            remove(path)
        self._found = list_checkpoints(self.folder)

    def _own(self) -> None:
        """Be the one who writes here, from the first time on.

        Raises:
            InputError: somebody else is, or has been since the blocks were opened; or this home is closed.
        """
        if self._closed:
            raise InputError(f"the store {self.folder} was closed: make the network anew, and load what rests there.")
        if self._lock is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = locked(self.folder / LOCK)
        if lock is None:
            gc.collect()  # a network that nobody uses any more
            lock = locked(self.folder / LOCK, PATIENCE)
        if lock is None:
            raise InputError(
                f"another network trains on the blocks in {self.folder}: let it end, or close it (network.close()), or "
                "give another folder."
            )
        there = list_checkpoints(self.folder)
        if there != self._found:
            lock.release()
            raise self._taken(there)
        clear_leftovers(self.folder)  # now, and not when blocks are only looked at
        clear_caches(self.folder)
        self._lock = lock

    def fetch(self, shape: BlockLearner, *, optimizer: bool = True) -> Saved:
        assert self.current is not None
        return read_learner(open_files(self.current), shape, optimizer=optimizer)

    def check_loaded(self) -> None:
        there = list_checkpoints(self.folder) if self.current is None else []
        if there:
            raise self._taken(there)

    def _taken(self, there: Sequence[Path]) -> InputError:
        """What to say of blocks that this network has not loaded."""
        name = there[-1].name if there else "of another run"
        return InputError(
            f"the folder {self.folder} holds blocks already ({name}), and this network has not loaded them: go on with "
            "them, blocklocal.load(network, folder), or give a new folder."
        )

    def begin(self, step: int) -> None:
        """A chunk of steps begins.

        Args:
            step: with which it ends.

        Raises:
            InputError: somebody else trains on the blocks in the folder, or has.
        """
        self.discard()
        self._own()
        self._draft = Draft.open(self.folder, step)

    def put(self, learner: BlockLearner) -> None:
        assert self._draft is not None
        self._draft.write(learner)

    def commit(self, state: State, shapes: Sequence[BlockLearner]) -> None:
        """Where nothing was taken since the last commit, the files of blocks stay, and `state` is noted anew."""
        now = state()
        self._own()
        fresh = self._draft is None
        draft = Draft.open(self.folder, now["step"]) if self._draft is None else self._draft
        self._draft = None
        try:
            if fresh:
                assert self.current is not None
                draft.link(open_files(self.current))
            self.current = draft.finish(now, [describe(shape) for shape in shapes])
        except BaseException:
            shutil.rmtree(draft.partial, ignore_errors=True)
            if draft.final.exists():  # interrupted after the rename
                remove(draft.final)
            raise
        self._done = draft

    def tidy(self) -> None:
        done, self._done = self._done, None
        if done is not None:
            done.supersede(self.keep)

    def discard(self) -> bool:
        draft, self._draft = self._draft, None
        if draft is not None:
            shutil.rmtree(draft.partial, ignore_errors=True)
        return True

    def close(self) -> None:
        self.discard()
        self._closed = True
        if self._lock is not None:
            self._lock.release()


def free_on_disk(folder: Path) -> int:
    """Bytes that can be written below `folder`, or below the nearest folder that is there."""
    there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _on_host(saved: Saved) -> Saved:
    """On the CPU; where it comes from CUDA, in pinned memory, so that it is fetched without waiting."""
    return Saved(saved.index, tree_map(_pinned, saved.weights), tree_map(_pinned, saved.optimizer))


def _pinned(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.is_cuda:
        return value
    return torch.empty_like(value, device="cpu", pin_memory=True).copy_(value)
