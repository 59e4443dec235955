"""Trains a network block by block in a process of its own: prints the planned and the measured peak, in bytes.

    python streaming_peak.py mlp|resnet|decoder FOLDER [MOST]

Measured is resident memory above that of the process after it has trained a tiny network of the same kind, so that
torch and the code that a run loads do not count.
"""

import gc
import sys
from functools import partial
from pathlib import Path

import torch

from blocklocal import BlockLocal, Trainer, adamw, build_model, split
from blocklocal._common.seeds import seeded
from blocklocal.models.transformer import Transformer
from blocklocal.streaming.allocator import give_back_at_once
from blocklocal.streaming.plan import plan
from blocklocal.streaming.streamed import Streamed

VISIT, CHUNKS = 2, 2


def mlp(width=1536, depth=5):
    model = build_model("mlp", classes=10, channels=3, image_size=(16, 16), width=width, depth=depth)
    return BlockLocal(split(model, blocks=min(depth, 5)), classes=10)


def resnet(width=32):
    model = build_model("resnet20", classes=10, channels=3, image_size=(32, 32), width=width)
    return BlockLocal(split(model, blocks=4), classes=10)


def decoder(width=256, layers=8):
    model = Transformer(256, 128, width=width, blocks=layers, heads=4, causal=True)
    return BlockLocal(split(model, blocks=layers), classes=256, example=torch.zeros(2, 128, dtype=torch.long))


TINY = {"mlp": partial(mlp, 8, 3), "resnet": partial(resnet, 4), "decoder": partial(decoder, 8, 2)}


def batches(name, size):
    if name == "decoder":
        return [(torch.randint(0, 256, (size, 128)), torch.randint(0, 256, (size, 128))) for _ in range(VISIT * CHUNKS)]
    shape = (size, 3, 16, 16) if name == "mlp" else (size, 3, 32, 32)
    return [(torch.rand(shape), torch.randint(0, 10, (size,))) for _ in range(VISIT * CHUNKS)]


def train(build, given, folder, most):
    with seeded("model", 0):
        network = Streamed(build, visit=VISIT, store=folder, most=most)
    Trainer(network, optimizer=adamw(1e-3), epochs=1, schedule="constant").fit(given)


def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def main(name, folder, most=3):
    torch.set_num_threads(1)
    give_back_at_once()
    build, size = {"mlp": (mlp, 64), "resnet": (resnet, 128), "decoder": (decoder, 8)}[name]
    given = batches(name, size)
    with torch.device("meta"):
        planned = plan(build(), given[0][0], adamw(1e-3), visit=VISIT, most=most)
    train(TINY[name], batches(name, 2), folder / "tiny", most)
    gc.collect()
    before = resident("VmRSS") - VISIT * planned.needs.batch  # the batches of one chunk are in the plan
    Path("/proc/self/clear_refs").write_text("5")
    train(build, given, folder / "blocks", most)
    print(planned.peak, resident("VmHWM") - before)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
