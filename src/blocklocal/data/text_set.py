"""`load_text_set`: a folder or file of text in; parts that share no document, as numbers of tokens, out."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

import numpy as np

from blocklocal._common.errors import InputError
from blocklocal._common.extras import check_extras, needs
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.data.cache import default_cache_dir
from blocklocal.data.documents import Documents
from blocklocal.data.hub import is_plain, looks_like_hub_name
from blocklocal.data.hub_text import HubDocuments
from blocklocal.data.names import many
from blocklocal.data.parting import TEST_SHARE, Parted, Texts
from blocklocal.data.roles import ROLES
from blocklocal.data.splits import check_sizes
from blocklocal.data.token_store import PartFacts, Store, Writing, key, opened, stored
from blocklocal.data.tokenizer import Tokenizer

VOCABULARY = 4096
LENGTH = 128  # tokens of a window
_BATCH = 256  # documents encoded at a time


@dataclass(frozen=True, eq=False)
class TextPart:
    """One part of a text, in windows without overlap: one behind the other, or fewer, spread evenly over it.

    Attributes:
        tokens: numbers of tokens [L], which may lie on disk.
        asked: 1 for a token that the network is asked for, 0 for one that it only reads, uint8 [L]; None: all are.
        facts: what they are made of.
        length: positions of a window, T.
        windows: at most so many of them; None for all.
    """

    tokens: np.ndarray = field(repr=False)
    facts: PartFacts
    length: int
    windows: int | None = None
    asked: np.ndarray | None = field(default=None, repr=False)

    @property
    def stride(self) -> int:
        """Tokens from the beginning of a window to that of the next."""
        return self.length if self.windows is None else max(self.length, (len(self.tokens) - 1) // max(1, len(self)))

    def subset(self, part: slice) -> TextPart:
        """So many windows of it as the slice ends at, spread over the same text."""
        assert not part.start
        assert part.step is None
        return replace(self, windows=min(len(self), len(self) if part.stop is None else part.stop))

    def __len__(self) -> int:
        """Windows."""
        there = max(0, len(self.tokens) - 1) // self.length
        return there if self.windows is None else min(there, self.windows)


@dataclass(frozen=True, eq=False)
class TextSet:
    """A whole text, parted and ready to train on.

    Attributes:
        length: positions of a window.
        account: one line per part, then what was made of the text.
    """

    name: str
    train: TextPart
    validation: TextPart
    test: TextPart
    tokenizer: Tokenizer
    length: int
    account: tuple[str, ...] = ()
    skipped: int = 0

    @property
    def classes(self) -> tuple[str, ...]:
        """What is asked for: one thing, whatever the vocabulary."""
        return ("next token",)

    @property
    def bytes_per_token(self) -> float:
        """In the mean over all parts, so that bits per byte compare texts and tokenizers."""
        parts = [each.facts for each in (self.train, self.validation, self.test)]
        return sum(part.bytes for part in parts) / max(1, sum(part.tokens for part in parts))

    def fingerprint(self) -> dict[str, str]:
        """Part → a digest (blake2b, hex) of its tokens."""
        return {role: _digest(getattr(self, role), self.tokenizer) for role in ROLES}


def _digest(text: TextPart, tokenizer: Tokenizer) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{text.length} {text.windows} {tokenizer.to_text()}".encode())
    for start in range(0, len(text.tokens), 2**22):
        for each in (text.tokens, text.asked):
            if each is not None:
                digest.update(np.ascontiguousarray(each[start : start + 2**22]).data)
    return digest.hexdigest()


@needs("text")
def load_text_set(
    data: str | Path,
    *,
    field: str = "",
    tokenizer: str | Path | Tokenizer = "",
    vocabulary: int = VOCABULARY,
    length: int = LENGTH,
    train_size: int | None = None,
    validation: int | float = 0.1,
    test_size: int | None = None,
    split_seed: int = 0,
    skip_bad: bool = False,
    known: Tokenizer | None = None,
    cache_dir: Path | None = None,
) -> TextSet:
    """Load a text as tokens. Parts share no document; the tokenizer is trained on the training part.

    A tenth of the documents is the test part, told by a hash of their names, whatever the seed. Where folders or files
    are called train, validation and test, these are the parts; train and one of the others are enough. Of fewer than 60
    documents each is first cut at blank lines, into a hundred pieces in all, which count as documents then.

    Args:
        data: a folder of .txt, .md, .rst, .jsonl and .parquet files, or one of them; else a name on the Hugging Face
            hub, owner/name or owner/name:configuration, every row of which is a document.
        field: of .jsonl, .parquet and a set on the hub, what holds the text; default "text".
        tokenizer: a tokenizer, its tokenizer.json (or the folder of that), or "bytes"; default: byte-level BPE,
            trained.
        vocabulary: tokens of a trained one, at most.
        length: tokens of a window.
        train_size, test_size: windows to use, at most; None for all.
        validation: a share of the documents that the test part leaves; or a count of windows, out of a tenth of them.
        skip_bad: leave out files that are no UTF-8 text, instead of stopping.
        known: what training a tokenizer on this text gave before. None is trained, though the text may have changed.
        cache_dir: where tokens are kept (`cache.default_cache_dir`).

    Raises:
        InputError: something in the text or the arguments cannot be used.
    """
    check_sizes(train_size, test_size, validation)
    check_range("length", length, FROM_ONE)
    path = Path(os.path.expanduser(data))
    documents, chosen = _documents(path, str(data), field, skip_bad), _given(tokenizer)
    share = validation if isinstance(validation, float) else TEST_SHARE if validation else 0.0
    read = documents.identity()

    def folder(chosen: Tokenizer | None) -> Path:
        made_of = [read, documents.field, skip_bad, share, split_seed, chosen and chosen.to_text(), vocabulary]
        return (cache_dir or default_cache_dir()) / f"text-{key(*made_of)}"

    if chosen is None and known is not None:
        kept = opened(folder(None))
        chosen = known if kept is None or kept.tokenizer.to_text() != known.to_text() else None
    store = stored(folder(chosen), lambda draft: _make(documents, draft, chosen, vocabulary, share, split_seed))
    sizes = {"train": train_size, "test": test_size, "validation": validation if isinstance(validation, int) else None}
    parts = {
        role: TextPart(store.tokens(role), store.parts[role], length, sizes[role], store.asked(role)) for role in ROLES
    }
    _check_long_enough(parts, sizes, path, share)
    lines = [_line(role, part, path) for role, part in parts.items()]
    return TextSet(
        path.resolve().name or "text",
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        tokenizer=store.tokenizer,
        length=length,
        account=(*lines, *store.notes),
    )


def _documents(path: Path, name: str, field: str, skip_bad: bool) -> Texts:
    """The documents of a file, a folder, or a set on the hub."""
    if path.exists():
        return Documents(path, field, skip_bad=skip_bad)
    if is_plain(name) or not looks_like_hub_name(name):
        raise InputError(
            f"there is no file or folder {path}: give a text, or the name of a set on the hub, owner/name."
        )
    check_extras("data")
    return HubDocuments(name, field)


def _given(tokenizer: str | Path | Tokenizer) -> Tokenizer | None:
    """The tokenizer that is asked for; None for one that is to be trained."""
    if isinstance(tokenizer, Tokenizer):
        return tokenizer
    if not tokenizer:
        return None
    if str(tokenizer) == "bytes":
        return Tokenizer.of_bytes()
    return Tokenizer.from_file(Path(os.path.expanduser(tokenizer)))


def _make(
    documents: Texts,
    folder: Path,
    chosen: Tokenizer | None,
    vocabulary: int,
    share: float,
    seed: int,
) -> Store:
    """Part the documents, train the tokenizer where none is given, and write the tokens of every part."""
    parted = Parted(documents, share, seed)
    if chosen is None:
        chosen = Tokenizer.trained((each.text for role, each in parted if role == "train"), vocabulary)
        said = f"byte-level BPE of {chosen.size:,} tokens, trained on the training part"
    else:
        said = f"the tokenizer that was given, of {chosen.size:,} tokens"
    parts = _write(parted, folder, chosen)
    ends = "" if chosen.end is not None else "; it has no token for the end of a document, so none stands there"
    notes = (f"{said}{ends}", *parted.notes, *documents.left.notes())
    return Store(folder, parts, chosen, notes)


def _write(parted: Parted, folder: Path, tokenizer: Tokenizer) -> dict[str, PartFacts]:
    facts = {role: PartFacts() for role in ROLES}
    with Writing(folder, tokenizer) as writing:
        coming = iter(parted)
        while some := list(islice(coming, _BATCH)):
            texts = [text for _, document in some for text, _ in document.parts]
            numbers = iter(tokenizer.encode(texts))
            for role, document in some:
                written = sum(writing.add(role, next(numbers), asked=asked) for _, asked in document.parts)
                written += writing.end(role)
                was = facts[role]
                size = len(document.text.encode())
                facts[role] = PartFacts(was.documents + 1, was.bytes + size, was.tokens + written)
    return facts


def _check_long_enough(parts: dict[str, TextPart], sizes: dict[str, int | None], path: Path, share: float) -> None:
    for role, part in parts.items():
        if role == "validation" and not share:
            continue
        if not len(part):
            raise InputError(
                f"the {role} part of {path} has {part.facts.tokens:,} tokens in "
                f"{many(part.facts.documents, 'document', 'documents')}, not one window of {part.length} and the "
                "token behind it: give more text, or shorter windows (--length)."
            )
        wanted = sizes[role]
        there = (len(part.tokens) - 1) // part.length
        if wanted is not None and wanted > there:
            raise InputError(f"{wanted:,} windows are asked for as the {role} part of {path}, which has {there:,}.")


def _line(role: str, part: TextPart, path: Path) -> str:
    if not len(part):
        return f"{role}: none"
    facts = part.facts
    return (
        f"{role}: {many(facts.documents, 'document', 'documents')} of {path.name}, {facts.bytes:,} bytes, "
        f"{facts.tokens:,} tokens; {many(len(part), 'window', 'windows')} of {part.length}"
    )
