"""Images left on disk beside images in memory: images per second of a training, and the memory that it keeps.

    python benchmarks/data.py                          # small: 4,000 files of 64×64
    python benchmarks/data.py --size full --check      # 100,000 files; exits 1 and names what falls short
    python benchmarks/data.py --json rows.json

JPEG files in class folders are made first (kept with --folder). Every measurement is a process of its own, which loads
the set from the cache and trains one model; memory and disk take turns, and a ratio compares two of one round. The
first process decodes the files; its peak and time are a row of their own. Peaks are `VmHWM`, the most that the process
ever had in memory at once.
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


def one(arguments: argparse.Namespace) -> dict:
    """Load and train, in this process."""
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    started = time.perf_counter()
    data = bl.load_images(str(arguments.folder), images_in=arguments.one, validation=0)
    loaded = time.perf_counter() - started
    batches = bl.Batches(
        data.train, batch_size=arguments.batch, mean=data.mean, std=data.std, shuffle=True, augment="crop,flip"
    )
    model = bl.build_model(arguments.model, classes=CLASSES, channels=3, image_size=(SIDE, SIDE), width=arguments.width)
    network = bl.BlockLocal(bl.split(model, 4), classes=CLASSES, optimizer=bl.sgd(0.01))
    steps = forever(batches)
    for x, y in islice(steps, 3):
        network.step(x, y)
    started = time.perf_counter()
    for x, y in islice(steps, arguments.steps):
        network.step(x, y)
    seconds = time.perf_counter() - started
    return {
        "images_per_second": arguments.steps * arguments.batch / seconds,
        "peak_bytes": peak(),
        "load_seconds": loaded,
        "images": len(data.train) + len(data.test),
    }


def start(arguments: argparse.Namespace, where: str, cache: Path) -> dict:
    """`one` in a new process."""
    given = [f"--{name}={getattr(arguments, name)}" for name in ("folder", "model", "width", "batch", "steps")]
    given += [f"--threads={arguments.threads}"] if arguments.threads else []
    ran = subprocess.run(
        [sys.executable, __file__, "--one", where, *given],
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
        rounds = [{w: start(arguments, w, cache) for w in ("memory", "disk")} for _ in range(arguments.rounds)]
    for where in ("memory", "disk"):
        ratios = [each[where]["images_per_second"] / each["memory"]["images_per_second"] for each in rounds]
        row = {name: statistics.median(each[where][name] for each in rounds) for name in rounds[0][where]}
        row |= {
            "speed_ratio": statistics.median(ratios),
            "speed_ratio_min": min(ratios),
            "speed_ratio_max": max(ratios),
        }
        rows.append({"images in": where, **row})
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
        print(
            f"{row['images in']:20} {row['images_per_second']:9.0f}  {ratio:>18}  "
            f"{row['peak_bytes'] / 2**20:8.0f}  {row['load_seconds']:7.1f}"
        )


def main() -> int:
    flags = parser(__doc__, rounds=3, steps=30)
    flags.add_argument("--size", choices=sorted(FILES), default="small")
    flags.add_argument("--folder", type=Path, help="of the images; made where it is not there, and kept")
    flags.add_argument("--batch", type=int, default=128, help="images per step")
    flags.add_argument("--model", default="resnet20")
    flags.add_argument("--width", type=int, default=8)
    flags.add_argument("--one", choices=("memory", "disk"), help=argparse.SUPPRESS)
    arguments = flags.parse_args()
    if arguments.one:
        print(json.dumps(one(arguments)))
        return 0
    rows = measure(arguments)
    show(rows)
    return finish(rows, arguments, shortfalls(rows))


if __name__ == "__main__":
    sys.exit(main())
