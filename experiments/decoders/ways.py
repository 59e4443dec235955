"""The ways in which the decoder is trained, and its sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

import blocklocal as bl
from blocklocal.block.tokens import Tokens
from blocklocal.models.decoder import START, Decoder

BLOCKS = (2, 3, 4, 6)


@dataclass(frozen=True)
class Size:
    """A decoder, its windows, and how long it is trained.

    Attributes:
        vocabulary, length, width, layers: of the decoder.
        batch: windows of a step.
        steps: updates.
        held: windows of the validation and of the test part.
    """

    vocabulary: int
    length: int
    width: int
    layers: int
    batch: int
    steps: int
    held: int


SIZES = {
    "full": Size(4096, 128, 128, 12, 16, 3000, 1000),
    "trial": Size(2048, 64, 64, 12, 16, 1000, 400),
    "small": Size(300, 16, 16, 4, 2, 4, 8),
}


@dataclass(frozen=True)
class Way:
    """How the decoder is trained: a rule, in how many blocks, with which settings.

    Attributes:
        embedding: deviation of the embedding's first weights.
        tried: settings that `--search` compares, each beside these.
    """

    rule: str = "block-local"
    blocks: int = 1
    learning: Mapping[str, Any] = field(default_factory=dict)
    lr: float = 3e-3
    embedding: float = 0.02
    tried: tuple[Mapping[str, Any], ...] = ()

    def build(self, size: Size, bytes_per_token: float, seed: int, **changes: Any) -> bl.BlockLocal:
        """The network, with the same first weights whatever the way, but for the scale of the embedding."""
        torch.manual_seed(seed)
        model = Decoder(size.vocabulary, size.length, width=size.width, layers=size.layers)
        given = {**self.learning, **changes}
        with torch.no_grad():
            model.embed_tokens.weight *= given.pop("embedding", self.embedding) / START
        optimizer = bl.adamw(given.pop("lr", self.lr), weight_decay=0.1, clip=1.0)
        example = torch.zeros(2, size.length, dtype=torch.long)
        return bl.BlockLocal(
            bl.split(model, self.blocks),
            tokens=Tokens(size.vocabulary, bytes_per_token=bytes_per_token),
            rule=self.rule,
            optimizer=optimizer,
            example=example,
            seed=seed,
            **given,
        )


LOCAL = {"readout": 1, "negatives": 0.125}
RATES = tuple({"lr": lr} for lr in (3e-3, 1e-2))
STARTS = tuple({"embedding": deviation} for deviation in (0.02, 0.2))


def _ways() -> dict[str, Way]:
    found = {"backprop": Way("backprop", lr=6e-3, embedding=0.2, tried=(*RATES, *STARTS))}
    for blocks in BLOCKS:
        found[f"frozen-{blocks}"] = Way("frozen", blocks, lr=1e-2, embedding=0.2, tried=(*RATES, *STARTS))
        private, greedy = {**LOCAL, "twin": "dense"}, {"readout": 1}
        found[f"private-{blocks}"] = Way("block-local", blocks, private, 6e-3, 0.06, tried=(*RATES, *STARTS))
        found[f"greedy-{blocks}"] = Way("greedy", blocks, greedy, 6e-3, 0.06, tried=(*RATES, *STARTS))
        found[f"shared-{blocks}"] = Way(
            "block-local",
            blocks,
            {**LOCAL, "twin": "shared"},
            lr=6e-3,
            embedding=0.06,
            tried=(
                *RATES,
                *STARTS,
                {"negatives": 1.0},
                {"negatives": 0.03},
                {"readout": 0},
                {"readout": 2},
                {"readout": 2, "negatives": 1.0},
                {"message_delay": 10},
                {"message_delay": 50},
                {"scope": "neighbour"},
                {"reconstruction": 0.1, "reconstruct": "input"},
            ),
        )
    for steps in (10, 50):  # between two copies of the table
        late = found["shared-4"]
        found[f"shared-4-late{steps}"] = replace(late, learning={**late.learning, "message_delay": steps}, tried=())
    return found


WAYS = _ways()
