"""A run on a text, diagnosed: what every block says of the next token, and what could be said with what it knows.

D features, V tokens, N positions.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.message import Given, lead
from blocklocal._common.modes import kept_modes
from blocklocal._common.plain_table import table
from blocklocal._common.seeds import generator
from blocklocal.block.targets import MISSING
from blocklocal.diagnose.diagnosis import DiagnosedRun
from blocklocal.network.network import BlockLocal
from blocklocal.report.table import number

OPENS = 0.02  # bits per byte that are lost at one block: worth a sentence
VALUES = 2**24  # features of a block that are kept: N positions of D each
STEPS, BATCH, RATE = 300, 512, 1e-2  # of a probe: Adam's, positions of each, and the learning rate at the start


@dataclass(frozen=True)
class TextBlock:
    """One block. Figures of tokens are bits per byte of the text; None where there is none.

    Attributes:
        cosine: between the gradient that the rule gives the block and backprop's.
        own: of its own predictions.
        probe: of a linear probe of its output.
        frozen_probe, against_probe: the same of the untrained network, and of the run held against.
        agrees: at how many positions it says the token that the output says, in percent.
    """

    name: str
    cosine: float | None
    own: float | None
    probe: float | None
    frozen_probe: float | None
    against_probe: float | None
    agrees: float | None


@dataclass(frozen=True)
class TextDiagnosis(DiagnosedRun):
    """A diagnosed run on a text."""

    blocks: list[TextBlock]
    hints: list[str] = field(default_factory=list)


@dataclass
class TextSeen:
    """What is kept of a network on one part: the features of every hidden block, and the tokens that follow."""

    features: list[Tensor]  # [N, D] per hidden block
    tokens: Tensor  # [N]


@dataclass(frozen=True)
class TextMeasured:
    """Per block: bits of its own predictions and of a probe, and its agreement with the output; None where none is."""

    own: list[float | None]
    probe: list[float | None]
    agrees: list[float | None]
    fitted: int
    scored: int


Pairs = Iterable[tuple[Tensor, ...]]


def measure_text(network: BlockLocal, fit: Pairs, held: Pairs, bytes_per_token: float, *, own: bool) -> TextMeasured:
    """Fit a probe per hidden block on some windows, and score it on others; in evaluation mode.

    Args:
        fit, held: batches (x, y), tokens [B, T].
        own: whether the blocks' own predictions are looked at too.
    """
    per_byte = 1 / (math.log(2) * bytes_per_token)
    with kept_modes([network]):
        network.eval()
        fitted, scored = _features(network, fit), _features(network, held)
        nats, agrees = _own(network, held, len(scored.tokens)) if own else ([], [])
    probes = [
        probe_nats((a, fitted.tokens), (b, scored.tokens), network.targets.count) * per_byte
        for a, b in zip(fitted.features, scored.features, strict=True)
    ]
    bits = [None if each is None else each * per_byte for each in nats]
    return TextMeasured(bits, [*probes, None], agrees, len(fitted.tokens), len(scored.tokens))


@torch.no_grad()
def _features(network: BlockLocal, batches: Pairs) -> TextSeen:
    """Of so many positions as `VALUES` allows, in the order of the batches."""
    kept: list[list[Tensor]] = [[] for _ in network.split.blocks[:-1]]
    tokens, room = list[Tensor](), 1
    for x, y in batches:
        asked, given = y.flatten() != MISSING, x
        for k, block in enumerate(network.split.blocks[:-1]):
            given = _next(network, block, given)
            kept[k].append(lead(given).flatten(0, 1)[asked].float().cpu())
            room = max(room, kept[k][-1].shape[1])
        tokens.append(y.flatten()[asked].cpu())
        if room * sum(map(len, tokens)) >= VALUES:
            break
    return TextSeen([torch.cat(each) for each in kept], torch.cat(tokens))


def _next(network: BlockLocal, block: torch.nn.Module, given: Given) -> Given:
    precision = network.learners[0].autocast
    if precision is None:
        return block(given)
    with torch.autocast(lead(given).device.type, dtype=precision):
        return block(given)


@torch.no_grad()
def _own(network: BlockLocal, batches: Pairs, positions: int) -> tuple[list[float | None], list[float | None]]:
    """Nats per token of every block's own predictions, and how often they are the output's, in percent."""
    nats = [0.0] * len(network.split.blocks)
    same, count, predicts = list(nats), 0, list[bool]()
    for x, y in batches:
        found, there = network.block_logits(x), y != MISSING
        logits = [None] * (len(nats) - len(found)) + found  # trained as one, only the output is known
        predicts = [each is not None for each in logits]
        assert logits[-1] is not None
        said = logits[-1].argmax(-1)
        for k, each in enumerate(logits):
            if each is not None:
                nats[k] += network.targets.measure(each, y)[2].item()
                same[k] += ((each.argmax(-1) == said) & there).sum().item()
        count += int(there.sum())
        if count >= positions:
            break
    known = list(zip(predicts, nats, same, strict=True))
    return [n / count if p else None for p, n, _ in known], [100.0 * s / count if p else None for p, _, s in known]


def probe_nats(fit: tuple[Tensor, Tensor], held: tuple[Tensor, Tensor], classes: int) -> float:
    """Nats per token on `held` of a linear softmax classifier of standardised features, fitted on `fit`.

    With Adam, its rate falling to 0; it begins at the frequencies of the tokens. Deterministic.

    Args:
        fit, held: features [N, D] and tokens [N].
    """
    (x, y), (seen, asked) = fit, held
    middle, deviation = x.mean(0), x.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = (torch.bincount(y, minlength=classes) + 0.5).log().requires_grad_()
    with torch.enable_grad():
        solver = torch.optim.Adam([weight, bias], lr=RATE)
        draw = generator("probe")
        for step in range(STEPS):
            part = torch.randint(len(x), (min(BATCH, len(x)),), generator=draw)
            solver.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
            solver.zero_grad()
            F.cross_entropy(F.linear((x[part] - middle) / scale, weight, bias), y[part]).backward()
            solver.step()
    with torch.no_grad():
        total = sum(
            F.cross_entropy(F.linear((a - middle) / scale, weight, bias), b, reduction="sum").item()
            for a, b in zip(seen.split(BATCH), asked.split(BATCH), strict=True)
        )
    return total / len(asked)


def text_blocks(
    names: Sequence[str],
    cosines: Sequence[float | None],
    run: TextMeasured,
    frozen: TextMeasured,
    against: TextMeasured | None,
) -> list[TextBlock]:
    """One value per block from one list per figure."""
    own, agrees = (each or [None] * len(names) for each in (run.own, run.agrees))
    return [
        TextBlock(
            name=name,
            cosine=cosines[k],
            own=own[k],
            probe=run.probe[k],
            frozen_probe=frozen.probe[k],
            against_probe=None if against is None else against.probe[k],
            agrees=agrees[k],
        )
        for k, name in enumerate(names)
    ]


def text_hints(blocks: Sequence[TextBlock], against: str | None) -> list[str]:
    """What stands out, each in a sentence."""
    found, before, opened = [], None, 0.0
    for k, block in enumerate(blocks, 1):
        if before is not None and block.own is not None and block.own >= before:
            found.append(
                f"block {k} predicts no better than the one before ({block.own:.3f} and {before:.3f} bits per byte): "
                "train longer, give the blocks before it a smaller --readout, or do without it."
            )
        before = block.own
        if block.probe is not None and block.frozen_probe is not None and block.probe >= block.frozen_probe:
            found.append(f"block {k} has learned nothing that a linear probe reads: it is as it was before training.")
        if against is not None and block.probe is not None and block.against_probe is not None:
            gap = block.probe - block.against_probe
            if gap - opened > OPENS:
                found.append(f"{gap - opened:.3f} bits per byte of what {against} knows are lost at block {k}.")
            opened = max(gap, 0.0)
    return found or ["nothing stands out."]


def text_lines(diagnosis: TextDiagnosis) -> list[str]:
    """What the command prints."""
    blocks = diagnosis.blocks
    columns = {
        "cosine": [number(b.cosine, 2) for b in blocks],
        "own": [number(b.own, 3) for b in blocks],
        "agrees %": [number(b.agrees) for b in blocks],
        "probe": [number(b.probe, 3) for b in blocks],
        "frozen": [number(b.frozen_probe, 3) for b in blocks],
    }
    if diagnosis.against_rule is not None:
        columns[diagnosis.against_rule] = [number(b.against_probe, 3) for b in blocks]
    return [
        *table([f"{k} {block.name}" for k, block in enumerate(blocks, 1)], columns),
        "",
        "Bits per byte: own, of the block's predictions; probe, of a linear classifier of its output; frozen, before",
        "training. cosine: of the block's gradient with backprop's; agrees: with what the output says.",
        f"Fitted on {diagnosis.fitted:,} training tokens, scored on {diagnosis.scored:,} {diagnosis.scored_on} tokens.",
        "",
        *(f"- {hint}" for hint in diagnosis.hints),
    ]
