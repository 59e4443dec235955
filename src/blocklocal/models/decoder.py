"""A decoder of the Llama type: a causal language model with the parts that such models have today.

RMSNorm before every branch (Zhang & Sennrich 2019, 1910.07467), rotary positions (Su et al. 2021, 2104.09864), SwiGLU
(Shazeer 2020, 2002.05202) and attention with fewer heads of keys and values than of queries (Ainslie et al. 2023,
2305.13245). Its weights have the names of transformers' `LlamaForCausalLM`, so that folders go both ways.

What crosses a cut is the residual stream; the next layer reads its normalised value.

Shapes: B sequences, T positions, D width, H heads, G heads of keys and values, C = D / H, V vocabulary.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal.models.base import MODELS, RANKS, TEXT, Shape

START = 0.02  # standard deviation of initial weights
EPS = 1e-6  # of RMSNorm
THETA = 10_000.0  # the longest wavelength of the rotary positions, over 2π


def rotated(x_BHTC: Tensor, theta: float) -> Tensor:
    """Rotary positions: the pairs (i, i + C/2) turn by t · θ^(−2i/C) at position t."""
    length, size = x_BHTC.shape[-2:]
    rates = theta ** (-torch.arange(0, size, 2, device=x_BHTC.device, dtype=torch.float32) / size)
    angles = torch.arange(length, device=x_BHTC.device, dtype=torch.float32).unsqueeze(1) * rates  # [T, C/2]
    cos, sin = angles.cos().to(x_BHTC.dtype), angles.sin().to(x_BHTC.dtype)
    first, second = x_BHTC.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Attention(nn.Module):
    """Causal self-attention, [B, T, D] → [B, T, D]: each group of heads shares its keys and values."""

    def __init__(self, width: int, heads: int, kv_heads: int, theta: float):
        super().__init__()
        self.heads, self.kv_heads, self.theta = heads, kv_heads, theta
        narrow = width // heads * kv_heads
        self.q_proj, self.k_proj = nn.Linear(width, width, bias=False), nn.Linear(width, narrow, bias=False)
        self.v_proj, self.o_proj = nn.Linear(width, narrow, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, h_BTD: Tensor) -> Tensor:
        q = self.q_proj(h_BTD).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, C]
        k, v = (
            each(h_BTD).unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for each in (self.k_proj, self.v_proj)
        )  # [B, G, T, C]
        q, k = rotated(q, self.theta), rotated(k, self.theta)
        if self.kv_heads < self.heads:
            k, v = (each.repeat_interleave(self.heads // self.kv_heads, 1) for each in (k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).flatten(2))


class SwiGLU(nn.Module):
    """down(silu(gate(h)) · up(h)): [B, T, D] → [B, T, D]."""

    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, h_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(h_BTD)) * self.up_proj(h_BTD))


class Layer(nn.Module):
    """a + attention(norm(a)), then + SwiGLU(norm(·)): [B, T, D] → [B, T, D]."""

    def __init__(self, width: int, hidden: int, heads: int, kv_heads: int, theta: float):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(width, EPS)
        self.self_attn = Attention(width, heads, kv_heads, theta)
        self.post_attention_layernorm = nn.RMSNorm(width, EPS)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, a_BTD: Tensor) -> Tensor:
        a_BTD = a_BTD + self.self_attn(self.input_layernorm(a_BTD))
        return a_BTD + self.mlp(self.post_attention_layernorm(a_BTD))


class Decoder(nn.Module):
    """Tokens int64 [B, T ≤ length] → logits of the next token, [B, T, V].

    Its pieces are `layer1` (with the embedding), `layer2`, … and the last one with the head (RMSNorm, linear).

    Args:
        vocabulary: number of different tokens V.
        length: the most positions T.
        width: D, a multiple of `heads` with an even quotient.
        layers: how many.
        heads: of the queries; default: one per 64 units, at least 1.
        kv_heads: of keys and values, a divisor of `heads`; default: as many.
        hidden: units of the SwiGLU; default: 8/3 of the width, up to the next multiple of 32.
        tied: the embedding is the head's table too. Both are then in one block, so the network cannot be cut.
        theta: base of the rotary positions.

    Raises:
        InputError: sizes do not fit each other.
    """

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int = 128,
        layers: int = 12,
        heads: int | None = None,
        kv_heads: int | None = None,
        hidden: int | None = None,
        tied: bool = False,
        theta: float = THETA,
    ):
        super().__init__()
        heads = max(1, width // 64) if heads is None else heads
        kv_heads = heads if kv_heads is None else kv_heads
        hidden = -(-8 * width // 96) * 32 if hidden is None else hidden
        _check(width, heads, kv_heads, vocabulary=vocabulary, length=length, layers=layers, hidden=hidden)
        self.length, self.tied = length, tied
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(Layer(width, hidden, heads, kv_heads, theta) for _ in range(layers))
        self.norm, self.lm_head = nn.RMSNorm(width, EPS), nn.Linear(width, vocabulary, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Linear | nn.Embedding):
                nn.init.normal_(part.weight, std=START)
        nn.init.normal_(self.lm_head.weight, std=width**-0.5)  # so that the first logits are of order one
        if tied:
            self.lm_head.weight = self.embed_tokens.weight

    def units(self) -> list[tuple[str, nn.Module]]:
        """The layers; the first also holds the embedding and the last the head."""
        parts = [OrderedDict[str, nn.Module](layer=layer) for layer in self.layers]
        parts[0] = OrderedDict([("embed_tokens", self.embed_tokens), *parts[0].items()])
        parts[-1]["head"] = nn.Sequential(OrderedDict[str, nn.Module](norm=self.norm, lm_head=self.lm_head))
        return [(f"layer{k + 1}", nn.Sequential(part)) for k, part in enumerate(parts)]

    def forward(self, x_BT: Tensor) -> Tensor:
        if x_BT.shape[-1] > self.length:
            raise InputError(
                f"sequences of {x_BT.shape[-1]} tokens, but the decoder was built for at most {self.length}: cut them "
                f"shorter, or build it with length={x_BT.shape[-1]}."
            )
        a = self.embed_tokens(x_BT)
        for layer in self.layers:
            a = layer(a)
        return self.lm_head(self.norm(a))


def _check(width: int, heads: int, kv_heads: int, **sizes: int) -> None:
    for name, size in {"width": width, "heads": heads, "kv_heads": kv_heads, **sizes}.items():
        check_range(name, size, FROM_ONE)
    if width % (2 * heads):
        raise InputError(
            f"width {width} gives {heads} heads {width / heads:g} units each, and rotary positions need an even whole "
            "number: give another width or number of heads."
        )
    if heads % kv_heads:
        raise InputError(f"{heads} heads cannot share {kv_heads} heads of keys and values: give a divisor of {heads}.")


def build_decoder(
    classes: int,
    input_shape: Shape,
    width: int = 128,
    layers: int = 12,
    heads: int | None = None,
    kv_heads: int | None = None,
    hidden: int | None = None,
    tied: bool = False,
    theta: float = THETA,
) -> Decoder:
    """The decoder for windows of a text, [T], with a class for every token of the vocabulary."""
    return Decoder(
        classes,
        input_shape[0],
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        hidden=hidden,
        tied=tied,
        theta=theta,
    )


MODELS.add("decoder", build_decoder)
RANKS["decoder"] = (TEXT,)
