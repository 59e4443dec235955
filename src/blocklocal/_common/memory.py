"""How many bytes autograd keeps between forward and backward: the memory that block-local learning saves."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn


class SavedBytes:
    """Bytes of the distinct storages that autograd holds: `live` now, `peak` at most so far.

    A storage counts once and whole, however many views of it are kept. What belongs to a `saved_bytes` module
    (its parameters and buffers) does not count: it stays in memory anyway.
    """

    def __init__(self, ignored: set[tuple[torch.device, int]]):
        self.live = 0
        self.peak = 0
        self._ignored = ignored
        self._holders: Counter[tuple[torch.device, int]] = Counter()

    def add(self, tensor: Tensor) -> None:
        """One more holder of this tensor's storage."""
        key = _key(tensor)
        if key in self._ignored:
            return
        self._holders[key] += 1
        if self._holders[key] == 1:
            self.live += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.live)

    def remove(self, tensor: Tensor) -> None:
        """One holder fewer; the storage stops counting with the last."""
        key = _key(tensor)
        if key in self._ignored:
            return
        self._holders[key] -= 1
        if self._holders[key] == 0:
            del self._holders[key]
            self.live -= tensor.untyped_storage().nbytes()


class _Held:
    """What autograd keeps in place of a saved tensor; it dies when the graph lets go of it."""

    def __init__(self, tensor: Tensor, count: SavedBytes):
        # Detached, or an output saved by its own node would keep that node alive for ever.
        self.tensor, self.count = tensor.detach(), count
        count.add(self.tensor)

    def __del__(self) -> None:
        self.count.remove(self.tensor)


@contextmanager
def saved_bytes(*modules: nn.Module) -> Generator[SavedBytes]:
    """Count the bytes that graphs built inside the `with` keep for their backward pass.

        with saved_bytes(model) as kept:
            loss = model(x).sum()
            loss.backward()
        print(kept.peak)

    Graphs that are freed later are still subtracted from `live` after the `with` has ended. Dense tensors only.

    Args:
        modules: their parameters and buffers are left out of the count.
    """
    # In a list, so that none is freed meanwhile, and its address given to what is to be counted.
    tensors = [t.detach() for t in chain.from_iterable(chain(m.parameters(), m.buffers()) for m in modules)]
    count = SavedBytes({_key(t) for t in tensors})

    def unpack(held: _Held) -> Tensor:
        return held.tensor

    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: _Held(tensor, count), unpack):
        yield count


def _key(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage()._cdata  # one on the meta device has no address of its own
