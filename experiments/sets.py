"""Where an experiment finds the paper's image sets: on the Hugging Face hub, or in a folder that holds them."""

import re
from pathlib import Path

from blocklocal._common.errors import InputError
from blocklocal._common.registry import Registry

SETS = {"mnist": "MNIST", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}  # as tables name them
HUB: Registry[str] = Registry("image set")
HUB.add("mnist", "ylecun/mnist")
HUB.add("fashion-mnist", "zalando-datasets/fashion_mnist")
HUB.add("cifar10", "uoft-cs/cifar10")


def find_set(name: str, root: Path | None) -> str:
    """What `load_images` is to be given for "mnist", "fashion-mnist" or "cifar10".

    root: None for the hub; else a folder with one folder per set, called as the set is (case, "-" and "_" do not count,
    and letters may follow: `fashion_mnist`, `cifar10_jpeg`, not `cifar100`). Raises InputError where there is not
    exactly one.
    """
    hub = HUB.get(name)
    if root is None:
        return hub
    if not root.is_dir():
        raise InputError(f"there is no folder {root}: --data names a folder that holds {', '.join(HUB.names())}.")
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = [path for path in folders if re.match(_plain(name) + "(?![0-9])", _plain(path.name))]
    if len(found) != 1:
        there = ", ".join(path.name for path in folders) or "no folders"
        raise InputError(f"{root} must hold one folder for {name} (such as {name}); it holds {there}.")
    return str(found[0])


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
