"""A network as a chain: layers applied one after the other, and the pieces they are grouped into."""

from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from blocklocal.splitting.graphs import ends_activated
from blocklocal.splitting.layers import ACTIVATIONS, PASSIVE, has_hooks, is_layer, is_weighted, owns_train

Layer = tuple[str, nn.Module]


def is_sequential(model: nn.Module) -> bool:
    """Whether the module does no more than apply its children in order.

    That is nn.Sequential, or a subclass that keeps its forward, without hooks and without a train() of its own.
    """
    kept = isinstance(model, nn.Sequential) and getattr(model.forward, "__func__", None) is nn.Sequential.forward
    return kept and not has_hooks(model) and not owns_train(model)


def flat_layers(model: nn.Module, prefix: str = "") -> Iterator[Layer]:
    """The layers of a Sequential, nested ones opened, with their names in it. Anything else is one layer."""
    for name, child in model.named_modules(remove_duplicate=False):  # named_children would skip a second use
        if name and "." not in name:
            yield from flat_layers(child, f"{prefix}{name}.") if is_sequential(child) else [(prefix + name, child)]


def piece_starts(layers: Sequence[Layer]) -> list[int]:
    """Where pieces of one weighted layer each begin, so that a cut between them falls before the activation.

    Conv, BN, ReLU, Conv, BN, ReLU, Pool, Flatten, Linear gives [Conv, BN], [ReLU, Conv, BN] and
    [ReLU, Pool, Flatten, Linear].
    What follows the last weighted layer stays with it.
    """
    last = max((i for i, (_, module) in enumerate(layers) if is_weighted(module)), default=0)
    starts, weighted = [0], False
    for i, (_, module) in enumerate(layers[: last + 1]):
        heavy = is_weighted(module)
        if weighted and (heavy or isinstance(module, ACTIVATIONS)):
            starts.append(i)
            weighted = False
        weighted = weighted or heavy
    return starts


class Chain:
    """A plan to cut layers that are applied in order; positions are indices into them."""

    def __init__(self, layers: Sequence[Layer], starts: Sequence[int]):
        self.layers = list(layers)
        self.piece_starts = list(starts)
        self.length = len(self.layers)

    def locate(self, name: str) -> int | None:
        """The first layer of that name or inside a container of that name; None where no layer begins there."""
        inside = (i for i, (layer, _) in enumerate(self.layers) if layer == name or layer.startswith(f"{name}."))
        return next(inside, None)

    def label(self, start: int, stop: int) -> str:
        """The names of the first and the last layer."""
        first, last = self.layers[start][0], self.layers[stop - 1][0]
        return first if stop - start == 1 else f"{first}–{last}"

    def after_activation(self, position: int) -> bool:
        """Whether what crosses here has passed an activation already (pooling and the like do not undo it)."""
        for _, module in reversed(self.layers[:position]):
            if not isinstance(module, PASSIVE):
                return isinstance(module, ACTIVATIONS) or (is_layer(module) and ends_activated(module))
        return False

    def build(self, start: int, stop: int) -> nn.Module:
        """One module that applies these layers and shares them; a dot in a name becomes "_"."""
        layers = self.layers[start:stop]
        if start > 0 and overwrites_input([module for _, module in layers]):
            layers = [("keep_input", Copy()), *layers]
        block = nn.Sequential()
        for name, module in layers:
            key = name.replace(".", "_")
            while hasattr(block, key):  # "a.b" beside "a_b", or a name that nn.Module uses itself
                key += "_"
            block.add_module(key, module)
        return block


def overwrites_input(modules: Sequence[nn.Module]) -> bool:
    """Whether the first modules may change in place what they are given.

    nn.ReLU(inplace=True) at the start of a block would turn the message of the block before into the value after the
    ReLU. Modules that may pass on their input, or a view of it, are looked through.
    """
    for module in modules:
        if any(getattr(part, "inplace", False) for part in module.modules()):
            return True
        if not isinstance(module, PASSIVE):
            return False
    return False


class Copy(nn.Module):
    """Passes on a copy of its input, so that what follows may work in place."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clone()
