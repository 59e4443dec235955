"""Backprop: in one process, and data parallel."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from peers.base import OPTIMIZER, Place, Task, Training, build_batch, build_model, channels_last, connect, loss_of


def one_process(task: Task, place: Place) -> Training:
    model = channels_last(build_model(task), place.device)
    return _training(model, *build_batch(task, place.device, channels_last=True))


def data_parallel(bucket_mib: int) -> Callable[[Task, Place], Training]:
    """What builds DDP whose gradients travel in buckets of this size (25 MiB is torch's own)."""
    return partial(_build_parallel, bucket_mib=bucket_mib)


def _build_parallel(task: Task, place: Place, bucket_mib: int) -> Training:
    """Every process trains on its share of the batch; gradients are averaged while backward runs.

    BatchNorm's running statistics stay each process's own: sending them would change no training step.
    """
    connect(place)
    model = channels_last(build_model(task), place.device)
    parallel = DistributedDataParallel(
        model, broadcast_buffers=False, gradient_as_bucket_view=True, bucket_cap_mb=bucket_mib
    )
    x, y = build_batch(task, place.device, channels_last=True)
    return _training(parallel, x.chunk(place.world)[place.rank], y.chunk(place.world)[place.rank])


def _training(model: nn.Module, x: Tensor, y: Tensor) -> Training:
    optimizer = OPTIMIZER.build(model.parameters())

    def step() -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(model(x), y)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Training(step)
