"""`load_images`: one name or path in, one split image set out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from blocklocal.data.cache import cache_path, cached, default_cache_dir, file_identity
from blocklocal.data.decode import Raw, Source, decode
from blocklocal.data.digits import read_digits
from blocklocal.data.folder import find_folder
from blocklocal.data.hub import looks_like_hub_name, open_hub
from blocklocal.data.images import ImageSet
from blocklocal.data.parquet import find_parquet, holds_parquet
from blocklocal.data.splits import check_validation, split
from blocklocal.errors import InputError, check_positive

_KINDS = "Give 'digits', a folder with parquet files or class folders, or a name on the Hugging Face hub (owner/name)."


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
) -> ImageSet:
    """Load an image classification set into memory as uint8 tensors.

    `data`: "digits" (scikit-learn's, embedded); an existing folder, of parquet files in the hub's layout or of images
    in class folders; else a name on the Hugging Face hub. A name on the hub that is in the cache is not looked up
    again: pass `cache=False` to take a newer version.

    `validation`: a count, or a fraction of the training set, drawn with `split_seed`; `train_size`: how many of the
    rest to train on (all when None); `test_size`: a fixed random subset of the test split, the same for every seed.
    `image_size`: scale the shorter side to so many pixels and crop the centre square.
    `skip_bad`: leave out images that cannot be decoded, instead of stopping. `cache_dir`: where decoded sets are kept
    (default: `blocklocal` below $BLOCKLOCAL_CACHE, else $XDG_CACHE_HOME, else ~/.cache).

    Grey or RGB is decided by the first training image; the others are converted. Raises InputError for anything in the
    data or the arguments that cannot be used.
    """
    for name, size in (("train_size", train_size), ("test_size", test_size), ("image_size", image_size)):
        if size is not None:
            check_positive(name, size, integer=True)
    check_validation(validation)
    if data == "digits":
        return split(read_digits(image_size), data, train_size, validation, test_size, split_seed)
    name, identity, find = _locate(data)

    def read() -> Raw:
        return decode(find(), name, image_size, skip_bad)

    if cache:
        raw = cached(cache_path(cache_dir or default_cache_dir(), name, identity, image_size), read, skip_bad)
    else:
        raw = read()
    return split(raw, name, train_size, validation, test_size, split_seed)


def _locate(data: str) -> tuple[str, list, Callable[[], Source]]:
    """(name, what the cache knows the set by, a call that opens it). The hub is asked only when that call is made."""
    path = Path(os.path.expanduser(data))
    if data and path.is_dir():
        source = _find(path)
        return path.resolve().name, file_identity(source.files), lambda: source
    if data and path.exists():
        raise InputError(f"{data} is a file. Give the folder it is in: a parquet set is all its train and test files.")
    if not looks_like_hub_name(data):
        raise InputError(f"there is no folder {data!r}. {_KINDS}")
    return data, ["hub", data], lambda: open_hub(data)


def _find(path: Path) -> Source:
    try:
        return find_parquet(path) if holds_parquet(path) else find_folder(path)
    except PermissionError as error:
        raise InputError(f"cannot read {error.filename or path}: no permission. Change its permissions.") from error
