"""Backprop of which three layers are in memory at a time, as well as it can be done.

    forward     the weights of every layer are fetched; of every layer its input is kept
    backward    from the last layer on: weights and optimiser states are fetched, the layer is run again for its
                gradients, the optimiser takes the layer's step at once, and all goes back into the store

One thread fetches the next layer, another writes back. Buffers are used again and again. The last layer is run once,
and fetched once. A layer is one plain file that is changed in place: no checksum is taken, nothing is flushed to the
disk, and a kill leaves a broken network. All of that makes it faster than it could be in practice.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

import torch
from torch import Tensor, nn
from torch.func import functional_call

from streaming_peers.base import OPTIMIZER, Batch, Bytes, Peer, Task, loss_of, units

BUFFERS = 3  # one layer computes, one is fetched, one is written back


class StreamedBackprop(Peer):
    def __init__(self, task: Task):
        super().__init__(task)
        self.store = Store(Path(task.store), self.moved)
        self.shapes: list[nn.Module] = []  # the layers without content
        for k, unit in enumerate(units(task.size)):
            self.store.create(k, unit)
            self.shapes.append(_without_content(unit))
        self.store.ready()
        self.steps = 0

    def train(self, batches: list[Batch]) -> float:
        loss = float("nan")
        for x, y in batches:
            loss = self._step(x, y)
            self.steps += 1
        self.store.flush()
        return loss

    def _step(self, x: Tensor, y: Tensor) -> float:
        last = len(self.shapes) - 1
        forward = [(k, False) for k in range(last)]
        fetched = self.store.fetched([*forward, *((k, True) for k in range(last, -1, -1))])
        inputs = [x]
        with torch.no_grad():
            for k, _ in forward:
                buffer = next(fetched)
                inputs.append(functional_call(self.shapes[k], self._weights(k, buffer), (inputs[k],)))
                self.store.free(buffer)
        gradient, loss = None, float("nan")
        for k in range(last, -1, -1):
            buffer = next(fetched)
            weights = self._weights(k, buffer)
            a = inputs.pop().requires_grad_(k > 0)
            with torch.enable_grad():
                out = functional_call(self.shapes[k], weights, (a,))
                if k == last:
                    out = loss_of(out, y)
                    loss = out.item()
                out.backward(gradient)
            gradient = a.grad
            del out, a
            self._update(k, buffer, weights)
            del weights
            self.store.put(k, buffer)
        return loss

    def _weights(self, k: int, buffer: Tensor) -> dict[str, Tensor]:
        """The weights of layer k by name, which lie in the buffer."""
        shapes = dict(self.shapes[k].named_parameters())
        return {name: view.requires_grad_() for name, view in zip(shapes, self._views(k, buffer, 0), strict=True)}

    def _views(self, k: int, buffer: Tensor, part: int) -> Iterator[Tensor]:
        """Of the layer's weights (part 0), first (1) or second moments (2)."""
        start = part * self.store.sizes[k]
        for p in self.shapes[k].parameters():
            yield buffer[start : start + p.numel()].view(p.shape)
            start += p.numel()

    def _update(self, k: int, buffer: Tensor, weights: dict[str, Tensor]) -> None:
        optimizer = OPTIMIZER.build(weights.values())  # type: ignore[arg-type]
        moments = zip(weights.values(), self._views(k, buffer, 1), self._views(k, buffer, 2), strict=True)
        for weight, first, second in moments:
            step = torch.tensor(float(self.steps))
            optimizer.state[weight] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
        optimizer.step()

    def blocks(self, do: Callable[[Iterable[Tensor]], str]) -> list[str]:
        found = []
        for k, buffer in enumerate(self.store.fetched([(k, False) for k in range(len(self.shapes))])):
            found.append(do(self._views(k, buffer, 0)))
            self.store.free(buffer)
        return found


class Store:
    """A file per layer: its weights, first and second moments, one after the other."""

    def __init__(self, folder: Path, moved: Bytes):
        self.folder, self.moved, self.sizes = folder, moved, list[int]()
        self._buffers: SimpleQueue[Tensor] = SimpleQueue()
        self._fetching, self._writing = ThreadPoolExecutor(1, "fetch"), ThreadPoolExecutor(1, "write")
        self._written: dict[int, Future[None]] = {}

    def create(self, k: int, layer: nn.Module) -> None:
        self.sizes.append(sum(p.numel() for p in layer.parameters()))
        with self._path(k).open("wb", buffering=0) as file:
            for p in layer.parameters():
                file.write(_memory(p.detach().reshape(-1)))
            file.truncate(3 * self.sizes[k] * 4)  # moments of zero

    def ready(self) -> None:
        for _ in range(BUFFERS):
            self._buffers.put(torch.zeros(3 * max(self.sizes)))

    def fetched(self, wanted: list[tuple[int, bool]]) -> Iterator[Tensor]:
        """The buffers of layers (layer, whether its moments are wanted too), each fetched while the one before is used.

        Whoever gets a buffer gives it back, with `free` or `put`.
        """
        coming = [self._fetching.submit(self._read, *wanted[0])]
        for place in range(len(wanted)):
            buffer = coming.pop().result()
            if place + 1 < len(wanted):
                coming.append(self._fetching.submit(self._read, *wanted[place + 1]))
            yield buffer

    def free(self, buffer: Tensor) -> None:
        self._buffers.put(buffer)

    def put(self, k: int, buffer: Tensor) -> None:
        self._written[k] = self._writing.submit(self._write, k, buffer)

    def flush(self) -> None:
        for k in list(self._written):
            self._written.pop(k).result()

    def _read(self, k: int, moments: bool) -> Tensor:
        before = self._written.pop(k, None)
        if before is not None:
            before.result()
        buffer = self._buffers.get()
        view = _memory(buffer[: (3 if moments else 1) * self.sizes[k]])
        with self._path(k).open("rb", buffering=0) as file:
            count = 0
            while count < len(view):
                count += file.readinto(view[count:]) or 0
        self.moved.weights_read += 4 * self.sizes[k]
        self.moved.all_read += len(view)
        return buffer

    def _write(self, k: int, buffer: Tensor) -> None:
        view = _memory(buffer[: 3 * self.sizes[k]])
        with self._path(k).open("r+b", buffering=0) as file:
            count = 0
            while count < len(view):
                count += file.write(view[count:]) or 0
        self._buffers.put(buffer)
        self.moved.weights_written += 4 * self.sizes[k]
        self.moved.all_written += len(view)

    def _path(self, k: int) -> Path:
        return self.folder / f"layer-{k}"


def _memory(flat: Tensor) -> memoryview:
    return memoryview(flat.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _without_content(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).to("meta")
