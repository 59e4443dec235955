"""Where a streamed run may be struck: one point of a chunk after the other, each by an exception or by a kill."""

from __future__ import annotations

import errno
import importlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

HIT = 1  # the block that is struck, from 0
Match = Callable[..., bool]


@dataclass(frozen=True)
class Point:
    """A call that is struck: before it, or after it.

    target: the function, as module and names. match: whether it is this call, by its arguments.
    """

    target: str
    match: Match
    after: bool = False


def of_block(suffix: str) -> Match:
    return lambda path, *rest: path.name == f"block-{HIT}.{suffix}"


def of_hit(made: Any) -> bool:
    return made.learner.index == HIT


def committing(source: Any, target: Any) -> bool:
    return source.name.startswith(".partial-step-") and target.name.startswith("step-")


def retiring(source: Any, target: Any) -> bool:
    return target.name.startswith(".partial-step-")


CHECKPOINT = "blocklocal.training.checkpoint_draft:"
POINTS = {
    "fetching a block": Point("blocklocal.streaming.resting:Blueprint._filled", lambda made, *_: of_hit(made)),
    "computing a step": Point("blocklocal.block.learner:BlockLearner.update", lambda self: self.index == HIT),
    "a step is computed": Point("blocklocal.block.learner:BlockLearner.update", lambda self: self.index == 2, True),
    "beginning to write weights": Point(CHECKPOINT + "write_tensors", of_block("safetensors")),
    "weights are written": Point(CHECKPOINT + "write_tensors", of_block("safetensors"), True),
    "beginning to write an optimiser": Point(CHECKPOINT + "_save_tensors", of_block("optimizer")),
    "an optimiser is written": Point(CHECKPOINT + "_save_tensors", of_block("optimizer"), True),
    "beginning to write moments": Point(CHECKPOINT + "write_tensors", of_block("moments")),
    "within a file": Point(
        "blocklocal.training.tensor_file:SummedFile._write_all",
        lambda self, piece: f"block-{HIT}.safetensors" in str(self._file.name) and self._summed.bytes > 0,
    ),
    "flushing": Point(CHECKPOINT + "_sync", lambda paths: any(p.name == f"block-{HIT}.optimizer" for p in paths), True),
    "writing the state": Point(CHECKPOINT + "write_checksums", lambda folder, sums: True),
    "before the commit": Point("pathlib:Path.rename", committing),
    "after the commit": Point("pathlib:Path.rename", committing, True),
    "before the older chunk goes": Point("pathlib:Path.rename", retiring),
    "while the older chunk goes": Point("pathlib:Path.rename", retiring, True),
}  # fmt: skip
COMMITTED = {"before the older chunk goes", "while the older chunk goes"}  # the chunk counts then
SECOND = {"before the older chunk goes", "while the older chunk goes"}  # there is no older chunk in the first


class Injected(Exception):
    """What the tests raise where nobody expects it."""


def raising() -> None:
    raise Injected


def full_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def killed() -> None:
    os._exit(9)  # as kill -9 does: nothing is flushed, and nobody cleans up


@contextmanager
def struck(point: str, chunk: int, strike: Callable[[], None]) -> Generator[list[str]]:
    """The first time that the point is reached in this chunk, counted from 1; yields what was struck."""
    here, hits, begun = POINTS[point], list[str](), [0]
    with pytest.MonkeyPatch.context() as patch:
        _wrap(patch, "blocklocal.streaming.homes:FileHome.begin", lambda call: _count(begun, call))

        def reached(call: Callable[[], Any], *args: Any) -> Any:
            mine = not hits and begun[0] == chunk and here.match(*args)
            if mine and not here.after:
                hits.append(point)
                strike()
            result = call()
            if mine and here.after:
                hits.append(point)
                strike()
            return result

        _wrap(patch, here.target, reached)
        yield hits


def _count(begun: list[int], call: Callable[[], Any]) -> Any:
    begun[0] += 1
    return call()


def _wrap(patch: pytest.MonkeyPatch, target: str, around: Callable[..., Any]) -> None:
    module, _, names = target.partition(":")
    owner: Any = importlib.import_module(module)
    *path, name = names.split(".")
    for each in path:
        owner = getattr(owner, each)
    ordinary = getattr(owner, name)
    counting = name == "begin"

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        call = lambda: ordinary(*args, **kwargs)  # noqa: E731
        return around(call) if counting else around(call, *args)

    patch.setattr(owner, name, wrapped)
