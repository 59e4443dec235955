"""Figure 2's networks: one autoencoder trained by each method, and what a trained one predicts.

A predictor takes images [B, C, H, W] in [0, 1] and gives means and variances of the pixels, of the same shape. Every
variance includes s₀², which the data are said to have.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blocklocal._common.seeds import seeded
from blocklocal.block.optim import adam
from blocklocal.data import Batches, Images, ImageSet
from blocklocal.training.tally import NotFinite
from experiments.autoencoder import Autoencoder, Sizes, moments
from experiments.folded import EndToEnd, Folded, FoldedRecipe, Training

Predictor = Callable[[Tensor], tuple[Tensor, Tensor]]
Settings = dict[str, Any]
METHODS = ("gaussian", "plain", "folded", "frozen")
FITTED_ON = 10_000  # training images that a constant variance is fitted on
MEASURED_AT_ONCE = 500


def sizes(settings: Settings, data: ImageSet) -> Sizes:
    """The autoencoder of these settings for these images."""
    names = ("wide", "hidden", "bottleneck", "image_deviation", "hidden_deviation")
    own = {name: settings[name] for name in names}
    return Sizes(channels=data.channels, height=data.height, width=data.width, **own)


def build(settings: Settings, data: ImageSet, device: torch.device) -> Autoencoder:
    """The untrained network: one seed gives every method the same one."""
    with seeded("autoencoder", settings["seed"]):
        network = Autoencoder(sizes(settings, data))
    return network.to(device, memory_format=torch.channels_last)  # pyrefly: ignore


def training(method: str, network: Autoencoder, settings: Settings, steps: int) -> Training:
    """How `method` (one of METHODS) trains this network in `steps` steps."""
    assert method in METHODS, f"{method!r} is no way to train"
    recipe = FoldedRecipe(adam(settings["lr"], clip=settings["clip"]), "one-cycle", steps, settings["reconstruction"])
    if method in ("gaussian", "plain"):
        return EndToEnd(network, recipe, squared_error=method == "plain")
    return Folded(network, recipe, seed=settings["seed"], frozen=method == "frozen")


def pixels(
    images: Images, device: torch.device, *, batch_size: int = MEASURED_AT_ONCE, shuffle: bool = False, seed: int = 0
) -> Batches:
    """Batches of images in [0, 1]."""
    channels = images.pixels.shape[1]
    return Batches(
        images,
        batch_size=batch_size,
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        shuffle=shuffle,
        seed=seed,
        device=device,
        channels_last=True,
    )


def train(method: str, settings: Settings, data: ImageSet, device: torch.device) -> Iterator[tuple[Autoencoder, float]]:
    """Train one network; after every epoch gives it, in evaluation mode, and the epoch's mean loss (of all pairs)."""
    network = build(settings, data, device)
    batches = pixels(data.train, device, batch_size=settings["batch_size"], shuffle=True, seed=settings["seed"])
    learner = training(method, network, settings, settings["epochs"] * len(batches))
    for epoch in range(settings["epochs"]):
        network.train()
        losses = [torch.stack(learner.step(image)).sum() for image, _ in batches.epoch(epoch)]
        network.eval()
        loss = torch.stack(losses).mean().item()
        if not math.isfinite(loss):
            raise NotFinite(f"the loss of {method} became {loss} in epoch {epoch + 1}")
        yield network, loss


# --- what they predict


def own_variance(network: Autoencoder) -> Predictor:
    """Means and variances as the network says them."""

    def predict(image: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = moments(network(image))
        return mean, log_variance.exp()

    return predict


def constant_variance(networks: list[Autoencoder], images: Images, device: torch.device) -> Predictor:
    """The mean of these networks' means; the variance across them and one constant more.

    The constant is fitted on `images` (training ones): the mean predicted variance there is s₀² plus the mean squared
    error, but the constant is never below s₀².
    """
    given = networks[0].sizes.image_deviation ** 2

    def across(image: Tensor) -> tuple[Tensor, Tensor]:
        means = torch.stack([moments(network(image))[0] for network in networks])
        return means.mean(0), means.var(0, correction=0)

    mean, spread, image = predict_all(across, first(images, FITTED_ON), device)
    residual = ((image - mean).square() - spread).double().mean().item()
    constant = given + max(residual, 0.0)

    def predict(image: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = across(image)
        return mean, spread + constant

    return predict


@torch.no_grad()
def predict_all(predict: Predictor, images: Images, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(means, variances, the images themselves), [N, C, H, W] each."""
    parts = [(*predict(image), image) for image, _ in pixels(images, device)]
    mean, variance, image = (torch.cat(part) for part in zip(*parts, strict=True))
    return mean, variance, image


def first(images: Images, count: int) -> Images:
    return images.subset(torch.arange(min(count, len(images))))


# --- on the disk


def save_network(path: Path, network: Autoencoder, settings: Settings) -> None:
    """Write weights, and the settings they came from; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    state = {name: value.cpu().contiguous() for name, value in network.state_dict().items()}
    torch.save({"settings": json.dumps(settings, sort_keys=True), "state": state}, draft)
    os.replace(draft, path)


def load_network(path: Path, network: Autoencoder, settings: Settings) -> bool:
    """Load weights into `network`, and say whether they were there and came from the same settings."""
    if not path.is_file():
        return False
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if saved["settings"] != json.dumps(settings, sort_keys=True):
        return False
    network.load_state_dict(saved["state"])
    network.eval()
    return True
