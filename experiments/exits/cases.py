"""The image sets, networks and ways of the experiment, and its sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from blocklocal.data import load_images
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.recipes import get_recipe
from blocklocal.runs.sets import normalise
from experiments.sets import find_set

ENSEMBLE = 4  # networks


@dataclass(frozen=True)
class Case:
    """A set, a network, and a set of foreign images.

    Attributes:
        data, foreign: names of sets (`experiments.sets`), or digits.
        config: what is trained; `sizes` change it.
    """

    data: str
    foreign: str
    config: Config
    sizes: Mapping[str, Mapping[str, Any]]

    def settings(self, size: str, seed: int, root: Path | None, **changes: Any) -> Config:
        """The configuration of one run."""
        data = self.data if self.data == "digits" else find_set(self.data, root)
        return self.config.edit(**{"data": data, "seed": seed, "tensorboard": False, **self.sizes[size], **changes})

    def foreign_images(self, facts: DatasetInfo, root: Path | None, count: int) -> Tensor:
        """So many test images of the other set, as the network takes them: scaled, in its colours, [B, C, H, W]."""
        name = self.foreign if self.foreign == "digits" else find_set(self.foreign, root)
        pixels = load_images(name, image_size=facts.height, validation=0).test.pixels[:count]
        return normalise(pixels[:, :1].expand(-1, facts.channels, -1, -1).contiguous(), facts)


SMALLER = {
    "trial": {"train_size": 5_000, "validation": 2_000, "test_size": 2_000, "epochs": 4, "width": 8},
    "small": {"train_size": 64, "validation": 40, "test_size": 40, "epochs": 1, "width": 4},
}
FASHION = Config().edit(
    model="vgg8b", width=16, blocks=4, balance="bytes", train_size=20_000, validation=5_000, epochs=8
)
CASES = {
    "fashion": Case("fashion-mnist", "mnist", FASHION, {"full": {}, **SMALLER}),
    "fashion-augmented": Case("fashion-mnist", "mnist", FASHION.edit(augment="crop:2,flip"), {"full": {}, **SMALLER}),
    "cifar": Case(
        "cifar10",
        "fashion-mnist",
        get_recipe("cifar-trial").edit(epochs=16, validation=5_000),
        {"full": {}, **SMALLER},
    ),
    "digits": Case(
        "digits",
        "digits",
        Config().edit(model="resnet18", width=8, blocks=4, epochs=8, batch_size=32, lr=0.05),
        {
            "full": {},
            "trial": {"epochs": 4},
            "small": {"train_size": 200, "validation": 100, "test_size": 100, "epochs": 1, "width": 4},
        },
    ),
}
WAYS: dict[str, dict[str, Any]] = {
    "backprop": {"rule": "backprop"},
    "ensemble": {"rule": "backprop"},
    "frozen": {"rule": "frozen"},
    "deep-supervision": {"rule": "deep-supervision"},
    "block-local": {},
    "block-local-1": {"readout": 1},
}
