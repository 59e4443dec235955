"""The core of blocklocal works with torch, numpy, msgspec and safetensors alone: train, evaluate, save, load."""

import sys
from collections.abc import Iterable


class Blocked:
    """Finds none of these modules, as if they were not installed."""

    def __init__(self, names: Iterable[str]):
        self.names = set(names)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return


def block(names: Iterable[str]) -> None:
    """Hide modules from everything that is imported from now on, and from `importlib.util.find_spec`."""
    import importlib.util

    hidden, find = set(names), importlib.util.find_spec
    sys.meta_path.insert(0, Blocked(hidden))
    importlib.util.find_spec = lambda name, package=None: None if name in hidden else find(name, package)


def main() -> None:
    import importlib.util

    from blocklocal._common import extras

    names = [name for names in extras.EXTRAS.values() for name in names]
    block(names)
    extras.find_spec = importlib.util.find_spec  # it was imported before
    import torch
    from torch import nn

    import blocklocal as bl

    torch.manual_seed(0)
    x = torch.randn(64, 6)
    y = (x[:, 0] > 0).long()
    network = bl.BlockLocal(
        bl.split(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), blocks=2), classes=2, example=x
    )
    bl.Trainer(network, optimizer=bl.sgd(lr=0.1), epochs=20).fit([(x, y)])
    accuracy = bl.evaluate(network, [(x, y)]).block_top1[-1]
    assert accuracy > 80, accuracy
    again = bl.BlockLocal(
        bl.split(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)), blocks=2), classes=2, example=x
    )
    again.load_state_dict(network.state_dict())
    assert torch.equal(again.predict(x).probabilities, network.predict(x).probabilities)
    loaded = sorted({name.partition(".")[0] for name in sys.modules} & set(names))
    assert not loaded, loaded
    print(f"trained without optional libraries: {accuracy:.0f} %")


if __name__ == "__main__":
    main()
