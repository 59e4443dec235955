"""Images left on disk beside images in memory: images per second of a training, and the memory that it keeps.

    python benchmarks/data.py                          # small: 4,000 files of 64×64
    python benchmarks/data.py --size full --check      # 100,000 files; exits 1 and names what falls short
    python benchmarks/data.py --json rows.json

JPEG files in class folders are made first (kept with --folder). Peaks are `VmHWM`, the most that a process ever had in
memory at once: of one that decodes the files and trains, and of one each that trains from the cache. Images per second
are measured in a further process, where memory and disk train one network in turns; a ratio compares two of one round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from common import conditions, finish, parser

import blocklocal as bl

FILES = {"small": 4_000, "full": 100_000}
CLASSES, SIDE = 10, 64
PLACES = ("memory", "disk")
LEAST_RATIO, MOST_MEMORY = 0.9, 2 * 2**30
QUALITY = 85


def write_class(folder: Path, files: int, number: int) -> None:
    """JPEG files of one class: coarse noise of its own brightness, so that they are neither flat nor pure noise."""
    from PIL import Image

    place = folder / f"class{number}"
    place.mkdir(parents=True)
    draw = np.random.default_rng(number)
    for i in range(files // CLASSES):
        coarse = draw.integers(0, 200, (8, 8, 3)) + 5 * number
        fine = np.kron(coarse, np.ones((SIDE // 8, SIDE // 8, 1))) + draw.integers(-8, 8, (SIDE, SIDE, 3))
        Image.fromarray(fine.clip(0, 255).astype(np.uint8)).save(place / f"{i}.jpg", quality=QUALITY)


def make_files(folder: Path, files: int) -> None:
    with ProcessPoolExecutor() as processes:
        list(processes.map(partial(write_class, folder, files), range(CLASSES)))


def peak() -> int:
    """The most bytes that this process has had in memory."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def forever(batches: bl.Batches) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    while True:
        yield from batches


def training(arguments: argparse.Namespace, where: str) -> tuple[bl.ImageSet, Iterator, float]:
    """(the set, its endless training batches, seconds that loading took)."""
    started = time.perf_counter()
    data = bl.load_images(str(arguments.folder), images_in=where, validation=0)  # type: ignore[arg-type]
    loaded = time.perf_counter() - started
    batches = bl.Batches(
        data.train, batch_size=arguments.batch, mean=data.mean, std=data.std, shuffle=True, augment="crop,flip"
    )
    return data, forever(batches), loaded


def build(arguments: argparse.Namespace) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = bl.build_model(arguments.model, classes=CLASSES, channels=3, image_size=(SIDE, SIDE), width=arguments.width)
    return bl.BlockLocal(bl.split(model, 4), classes=CLASSES, optimizer=bl.sgd(0.01))


def speed(network: bl.BlockLocal, batches: Iterator, steps: int) -> float:
    """Images per second."""
    started, images = time.perf_counter(), 0
    for x, y in islice(batches, steps):
        network.step(x, y)
        images += len(y)
    return images / (time.perf_counter() - started)


def alone(arguments: argparse.Namespace) -> dict:
    """Load and train, in this process."""
    data, batches, loaded = training(arguments, arguments.one)
    speed(build(arguments), batches, arguments.steps)
    return {"peak_bytes": peak(), "load_seconds": loaded, "images": len(data.train) + len(data.test)}


def turns(arguments: argparse.Namespace) -> dict:
    """Both ways in this process, with one network: images per second of every round."""
    network = build(arguments)
    ways = {where: training(arguments, where)[1] for where in PLACES}
    found: dict[str, list[float]] = {where: [] for where in PLACES}
    for batches in ways.values():
        speed(network, batches, 2)  # warms up
    for _ in range(arguments.rounds):
        for where, batches in ways.items():
            found[where].append(speed(network, batches, arguments.steps))
    return found


def start(arguments: argparse.Namespace, what: str, cache: Path) -> dict:
    """`alone` or `turns` in a new process."""
    names = ("folder", "model", "width", "batch", "steps", "rounds")
    given = [f"--{name}={getattr(arguments, name)}" for name in names]
    given += [f"--threads={arguments.threads}"] if arguments.threads else []
    ran = subprocess.run(
        [sys.executable, __file__, "--one", what, *given],
        env={**os.environ, "BLOCKLOCAL_CACHE": str(cache)},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        sys.exit(ran.stderr)
    return json.loads(ran.stdout.splitlines()[-1])


def measure(arguments: argparse.Namespace) -> list[dict]:
    with tempfile.TemporaryDirectory() as own:
        if arguments.folder is None:
            arguments.folder = Path(own) / "images"
        if not arguments.folder.exists():
            make_files(arguments.folder, FILES[arguments.size])
        cache = Path(own) / "cache"
        rows = [{"images in": "disk, decoded first", **start(arguments, "disk", cache)}]
        rows += [{"images in": where, **start(arguments, where, cache)} for where in PLACES]
        speeds = start(arguments, "turns", cache)
    for row in rows[1:]:
        ratios = [a / b for a, b in zip(speeds[row["images in"]], speeds["memory"], strict=True)]
        row["images_per_second"] = statistics.median(speeds[row["images in"]])
        row |= {
            "speed_ratio": statistics.median(ratios),
            "speed_ratio_min": min(ratios),
            "speed_ratio_max": max(ratios),
        }
    of = {"model": f"{arguments.model} width {arguments.width}", "batch": arguments.batch, "cores": os.cpu_count()}
    return [row | of | conditions(arguments) for row in rows]


def shortfalls(rows: list[dict]) -> list[str]:
    short = []
    for row in rows:
        if row["images in"] == "memory":
            continue
        if row["peak_bytes"] >= MOST_MEMORY:
            short.append(f"{row['images in']}: {row['peak_bytes'] / 2**30:.2f} GiB in memory, not below 2 GiB")
        if row.get("speed_ratio", 1.0) < LEAST_RATIO:
            short.append(f"{row['images in']}: {row['speed_ratio']:.2f} of the images per second in memory")
    return short


def show(rows: list[dict]) -> None:
    first = rows[0]
    print(
        f"{first['images']:,.0f} JPEG files of {SIDE}×{SIDE}, {first['model']}, batch {first['batch']}, "
        f"{first['cores']} cores, {first['threads']} threads, torch {first['torch']}, {first['rounds']} rounds"
    )
    print(f"{'images in':20} {'images/s':>9}  {'÷ memory':>18}  {'peak MiB':>8}  {'load s':>7}")
    for row in rows:
        ratio = ""
        if "speed_ratio" in row:
            ratio = f"{row['speed_ratio']:.3f} ({row['speed_ratio_min']:.2f}–{row['speed_ratio_max']:.2f})"
        each = f"{row['images_per_second']:.0f}" if ratio else ""
        print(
            f"{row['images in']:20} {each:>9}  {ratio:>18}  "
            f"{row['peak_bytes'] / 2**20:8.0f}  {row['load_seconds']:7.1f}"
        )


def main() -> int:
    flags = parser(__doc__, rounds=7, steps=8)
    flags.add_argument("--size", choices=sorted(FILES), default="small")
    flags.add_argument("--folder", type=Path, help="of the images; made where it is not there, and kept")
    flags.add_argument("--batch", type=int, default=64, help="images per step")
    flags.add_argument("--model", default="resnet20")
    flags.add_argument("--width", type=int, default=4)
    flags.add_argument("--one", choices=(*PLACES, "turns"), help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    if arguments.one:
        print(json.dumps((turns if arguments.one == "turns" else alone)(arguments)))
        return 0
    rows = measure(arguments)
    show(rows)
    return finish(rows, arguments, shortfalls(rows))


if __name__ == "__main__":
    sys.exit(main())
