"""The documents of a text in three parts, which share none: for training, for validation and for the test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TypeAlias

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import stream_seed
from blocklocal.data.documents import Document, Documents
from blocklocal.data.hub_text import HubDocuments
from blocklocal.data.names import many
from blocklocal.data.roles import ROLES, role_of

TEST_SHARE = 0.1  # of the documents
FEW = 60  # documents; fewer are cut at blank lines first
PIECES = 100  # into about so many pieces in all
Texts: TypeAlias = Documents | HubDocuments


class Parted:
    """(role, document) of every document, in order; read anew in every pass.

    Args:
        share: of the documents that the test part leaves, for validation.

    Attributes:
        notes: how they were parted, for people.
    """

    def __init__(self, documents: Texts, share: float, seed: int):
        self.documents, self.share, self.seed = documents, share, seed
        first = list(islice(documents, FEW))
        self.named = self._own_parts()  # role by name → role
        few = len(first) < FEW and "validation" not in self.named.values()
        self.size = sum(len(each.text) for each in first) // PIECES + 1 if few else 0
        self.notes = documents.notes
        if "validation" in self.named and self.named["validation"] == "test":
            self.notes += ("there is no test part: the validation part is the test part",)
        if not first:
            raise InputError(f"{documents.path} holds no text but white space. Give it some.")
        if self.size:
            count = many(len(first), "document", "documents")
            self.notes += (f"{count}, cut at blank lines into pieces of about {self.size:,} characters, to be parted",)

    def _own_parts(self) -> dict[str, str]:
        """The parts that files or folders are called after: training and one to measure among them; else none.

        A validation part without a test part is the test part, as with images.
        """
        found = set(map(_role, self.documents.sources))
        if None in found or "train" not in found or len(found) < 2:
            return {}
        return {role: role if role == "train" or "test" in found else "test" for role in ROLES if role in found}

    def __iter__(self) -> Iterator[tuple[str, Document]]:
        for document in self.documents:
            for piece in _pieces(document, self.size):
                yield self._part(piece.name), piece

    def _part(self, name: str) -> str:
        if self.named:
            role = self.named[_role(name) or "train"]
            held = role == "train" and "validation" not in self.named.values() and self._held(name)
            return "validation" if held else role
        if _place("text: test", 0, name) < TEST_SHARE:
            return "test"
        return "validation" if self._held(name) else "train"

    def _held(self, name: str) -> bool:
        return _place("text: validation", self.seed, name) < self.share


def _role(name: str) -> str | None:
    """The part that a file is called after, or the folder that it is in."""
    first = name.split("/")[0]
    words = [first.partition(".")[0], *first.split(".")]
    return next((role for role in map(role_of, words) if role), None)


def _place(stream: str, seed: int, name: str) -> float:
    """A fixed place between 0 and 1 of a name: adding documents moves none of the others."""
    return stream_seed(stream, seed, name.encode(errors="backslashreplace").decode()) / 2**63


def _pieces(document: Document, size: int) -> Iterator[Document]:
    """A document as it is, or cut at blank lines into pieces of at least so many characters."""
    if not size or len(document.parts) > 1:  # what asks and answers stays together
        yield document
        return
    kept: list[str] = []
    number, letters = 0, 0
    for paragraph in document.text.split("\n\n"):
        kept.append(paragraph)
        letters += len(paragraph)
        if letters >= size:
            yield Document(f"{document.name}#{number}", (("\n\n".join(kept) + "\n\n", True),))
            kept, number, letters = [], number + 1, 0
    if any(each.strip() for each in kept):
        yield Document(f"{document.name}#{number}", (("\n\n".join(kept), True),))
