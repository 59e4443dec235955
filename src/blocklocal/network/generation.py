"""Text from a network of tokens: one token after the other, from the output, from a block, or from the first sure one.

Every block predicts the next token. So a token may be taken from an earlier block, and the blocks behind it need not
run for it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.message import mask_after
from blocklocal._common.modes import kept_modes
from blocklocal._common.ranges import SEED, Range, check_settings, whole
from blocklocal.block.targets import Tokens
from blocklocal.network.network import BlockLocal
from blocklocal.network.prediction import Temperatures

RANGES = {
    "tokens": whole(1, 10**6),
    "temperature": Range(0, 1000),
    "top_p": Range(0, 1, above=True),
    "seed": SEED,
    "exit": whole(1, 10_000),
    "sure": Range(0, 1, above=True),
}


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        tokens: how many, at most.
        temperature: divides the logits; 0 takes the most probable token.
        top_p: draw from the most probable tokens that together have so much probability (Holtzman et al. 2020,
            1904.09751).
        seed: of the draw.
        exit: take every token from this block, counted from 1; None for the last.
        sure: take a token from the first block that gives one at least this probability; None for the last block.
        temperatures: by which the logits of every block are divided where it is asked how sure it is; none for 1.

    Raises:
        InputError: a number lies outside its range, or both exit and sure are given.
    """

    tokens: int = 100
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    exit: int | None = None
    sure: float | None = None
    temperatures: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self, RANGES)
        if self.exit is not None and self.sure is not None:
            raise InputError("exit takes every token from one block, and sure from the first sure one: give one.")


class Generated(NamedTuple):
    """A token, the block that it is from (counted from 1), and the largest probability that this block gave."""

    token: int
    block: int
    confidence: float


def generate(
    network: BlockLocal, start: Sequence[int], sampling: Sampling, *, length: int, end: int | None = None
) -> Iterator[Generated]:
    """Tokens that go on from `start`, until there are enough or one ends the text.

    Args:
        start: numbers of tokens, at least one.
        length: positions that the network takes; of a longer text it sees the last ones.
        end: the token that ends a text, which is not given; None where there is none.

    Raises:
        InputError: the network predicts no tokens, `start` is empty or holds a number that is no token, or there is no
            such block, or it cannot predict.
    """
    _check(network, start, sampling)
    return _tokens(network, start, sampling, length, end)


def _tokens(
    network: BlockLocal, start: Sequence[int], sampling: Sampling, length: int, end: int | None
) -> Iterator[Generated]:
    seen, draw = list(start), torch.Generator().manual_seed(sampling.seed)
    with kept_modes([network]), torch.no_grad():
        network.eval()
        messages = network.own_messages()
        for _ in range(sampling.tokens):
            x = torch.tensor([seen[-length:]], device=network.device)
            block, logits = _next(network, x, messages, sampling)
            token = _drawn(logits, sampling, draw)
            if token == end:
                return
            seen.append(token)
            yield Generated(token, block, _confidence(block, logits, sampling))


def _check(network: BlockLocal, start: Sequence[int], sampling: Sampling) -> None:
    if not isinstance(network.targets, Tokens):
        raise InputError("this network predicts no tokens, so no text can be made with it: train one on a text.")
    if not start:
        raise InputError("there is no token to begin with: give a prompt.")
    strange = next((token for token in start if not 0 <= token < network.targets.count), None)
    if strange is not None:
        raise InputError(f"token {strange} is none of the {network.targets.count:,} that the network knows.")
    if sampling.temperatures:
        Temperatures(tuple(sampling.temperatures)).check(network.count)
    if sampling.exit is not None and sampling.exit > network.count:
        raise InputError(f"there is no block {sampling.exit} to exit at: the network has {network.count}.")


def _next(network: BlockLocal, x: Tensor, messages: Sequence[Tensor | None], sampling: Sampling) -> tuple[int, Tensor]:
    """The block that answers, counted from 1, and its logits of the next token, [V]."""
    a: Any = x
    for k, (learner, message) in enumerate(zip(network.learners, messages, strict=True), start=1):
        given, a = a, learner(a)
        last = k == network.count
        if not last and sampling.sure is None and k != sampling.exit:
            continue
        scores = learner.scores(a, message, mask_after(given, a))
        if scores is None:
            if k == sampling.exit:
                raise InputError(f"block {k} does not predict under the rule {network.rule.name}: exit at another one.")
            continue
        logits = scores[0, -1].float()
        if last or k == sampling.exit or _sure(k, logits, sampling):
            return k, logits
    raise AssertionError("the last block answers")


def _sure(k: int, logits: Tensor, sampling: Sampling) -> bool:
    return sampling.sure is not None and _confidence(k, logits, sampling) >= sampling.sure


def _confidence(k: int, logits: Tensor, sampling: Sampling) -> float:
    """The largest probability of block k, counted from 1."""
    divide = sampling.temperatures[k - 1] if sampling.temperatures else 1.0
    return (logits / divide).softmax(-1).max().item()


def _drawn(logits: Tensor, sampling: Sampling, draw: torch.Generator) -> int:
    """A token of [V] logits."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    above = logits.cpu().double()
    shares = ((above - above.max()) / sampling.temperature).softmax(-1)  # so that no temperature is too small
    if sampling.top_p < 1:
        ordered, places = shares.sort(descending=True)
        before = ordered.cumsum(0) - ordered
        shares = torch.zeros_like(shares).index_put((places,), torch.where(before < sampling.top_p, ordered, 0.0))
    return int(torch.multinomial(shares, 1, generator=draw))
