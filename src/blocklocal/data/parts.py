"""Which samples train, validate and test, of sets that lie in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from blocklocal.data.names import many
from blocklocal.data.splits import TEST_FRACTION, stratified


@dataclass(frozen=True)
class Wanted:
    """How much is wanted of each split; see `load_table`."""

    train_size: int | None = None
    validation: int | float = 0.1
    test_size: int | None = None
    split_seed: int = 0


def divide(labels: Mapping[str, Tensor], wanted: Wanted, *, classes: bool) -> dict[str, tuple[str, Tensor]]:
    """Split → (the part that its samples are of, their places there).

    Args:
        labels: of each part: "train", "test" and perhaps "validation"; or "whole", of which a fixed fifth (of every
            class, where there are classes) is the test split.

    Raises:
        InputError: there are fewer samples than are asked for.
    """
    home = "train" if "train" in labels else "whole"
    if home == "train":
        inside, test = torch.arange(len(labels[home])), torch.arange(len(labels["test"]))
    else:
        inside, test = _fifth(labels[home], classes)
    order = inside[torch.randperm(len(inside), generator=generator("validation split", wanted.split_seed))]
    share, own = wanted.validation, "validation" in labels
    held = 0 if own else round(share * len(order)) if isinstance(share, float) else share
    if held >= len(order):
        raise InputError(f"validation={share!r} takes {held} of {len(order)} samples and leaves none to train on.")
    if wanted.test_size is not None:
        test = test[torch.randperm(len(test), generator=generator("test subset"))]
    kept = ("validation", torch.arange(len(labels["validation"]))) if own else (home, order[:held])
    return {
        "train": (home, _at_most(order[held:], wanted.train_size, "train_size")),
        "validation": kept,
        "test": ("test" if home == "train" else home, _at_most(test, wanted.test_size, "test_size")),
    }


def _fifth(labels: Tensor, classes: bool) -> tuple[Tensor, Tensor]:
    train, test = stratified(labels.tolist() if classes else [0] * len(labels), TEST_FRACTION)
    if not test or not train:
        raise InputError(f"{many(len(labels), 'sample', 'samples')} are too few for a test split. Give more of them.")
    return torch.tensor(train), torch.tensor(test)


def _at_most(places: Tensor, size: int | None, name: str) -> Tensor:
    if size is not None and size > len(places):
        raise InputError(
            f"{name}={size} is more than the {len(places)} samples there are. Ask for at most {len(places)}."
        )
    return places[:size]
