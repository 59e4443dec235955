"""Transformer with pre-normalised residual layers (Vaswani et al. 2017, 1706.03762; Xiong et al. 2020, 2002.04745).

Every layer adds its two branches, attention and a dense network, to the residual stream that it was given and reads
that stream through a LayerNorm. So what crosses a cut between layers is the stream itself: the next layer reads its
normalised value, and everything after it still needs what the stream carries.

Shapes: B sequences, T positions, D width, H heads, V vocabulary.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.models.base import check_choice

LONGEST_WAVE = 10_000  # of the sinusoids that positions start as, over 2π (Vaswani et al. 2017, §3.5)
POSITIONS = ("random", "sinusoids")
EXPANSION = 4  # hidden units of the dense branch per unit of the stream


class Embedding(nn.Module):
    """Tokens int64 [B, T] → [B, T, D]: a learned vector per token plus a learned vector per position.

    Tokens start at random with variance 1.

    Args:
        positions: "random" starts as tokens do; with "sinusoids" attention to a place at some distance is one linear
            map for all positions, and is learned much sooner.
    """

    def __init__(self, vocabulary: int, length: int, width: int, positions: str = "random"):
        super().__init__()
        self.token, self.position = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        if positions == "sinusoids":
            with torch.no_grad():
                self.position.weight.copy_(sinusoids(length, width))

    def forward(self, x_BT: Tensor) -> Tensor:
        positions, longest = x_BT.shape[-1], self.position.num_embeddings
        if positions > longest:
            raise InputError(
                f"sequences of {positions} tokens, but the transformer was built for at most {longest}: "
                f"cut them shorter, or build it with length={positions}."
            )
        return self.token(x_BT) + self.position.weight[:positions]


def sinusoids(length: int, width: int) -> Tensor:
    """[length, width]: sines in even columns, cosines in odd ones, wavelengths from 2π to 2π · `LONGEST_WAVE`."""
    rates = LONGEST_WAVE ** (-torch.arange(0, width, 2) / width)
    angles = torch.arange(length).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :width]


class Attention(nn.Module):
    """Self-attention with `heads` heads: [B, T, D] → [B, T, D].

    Args:
        causal: a position sees itself and those before it.
    """

    def __init__(self, width: int, heads: int, causal: bool, dropout: float):
        super().__init__()
        self.heads, self.causal, self.dropout = heads, causal, dropout
        self.inputs, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, h_BTD: Tensor) -> Tensor:
        q, k, v = self.inputs(h_BTD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # [B, H, T, D/H] each
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=self.causal)
        return self.output(mixed.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """a + attention(norm(a)), then + dense(norm(·)): [B, T, D] → [B, T, D]."""

    def __init__(self, width: int, heads: int, causal: bool, dropout: float):
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads, causal, dropout)
        self.norm2, self.dense = nn.LayerNorm(width), _dense(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, a_BTD: Tensor) -> Tensor:
        a_BTD = a_BTD + self.drop(self.attention(self.norm1(a_BTD)))
        return a_BTD + self.drop(self.dense(self.norm2(a_BTD)))


def _dense(width: int) -> nn.Sequential:
    hidden = EXPANSION * width
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Transformer(nn.Module):
    """Tokens int64 [B, T ≤ length] → logits [B, T, classes].

    Its pieces are `layer1` (with the embedding), `layer2`, … and the last one with the head (LayerNorm, linear).

    Args:
        vocabulary: number of different tokens.
        heads: the paper uses one.
        causal: a position sees itself and those before it.
        positions: what their learned vectors start as, "random" or "sinusoids".
        classes: number of logits, by default one per token.

    Raises:
        InputError: a size or the dropout cannot be used, or `positions` is unknown.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 64,
        blocks: int = 5,
        heads: int = 1,
        causal: bool = False,
        positions: str = "random",
        dropout: float = 0.0,
        classes: int | None = None,
    ):
        super().__init__()
        _check(vocabulary=vocabulary, length=length, width=width, blocks=blocks, heads=heads)
        if width % heads:
            raise InputError(f"width {width} cannot be shared by {heads} heads: give a width that is a multiple of it.")
        check_choice("positions", positions, POSITIONS)
        if not 0 <= dropout < 1:
            raise InputError(f"dropout must be at least 0 and below 1, not {dropout}.")
        self.embedding = Embedding(vocabulary, length, width, positions)
        self.layers = nn.ModuleList(Layer(width, heads, causal, dropout) for _ in range(blocks))
        head = OrderedDict[str, nn.Module](norm=nn.LayerNorm(width), linear=nn.Linear(width, classes or vocabulary))
        self.head = nn.Sequential(head)

    def units(self) -> list[tuple[str, nn.Module]]:
        """The layers; the first also holds the embedding and the last the head."""
        parts = [OrderedDict[str, nn.Module](layer=layer) for layer in self.layers]
        parts[0] = OrderedDict([("embedding", self.embedding), *parts[0].items()])
        parts[-1]["head"] = self.head
        return [(f"layer{k + 1}", nn.Sequential(part)) for k, part in enumerate(parts)]

    def forward(self, x_BT: Tensor) -> Tensor:
        a = self.embedding(x_BT)
        for layer in self.layers:
            a = layer(a)
        return self.head(a)


def _check(**sizes: int) -> None:
    for name, size in sizes.items():
        check_range(name, size, FROM_ONE)
