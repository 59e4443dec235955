"""Two ways to ask hidden blocks for values, beside backprop and the frozen control: `python -m benchmarks.values`.

Rows: what the library does (`block/values.py`). Linear: a message linear in the value, whose evidence is, to first
order in the message, the squared error of a linear readout. Test RMSE of every block; the last is the output.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blocklocal as bl
from blocklocal.block.target import Asked, values_of

WIDTH, EPOCHS, BATCH = 128, 10, 64
CUTS = {4: ["3", "6", "9"], 5: ["3", "6", "9", "12"]}  # the last of five has one linear layer alone
WAYS = {"backprop": "backprop", "frozen": "frozen", "rows": "block-local", "linear": "block-local"}


@dataclass(frozen=True)
class Linear(bl.Values):
    """One row per value; its score is the value."""

    @property
    def rows(self) -> int:
        return self.count

    def loss(self, logits: Tensor, target: Asked, smoothing: float = 0.0) -> Tensor:
        """Minus the log-likelihood of a Gaussian of variance 1, but for a constant."""
        return 0.5 * self.output_loss(logits, target)

    def one_hot(self, target: Asked) -> Tensor:
        return self.scaled(values_of(self.asked(target)).float())

    def as_logits(self, scores: Tensor) -> Tensor:
        return scores


def friedman(samples: int = 6000) -> tuple[Tensor, Tensor]:
    """Friedman's first function of 5 of 10 uniform variables, with noise of deviation 0.5."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(samples, 10, generator=draw)
    y = 10 * (math.pi * x[:, 0] * x[:, 1]).sin() + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    return x, y + 0.5 * torch.randn(samples, generator=draw)


def rotation(times: int = 3) -> tuple[Tensor, Tensor]:
    """By how many degrees, from -45 to 45, one of scikit-learn's digits is rotated."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32).unsqueeze(1).repeat(times, 1, 1, 1)
    degrees = 90 * torch.rand(len(images), generator=torch.Generator().manual_seed(0)) - 45
    a = degrees.deg2rad()
    turn = torch.stack([a.cos(), -a.sin(), 0 * a, a.sin(), a.cos(), 0 * a], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).flatten(1), degrees


def errors(x: Tensor, y: Tensor, way: str, blocks: int, **settings: object) -> list[float | None]:
    """Train on four fifths; test RMSE of every block."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(7))
    x, y, training = x[order], y[order], len(x) * 4 // 5
    x = (x - x[:training].mean(0)) / x[:training].std(0).clamp(min=1e-3)
    torch.manual_seed(0)
    widths = [x.shape[1], *[WIDTH] * 4]
    layers = [
        part for given, made in pairwise(widths) for part in (nn.Linear(given, made), nn.BatchNorm1d(made), nn.ReLU())
    ]
    cut = bl.split(nn.Sequential(*layers, nn.Linear(WIDTH, 1)), at=CUTS[blocks])
    kind = (Linear if way == "linear" else bl.Values).of(y[:training])
    network = bl.BlockLocal(cut, values=kind, example=x[:8], rule=WAYS[way], **settings)  # pyrefly: ignore
    starts = range(0, training - training % BATCH, BATCH)
    batches = [(x[i : i + BATCH], y[i : i + BATCH]) for i in starts]
    network.configure(bl.adam(lr=2e-3), "one-cycle", EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for i in torch.randperm(len(batches)).tolist():
            network.step(*batches[i])
    return bl.evaluate(network, [(x[training:], y[training:])]).measured["rmse"]


def main() -> None:
    torch.set_num_threads(1)
    for name, (x, y) in {"Friedman": friedman(), "rotation": rotation()}.items():
        print(f"{name}: {len(x)} samples, deviation {y.std().item():.2f}")
        for blocks in CUTS:
            for way in WAYS:
                found = [f"{error:.2f}" if error is not None else "-" for error in errors(x, y, way, blocks)]
                print(f"  {blocks} blocks  {way:9} {'  '.join(found)}", flush=True)
        for way in ("rows", "linear"):
            found = [f"{error:.2f}" for error in errors(x, y, way, 4, readout=0) if error is not None]
            print(f"  4 blocks  {way:9} {'  '.join(found)}   without auxiliary networks", flush=True)


if __name__ == "__main__":
    main()
