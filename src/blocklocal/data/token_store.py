"""The tokens of a text on disk: a file of numbers per part, read by memory map, so that a text need not fit in memory.

A store is a folder in the cache. It is written under another name and renamed when it is whole: two commands at once
both have a whole one, and a kill leaves none that is half.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal.data.roles import ROLES
from blocklocal.data.tokenizer import Tokenizer

log = logging.getLogger("blocklocal")

VERSION = 3  # raise it when texts are read or parted in another way
_FACTS, _TOKENIZER = "facts.json", "tokenizer.json"


@dataclass(frozen=True)
class PartFacts:
    """Of one part of a text: how many documents, bytes of UTF-8, and tokens."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Store:
    """A folder with the tokens of every part.

    Attributes:
        notes: what was left out, for people.
    """

    folder: Path
    parts: dict[str, PartFacts]
    tokenizer: Tokenizer
    notes: tuple[str, ...] = ()

    def tokens(self, role: str) -> np.ndarray:
        """The numbers of a part, [L], as they lie on disk.

        Raises:
            InputError: the file is gone, or of another size.
        """
        count, kind = self.parts[role].tokens, number_type(self.tokenizer.size)
        return _mapped(self.folder / f"{role}.bin", kind, count) if count else np.zeros(0, kind)

    def asked(self, role: str) -> np.ndarray | None:
        """1 for a token that the network is asked for, else 0, uint8 [L]; None where it is asked for all of them."""
        file = self.folder / f"{role}.asked"
        return _mapped(file, np.uint8, self.parts[role].tokens) if file.is_file() else None


class Writing:
    """The files of a store while they are written: tokens, and where some are not asked for, which are.

    A context manager.
    """

    def __init__(self, folder: Path, tokenizer: Tokenizer):
        kind = number_type(tokenizer.size)
        self.folder, self.kind = folder, kind
        self._end = np.array([] if tokenizer.end is None else [tokenizer.end], kind)
        self._files = {role: (folder / f"{role}.bin").open("wb") for role in ROLES}
        self._asked = {role: (folder / f"{role}.asked").open("wb") for role in ROLES}
        self._all = dict.fromkeys(ROLES, True)

    def add(self, role: str, numbers: np.ndarray, *, asked: bool) -> int:
        """Write numbers of tokens, and say how many these are."""
        self._files[role].write(numbers.astype(self.kind).tobytes())
        self._asked[role].write(bytes([asked]) * len(numbers))
        self._all[role] = self._all[role] and asked
        return len(numbers)

    def end(self, role: str) -> int:
        """As `add`, for the token behind a document, where there is one."""
        return self.add(role, self._end, asked=True)

    def __enter__(self) -> Writing:
        return self

    def __exit__(self, *error: object) -> None:
        for role in ROLES:
            self._files[role].close()
            self._asked[role].close()
            if self._all[role]:
                (self.folder / f"{role}.asked").unlink()


def number_type(size: int) -> np.dtype:
    """Two bytes where they are enough for so many tokens, else four."""
    return np.dtype("<u2" if size <= 2**16 else "<u4")


def _mapped(file: Path, kind: Any, count: int) -> np.ndarray:
    try:
        return np.memmap(file, kind, "r", shape=(count,))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {file.parent} ({error}): remove it, and it is made again.") from error


def key(*parts: object) -> str:
    """A name for what a store is made of."""
    return hashlib.sha256(json.dumps([VERSION, *parts], default=str).encode()).hexdigest()[:32]


def stored(folder: Path, make: Callable[[Path], Store]) -> Store:
    """The store in this folder, made where there is none.

    Args:
        make: writes it into the folder that it is given.
    """
    found = opened(folder)
    if found is not None:
        return found
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".text-"))
    except OSError as error:
        raise InputError(
            f"tokens cannot be kept in {folder.parent} ({error.strerror or error}): let BLOCKLOCAL_CACHE name a folder "
            "that can be written."
        ) from error
    try:
        made = make(draft)
        _write_facts(draft, made)
        try:
            os.replace(draft, folder)
        except OSError:  # another command was first
            found = opened(folder)
            if found is None:
                shutil.rmtree(folder, ignore_errors=True)
                os.replace(draft, folder)
    except OSError as error:
        raise InputError(
            f"tokens cannot be kept in {folder.parent} ({error.strerror or error}): free some space, or let "
            "BLOCKLOCAL_CACHE name a folder with more."
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    found = opened(folder)
    assert found is not None
    return found


def _write_facts(folder: Path, made: Store) -> None:
    (folder / _TOKENIZER).write_text(made.tokenizer.to_text(), encoding="utf-8")
    facts = {"parts": {role: asdict(part) for role, part in made.parts.items()}, "notes": made.notes}
    (folder / _FACTS).write_text(json.dumps(facts), encoding="utf-8")


def opened(folder: Path) -> Store | None:
    """The store in a folder; None where there is none, or it is damaged."""
    if not folder.is_dir():
        return None
    try:
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        parts = {role: PartFacts(**facts["parts"][role]) for role in ROLES}
        tokenizer = Tokenizer.from_text((folder / _TOKENIZER).read_text(encoding="utf-8"), folder)
        size = number_type(tokenizer.size).itemsize
        for role, part in parts.items():
            if part.tokens and (folder / f"{role}.bin").stat().st_size != size * part.tokens:
                raise ValueError(f"{role}.bin has another size")
        return Store(folder, parts, tokenizer, tuple(facts["notes"]))
    except (OSError, ValueError, KeyError, TypeError, InputError) as error:
        log.warning("the tokens kept in %s cannot be read (%s); they are made again", folder, error)
        return None
