"""`load_table`: one table in, or a folder of one for each split; one set of samples, split, out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from blocklocal._common.choices import TargetKind, values
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.extras import needs
from blocklocal.data.answers import Answers, answers_of, find_answers
from blocklocal.data.features import Features, find_features, numbers_of
from blocklocal.data.frame import SUFFIXES, Frame, read_frame
from blocklocal.data.names import few, many
from blocklocal.data.parts import Wanted, divide
from blocklocal.data.samples import Samples, SampleSet
from blocklocal.data.scan import files_directly_in
from blocklocal.data.splits import check_sizes
from blocklocal.data.tables import role_of_table


@needs("data")
def load_table(
    data: str | Path,
    target: str | Sequence[str],
    *,
    target_is: TargetKind = "auto",
    categories: Sequence[str] = (),
    weight: str = "",
    train_size: int | None = None,
    validation: int | float = 0.1,
    test_size: int | None = None,
    split_seed: int = 0,
) -> SampleSet:
    """Load a table: rows are samples, one column (or several columns of numbers) is what they are asked for.

    Numbers are standardised by the training part, texts are categories. What was made of every column is said in
    `SampleSet.account`.

    Args:
        data: a CSV or parquet file, of which a fixed fifth of the rows is the test split; or a folder of train.csv,
            test.csv and perhaps validation.csv.
        target: the name of the column that is to be predicted.
        target_is: "classes", "values", "shares" of classes (soft targets, a column for each), or "auto": values for
            numbers other than a few different whole ones.
        categories: columns whose numbers are categories.
        weight: the column that says how much every row counts in training, 0 or more; "" for all the same.
        train_size, test_size: how many rows to use; None for all.
        validation: a count, or a share of the training rows, drawn with `split_seed`.

    Raises:
        InputError: something in the table or the arguments cannot be used.
    """
    check_sizes(train_size, test_size, validation)
    if target_is not in values(TargetKind):
        raise unknown("target_is", target_is, values(TargetKind))
    names = [target] if isinstance(target, str) else list(target)
    if not names:
        raise InputError("a table needs a target: name the column that is to be predicted (--target COLUMN).")
    path = Path(os.path.expanduser(data))
    frames = find_frames(path)
    first = frames.get("train") or frames["whole"]
    answers, why = find_answers(first, names, target_is)
    parts = {role: _Part(frame, names, answers, weight) for role, frame in frames.items()}
    wanted = Wanted(train_size, validation, test_size, split_seed)
    rows = divide({role: part.answers for role, part in parts.items()}, wanted, classes=answers.kind == "classes")
    train = rows["train"][1]
    features, left = find_features(
        first, parts[rows["train"][0]].there[train], [*names, *filter(None, [weight])], categories
    )
    encoded = {role: features.encode(part.frame)[part.there] for role, part in parts.items()}
    splits = {
        split: Samples(encoded[role], parts[role].answers, parts[role].weights).subset(chosen)
        for split, (role, chosen) in rows.items()
    }
    answers = answers.measured(splits["train"].labels)
    said = (_line(split, splits[split], parts[role].frame.path) for split, (role, _) in rows.items())
    notes = [each.note for each in parts.values() if each.note]
    account = (*said, answers.line(names, why), *features.lines(), *left, *notes)
    return SampleSet(
        path.resolve().stem,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        answers=answers,
        features=features,
        account=account,
    )


class _Part:
    """The rows of a file that have an answer."""

    def __init__(self, frame: Frame, target: Sequence[str], answers: Answers, weight: str = ""):
        self.frame = frame
        self.answers, self.there = answers_of(frame, target, answers)
        self.weights = _weights(frame, weight)[self.there] if weight else None
        gone = len(frame) - len(self.there)
        self.note = f"left out: {many(gone, 'row', 'rows')} of {frame.path.name} without a target" if gone else ""
        if not len(self.there):
            raise InputError(f"{frame.path}: no row has a value of the target {few(list(target))}.")


def _weights(frame: Frame, column: str) -> Tensor:
    """How much every row counts, float32 [N].

    Raises:
        InputError: the column is missing, or holds something else than numbers of 0 or more.
    """
    found = torch.from_numpy(numbers_of(frame, column).astype("float32"))
    if not bool((found >= 0).all() & found.isfinite().all()):
        raise InputError(f"{frame.path}: the weights in {column} must be numbers of 0 or more in every row.")
    return found


def load_rows(path: Path, target: Sequence[str], answers: Answers, features: Features) -> Samples:
    """The rows of another table, as the columns of an earlier one became numbers.

    Raises:
        InputError: a column is missing, or holds something else than it did.
    """
    part = _Part(read_frame(path), target, answers)
    return Samples(features.encode(part.frame)[part.there], part.answers)


def find_frames(path: Path) -> dict[str, Frame]:
    """The tables of a file ("whole") or of a folder (by split).

    Raises:
        InputError: there is no file, or none for training.
    """
    if not path.is_dir():
        return {"whole": read_frame(path)}
    files = files_directly_in(path, SUFFIXES)
    roles = {role_of_table(file): file for file in files if role_of_table(file)}
    if not roles and len(files) == 1:
        return {"whole": read_frame(files[0])}
    if not {"train", "test"} <= set(roles):
        there = few([file.name for file in files]) if files else "no tables"
        raise InputError(f"{path} holds {there}. Give one table, or a folder with train.csv and test.csv.")
    return {str(role): read_frame(file) for role, file in roles.items()}


def _line(split: str, samples: Samples, path: Path) -> str:
    return f"{split}: {many(len(samples), 'row', 'rows')} from {path.name}"
