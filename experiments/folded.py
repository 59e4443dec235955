"""How the Gaussian autoencoder learns: end to end, or folded into block pairs that learn by themselves (Fig. 2D).

Both minimise D_KL(data ‖ prediction) between Gaussians, in this direction: its optimum is σ² = s₀² + squared error,
while the other direction's is σ² = s₀² whatever the error (method §6).

Folded, pair k owns f_k, g_k, a reader r_k and an optimiser, and its loss is

    D_KL(z_{k-1} ‖ g_k(z'_k))  +  weight · (image - r_k(z_k))² / 2s²

The first term trains the decoder block on what really arrives from the deeper pair; in the deepest pair z'_k is z_k, so
it trains the encoder block too. The second, the local reconstruction of method §3, keeps in z_k what the image needs;
the reader is not on the way of any message. z_{k-1}, z'_k and what is passed on are data: no gradient crosses a pair
boundary.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal._common.seeds import seeded
from blocklocal.block.optim import Optimizer
from blocklocal.block.schedules import build_schedule
from experiments.autoencoder import Autoencoder, Means, Pair, Sizes, moments

IMAGE_VARIANCE = 0.01  # s² of the local reconstruction: pixels are predicted to about 0.1, so its loss is of order one


@dataclass(frozen=True)
class FoldedRecipe:
    """How an autoencoder is optimised: peak learning rate and gradient clipping per block pair, schedule, steps."""

    optimizer: Optimizer
    schedule: str
    steps: int
    reconstruction: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.reconstruction < float("inf"):
            raise InputError(f"reconstruction is a weight of 0 or more, not {self.reconstruction!r}.")


def gaussian_kl(data: Tensor, prediction: Tensor) -> Tensor:
    """Mean of D_KL(data ‖ prediction) = ½ (log σ²/s² + (s² + (x - m)²)/σ² - 1) over values, in nats.

    data, prediction: messages [B, 2C, …] with means x, m and log-variances log s², log σ².
    """
    (x, own), (m, predicted) = moments(data), moments(prediction)
    ratio = (own - predicted).exp() + (x - m).square() * (-predicted).exp()
    return 0.5 * (predicted - own + ratio - 1).mean()


@final
class Updater:
    """Modules with one optimiser: what is updated together. trains=False: never updated, as frozen."""

    def __init__(self, parts: nn.Module, recipe: FoldedRecipe, *, trains: bool = True):
        self.parts = parts
        self.clip, self.steps = recipe.optimizer.clip, recipe.steps
        self.optimizer = recipe.optimizer.build(parts.parameters()) if trains else None
        self.schedule = build_schedule(recipe.schedule, self.optimizer, recipe.steps) if self.optimizer else None

    def update(self, loss: Tensor) -> None:
        """One step down `loss`. After the schedule's last step the learning rate stays where it is."""
        if self.optimizer is None or self.schedule is None:
            return
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.parts.parameters(), self.clip)
        self.optimizer.step()
        if self.schedule.last_epoch < self.steps:
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)


class Training(ABC):
    """A network and a way to train it: `step(image)` updates it once and returns its losses, one per learner."""

    network: Autoencoder

    @abstractmethod
    def step(self, image: Tensor) -> list[Tensor]: ...


@final
class EndToEnd(Training):
    """One updater. squared_error: the plain autoencoder; it learns the means alone, by the mean squared error."""

    def __init__(self, network: Autoencoder, recipe: FoldedRecipe, *, squared_error: bool = False):
        self.network, self.squared_error = network, squared_error
        self.updater = Updater(network, recipe)

    def step(self, image: Tensor) -> list[Tensor]:
        predicted = self.network(image)
        if self.squared_error:
            loss = F.mse_loss(moments(predicted)[0], image)
        else:
            loss = gaussian_kl(self.network.message(image), predicted)
        self.updater.update(loss)
        return [loss.detach()]


@final
class PairLearner(nn.Module):
    """A block pair that learns by itself."""

    def __init__(self, pair: Pair, reader: nn.Module, recipe: FoldedRecipe, *, trains: bool = True):
        super().__init__()
        self.pair, self.reader, self.trains = pair, reader, trains
        self.weight = recipe.reconstruction
        self.updater = Updater(self, recipe, trains=trains)

    def send(self, message: Tensor) -> Tensor:
        """z_k, with the graph of this pair's encoder block alone."""
        with torch.set_grad_enabled(self.trains):
            return self.pair.encoder(message.detach())

    def learn(self, given: Tensor, sent: Tensor, arriving: Tensor | None, image: Tensor) -> tuple[Tensor, Tensor]:
        """One local update; returns (the loss, z'_{k-1}), both as data.

        given: z_{k-1}. sent: what `send` returned for it. arriving: z'_k, or None in the deepest pair, where it is z_k.
        """
        with torch.set_grad_enabled(self.trains):
            predicted = self.pair.decoder(sent if arriving is None else arriving.detach())
            loss = gaussian_kl(given.detach(), predicted)
            if self.weight:
                read = F.mse_loss(self.reader(sent), image)
                loss = loss + self.weight * read / (2 * IMAGE_VARIANCE)
        self.updater.update(loss)
        return loss.detach(), predicted.detach()


@final
class Folded(Training):
    """Every pair learns from its own loss. frozen: the control; all pairs but the outermost stay at random."""

    def __init__(self, network: Autoencoder, recipe: FoldedRecipe, *, seed: int = 0, frozen: bool = False):
        self.network = network
        with seeded("reader", seed):
            readers = [build_reader(network.sizes, level) for level in range(1, len(network.chain()) + 1)]
        device = next(network.parameters()).device
        self.learners = [
            PairLearner(pair, reader.to(device), recipe, trains=k == 0 or not frozen)
            for k, (pair, reader) in enumerate(zip(network.chain(), readers, strict=True))
        ]

    def step(self, image: Tensor) -> list[Tensor]:
        given = [self.network.message(image)]
        sent = []
        for learner in self.learners:
            sent.append(learner.send(given[-1]))
            given.append(sent[-1].detach())
        arriving, losses = None, []
        for learner, own, message in zip(reversed(self.learners), given[-2::-1], reversed(sent), strict=True):
            loss, arriving = learner.learn(own, message, arriving, image)
            losses.insert(0, loss)
        return losses


def build_reader(sizes: Sizes, level: int) -> nn.Module:
    """r_k: message z_k, [B, 2C_k, …] → the image, [B, C, H, W]. In maps every position predicts a patch."""
    latent, image = sizes.latents[level], sizes.latents[0]
    if len(latent) == 1:
        count = image[0] * image[1] * image[2]
        layers = [nn.Linear(latent[0], sizes.hidden, bias=False), nn.BatchNorm1d(sizes.hidden), nn.ReLU()]
        return nn.Sequential(Means(), *layers, nn.Linear(sizes.hidden, count), nn.Unflatten(1, image))
    hidden, patch = latent[0] + 8, image[1] // latent[1]
    layers = [nn.Conv2d(latent[0], hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU()]
    return nn.Sequential(Means(), *layers, nn.ConvTranspose2d(hidden, image[0], 2 * patch, patch, patch // 2))
