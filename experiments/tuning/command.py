"""The command: train on one text, tune on another in every way, print and keep the rows; or search for rates."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

import blocklocal as bl
import experiments.tuning
from benchmarks.common import Row, finish, spread
from blocklocal.data.text_set import TextSet, load_text_set
from blocklocal.data.windows import WindowBatches
from blocklocal.models.decoder import Decoder
from blocklocal.models.llama import save_llama
from experiments.decoders.measure import costs_of, measured
from experiments.decoders.ways import WAYS as TRAINED
from experiments.on_cpu import begun, flags_of_ways
from experiments.tuning.ways import LOCAL, SIZES, STARTS, WAYS, Size, Way

ABOVE, BYTES = 3.0, 0.6  # percent of perplexity above end-to-end tuning, and of its kept bytes


def load(text: Path, size: Size, steps: int, tokenizer: str = "") -> TextSet:
    return load_text_set(
        text,
        tokenizer=tokenizer,
        vocabulary=size.vocabulary,
        length=size.length,
        train_size=steps * size.batch,
        validation=size.held,
        test_size=size.held,
    )


def fit(network: bl.BlockLocal, text: TextSet, size: Size, seed: int) -> float:
    """Train once over the training part; the seconds that it took."""
    start = time.perf_counter()
    batches = WindowBatches(text.train, batch_size=size.batch, shuffle=True, seed=seed)
    bl.Trainer(network, epochs=1, schedule="warmup-cosine").fit(batches)
    return time.perf_counter() - start


def pretrained(start: str, old: TextSet, size: Size, folder: Path, seed: int) -> Row:
    """Train a decoder on the first text and write it to the folder; its perplexities there before tuning.

    Args:
        start: the way in which it is trained, of experiments/decoders.
    """
    network = TRAINED[start].build(size, old.bytes_per_token, seed)
    fit(network, old, size, seed)
    folder.mkdir(parents=True)
    model = network.split.model
    assert isinstance(model, Decoder)
    save_llama(model, folder, end=old.tokenizer.end)
    local = {
        name: t for name, t in network.state_dict().items() if ".local." in name and not name.endswith("_extra_state")
    }
    if local:
        torch.save(local, folder / LOCAL)
    return {part: last(network, text) for part, text in (("validation", old.validation), ("test", old.test))}


def last(network: bl.BlockLocal, text: object) -> float:
    """The perplexity of the output."""
    return measured(network, text)["perplexity"][-1]  # type: ignore[arg-type]


def tuned(
    name: str,
    way: Way,
    folder: Path,
    texts: tuple[TextSet, TextSet],
    size: Size,
    seed: int,
    *,
    test: bool,
) -> Row:
    """Tune once; what the network says of both texts then, on their test or their validation parts."""
    old, new = texts
    network = way.build(folder, size, new.bytes_per_token, seed)
    seconds, part = fit(network, new, size, seed), "test" if test else "validation"
    found = measured(network, getattr(new, part))
    return {
        "way": name, "seed": seed, "lr": way.lr, "lower": way.lower, "part": part, "training_seconds": seconds,
        "new": found["perplexity"], "new_bits_per_byte": found["bits_per_byte"], "agreement": found["agreement"],
        "old": last(network, getattr(old, part)),
    }  # fmt: skip


def show(row: Row, before: float) -> None:
    exits = " ".join("–" if each is None else f"{each:.2f}" for each in row["new"])
    cost = "" if "flops_ratio" not in row else (
        f"  FLOPs × {row['flops_ratio']:.2f}  kept × {row['bytes_ratio']:.2f}  time × {spread(row)}"
    )  # fmt: skip
    print(
        f"{row['way']:16} lr {row['lr']:g} (lower × {row['lower']:g}) seed {row['seed']}  {row['part']}: "
        f"new text {exits}  old text {before:.2f} → {row['old']:.2f}{cost}  {row['training_seconds']:.0f} s",
        flush=True,
    )


def mean(rows: Sequence[Row], way: str, what: str) -> float | None:
    """Of the output's perplexity of a text, over the seeds; None where the way was not measured."""
    found = [row[what][-1] if isinstance(row[what], list) else row[what] for row in rows if row["way"] == way]
    return statistics.fmean(found) if found else None


def shortfalls(rows: Sequence[Row]) -> list[str]:
    """A line for every figure that is not reached."""
    found, base, forgotten = [], mean(rows, "end-to-end", "new"), mean(rows, "end-to-end", "old")
    for way in ("shared-2", "reconstruction-2"):
        here, old = mean(rows, way, "new"), mean(rows, way, "old")
        if here is None or old is None or base is None or forgotten is None:
            continue
        if 100 * (here / base - 1) > ABOVE:
            found.append(f"{way}: perplexity {100 * (here / base - 1):.1f} % above end-to-end's, more than {ABOVE:g} %")
        if old >= forgotten:
            found.append(f"{way}: forgets as much of the old text as end-to-end tuning ({old:.2f} and {forgotten:.2f})")
        kept = next(row["bytes_ratio"] for row in rows if row["way"] == way)
        if kept > BYTES:
            found.append(f"{way}: {kept:.2f} of the kept bytes of end-to-end tuning, more than {BYTES:g}")
    return found


def flags() -> argparse.ArgumentParser:
    found = flags_of_ways(experiments.tuning.__doc__, SIZES, WAYS, tuple(WAYS))
    found.add_argument("--text", type=Path, required=True, help="the first text: a folder, or a file")
    found.add_argument("--start", choices=STARTS, default="backprop", help="how it is trained on the first text")
    found.add_argument("--onto", type=Path, required=True, help="the text that it is tuned on")
    return found


def main() -> int:
    arguments = begun(flags())
    size, rows, cost = SIZES[arguments.size], list[Row](), dict[str, Row]()
    ways = WAYS | STARTS[arguments.start]
    if arguments.updates is not None:
        size = replace(size, tuning=arguments.updates)
    old = load(arguments.text, size, size.steps)
    with tempfile.TemporaryDirectory() as place:
        tokenizer = Path(place, "tokenizer.json")
        tokenizer.write_text(old.tokenizer.to_text(), encoding="utf-8")
        new = load(arguments.onto, size, size.tuning, str(tokenizer))
        for seed in range(arguments.seeds):
            folder = Path(place, f"trained-{seed}")
            before = pretrained(arguments.start, old, size, folder, seed)
            print(json.dumps({"seed": seed, "before": before}), flush=True)
            if seed == 0 and not arguments.search:
                cost = _costs(arguments, ways, folder, new, size)
            for name in arguments.only:
                for way in ways[name].searched if arguments.search else [ways[name]]:
                    row = tuned(name, way, folder, (old, new), size, seed, test=not arguments.search)
                    rows.append({"start": arguments.start} | row | cost.get(name, {}) | {"before": before[row["part"]]})
                    show(rows[-1], before[row["part"]])
                    finish(rows, argparse.Namespace(json=arguments.json, check=False), [])
    return finish(rows, arguments, [] if arguments.search else shortfalls(rows))


def _costs(
    arguments: argparse.Namespace, ways: Mapping[str, Way], folder: Path, new: TextSet, size: Size
) -> dict[str, Row]:
    names = ["end-to-end", *(name for name in arguments.only if name != "end-to-end")]
    networks = {name: ways[name].build(folder, size, new.bytes_per_token, 0) for name in names}
    x, y = next(iter(WindowBatches(new.train, batch_size=size.batch)))
    return costs_of(networks, "end-to-end", x, y, arguments)
