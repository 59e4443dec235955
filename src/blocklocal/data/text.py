"""Text for a character-level language model: a folder of documents, split by document into three parts.

The default is the Python documentation as Debian packages it: its sources are plain text (reStructuredText).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import stream_seed

SUFFIXES = (".txt", ".rst", ".md")
INSTALLED = Path("/usr/share/doc")
PACKAGED = "python3*/html/_sources"
SPLITS = ("train", "validation", "test")
HELD_OUT = 0.1  # share of the documents in each of validation and test
UNKNOWN = 0  # the symbol of characters outside the vocabulary, and of the end of a document
LAST_CODE_POINT = 0x10FFFF
REMEDY = "install a Debian package that carries plenty (`apt install python3-doc`), or give --text FOLDER."


@dataclass(frozen=True)
class Corpus:
    """A text in three parts that share no document.

    Attributes:
        parts: "train", "validation" and "test" → int64 [L], characters as their place in `vocabulary` plus one;
            `UNKNOWN` (0) for rare ones and at the end of every document.
        documents: their names, per part.
    """

    folder: Path
    vocabulary: str
    parts: dict[str, Tensor] = field(repr=False)
    documents: dict[str, list[str]] = field(repr=False)

    @property
    def symbols(self) -> int:
        """Number of different tokens: the vocabulary and the unknown symbol."""
        return len(self.vocabulary) + 1

    def facts(self) -> dict[str, object]:
        """What a result says of its data (JSON-able)."""
        return {
            "folder": str(self.folder),
            "symbols": self.symbols,
            "documents": {split: len(names) for split, names in self.documents.items()},
            "characters": {split: len(text) for split, text in self.parts.items()},
        }


def load_text(folder: Path | None = None, *, least: int = 0, rare: int = 1, seed: int = 0) -> Corpus:
    """Read every .txt, .rst and .md file below a folder and split them. Bytes that are no UTF-8 are unknown.

    Args:
        folder: default: the installed Python documentation.
        least: fewest characters there must be.
        rare: characters that the training documents hold less often are unknown.
        seed: of the split; a document's part depends on this seed and its name alone.

    Raises:
        InputError: there is nothing, too little, or a part without a document.
    """
    folder = _installed() if folder is None else Path(folder)
    texts = {path.relative_to(folder).as_posix(): path for path in find_documents(folder)}
    read = {name: path.read_text(encoding="utf-8", errors="replace") for name, path in texts.items()}
    characters = sum(map(len, read.values()))
    if characters < max(least, 1):
        raise InputError(
            f"{folder} holds {characters:,} characters in {len(read)} documents ({', '.join(SUFFIXES)}), "
            f"fewer than the {max(least, 1):,} that this needs: {REMEDY}"
        )
    documents = _split(read, seed, folder)
    vocabulary = _vocabulary([read[name] for name in documents["train"]], rare)
    parts = {split: encode([read[name] for name in names], vocabulary) for split, names in documents.items()}
    return Corpus(folder, vocabulary, parts, documents)


def find_documents(folder: Path) -> list[Path]:
    """Every .txt, .rst and .md file in the folder and below, in order of its name.

    Raises:
        InputError: there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: {REMEDY}")
    return sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())


def encode(texts: Sequence[str], vocabulary: str) -> Tensor:
    """Documents one after the other, int64 [L]; `UNKNOWN` for other characters and after every document."""
    places = np.full(LAST_CODE_POINT + 1, UNKNOWN, dtype=np.int64)
    places[_code_points(vocabulary)] = np.arange(1, len(vocabulary) + 1)
    end = np.array([UNKNOWN], dtype=np.int64)
    return torch.from_numpy(np.concatenate([part for text in texts for part in (places[_code_points(text)], end)]))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)


def _installed() -> Path:
    """The largest documentation there is: several packages may be links to one folder."""
    folders = {path.resolve() for path in INSTALLED.glob(PACKAGED) if path.is_dir()}
    if not folders:
        raise InputError(f"no text was found at {INSTALLED / PACKAGED}: {REMEDY}")
    return max(sorted(folders), key=lambda folder: len(find_documents(folder)))


def _split(names: Sequence[str] | dict[str, str], seed: int, folder: Path) -> dict[str, list[str]]:
    documents: dict[str, list[str]] = {split: [] for split in SPLITS}
    for name in names:
        documents[_part(name, seed)].append(name)
    for split, found in documents.items():
        if not found:
            raise InputError(
                f"{folder} holds {len(names)} documents, too few to split them by document: the {split} part would "
                f"hold none. Divide the text into more files; or {REMEDY}"
            )
    return documents


def _part(name: str, seed: int) -> str:
    """A document's part, by a hash of its name: adding documents moves none of the others."""
    share = stream_seed("text split", seed, name) / 2**63
    return "test" if share < HELD_OUT else "validation" if share < 2 * HELD_OUT else "train"


def _vocabulary(texts: Sequence[str], rare: int) -> str:
    """The characters that occur at least `rare` times, in order of their code point."""
    found, counts = np.unique(np.concatenate([_code_points(text) for text in texts]), return_counts=True)
    return "".join(map(chr, found[counts >= rare]))
