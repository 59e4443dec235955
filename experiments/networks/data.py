"""What the networks learn from: images, mosaics with a class per pixel, and pieces of source code."""

import math
import re
import sysconfig
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal._common.seeds import generator
from experiments.sets import find_set

PACKAGES = ("asyncio", "ctypes", "email", "importlib", "multiprocessing", "unittest", "xml")
WORDS, LENGTH = 4096, 64  # numbers that a word can have; words in a piece
ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Size:
    """Samples of each part, at most, and passes over the training part."""

    train: int
    validation: int
    test: int
    epochs: int


@dataclass(frozen=True)
class Parts:
    """Batches (x, y) of each part; the order of the training batches depends on the seed."""

    train: Any
    validation: Any
    test: Any


class Shuffled:
    """Batches of tensors by name, or of one tensor x; the test and validation parts in their own order.

    Args:
        x: [N, …], or by name.
        y: [N, …].
        seed: of the order, another in every epoch; None for the order as it is.
    """

    def __init__(self, x: Tensor | dict[str, Tensor], y: Tensor, batch: int, seed: int | None = None):
        self.x, self.y, self.batch, self.seed = x, y, batch, seed
        self.next_epoch = 0

    def __len__(self) -> int:
        return math.ceil(len(self.y) / self.batch)

    def __iter__(self) -> Iterator[tuple[Any, Tensor]]:
        order = torch.arange(len(self.y))
        if self.seed is not None:
            order = torch.randperm(len(self.y), generator=generator("networks", self.seed, self.next_epoch))
            self.next_epoch += 1
        for index in order.split(self.batch):
            x = {name: each[index] for name, each in self.x.items()} if isinstance(self.x, dict) else self.x[index]
            yield x, self.y[index]


def pictures(name: str, folder: Path | None, size: Size, batch: int, seed: int) -> Parts:
    """ "fashion-mnist" or "cifar10" with their classes; training pictures are flipped left to right by chance."""
    data = _load(name, folder, size)
    kept: dict[str, Any] = {"mean": data.mean, "std": data.std}
    training = bl.Batches(data.train, batch_size=batch, shuffle=True, augment="flip", seed=seed, **kept)
    held = [bl.Batches(part, batch_size=250, **kept) for part in (data.validation, data.test)]
    return Parts(training, *held)


def _load(name: str, folder: Path | None, size: Size) -> bl.ImageSet:
    return bl.load_images(
        find_set(name, folder), train_size=size.train, validation=size.validation, test_size=size.test
    )


def mosaics(folder: Path | None, size: Size, batch: int, seed: int) -> Parts:
    """Fashion-MNIST, four items in a picture of 28 × 28: which item every pixel is of (0: none, 1 to 10)."""
    items = _load("fashion-mnist", folder, size)
    made = [_mosaics(part, role) for part, role in zip((items.train, items.validation, items.test), ROLES, strict=True)]
    return Parts(Shuffled(*made[0], batch, seed), *(Shuffled(*part, 250) for part in made[1:]))


def _mosaics(images: bl.Images, role: str) -> tuple[Tensor, Tensor]:
    """As many mosaics as images, of four drawn at random: x [N, 1, 28, 28] with noise, and y [N, 28, 28]."""
    draw, count = generator("mosaics", role), len(images)
    index = torch.randint(0, count, (count, 4), generator=draw)
    pixels = F.avg_pool2d(images.pixels[:].float() / 255, 2)[index]  # [N, 4, 1, 14, 14]
    classes = torch.where(pixels.squeeze(2) > 0.1, images.labels[index][..., None, None] + 1, 0)
    x, y = (_tiled(each) for each in (pixels.squeeze(2), classes))
    noise = 0.1 * torch.randn(x.shape, generator=draw)
    return (x + noise).unsqueeze(1), y


def _tiled(parts: Tensor) -> Tensor:
    """[N, 4, H, W] → [N, 2 H, 2 W]."""
    return torch.cat([torch.cat([parts[:, i], parts[:, i + 1]], 2) for i in (0, 2)], 1)


def sources(folder: Path | None, size: Size, batch: int, seed: int) -> Parts:
    """Pieces of Python's standard library and the package that each is from. No file is in two parts."""
    made = [_pieces(role, getattr(size, role)) for role in ROLES]
    return Parts(Shuffled(*made[0], batch, seed), *(Shuffled(*part, 250) for part in made[1:]))


def _pieces(role: str, most: int) -> tuple[dict[str, Tensor], Tensor]:
    """Of every eight files of a package one is for validation and two are for the test, the others for training."""
    rows, labels = [], []
    for y, package in enumerate(PACKAGES):
        for i, file in enumerate(_files(package)):
            if role == ("validation" if i % 8 == 3 else "test" if i % 8 in (1, 5) else "train"):
                found = [row for row in _numbers(file).split(LENGTH) if len(row)]
                rows += [F.pad(row, (0, LENGTH - len(row))) for row in found]
                labels += [y] * len(found)
    kept = torch.randperm(len(rows), generator=generator("sources", role))[:most]
    ids = torch.stack(rows)[kept]
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}, torch.tensor(labels)[kept]


def _files(package: str) -> list[Path]:
    folder = Path(sysconfig.get_path("stdlib"), package)
    found = sorted(path for path in folder.rglob("*.py") if path.stat().st_size)
    if len(found) < 8:
        raise InputError(f"this Python has {len(found)} files in {folder}, not 8: take a whole installation.")
    return found


def _numbers(file: Path) -> Tensor:
    """The words of a file as numbers from 1 on; different words may share one."""
    words = re.findall(r"\w+", file.read_text("utf-8"))
    return torch.tensor([zlib.crc32(word.encode()) % (WORDS - 1) + 1 for word in words], dtype=torch.long)
