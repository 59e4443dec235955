"""What an optimiser keeps between steps and makes within one, in bytes: found by letting it step without content."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from blocklocal._common.errors import InputError
from blocklocal.block.optim import Optimizer
from blocklocal.streaming.live import Live

SAMPLE = 16  # the most of every side of a parameter, where an optimiser must step on values


@dataclass(frozen=True)
class Update:
    """Bytes of one block's optimiser.

    Attributes:
        states: what it keeps between steps.
        temporaries: what it makes within a step, at the worst moment, and lets go of.
    """

    states: int
    temporaries: int


class Updates:
    """Asks one kind of optimiser, and remembers what it said of parameters of these shapes.

    Args:
        optimizer: of every block.
        cuda: whether it is for CUDA, where torch's own optimisers step all parameters at once unless told otherwise.
    """

    def __init__(self, optimizer: Optimizer, *, cuda: bool = False):
        self._optimizer, self._cuda = optimizer, cuda
        self._known: dict[tuple[object, ...], Update | None] = {}

    def of(self, parameters: Sequence[nn.Parameter]) -> Update | None:
        """Of a block that trains these parameters; None where the optimiser does not step without a training run."""
        key = tuple((p.shape, p.dtype) for p in parameters)
        if key not in self._known:
            self._known[key] = self._asked(parameters) if parameters else Update(0, 0)
        return self._known[key]

    def _asked(self, parameters: Sequence[nn.Parameter]) -> Update | None:
        try:
            return self._stepped([torch.empty_like(p, device="meta") for p in parameters])
        except InputError:
            raise
        except Exception:  # a user's optimiser looks at values, and raises what it likes where there are none
            return self._sampled(parameters)

    def _sampled(self, parameters: Sequence[nn.Parameter]) -> Update | None:
        """By the share of a small parameter's bytes."""
        small = [torch.rand([min(side, SAMPLE) for side in p.shape], dtype=p.dtype) for p in parameters]
        try:
            found = self._stepped(small)
        except InputError:
            raise
        except Exception:  # as above
            return None
        sizes = [p.numel() * p.element_size() for p in parameters]
        states = found.states * sum(sizes) // bytes_of(small)
        return Update(states, found.temporaries * max(sizes) // max(bytes_of([s]) for s in small))

    def _stepped(self, values: Sequence[Tensor]) -> Update:
        made = [nn.Parameter(value) for value in values]
        optimizer = self._optimizer.build(made)
        for group in optimizer.param_groups if self._cuda else ():
            if group.get("foreach", 0) is None and not group.get("fused"):
                group["foreach"] = True
        for parameter in made:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with Live() as live:
            optimizer.step()
        averages = bytes_of(made) if self._optimizer.ema is not None else 0
        return Update(bytes_of(tree_leaves(list(optimizer.state.values()))) + averages, live.peak)


def bytes_of(tensors: Iterable[object]) -> int:
    """Of the distinct memory behind tensors; what is no tensor counts nothing."""
    storages = [t.untyped_storage() for t in tensors if isinstance(t, Tensor)]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())
