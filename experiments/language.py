"""A task that can tell rules apart: a character-level language model on real text, by number of blocks (Figure 3)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.modes import kept_modes
from blocklocal.block.optim import adamw
from blocklocal.data.sequences import RandomWindows, SequenceBatches, spread_windows
from blocklocal.data.text import Corpus, load_text
from blocklocal.network.neighbours import Neighbours
from blocklocal.report.table import markdown_lines, mean, mean_spread, number
from blocklocal.runs.machine import find_device
from blocklocal.training.callbacks import Callback, Record
from blocklocal.training.loop import Trainer
from experiments.experiment import Job, Place, Row
from experiments.streams import LABELS, WAYS, build

BLOCKS = (1, 2, 4, 8)
LINES = ("backprop", "frozen", "evidence", "evidence-readout", "batch")
SEEDS = (0, 1, 2)
LOCAL = LINES[2:]
COMMON = {"task": "language", "least": 5_000_000, "rare": 500, "clip": 1.0, "weight_decay": 0.01}
SIZES: dict[str, dict[str, Any]] = {
    "quick": {
        "width": 64, "heads": 2, "length": 64, "batch_size": 16, "steps": 1_000, "looks": 4, "lr": 3e-3,
        "validation_windows": 512, "test_windows": 2048,
    },
    "full": {
        "width": 256, "heads": 4, "length": 256, "batch_size": 64, "steps": 8_000, "looks": 16, "lr": 1e-3,
        "validation_windows": 2048, "test_windows": 4096,
    },
}  # fmt: skip


def jobs(size: str) -> list[Job]:
    """One job per way, number of blocks and seed. One block is the same run under every rule."""
    return [
        Job(f"language-{way}-{blocks}-seed{seed}", _settings(size, way, blocks, seed))
        for seed in SEEDS
        for blocks in BLOCKS
        for way in (LINES if blocks > 1 else LINES[:1])
    ]


def _settings(size: str, way: str, blocks: int, seed: int) -> dict[str, Any]:
    return {**COMMON, **SIZES[size], "way": way, "learning": WAYS[way], "blocks": blocks, "seed": seed}


def measure(settings: dict[str, Any], place: Place) -> Row:
    """Train once and measure in bits per character, on windows that do not overlap.

    Of the result: data (folder, symbols, documents and characters of each part), validation_bits after each of `looks`
    equal parts of training, test_bits once at the end, and block_bits of every block (None where it cannot predict).
    """
    device = find_device(place.device)
    corpus = load_text(place.text, least=settings["least"], rare=settings["rare"])
    training, validation, test = _batches(corpus, settings, device)
    shape = {name: settings[name] for name in ("width", "blocks", "heads", "length")}
    shape |= {"vocabulary": corpus.symbols, "causal": True, "positions": "sinusoids"}
    network = build(settings["learning"], shape, positions=settings["length"], seed=settings["seed"], device=device)
    watch = _Validation(validation)
    optimizer = adamw(settings["lr"], weight_decay=settings["weight_decay"], clip=settings["clip"])
    looks, wish = settings["looks"], place.should_stop
    Trainer(network, optimizer=optimizer, epochs=looks, observers=[watch], should_stop=wish).fit(training)
    bits = bits_per_character(network, test)
    return {
        "data": corpus.facts(),
        "validation_bits": watch.bits,
        "test_bits": bits[-1],
        "block_bits": bits,
        "message": mean(network.message_sizes()),
    }


def _batches(corpus: Corpus, settings: dict[str, Any], device: torch.device) -> tuple:
    length, held_out = settings["length"], ("validation", "test")
    training = RandomWindows(
        corpus.parts["train"],
        length=length,
        batch_size=settings["batch_size"],
        steps=settings["steps"] // settings["looks"],
        seed=settings["seed"],
        device=device,
    )
    fixed = [
        spread_windows(
            corpus.parts[part], length=length, count=settings[f"{part}_windows"], batch_size=64, device=device
        )
        for part in held_out
    ]
    return training, *fixed


class _Validation(Callback):
    """Watches a training run: bits per character of the output on the validation windows after every epoch."""

    def __init__(self, batches: SequenceBatches):
        self.batches = batches
        self.bits: list[float | None] = []

    def epoch(self, trainer: Trainer, record: Record) -> None:
        self.bits.append(bits_per_character(trainer.network, self.batches)[-1])


@torch.no_grad()
def bits_per_character(network: Neighbours, batches: Iterable[tuple[Tensor, Tensor]]) -> list[float | None]:
    """Mean −log2 p(next character) of every block over all positions; None where a block cannot predict."""
    sums, characters = [], 0
    with kept_modes([network]):
        network.train(False)
        for x, y in batches:
            scores = network.block_logits(x)
            sums.append([None if z is None else network.targets.loss(z.float(), y) * y.numel() for z in scores])
            characters += y.numel()
    per_block = zip(*sums, strict=True)
    return [None if None in each else sum(float(v) for v in each) / characters / math.log(2) for each in per_block]


def values(rows: Iterable[Row], way: str, blocks: int, key: str = "test_bits") -> list[Any]:
    """`key` of every seed of one way at one number of blocks; with one block all rules are the run of backprop."""
    way = "backprop" if blocks == 1 else way
    return [row[key] for row in rows if (row["way"], row["blocks"]) == (way, blocks)]


def bits_table(rows: Sequence[Row]) -> str:
    """Test bits per character: rules by number of blocks."""
    body = [[LABELS[way], *(mean_spread(values(rows, way, blocks), 3) for blocks in BLOCKS)] for way in LINES]
    return markdown_lines(("test bits per character", *_columns()), body)


def share_table(rows: Sequence[Row]) -> str:
    """How much of the way from the frozen control to backprop each local rule goes, in % of that gap."""
    body = [[LABELS[way], *(number(share(rows, way, blocks), 0) for blocks in BLOCKS)] for way in LOCAL]
    return markdown_lines(("% of the gap from control to backprop", *_columns()), body)


def share(rows: Sequence[Row], way: str, blocks: int) -> float | None:
    """100 · (control − way) / (control − backprop); below 0: worse than the control. None for one block, or no gap."""
    ours, control, best = (mean(values(rows, each, blocks)) for each in (way, "frozen", "backprop"))
    if blocks == 1 or ours is None or control is None or best is None or control <= best:
        return None
    return 100 * (control - ours) / (control - best)


def blocks_table(rows: Sequence[Row]) -> str:
    """Test bits per character that every block of the deepest network predicts with by itself."""
    deepest = max(BLOCKS)
    body = []
    for way in LOCAL:
        every = values(rows, way, deepest, "block_bits")
        if every and len(every[0]) == deepest:
            body.append([LABELS[way], *(mean_spread(each, 2) for each in zip(*every, strict=True))])
    return markdown_lines((f"block of {deepest}", *map(str, range(1, deepest + 1))), body) if body else ""


def verdict(rows: Sequence[Row]) -> str:
    """Whether the task can tell rules apart: what depth gains backprop and the control, beside the seeds' spread."""
    deepest = max(BLOCKS)
    one, best, control = (values(rows, *each) for each in (("backprop", 1), ("backprop", deepest), ("frozen", deepest)))
    if not (one and best and control):
        return ""
    gains = [number(mean(one) - mean(each), 3, sign=True) for each in (best, control)]  # type: ignore[operator]
    return (
        f"{deepest - 1} more blocks gain backprop {gains[0]} bits per character and the frozen control {gains[1]} "
        f"(one block: {mean_spread(one, 3)}, {deepest} blocks: {mean_spread(best, 3)} and {mean_spread(control, 3)})."
    )


def _columns() -> list[str]:
    return [f"{blocks} block{'s' if blocks > 1 else ''}" for blocks in BLOCKS]


def conditions(rows: Sequence[Row]) -> str:
    """Data and settings that the tables were measured with."""
    row, data = rows[0], rows[0]["data"]
    mixed = any(other["data"]["characters"] != data["characters"] for other in rows)
    parts = ("train", "validation", "test")
    documents = ", ".join(f"{data['documents'][part]:,} {part}" for part in parts)
    characters = ", ".join(f"{data['characters'][part]:,} {part}" for part in parts)
    seen = row["steps"] * row["batch_size"] * row["length"]
    return (
        f"{'The rows are of different texts, and must not be compared; this is of the first. ' if mixed else ''}"
        f"Text: {data['folder']}; documents: {documents}; characters: {characters}; {data['symbols']} symbols. "
        f"Width {row['width']}, {row['heads']} heads, windows of {row['length']} characters, {row['steps']:,} steps of "
        f"{row['batch_size']} windows ({seen:,} characters), AdamW, one-cycle to {row['lr']:g}, clipped at "
        f"{row['clip']:g} per block. Test: {row['test_windows']:,} windows that do not overlap, spread evenly; every "
        "position counts."
    )


def by_blocks(rows: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Way → blocks → test bits of every seed, for a picture."""
    return {way: {k: values(rows, way, k) for k in BLOCKS if values(rows, way, k)} for way in LINES}
