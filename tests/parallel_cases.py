"""Small networks that are trained in one process and in several: the same code makes both, a worker process runs it."""

from __future__ import annotations

import torch
from rule_helpers import ARCHITECTURES, CLASSES, build, side
from torch import nn

from blocklocal import BlockLocal, Values, adam, sgd, split
from blocklocal.block.target import Target
from blocklocal.network.settings import Learning
from blocklocal.rules import RULES

BLOCKS = 4
TOKENS = {"classes": None, "tokens": CLASSES, "order": "first"}
PARTS = {"readout": 1, "reconstruction": 0.5, "similarity": 0.3}
SIZES = [6, 6, 5, 6, 3]  # of the batches: the last of an epoch is smaller
LOCAL = [name for name in RULES.names() if RULES.get(name).local and not RULES.get(name).whole]

# name -> (architecture, settings of the model, settings of the network)
CASES: dict[str, tuple[str, dict, dict]] = {
    **{f"{name}": ("resnet20", {}, {"rule": name}) for name in LOCAL},
    "defaults": ("resnet20", {}, {"readout": Learning().readout}),
    "copies read sequences": ("rows", {}, {"readout": Learning().readout}),
    "negatives": ("positions", {}, {**TOKENS, "twin": "shared", "message_delay": 1, "negatives": 0.5}),
    "mlp": ("mlp", {"depth": 4}, {}),
    "dropout": ("vgg8b", {"dropout": 0.3}, {}),
    "parts of the input": ("resnet20", {}, {**PARTS, "reconstruct": "input"}),
    "parts of the image": ("resnet20", {}, {**PARTS, "reconstruct": "image"}),
    "variational": ("resnet20", {}, {"objective": "variational", "family": "bernoulli", "tau": 0.5}),
    "weights of the image": ("resnet20", {}, {**PARTS, "class_weights": [0.5 + k for k in range(CLASSES)]}),
    "values": ("resnet20", {}, {"classes": None, "values": Values(CLASSES, (1.0,) * CLASSES, (2.0,) * CLASSES)}),
    "bfloat16": ("resnet20", {}, {"readout": 1}),
    "channels last, mirrored": ("resnet20", {}, {"twin": "mirrored", "message_delay": 1}),
    "normalised": ("resnet20", {}, {"normalise": "batch"}),
    **{
        f"{twin}, {delay} late": ("resnet20", {}, {"twin": twin, "message_delay": delay})
        for twin in ("chain", "mirrored")
        for delay in (1, 2, 3)
    },
    **{f"shared, every {n}": ("mlp", {"depth": 4}, {"twin": "shared", "message_delay": n}) for n in (1, 3)},
}
assert all(architecture in [*ARCHITECTURES, "rows", "positions"] for architecture, _, _ in CASES.values())


def rows(positions: bool = False) -> nn.Module:
    """The rows of an image as a sequence: every block but the last ends in [B, 8, 8]. One answer, or one per row."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(BLOCKS)]
    head = [nn.Linear(8, CLASSES)] if positions else [nn.Flatten(), nn.Linear(64, CLASSES)]
    return nn.Sequential(nn.Flatten(1, 2), *layers, *head)


def plain() -> BlockLocal:
    """Without BatchNorm, so that the gradient of a batch is the mean of those of its parts."""
    torch.manual_seed(0)
    layers = [
        nn.Flatten(),
        *(layer for _ in range(3) for layer in (nn.Linear(64, 64), nn.ReLU())),
        nn.Linear(64, CLASSES),
    ]
    cut = split(nn.Sequential(*layers), BLOCKS)
    return BlockLocal(cut, classes=CLASSES, example=torch.zeros(2, 1, 8, 8), optimizer=sgd(lr=0.05), readout=0)


def make(case: str, seed: int = 0) -> BlockLocal:
    architecture, options, settings = CASES[case]
    model = build(architecture, **options) if architecture in ARCHITECTURES else rows(architecture == "positions")
    example = torch.zeros(2, 1, side(architecture), side(architecture))
    cut = split(model, BLOCKS)
    made = BlockLocal(
        cut, seed=seed, example=example, optimizer=adam(lr=1e-2), **{"classes": CLASSES, "readout": 0, **settings}
    )
    if case == "bfloat16":
        made.autocast(torch.bfloat16)
    if case.startswith("channels last"):
        made.to(memory_format=torch.channels_last)
    return made


def _asked(case: str, y: torch.Tensor) -> torch.Tensor | Target:
    if case == "values":
        return 3 * torch.nn.functional.one_hot(y, CLASSES).float()
    return Target(y, torch.linspace(0, 2, len(y))) if case.startswith("weights") else y


def batches(case: str) -> list[tuple[torch.Tensor, torch.Tensor | Target]]:
    pixels, generator = side(CASES[case][0]), torch.Generator().manual_seed(3)
    made = []
    for size in SIZES:
        x = torch.randn(size, 1, pixels, pixels, generator=generator)
        if case.startswith("channels last"):
            x = x.contiguous(memory_format=torch.channels_last)
        shape = (size, pixels) if CASES[case][0] == "positions" else (size,)
        y = torch.randint(0, CLASSES, shape, generator=generator)
        made.append((x, _asked(case, y)))
    return made
