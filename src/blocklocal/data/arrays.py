"""`load_arrays`: series of numbers [N, C, T] with labels, from .npy, .npz and parquet files (a column of lists)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError, unknown
from blocklocal._common.extras import needs
from blocklocal._common.limits import check_memory
from blocklocal.data.answers import FEW, Answers
from blocklocal.data.lists import list_columns, read_lists
from blocklocal.data.names import check_count, few, in_order, many
from blocklocal.data.parts import Wanted, divide
from blocklocal.data.samples import Samples, SampleSet
from blocklocal.data.splits import check_sizes

SUFFIXES = (".npy", ".npz")
_COPIES = 3  # of the numbers in memory at once
_LAYOUT = (
    "Expected x.npy of the shape [N, C, T] (or [N, T]) with y.npy of the shape [N] beside it, or a .npz file that "
    "holds arrays x and y; and for splits x_train, y_train, x_test, y_test."
)


def is_arrays(data: str) -> bool:
    """Whether this names a file with arrays, or a folder with x.npy or x_train.npy in it."""
    path = Path(os.path.expanduser(data))
    if path.is_dir():
        return any((path / f"{name}.npy").is_file() for name in ("x", "x_train"))
    return path.is_file() and (data.lower().endswith(SUFFIXES) or bool(list_columns(path)))


@needs("data")
def load_arrays(
    data: str | Path,
    *,
    labels: str = "y",
    train_size: int | None = None,
    validation: int | float = 0.1,
    test_size: int | None = None,
    split_seed: int = 0,
) -> SampleSet:
    """Load series [N, C, T] (or [N, T]: one channel) and their classes, or values where labels are fractions or many.

    Args:
        data: a .npz file with arrays x and y; a parquet file with one column of lists; x.npy, or a folder of x.npy and
            y.npy; with splits x_train, x_test and perhaps x_validation, and the same of y. Without splits a fixed fifth
            of every class is the test split.
        labels: what the array of labels is called.
        train_size, test_size: how many series to use; None for all.
        validation: a count, or a share of the training series, drawn with `split_seed`.

    Raises:
        InputError: something in the files or the arguments cannot be used.
    """
    check_sizes(train_size, test_size, validation)
    path = Path(os.path.expanduser(data))
    arrays = _read(path, labels)
    roles = [role for role in ("train", "validation", "test") if f"x_{role}" in arrays]
    if roles and not {"train", "test"} <= set(roles):
        raise InputError(f"{path} holds {few(sorted(arrays))}: a training and a test part are both needed. {_LAYOUT}")
    ends = {role: f"_{role}" for role in roles} or {"whole": ""}
    if not roles:
        _named(arrays, "x", path)
    x = {role: _series(arrays[f"x{end}"], f"{path}, x{end}") for role, end in ends.items()}
    _check_same(x, path)
    given = {role: _named(arrays, f"{labels}{end}", path) for role, end in ends.items()}
    y, answers = (_values if _are_values(given) else _labels)(given, x, path)
    wanted = Wanted(train_size, validation, test_size, split_seed)
    rows = divide(y, wanted, classes=answers.kind == "classes")
    splits = {split: Samples(x[role][chosen], y[role][chosen]) for split, (role, chosen) in rows.items()}
    train = splits["train"].x.double()
    mean = train.mean((0, 2))
    std = (train - mean.view(-1, 1)).square().mean((0, 2)).sqrt()
    std = torch.where(std > 1e-12 * mean.abs(), std, 1.0)
    channels, steps = x[rows["train"][0]].shape[1:]
    account = [f"{split}: {many(len(part), 'series', 'series')} from {path.name}" for split, part in splits.items()]
    size = f"{many(channels, 'channel', 'channels')} of {many(steps, 'step', 'steps')}"
    what = "values" if answers.kind == "values" else "classes"
    account.append(f"{size}, standardised by the training part; {len(answers.names)} {what} ({few(answers.names)})")
    return SampleSet(
        path.resolve().stem,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        answers=answers.measured(splits["train"].labels),
        mean=tuple(mean.tolist()),
        std=tuple(std.tolist()),
        account=tuple(account),
    )


def load_series(path: Path) -> Tensor:
    """float32 [N, C, T] of one file: an array, or the array x of several.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    if path.suffix.lower() not in SUFFIXES and not list_columns(path):
        raise InputError(f"{path} holds no arrays: give a file with a name that ends in {' or '.join(SUFFIXES)}.")
    return _series(_named(_read(path, ""), "x", path), str(path))


def _read(path: Path, labels: str) -> dict[str, np.ndarray]:
    """All arrays, by name."""
    if list_columns(path):
        return read_lists(path, labels)
    try:
        if path.suffix.lower() == ".npz":
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        folder = path if path.is_dir() else path.parent
        names = [f"{stem}{end}" for stem in ("x", labels) for end in ("", "_train", "_validation", "_test")]
        found = {name: folder / f"{name}.npy" for name in names if (folder / f"{name}.npy").is_file()}
        if not path.is_dir():
            stem = path.stem
            own = path.with_name(f"{labels}{stem[1:]}.npy") if stem.startswith("x") else found.get(labels, path)
            found = {"x": path} if own == path else {"x": path, labels: own}
        check_memory(
            f"the arrays of {path}",
            _COPIES * sum(file.stat().st_size for file in found.values() if file.is_file()),
            "use fewer or shorter series",
        )
        return {name: _load(file) for name, file in found.items() if file.is_file()}
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InputError(f"cannot read the arrays of {path}: {error}. {_LAYOUT}") from error


def _load(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.load(file, allow_pickle=False)


def _named(arrays: dict[str, np.ndarray], name: str, path: Path) -> np.ndarray:
    if name not in arrays:
        raise InputError(f"{path}: {unknown('array', name, arrays)} {_LAYOUT}")
    return arrays[name]


def _series(array: np.ndarray, where: str) -> Tensor:
    """float32 [N, C, T].

    Raises:
        InputError: it has another shape, holds something else than numbers, or one that is none.
    """
    if array.dtype.kind not in "fiub" or array.ndim not in (2, 3) or not array.size:
        raise InputError(f"{where} is {array.dtype} {list(array.shape)}. Expected numbers [N, C, T] or [N, T].")
    x = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))
    bad = (~x.isfinite()).flatten(1).any(1)
    if bool(bad.any()):
        raise InputError(f"{where}: series {int(bad.nonzero()[0])} holds NaN or infinite values. Mend or leave it out.")
    return x.unsqueeze(1) if x.dim() == 2 else x


def _check_same(x: dict[str, Tensor], path: Path) -> None:
    shapes = {role: list(part.shape[1:]) for role, part in x.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        said = ", ".join(f"{role} {shape}" for role, shape in shapes.items())
        raise InputError(f"{path}: the parts have series of different shapes ({said}). Cut or pad them to one.")


def _are_values(given: dict[str, np.ndarray]) -> bool:
    """Whether labels are numbers other than a few different whole ones, as of a table; or several per series."""
    if not all(array.dtype.kind == "f" for array in given.values()):
        return False
    numbers = np.concatenate([array.reshape(-1) for array in given.values()])
    whole = bool((numbers == np.floor(numbers)).all())
    return not whole or len(np.unique(numbers)) > FEW or any(array.ndim > 1 for array in given.values())


def _values(given: dict[str, np.ndarray], x: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], Answers]:
    """The values of every part, float32 [N, V], and their names: y, or y1, y2 and so on."""
    shapes = {array.shape[1:] for array in given.values()}
    numbers: dict[str, Tensor] = {}
    for role, array in given.items():
        fits = array.ndim in (1, 2) and array.shape[0] == len(x[role]) and array.size and len(shapes) == 1
        if not fits or not np.isfinite(array).all():
            wrong = f"{array.dtype} {list(array.shape)}" if not fits else "NaN or infinite in places"
            raise InputError(
                f"{path}: values are {wrong}. Expected finite numbers, [{len(x[role])}] or [{len(x[role])}, V]."
            )
        numbers[role] = torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32)).reshape(len(array), -1)
    count = next(iter(numbers.values())).shape[1]
    return numbers, Answers("values", ("y",) if count == 1 else tuple(f"y{k + 1}" for k in range(count)))


def _labels(given: dict[str, np.ndarray], x: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], Answers]:
    """Numbers of classes per part, and the classes: the different labels of the training part in their order."""
    words = {}
    for role, array in given.items():
        if array.shape != (len(x[role]),) or array.dtype.kind not in "iubUf":
            wrong = f"{array.dtype} {list(array.shape)}"
            raise InputError(f"{path}: labels are {wrong}. Expected whole numbers or texts, [{len(x[role])}].")
        words[role] = [str(int(label) if array.dtype.kind == "f" else label) for label in array.tolist()]
    first: Sequence[str] = words.get("train") or words["whole"]
    names = tuple(in_order(first))
    check_count(len(names), str(path))
    places = {name: place for place, name in enumerate(names)}
    for role, labels in words.items():
        strange = next((label for label in labels if label not in places), None)
        if strange is not None:
            raise InputError(f"{path}: the {role} part has the label {strange!r}, the training part {few(names)}.")
    numbers = {role: torch.tensor([places[label] for label in labels]) for role, labels in words.items()}
    return numbers, Answers("classes", names)
