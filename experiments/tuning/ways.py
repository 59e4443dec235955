"""The ways in which a trained decoder is tuned, and the sizes of the experiment."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

import blocklocal as bl
from blocklocal.adapters import add_lora
from blocklocal.adapters.transformers import build_text
from blocklocal.block.tokens import Tokens
from blocklocal.models.llama import load_llama
from experiments.decoders.ways import Size as DecoderSize

RANK = 8
LOPT = {"objective": "none", "reconstruction": 10.0, "reconstruct": "input"}


@dataclass(frozen=True)
class Size(DecoderSize):
    """As of the decoders, which are trained on the first text, and how long they are tuned on the second.

    Attributes:
        tuning: updates on the second text.
    """

    tuning: int


SIZES = {
    "full": Size(4096, 128, 128, 12, 16, 3000, 1000, tuning=600),
    "trial": Size(2048, 64, 64, 12, 16, 1000, 400, tuning=300),
    "small": Size(300, 16, 32, 4, 2, 4, 8, tuning=3),
}


@dataclass(frozen=True)
class Way:
    """How a decoder is tuned.

    Attributes:
        rule, learning: how its blocks learn.
        lr: peak learning rate of the last block, and of what the library adds to the others.
        lower: the rate of the other blocks' own weights, as a share of it.
        adapters: whether low-rank adapters learn in the place of the weights.
    """

    rule: str
    blocks: int
    lr: float
    learning: Mapping[str, Any] = field(default_factory=dict)
    lower: float = 1.0
    adapters: bool = False

    def build(self, folder: Path, size: Size, bytes_per_token: float, seed: int) -> bl.BlockLocal:
        """The decoder of a folder in blocks; where it was trained by blocks and is tuned so, with their readouts."""
        by_blocks = (folder / LOCAL).is_file()  # readouts are copies of a layer, so they fit the library's own decoder
        if by_blocks:
            model: torch.nn.Module = load_llama(folder)
        else:
            model = build_text(str(folder), vocabulary=size.vocabulary, length=size.length, pretrained=True)
        if self.adapters:
            torch.manual_seed(seed)
            add_lora(model, RANK)
        example = torch.zeros(2, size.length, dtype=torch.long)
        network = bl.BlockLocal(
            bl.split(model, self.blocks, example=example),
            tokens=Tokens(size.vocabulary, bytes_per_token=bytes_per_token),
            rule=self.rule,
            optimizer=bl.adamw(self.lr, weight_decay=0.01, clip=1.0, lower=self.lower),
            example=example,
            seed=seed,
            **self.learning,
        )
        if by_blocks and self.learning.get("twin") == "shared":
            assert not network.load_state_dict(torch.load(folder / LOCAL), strict=False).unexpected_keys
        return network

    @property
    def searched(self) -> "list[Way]":
        """The same with every rate that is compared, and of local ways every share for the lower block."""
        lowers = LOWERS if self.learning else (1.0,)
        return [replace(self, lr=lr, lower=lower) for lr in RATES for lower in lowers]


LOCAL = "local.pt"  # in a folder: what blocks have beside the decoder's own weights
SHARED = {"twin": "shared", "readout": 1, "negatives": 0.125}
WAYS = {
    "end-to-end": Way("backprop", 2, 3e-3),
    "end-to-end-fast": Way("backprop", 2, 1e-2),
    "lora": Way("backprop", 2, 1e-2, adapters=True),
    "shared-2": Way("block-local", 2, 1e-2, SHARED, lower=0.03),
    "shared-lora-2": Way("block-local", 2, 1e-2, SHARED, adapters=True),
    "reconstruction-2": Way("block-local", 2, 1e-2, LOPT, lower=0.03),
    "frozen-2": Way("frozen", 2, 1e-2),
}
STARTS: dict[str, dict[str, Way]] = {  # how the decoder was trained on the first text → ways that differ then
    "backprop": {},
    "shared-2": {"shared-2": replace(WAYS["shared-2"], lower=0.3)},
}
RATES, LOWERS = (3e-4, 1e-3, 3e-3, 1e-2), (1.0, 0.3, 0.1, 0.03, 0.01)  # what `--search` compares
