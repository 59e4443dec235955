"""Tokenizers: byte-level BPE, trained on a text or given as a file, or plain bytes; by the library `tokenizers`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blocklocal._common.errors import InputError, first_line
from blocklocal._common.extras import needs
from blocklocal._common.files import read_bytes
from blocklocal._common.ranges import VOCABULARY, check_range

if TYPE_CHECKING:
    import tokenizers

END = "<|endoftext|>"  # stands behind every document
_ENDS = (END, "</s>", "<eos>", "<|end_of_text|>", "<end>", "[SEP]")  # what known tokenizers call it


class Tokenizer:
    """Text ↔ numbers of tokens.

    Attributes:
        size: how many tokens there are.
        end: the number of the token behind every document; None where the tokenizer has none.
    """

    def __init__(self, inner: tokenizers.Tokenizer):
        inner.no_truncation()  # files of models for sentences cut and pad texts, which would lose or add tokens unseen
        inner.no_padding()
        self.inner = inner
        self.size = inner.get_vocab_size(with_added_tokens=True)
        known = inner.get_vocab(with_added_tokens=True)
        self.size = max([self.size, *(number + 1 for number in known.values())])
        self.end: int | None = next((known[name] for name in _ENDS if name in known), None)

    @classmethod
    @needs("text")
    def trained(cls, texts: Iterable[str], size: int) -> Tokenizer:
        """Byte-level BPE of at most `size` tokens, the 256 bytes and the end of a document among them.

        Raises:
            InputError: the size cannot be.
        """
        from tokenizers import models, trainers

        check_range("vocabulary", size, VOCABULARY)
        inner = _byte_level(models.BPE())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=[END], initial_alphabet=_alphabet(), show_progress=False
        )
        inner.train_from_iterator(texts, trainer)
        return cls(inner)

    @classmethod
    @needs("text")
    def of_bytes(cls) -> Tokenizer:
        """A token for every byte, and the end of a document."""
        from tokenizers import models

        words = {END: 0, **{letter: number for number, letter in enumerate(sorted(_alphabet()), start=1)}}
        inner = _byte_level(models.BPE(vocab=words, merges=[]))
        inner.add_special_tokens([END])
        return cls(inner)

    @classmethod
    @needs("text")
    def from_file(cls, path: Path) -> Tokenizer:
        """A tokenizer.json, or the one in a folder.

        Raises:
            InputError: it is missing, or no such file.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        return cls.from_text(read_bytes(file, what="a tokenizer.json, as the library tokenizers writes it"), file)

    @classmethod
    def from_text(cls, content: bytes | str, where: object) -> Tokenizer:
        """What `to_text` gave.

        Raises:
            InputError: it is something else.
        """
        import tokenizers

        try:
            text = content.decode() if isinstance(content, bytes) else content
            json.loads(text)
            found = cls(tokenizers.Tokenizer.from_str(text))
        except Exception as error:  # the library raises a plain Exception
            raise InputError(
                f"{where} is no tokenizer.json of the library tokenizers ({first_line(error)}): give one that "
                "`Tokenizer.save` wrote, or leave --tokenizer out, and one is trained."
            ) from error
        if found.size > VOCABULARY.high:
            raise InputError(
                f"{where} numbers its tokens up to {found.size - 1:,}, and a network has an output for every number up "
                f"to the highest: expected at most {VOCABULARY.high:,.0f} of them."
            )
        return found

    def to_text(self) -> str:
        return self.inner.to_str()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """uint32 [L] of each text.

        Raises:
            InputError: the tokenizer has no tokens for a text.
        """
        try:
            found = self.inner.encode_batch_fast(list(texts), add_special_tokens=False)
        except Exception as error:  # the library raises a plain Exception, and a TypeError for half of a character
            raise InputError(
                f"the tokenizer cannot encode a text ({first_line(error)}): give text in whole characters, and a "
                "tokenizer that knows all of them, such as bytes."
            ) from error
        return [np.asarray(each.ids, dtype=np.uint32) for each in found]

    def decode(self, numbers: Sequence[int]) -> str:
        return self.inner.decode(list(numbers), skip_special_tokens=True)


def _alphabet() -> list[str]:
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel.alphabet()


def _byte_level(model: tokenizers.models.Model) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, pre_tokenizers

    inner = Inner(model)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    inner.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return inner
