"""Decoded sets kept on disk, so that images are decoded once.

A cache that cannot be used never stops a run, unless it is the place where its images are to lie.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from blocklocal._common.limits import check_memory
from blocklocal.data.decode import Raw, Told
from blocklocal.data.draft import Draft
from blocklocal.data.images import Images
from blocklocal.data.pixel_file import PixelFile
from blocklocal.data.stacks import COPIES, SMALLER, Room

log = logging.getLogger("blocklocal")

FORMAT_VERSION = 2  # raise it when decoding changes, so that files of older versions are not used


def default_cache_dir() -> Path:
    """`blocklocal` below $BLOCKLOCAL_CACHE, else $XDG_CACHE_HOME, else ~/.cache."""
    base = os.environ.get("BLOCKLOCAL_CACHE") or os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else _home() / ".cache") / "blocklocal"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # a container's user without a home
        return Path(tempfile.gettempdir())


def file_identity(paths: Iterable[Path]) -> list[tuple[str, int, int]]:
    """What a source is made of: absolute path, size in bytes and time of change in ns of each file."""
    return [_identity(path) for path in paths]


def _identity(path: Path) -> tuple[str, int, int]:
    try:
        stat = path.stat()
    except OSError:  # a broken link: decoding it decides what happens
        return str(path.absolute()), -1, -1
    return str(path.absolute()), stat.st_size, stat.st_mtime_ns


def cache_path(folder: Path, name: str, identity: object, image_size: int | None) -> Path:
    """The file for one source at one size; another source, size or format version has another name."""
    key = json.dumps([FORMAT_VERSION, identity, image_size])
    readable = "".join(letter if letter.isalnum() else "-" for letter in name)[:40]
    return folder / f"{readable}-{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


def cached(path: Path | None, decode: Callable[[], Raw], skip_bad: bool, room: Room) -> Raw:
    """The set kept at `path`, or `decode()`, whose result is then kept there.

    A file made with images left out is not used where that is not allowed: decoding again gives the error.

    Args:
        path: None for a set that is not to be kept.
        decode: puts the pixels into `room`.
    """
    kept = None if path is None else _kept(path, room)
    if kept is not None and (skip_bad or kept.skipped == 0):
        return kept
    try:
        raw = decode()
        if room.draft is not None:
            _finish(room.draft, raw, path)
        elif path is not None:
            _write(path, raw)
    except BaseException:
        if room.draft is not None:
            room.draft.discard()
        raise
    return raw


def _kept(path: Path, room: Room) -> Raw | None:
    if not path.is_file():
        return None
    if room.choose(path.stat().st_size) == "disk":
        return _open(path, on_disk=True)
    check_memory(f"the images kept in {path}", COPIES * path.stat().st_size, SMALLER)
    return _open(path, on_disk=False)


def _open(path: Path, on_disk: bool) -> Raw | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata()
            told = {split: Told(origin, tuple(notes)) for split, (origin, notes) in json.loads(meta["told"]).items()}
            pixels = {s: _lying(path, f"{s}_pixels") if on_disk else file.get_tensor(f"{s}_pixels") for s in told}
            splits = {s: Images(pixels[s], file.get_tensor(f"{s}_labels").clone()) for s in told}
        classes, skipped = tuple(json.loads(meta["classes"])), int(meta["skipped"])
        kind, own = meta.get("kind", "classes"), splits.get("validation")
        return Raw(splits["train"], splits["test"], classes, skipped, own, told, kind)  # type: ignore[arg-type]
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        log.warning("the cache file %s cannot be read (%s); it is made again", path, error)
        return None


def _lying(path: Path, name: str) -> PixelFile:
    """A tensor of a safetensors file (8 bytes, the length of the header; the header; the tensors) as it lies there."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        tensor = json.loads(file.read(length))[name]
    return PixelFile(path, 8 + length + tensor["data_offsets"][0], tensor["shape"])


def _meta(raw: Raw) -> dict[str, str]:
    told = {split: [each.origin, each.notes] for split, each in raw.told.items()}
    kind = {} if raw.kind == "classes" else {"kind": raw.kind}
    return {"classes": json.dumps(raw.classes), "skipped": str(raw.skipped), "told": json.dumps(told), **kind}


def _finish(draft: Draft, raw: Raw, path: Path | None) -> None:
    """Labels and meta data behind the pixels that the draft holds."""
    for split, images in raw.splits.items():
        assert isinstance(images.pixels, PixelFile)
        start, end = images.pixels.place
        draft.add(f"{split}_pixels", "U8", list(images.pixels.shape), start, end)
    for split, images in raw.splits.items():
        draft.append(f"{split}_labels", images.labels.numpy())
    draft.finish(_meta(raw), path)
    for images in raw.splits.values():
        images.pixels.path = path or draft.path  # type: ignore[union-attr]


def _write(path: Path, raw: Raw) -> None:
    """Write beside the final name and rename, so that a reader never sees half a file."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {}
    for split, images in raw.splits.items():
        tensors |= {f"{split}_pixels": images.pixels, f"{split}_labels": images.labels}
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:40], suffix=".tmp")
        os.close(handle)
        save_file(tensors, temporary, metadata=_meta(raw))
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        log.warning("decoded images cannot be kept in %s (%s); they are decoded again next time", path.parent, error)
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
