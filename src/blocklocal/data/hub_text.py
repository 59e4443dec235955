"""Texts of the Hugging Face hub, by name: every row of a set is a document, and its splits are the parts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from blocklocal._common.errors import InputError, unknown
from blocklocal.data.documents import EMPTY, FIELD, Document
from blocklocal.data.hub import download
from blocklocal.data.names import few
from blocklocal.data.roles import ROLES, by_role
from blocklocal.data.scan import LeftOut

_ROWS = 1024  # read at a time


class HubDocuments:
    """The documents of a set on the hub, in the order of its rows; as `documents.Documents`.

    Args:
        name: `owner/name`, or `owner/name:configuration`.
        field: the column that holds the text; "" for `FIELD`.

    Raises:
        InputError: it cannot be loaded, has no train split, or has no such column.
    """

    def __init__(self, name: str, field: str = ""):
        self.path, self.field = PurePath(name.partition(":")[0]), field or FIELD
        sets: Any = download(name)
        self._name, self._sets = name, sets
        self._splits = by_role(map(str, self._sets), name)
        if "train" not in self._splits:
            raise InputError(f"{name} has no train split. Its splits are: {', '.join(map(str, self._sets))}.")
        for split in self._splits.values():
            columns = list(self._sets[split].column_names)
            if self.field not in columns:
                raise InputError(f"{name}, split {split}: {unknown('column', self.field, columns)} Name it by --text.")
        self.left = LeftOut()

    @property
    def sources(self) -> list[str]:
        """The names of its splits, by which the parts are told."""
        return list(self._splits.values())

    @property
    def notes(self) -> tuple[str, ...]:
        others = [str(split) for split in self._sets if split not in self._splits.values()]
        return (f"left out: the splits {few(others)}",) if others else ()

    def identity(self) -> list[str]:
        """What it is made of: the fingerprint of every split."""
        return [self._name, *(self._sets[split]._fingerprint for split in self.sources)]

    def __iter__(self) -> Iterator[Document]:
        """Documents that hold more than white space.

        Raises:
            InputError: a row holds no text.
        """
        self.left = LeftOut()
        for split in (self._splits[role] for role in ROLES if role in self._splits):
            row = 0
            for batch in self._sets[split].select_columns([self.field]).iter(_ROWS):
                for text in batch[self.field]:
                    yield from self._document(f"{split}/{row}", text)
                    row += 1

    def _document(self, name: str, text: Any) -> Iterator[Document]:
        if text is not None and not isinstance(text, str):
            raise InputError(f"{self._name}, {name}: the column {self.field!r} holds {type(text).__name__}, no text.")
        if text and text.strip():
            yield Document(name, ((text, True),))
        else:
            self.left.add(EMPTY, name)
