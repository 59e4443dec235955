"""Named experiments: each a function that edits the default configuration. `blocklocal recipes` lists them."""

from collections.abc import Callable

from blocklocal._common.registry import Registry
from blocklocal.runs.config import Config

Recipe = Callable[[], Config]
RECIPES: Registry[Recipe] = Registry("recipe")


def recipe(function: Recipe) -> Recipe:
    """Register a recipe under its function's name; its docstring is its description."""
    RECIPES.add(function.__name__.replace("_", "-"), function)
    return function


def get_recipe(name: str) -> Config:
    """The configuration of a named recipe."""
    return RECIPES.get(name)()


@recipe
def quickstart() -> Config:
    """Embedded digits, a small ResNet-18 in 4 blocks: seconds per run (what `make train` compares)."""
    return Config().edit(
        data="digits",
        model="resnet18",
        width=8,
        epochs=10,
        batch_size=32,
        lr=0.05,
        threads=1,  # the network is so small that a second thread only waits, above all on a busy machine
    )


@recipe
def fashion_mlp() -> Config:
    """Fashion-MNIST, MLP 784-512-512-512-10 with a loss after every layer, 5 epochs."""
    return Config().edit(
        data="zalando-datasets/fashion_mnist",
        model="mlp",
        width=512,
        epochs=5,
        optimizer="adam",
        lr=1e-3,
        weight_decay=0.0,
        readout=1,
    )


@recipe
def fashion_resnet() -> Config:
    """Fashion-MNIST, ResNet-18 (7×7 stem, width 32) in 4 blocks, 5 epochs."""
    return Config().edit(
        data="zalando-datasets/fashion_mnist",
        model="resnet18",
        width=32,
        model_options={"stem": "large"},
        epochs=5,
    )


@recipe
def cifar_trial() -> Config:
    """A small CIFAR-10 (half the images, ResNet-18 of width 16 in 4 blocks, 8 epochs): what methods are chosen on."""
    return Config().edit(
        data="uoft-cs/cifar10",
        train_size=25_000,
        validation=2_500,
        augment="flip",
        model="resnet18",
        width=16,
        epochs=8,
        balance="bytes",
    )
