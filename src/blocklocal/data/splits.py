"""Seeded splits: which images train, validate and test."""

from __future__ import annotations

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal._common.seeds import generator
from blocklocal.data.account import line
from blocklocal.data.answers import Answers
from blocklocal.data.decode import Raw, Told
from blocklocal.data.images import Images, ImageSet, channel_statistics

TEST_FRACTION = 0.2  # of sets that come without a test split


def stratified(labels: list[int], fraction: float = TEST_FRACTION) -> tuple[list[int], list[int]]:
    """Positions (train, test), each ascending: of every class `fraction` goes to test, and at least one image stays.

    The draw is fixed: the test split of a set never depends on a seed that a user can vary.
    """
    label = torch.tensor(labels, dtype=torch.int64)
    is_test = torch.zeros(len(labels), dtype=torch.bool)
    for value in label.unique().tolist():
        members = (label == value).nonzero().flatten()
        order = torch.randperm(len(members), generator=generator("fixed test split", value))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        is_test[members[order[:count]]] = True
    return (~is_test).nonzero().flatten().tolist(), is_test.nonzero().flatten().tolist()


def split(
    raw: Raw, name: str, train_size: int | None, validation: int | float, test_size: int | None, split_seed: int
) -> ImageSet:
    """Cut a decoded set. One seeded permutation of the training images: validation first, then training.

    A set's own validation split takes the place of that share of the training images; a count takes so many of it, and
    0 none. Subsets of it and of the test split are drawn from fixed streams, so that runs with different split seeds
    are measured on the same images.

    Raises:
        InputError: the set has fewer images than are asked for, or all have the same target.
    """
    total, own = len(raw.train), raw.validation is not None
    order = torch.randperm(total, generator=generator("validation split", split_seed))
    held = 0 if own else round(validation * total) if isinstance(validation, float) else validation
    if held >= total:
        raise InputError(
            f"validation={validation!r} takes {held} of the {total} training images and leaves none to train."
        )
    chosen = _first(order[held:], train_size, "train_size", f"{total} training images, {held} of them for validation")
    train = raw.train.subset(chosen)
    kept = _own_validation(raw.validation, validation) if raw.validation is not None else raw.train.subset(order[:held])
    test = _subset(raw.test, test_size, "test")
    mean, std = channel_statistics(train.pixels)
    answers = None if raw.kind == "classes" else Answers(raw.kind, raw.classes).measured(train.labels)
    return ImageSet(
        name=name,
        train=train,
        validation=kept,
        test=test,
        classes=raw.classes,
        mean=mean,
        std=std,
        skipped=raw.skipped,
        answers=answers,
        account=(
            line("train", train, raw.told["train"], total),
            _validation_line(raw, kept, split_seed),
            line("test", test, raw.told["test"], len(raw.test)),
        ),
    )


def _own_validation(images: Images, wanted: int | float) -> Images:
    size = len(images) if isinstance(wanted, float) and wanted else int(wanted)
    return _subset(images, size, "validation")


def _validation_line(raw: Raw, kept: Images, split_seed: int) -> str:
    if raw.validation is not None:
        own = raw.told["validation"]
        if not len(kept):
            return f"validation: none; left out: {own.origin}, as validation is 0"
        return line(
            "validation",
            kept,
            Told(f"{own.origin} (the set's own validation split; no share of the training images is taken)", own.notes),
            len(raw.validation),
        )
    if not len(kept):
        return "validation: none"
    return line(
        "validation", kept, Told(f"the {len(raw.train):,} training images (drawn with split seed {split_seed})")
    )


def check_sizes(train_size: int | None, test_size: int | None, validation: int | float) -> None:
    """Refuse sizes of splits that cannot be; sets are large, so do it before they are read."""
    for name, size in (("train_size", train_size), ("test_size", test_size)):
        if size is not None:
            check_range(name, size, FROM_ONE)
    _check_validation(validation)


def _check_validation(validation: int | float) -> None:
    """Refuse what is neither a count (int) nor a fraction (float)."""
    count = isinstance(validation, int) and not isinstance(validation, bool) and validation >= 0
    if not count and not (isinstance(validation, float) and 0 <= validation < 1):
        raise InputError(f"validation must be a count of 0 or more, or a fraction in [0, 1), not {validation!r}.")


def _subset(images: Images, size: int | None, split: str) -> Images:
    if size is None or (split == "validation" and size == len(images)):
        return images
    order = torch.randperm(len(images), generator=generator(f"{split} subset"))
    name = {"test": "test_size"}.get(split, split)
    return images.subset(_first(order, size, name, f"{len(images)} {split} images"))


def _first(order: Tensor, size: int | None, name: str, available: str) -> Tensor:
    if size is not None and size > len(order):
        raise InputError(
            f"{name}={size} is more than the {len(order)} images there are ({available}). Ask for at most {len(order)}."
        )
    return order[:size]
