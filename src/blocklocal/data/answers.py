"""What the samples of a set are asked for: one of several classes, binary labels, values, or a class per pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from msgspec import Meta
from torch import Tensor

from blocklocal._common.choices import TargetKind
from blocklocal._common.errors import InputError
from blocklocal._common.ranges import MOST_CLASSES
from blocklocal.data.features import is_number, numbers_of, texts_of
from blocklocal.data.frame import Frame
from blocklocal.data.names import check_count, few, in_order

UNKNOWN = -100  # a label that is not known, as the targets of a network have it (block.targets.MISSING)
_SUM = 1e-3  # how far the shares of a row may be from a sum of 1
FEW = 20  # different whole numbers that are classes, unless it is said otherwise
AnswerKind = Literal["classes", "labels", "values", "pixels", "shares"]
Text = Annotated[str, Meta(max_length=100_000)]


@dataclass(frozen=True)
class Answers:
    """The targets.

    Attributes:
        kind: "classes" (int64 [N]), "labels" (int64 [N, L], 0 or 1, or -100 where one is not known), "values"
            (float32 [N, V]), "shares" of classes (float32 [N, C], a sum of 1), or "pixels" (classes as uint8 [N, H, W],
            255 where one is not known).
        names: of the classes, or of the columns of labels or values.
        mean, std: of every value in the training part.
    """

    kind: AnswerKind
    names: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MOST_CLASSES)]
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def measured(self, training: Tensor) -> Answers:
        """The same with mean and std of the training part.

        Raises:
            InputError: all training samples have the same answer.
        """
        if self.kind == "pixels":
            return self
        if bool((training == training[:1]).all()):
            what = self.names[int(training[0])] if self.kind == "classes" else training[0].tolist()
            raise InputError(
                f"all training rows have the target {what!r}: there is nothing to learn. Is it the right one?"
            )
        if self.kind != "values":  # of shares too
            return self
        std = training.double().std(0, correction=0)
        return replace(self, mean=tuple(training.double().mean(0).tolist()), std=tuple(std.clamp_min(1e-12).tolist()))

    def line(self, target: Sequence[str], why: str) -> str:
        """What was found out, for people."""
        if self.kind == "classes":
            return f"target {few(target)}: {len(self.names)} classes ({few(self.names)}), {why}"
        what = "values" if self.kind == "values" else f"{len(self.names)} binary labels"
        if self.kind == "shares":
            what = f"{len(self.names)} classes"
        return f"target {few(target)}: {what}, {why}"


def find_answers(frame: Frame, target: Sequence[str], kind: TargetKind) -> tuple[Answers, str]:
    """Whether the target columns of a table hold classes, binary labels or values, and why.

    Raises:
        InputError: there is no such column, or it holds something else, one value, or nothing.
    """
    for name in target:
        if frame.column(name).null_count == len(frame):
            raise InputError(f"{frame.path}: the target {name} has no value in any row. Is it the right column?")
    numbers = all(is_number(frame.column(name)) for name in target)
    if kind == "shares":
        if len(target) < 2 or not numbers:
            raise InputError(
                f"shares of classes are several columns of numbers, one for each class, and {few(target)} is none: "
                "name them all by --target."
            )
        return Answers("shares", tuple(target)), "shares of the classes, as asked"
    if len(target) > 1 and numbers and kind != "values":
        each = [numbers_of(frame, name) for name in target]
        if all(bool((np.isin(values, (0, 1)) | np.isnan(values)).all()) for values in each):
            return Answers("labels", tuple(target)), "several columns of 0 and 1"
    if kind == "values" or (kind == "auto" and numbers and len(target) > 1):
        return Answers("values", tuple(target)), "as asked" if kind == "values" else "several columns of numbers"
    if len(target) > 1:
        raise InputError(
            f"several targets ({few(target)}) are binary labels, so 0 and 1, or values, so numbers. For classes, give "
            "one --target."
        )
    texts = texts_of(frame, target[0])
    if texts is None:
        raise InputError(
            f"{frame.path}: the target {target[0]} holds neither numbers nor texts. Choose another column."
        )
    words, why = _words(frame, target[0], texts), "as asked"
    different = sorted({word for word in words if word is not None})
    if kind == "auto" and numbers:
        whole = all(word.lstrip("-").isdigit() or word in ("True", "False") for word in different)
        if not whole or len(different) > FEW:
            return Answers("values", tuple(target)), "numbers" if not whole else f"more than {FEW} whole numbers"
        why = f"at most {FEW} different whole numbers"
    elif kind == "auto":
        why = "texts"
    _check_classes(frame, target[0], different)
    return Answers("classes", tuple(in_order(different))), why


def _check_classes(frame: Frame, name: str, different: list[str]) -> None:
    """Refuse a column that has one class, or too many."""
    if len(different) < 2:
        raise InputError(
            f"{frame.path}: the target {name} is {different[0]!r} in every row: there is nothing to learn."
        )
    check_count(len(different), str(frame.path))
    if len(different) > max(FEW, len(frame) // 2):
        raise InputError(
            f"{frame.path}: the target {name} has {len(different):,} different texts in {len(frame):,} rows. Is it the "
            "right column? (For numbers: --target-is values.)"
        )


def _words(frame: Frame, name: str, texts: list[str | None]) -> list[str | None]:
    """Cells as the names of classes: 1.0 is the class 1."""
    import pyarrow as pa

    if not pa.types.is_floating(frame.column(name).type):
        return texts
    return [text if text is None or not text.endswith(".0") else text[:-2] for text in texts]


def answers_of(frame: Frame, target: Sequence[str], answers: Answers) -> tuple[Tensor, np.ndarray]:
    """The answers of the rows that have one, and the places of these rows.

    Raises:
        InputError: one is none of the classes, or no number.
    """
    if answers.kind == "shares":
        return _shares(frame, target)
    if answers.kind == "values":
        values = np.stack([numbers_of(frame, name) for name in target], 1)
        there = np.flatnonzero(~np.isnan(values).any(1))
        return torch.from_numpy(values[there].astype(np.float32)), there
    if answers.kind == "labels":
        values = np.stack([numbers_of(frame, name) for name in target], 1)
        there = np.flatnonzero(~np.isnan(values).all(1))
        strange = np.flatnonzero(~(np.isnan(values) | np.isin(values, (0, 1))).all(1))
        if len(strange):
            raise InputError(f"{frame.row(int(strange[0]))}: {few(target)} must be 0 or 1, as in the training rows.")
        return torch.from_numpy(np.where(np.isnan(values), UNKNOWN, values)[there].astype(np.int64)), there
    words = _words(frame, target[0], texts_of(frame, target[0]) or [])
    places = {name: place for place, name in enumerate(answers.names)}
    there = np.array([i for i, word in enumerate(words) if word is not None], dtype=np.int64)
    for i in map(int, there):
        if words[i] not in places:
            raise InputError(
                f"{frame.row(i)}: the target {target[0]} is {words[i]!r}, which no training row has: "
                f"{few(answers.names)}."
            )
    return torch.tensor([places[str(words[i])] for i in map(int, there)], dtype=torch.int64), there


def _shares(frame: Frame, target: Sequence[str]) -> tuple[Tensor, np.ndarray]:
    """float32 [N, C], the share of every class, of the rows that have any.

    Raises:
        InputError: a share is below 0, or those of a row do not add up to 1.
    """
    values = np.stack([numbers_of(frame, name) for name in target], 1)
    there = np.flatnonzero(~np.isnan(values).any(1))
    wrong = np.flatnonzero((values[there] < 0).any(1) | (np.abs(values[there].sum(1) - 1) > _SUM))
    if len(wrong):
        raise InputError(
            f"{frame.row(int(there[wrong[0]]))}: the shares {few(list(target))} must be 0 or more, with a sum of 1."
        )
    return torch.from_numpy(values[there].astype(np.float32)), there
