"""Predict numbers: by what angle a digit is rotated, and how far each block comes, beside the frozen control."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import blocklocal as bl


def rotated() -> tuple[Tensor, Tensor]:
    """Digits of 8 × 8 pixels, each rotated by -45 to 45 degrees, as vectors; and the degrees."""
    images = bl.load_images("digits").train.pixels[:].float() / 255
    degrees = 90 * torch.rand(len(images)) - 45
    a, zero = degrees.deg2rad(), torch.zeros(len(images))
    turn = torch.stack([a.cos(), -a.sin(), zero, a.sin(), a.cos(), zero], 1).view(-1, 2, 3)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).flatten(1), degrees


def main(rule: str) -> list[float | None]:
    torch.manual_seed(0)
    x, y = rotated()
    train = [(x[i : i + 50], y[i : i + 50]) for i in range(0, 1000, 50)]
    layers = [(nn.Linear(width, 64), nn.BatchNorm1d(64), nn.ReLU()) for width in (64, 64, 64)]
    model = nn.Sequential(*(layer for part in layers for layer in part), nn.Linear(64, 1))
    cut = bl.split(model, at=["3", "6"])  # the last block keeps a hidden layer
    network = bl.BlockLocal(cut, values=bl.Values.of(y[:1000]), rule=rule)
    bl.Trainer(network, optimizer=bl.adam(lr=3e-3), epochs=10).fit(train)
    return bl.evaluate(network, [(x[1000:], y[1000:])]).measured["rmse"]


if __name__ == "__main__":
    for rule in ("block-local", "frozen"):
        print(f"{rule}: error per block, in degrees: {main(rule)}")
