"""Rules on a residual stream: every way in which Figure 3 places a local loss, and a transformer that learns by one.

What crosses a cut of a pre-norm transformer is the residual stream. A local loss that reads it as natural parameters
may move it at will; whatever it overwrites is lost to all later blocks, and so is what it drowns.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.seeds import seeded
from blocklocal.models.transformer import Transformer
from blocklocal.network.network import BlockLocal
from blocklocal.splitting import split

_PAPER = {"objective": "variational", "family": "bernoulli", "readout": 0}  # Eq. 7 on the paper's units
WAYS: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "frozen": {"rule": "frozen"},
    "evidence": {"objective": "evidence", "family": "gaussian", "normalise": "units", "readout": 0},
    "evidence-readout": {"objective": "evidence", "family": "gaussian", "normalise": "units", "readout": 2},
    "stream": _PAPER,
    "units": {**_PAPER, "normalise": "units"},
    "batch": {**_PAPER, "normalise": "batch"},
    "gaussian": {**_PAPER, "family": "gaussian", "normalise": "units"},
    "readout": {**_PAPER, "readout": 1},
    "printed": {**_PAPER, "objective": "printed-eq8", "normalise": "batch", "tau": 0.5},
}
LABELS = {
    "backprop": "backprop",
    "frozen": "frozen control",
    "evidence": "evidence",
    "evidence-readout": "evidence, readout",
    "stream": "variational, straight off the stream",
    "units": "variational, stream normalised over units",
    "batch": "variational, stream normalised over the batch",
    "gaussian": "variational, Gaussian units",
    "readout": "variational, readout ending in a LayerNorm",
    "printed": "printed Eq. 8 (τ = 0.5), stream normalised over the batch",
}


def build(
    learning: Mapping[str, Any], shape: Mapping[str, Any], *, positions: int, seed: int, device: torch.device
) -> BlockLocal:
    """A transformer, one layer per block, its weights drawn from the seed.

    learning: one of `WAYS`, settings of `Learning`. shape: the arguments of `Transformer`. On CUDA the
    blocks run in bfloat16 (autocast), elsewhere in float32.
    """
    with seeded("model", seed):
        model = Transformer(**shape)
    blocks, example = split(model, shape["blocks"]), torch.zeros(2, positions, dtype=torch.int64)
    network = BlockLocal(blocks, classes=shape["vocabulary"], seed=seed, example=example, **learning).to(device)
    network.autocast(torch.bfloat16 if device.type == "cuda" else None)
    return network


@torch.no_grad()
def stream_content(network: BlockLocal, x: Tensor) -> list[float] | None:
    """What arrives at the last block for tokens x [B, T]: its size (root mean square) and the tokens' share.

    The share is the variance over sequences over the mean square, at every position: what is the same for every
    sequence says nothing of its tokens. None for one block.
    """
    if len(network.split.blocks) == 1:
        return None
    a: Tensor = x
    for block in network.split.blocks[:-1]:
        a = block(a)
    power = a.float().square().mean()
    return [power.sqrt().item(), (a.float().var(0, correction=0).mean() / power).item()]
