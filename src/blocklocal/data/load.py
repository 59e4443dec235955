"""`load_images`: one name or path in, one split image set out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from torch import Tensor

from blocklocal._common.choices import ImagesIn, TargetKind, values
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.extras import needs
from blocklocal._common.ranges import IMAGE_SIZE, check_range, whole
from blocklocal._common.screen import printable
from blocklocal.data.account import copies_in_training, without_images
from blocklocal.data.cache import cache_path, cached, default_cache_dir, file_identity
from blocklocal.data.decode import Raw, Told, decode
from blocklocal.data.digits import read_digits
from blocklocal.data.folder import find_folder, find_listed
from blocklocal.data.hub import is_plain, looks_like_hub_name, open_hub
from blocklocal.data.images import ImageSet
from blocklocal.data.masks import find_masks, holds_masks
from blocklocal.data.names import few
from blocklocal.data.parquet import find_parquet, parquet_files, role_of_file
from blocklocal.data.scan import holds_images
from blocklocal.data.source import Source
from blocklocal.data.splits import check_sizes, split
from blocklocal.data.stacks import Room
from blocklocal.data.table_reading import names_images

_KINDS = (
    "Give 'digits', a folder with parquet files, class folders or texts, or a name on the Hugging Face hub (owner/"
    "name, or owner/name:configuration)."
)


@needs("data")
def load_images(
    data: str,
    *,
    train_size: int | None = None,
    validation: int | float = 0.1,
    test_size: int | None = None,
    image_size: int | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    cache: bool = True,
    cache_dir: Path | None = None,
    label: str | Sequence[str] = "",
    target_is: TargetKind = "auto",
    stream: bool = False,
    images_in: ImagesIn = "auto",
    workers: int | None = None,
) -> ImageSet:
    """Load an image classification set as uint8 pixels.

    The set is in colour where any training image is, else grey; the others are converted. What was read, left out and
    converted is said in `ImageSet.account`.

    Args:
        data: "digits" (scikit-learn's, embedded); an existing folder, of parquet files in the hub's layout or of images
            in class folders (docs/data.md has the layouts); else a name on the Hugging Face hub, with `:configuration`
            behind it where a set has several.
        train_size: how many images to train on, of those that `validation` leaves; None for all.
        validation: a count, or a fraction of the training set, drawn with `split_seed`. Of a set that has a validation
            split beside a test split, that one is used instead: all of it where this is a fraction, so many of it where
            this is a count, none where it is 0.
        test_size: a fixed random subset of the test split, the same for every seed.
        image_size: scale the shorter side to so many pixels and crop the centre square.
        skip_bad: leave out images that cannot be decoded, instead of stopping.
        cache: keep the decoded set. A name on the hub that is in the cache is not looked up again: False takes a newer
            version.
        cache_dir: where decoded sets are kept (default: `blocklocal` below $BLOCKLOCAL_CACHE, else $XDG_CACHE_HOME,
            else ~/.cache).
        label: the column of labels in a table of images that is given by its path (a CSV, JSON lines or parquet file
            with a column of paths beside it); "" for one with a usual name. Several are binary labels (0 and 1), or
            values; one is values where a number in it has a fraction, and else the names of classes.
        target_is: "classes" or "values", where these columns could be either.
        stream: of a set on the hub, keep the decoded images alone and no copy of what is downloaded.
        images_in: "memory"; "disk", where batches are read from the cache's file; or "auto": in memory where they take
            at most half of what is free. Batches are the same.
        workers: processes that decode the images; 0 for none, None for one per CPU where the work is worth it.

    Raises:
        InputError: something in the data or the arguments cannot be used.
    """
    check_sizes(train_size, test_size, validation)
    if image_size is not None:
        check_range("image_size", image_size, IMAGE_SIZE)
    if workers is not None:
        check_range("workers", workers, whole(0, 1024))
    if target_is not in values(TargetKind):
        raise unknown("target_is", target_is, values(TargetKind))
    if data == "digits":
        return split(read_digits(image_size), data, train_size, validation, test_size, split_seed)
    labels = ((label,) if label else ()) if isinstance(label, str) else tuple(label)
    name, identity, find = _locate(data, labels, target_is, stream)
    folder = cache_dir or default_cache_dir()
    room = Room(images_in, folder)

    def read() -> Raw:
        return _read(find(), name, image_size, skip_bad, room, workers)

    raw = cached(cache_path(folder, name, identity, image_size) if cache else None, read, skip_bad, room)
    found = split(raw, name, train_size, validation, test_size, split_seed)
    return replace(found, account=(*found.account, *filter(None, (room.said,))))


def _read(source: Source, name: str, image_size: int | None, skip_bad: bool, room: Room, workers: int | None) -> Raw:
    """Decode a set that can be learned, and note what there is to say of its splits."""
    for split_name, encoded in source.splits.items():
        if not len(encoded.labels):
            raise InputError(f"the {split_name} split of {name} ({encoded.origin}) holds no images. Give it some.")
    if source.kind == "classes":
        _check_learnable(source.train.labels, source.classes, name)
    raw = decode(source, name, image_size, skip_bad, room, workers)
    if raw.kind == "classes":
        _check_learnable(raw.train.labels, raw.classes, name)
    copies = copies_in_training(raw)
    told = {
        each: Told(said.origin, (*said.notes, *without_images(raw, each), *copies[each]))
        for each, said in raw.told.items()
    }
    return replace(raw, told=told)


def _check_learnable(labels: Tensor, classes: tuple[str, ...], name: str) -> None:
    """Raise InputError for a training split that holds nothing to tell apart, or fewer images than classes."""
    there = labels.unique()
    if len(classes) == 1 or len(there) == 1:
        only = classes[int(there[0])]
        what = "one class" if len(classes) == 1 else "training images of one class alone"
        raise InputError(
            f"{name} holds {what}, {only!r}: there is nothing to tell it from. Add images of at least one more class."
        )
    if len(classes) > len(labels):
        raise InputError(
            f"{name} has {len(classes):,} classes, but only {len(labels):,} training images. "
            "Is its label column the right one? Give at least one image per class; for numbers, --target-is values."
        )


def _locate(data: str, labels: Sequence[str], kind: TargetKind, stream: bool) -> tuple[str, list, Callable[[], Source]]:
    """(name, what the cache knows the set by, a call that opens it). The hub is asked only when that call is made."""
    path = Path(os.path.expanduser(data))
    if data and os.path.isdir(path):
        source = _find(path)
        return printable(path.resolve().name, lines=False), [file_identity(source.files), source.told()], lambda: source
    if data and names_images(path):
        source = find_listed(path, labels, kind)
        told = [file_identity(source.files), source.told(), *(labels or [""])]
        return printable(path.stem, lines=False), told, lambda: source
    if data and os.path.exists(path):
        raise InputError(
            f"{data} is a file, and no table that names images. Give the folder it is in: a parquet set is all its "
            "train and test files. (A table of numbers needs --target COLUMN. Lines of a text have a field text, or "
            "prompt and completion; another field: --text FIELD.)"
        )
    if is_plain(data) or not looks_like_hub_name(data):
        raise InputError(f"there is no folder {data!r}.{_near(path)} {_KINDS}")
    return data, ["hub", data], lambda: open_hub(data, stream=stream)


def _near(path: Path) -> str:
    """A question, with a space before it, where a folder beside the missing one or an embedded set has a near name."""
    beside: list[str] = []
    with suppress(OSError):  # no folder to look into either
        beside = [each.name for each in path.parent.iterdir() if each.is_dir()]
    near = get_close_matches(path.name, ["digits", *beside], n=1)
    if not near:
        return ""
    meant = near[0] if near[0] not in beside else str(path.with_name(near[0]))
    return f" Did you mean {meant!r}?"


def _find(path: Path) -> Source:
    """A folder with parquet files that are splits is read as such, any other one as a folder of images."""
    try:
        files = parquet_files(path)
        if any(role_of_file(each, path) for each in files):
            return find_parquet(path, files)
        if files and not holds_images(path):
            raise InputError(
                f"{path} holds parquet files whose names say no split: {few([each.name for each in files])}. Expected "
                "names like train-00000-of-00001.parquet and test-00000-of-00001.parquet, or folders train and test."
            )
        return find_masks(path) if holds_masks(path) else find_folder(path)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or path}: {error.strerror}. Check its permissions.") from error
