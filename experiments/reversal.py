"""The paper's reversal task (§4.2): accuracy by depth, learning curves, and the placement of its rule (Figure 3)."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from blocklocal.block.optim import adamw
from blocklocal.data.sequences import DIGITS, permutations, reversal
from blocklocal.report.table import markdown_lines, mean, mean_spread, number
from blocklocal.runs.machine import find_device
from blocklocal.training.evaluation import evaluate
from blocklocal.training.loop import Trainer
from experiments.experiment import Job, Place, Row
from experiments.streams import LABELS, WAYS, build, stream_content

BEST, NAIVE = "batch", "stream"  # placements of the paper's rule; the best by validation accuracy
LINES = ("backprop", "frozen", "evidence", BEST, NAIVE)  # of the figures
PLACEMENTS = (NAIVE, "units", "readout", BEST, "printed", "gaussian")
PLACED = {5: PLACEMENTS, 20: (NAIVE, "units", BEST)}  # blocks → placements
PAPER = {5: 99.9, 20: 99.6}  # test accuracy, %
DEPTHS = {"quick": (1, 2, 5, 10, 20), "full": (1, 2, 5, 10, 20, 40)}
SEEDS = (0, 1, 2, 3, 4)
FEW_SEEDS = (0, 1, 2)
LONG = {"quick": 5_000}  # training permutations of the lines that are trained for longer, by size
LONGER = ("backprop", "frozen", BEST)
SIZES: dict[str, dict[str, Any]] = {
    "quick": {"training": 2_000, "validation": 500, "test": 1_000, "batch_size": 50, "lr": 2e-3},
    "full": {"training": 20_000, "validation": 2_000, "test": 5_000, "batch_size": 100, "lr": 1e-3},
}
SAME = 1.0  # points of accuracy within which two rules count as equal
COMMON = {"task": "reversal", "epochs": 5, "width": 64, "heads": 1, "clip": 1.0}


def jobs(size: str) -> list[Job]:
    """One job per way, depth and seed. One block is the same run under every rule, so only backprop has it."""
    found = [
        (way, depth, seed)
        for depth in DEPTHS[size]
        for way in (LINES if depth > 1 else LINES[:1])
        for seed in (FEW_SEEDS if way == NAIVE else SEEDS)
    ]
    placed = [(way, depth, seed) for depth, ways in PLACED.items() for way in ways for seed in FEW_SEEDS]
    longer = [(way, max(PLACED), seed) for way in LONGER for seed in FEW_SEEDS if size in LONG]
    listed = [_job(size, *each) for each in dict.fromkeys((*found, *placed))]
    return [*listed, *(_longer(_job(size, *each), LONG[size]) for each in longer)]


def _job(size: str, way: str, blocks: int, seed: int) -> Job:
    settings = {**COMMON, **SIZES[size], "way": way, "learning": WAYS[way], "blocks": blocks, "seed": seed}
    return Job(f"reversal-{way}-{blocks}-seed{seed}", settings)


def _longer(job: Job, training: int) -> Job:
    """The same run on more permutations, for as many epochs: more steps."""
    return Job(f"{job.name}-long", {**job.settings, "way": f"{job.settings['way']}-long", "training": training})


def measure(settings: dict[str, Any], place: Place) -> Row:
    """Train once; validation accuracy after every epoch, test accuracy at the end.

    Of the result: validation_top1 (%) and message (mean |b| over hidden blocks; None without) per epoch; test_top1 and
    block_top1 on the test set (%); message_start, before the first step; stream: see `stream_content`, on the
    validation set.
    """
    device, seed = find_device(place.device), settings["seed"]
    training, validation, test = _data(settings, device)
    shape = {"vocabulary": DIGITS, "length": DIGITS, **{key: settings[key] for key in ("width", "blocks", "heads")}}
    network = build(settings["learning"], shape, positions=DIGITS, seed=seed, device=device)
    start = mean(network.message_sizes())
    optimizer = adamw(settings["lr"], weight_decay=0.0, clip=settings["clip"])
    trainer = Trainer(network, optimizer=optimizer, epochs=settings["epochs"], should_stop=place.should_stop)
    records = trainer.fit(training, validation)
    final = evaluate(network, test)
    return {
        "validation_top1": [record["validation_top1"][-1] for record in records],
        "message_start": start,
        "message": [mean(record["message"]) for record in records],
        "test_top1": final.top1,
        "block_top1": final.block_top1,
        "stream": stream_content(network, validation.x),
    }


def _data(settings: dict[str, Any], device: torch.device) -> list:
    """Training, validation and test batches: no permutation is in two of them, and every seed draws its own."""
    sizes = [settings[name] for name in ("training", "validation", "test")]
    parts = permutations(sum(sizes), settings["seed"]).split(sizes)
    size, seed = settings["batch_size"], settings["seed"]
    batches = [reversal(parts[0], batch_size=size, shuffle=True, seed=seed, device=device)]
    return batches + [reversal(part, batch_size=500, device=device) for part in parts[1:]]


def values(rows: Iterable[Row], way: str, blocks: int, key: str = "test_top1") -> list[Any]:
    """`key` of every seed of one way at one depth; with one block all rules are the run of backprop."""
    way = "backprop" if blocks == 1 else way
    return [row[key] for row in rows if (row["way"], row["blocks"]) == (way, blocks)]


def depths(rows: Iterable[Row]) -> list[int]:
    return sorted({row["blocks"] for row in rows})


def accuracy_table(rows: Sequence[Row]) -> str:
    """Test accuracy (%) by depth: the paper's block-local rule, and every line of ours."""
    headings = ("blocks", "paper, block-local", *(LABELS[way] for way in LINES))
    body = [
        [str(depth), number(PAPER.get(depth)), *(mean_spread(values(rows, way, depth)) for way in LINES)]
        for depth in depths(rows)
    ]
    return markdown_lines(headings, body)


def placement_table(rows: Sequence[Row]) -> str:
    """The paper's rule in every placement, below backprop and the control: a line per placement and depth measured."""
    headings = ("placement", "blocks", "test %", "after epoch 2 %", "mean abs b", "stream: size", "of the tokens %")
    body = [
        [LABELS[way], str(depth), *_placement(rows, way, depth)]
        for depth in PLACED
        for way in ("backprop", "frozen", *PLACEMENTS)
        if values(rows, way, depth)
    ]
    return markdown_lines(headings, body)


def longer_table(rows: Sequence[Row]) -> str:
    """The deepest placement measured again on more permutations; "" without such rows."""
    long = [row for row in rows if row["way"].endswith("-long")]
    if not long:
        return ""
    depth = long[0]["blocks"]
    headings = (f"{depth} blocks, {long[0]['training']:,} training permutations", "test %", "after epoch 2 %")
    ways = [way for way in LONGER if values(long, f"{way}-long", depth)]
    return markdown_lines(headings, [[LABELS[way], *_placement(long, f"{way}-long", depth)[:2]] for way in ways])


def _placement(rows: Sequence[Row], way: str, depth: int) -> list[str]:
    curves = values(rows, way, depth, "validation_top1")
    start = mean(values(rows, way, depth, "message_start"))
    end = mean(message[-1] for message in values(rows, way, depth, "message"))
    streams = values(rows, way, depth, "stream")
    return [
        mean_spread(values(rows, way, depth)),
        mean_spread(curve[1] for curve in curves),
        number(None) if start is None else f"{number(start, 3)} → {number(end, 3)}",
        number(mean(size for size, _ in streams)),
        number(mean(100 * share for _, share in streams)),
    ]


def verdict(rows: Sequence[Row]) -> str:
    """What the control says of the task: where it does as well as backprop, the task cannot tell rules apart."""
    known = [depth for depth in depths(rows) if depth > 1]
    pairs = {depth: [mean(values(rows, way, depth)) for way in ("backprop", "frozen")] for depth in known}
    solved = [depth for depth, (best, control) in pairs.items() if best and control and best - control < SAME]
    if not solved:
        return ""
    at = ", ".join(map(str, solved))
    return (
        f"The frozen control, whose blocks but the last stay random, is within {SAME:g} point of backprop at {at} "
        "blocks: one trained attention layer solves the reversal, so there this task cannot tell learning rules apart."
    )


def curves(rows: Sequence[Row], depth: int) -> dict[str, dict[int, list[float]]]:
    """Way → epoch → validation accuracy of every seed, for a picture."""
    found = {}
    for way in LINES:
        epochs = zip(*values(rows, way, depth, "validation_top1"), strict=True)
        found[way] = {epoch: list(each) for epoch, each in enumerate(epochs, 1)}
    return found


def by_depth(rows: Sequence[Row]) -> dict[str, dict[int, list[float]]]:
    """Way → blocks → test accuracy of every seed, for a picture."""
    return {way: {d: values(rows, way, d) for d in depths(rows) if values(rows, way, d)} for way in LINES}
