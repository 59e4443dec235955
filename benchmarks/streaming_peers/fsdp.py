"""Backprop whose weights, gradients and optimiser states rest in host memory: FSDP2 on one GPU. It has not run yet."""

import tempfile

import torch
import torch.distributed as dist
from torch import Tensor

from streaming_peers.base import OPTIMIZER, Task, loss_of
from streaming_peers.whole_backprop import Backprop


class Sharded(Backprop):
    """Every layer is gathered on the GPU for its forward and its backward pass, and updated on the host."""

    def __init__(self, task: Task):
        from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard  # much to load for the other peers

        store = tempfile.NamedTemporaryFile(dir=task.store)  # noqa: SIM115 – as long as the process
        dist.init_process_group("cpu:gloo,cuda:nccl", f"file://{store.name}", rank=0, world_size=1)
        super().__init__(Task(task.size, task.store, device="cpu"))
        for unit in self.model:
            fully_shard(unit, offload_policy=CPUOffloadPolicy())
        fully_shard(self.model, offload_policy=CPUOffloadPolicy())
        self.device = torch.device(task.device)
        self.optimizer = OPTIMIZER.build(self.model.parameters())

    def _gradients(self, x: Tensor, y: Tensor) -> float:
        loss = loss_of(self.model(x.to(self.device)), y.to(self.device))
        loss.backward()
        return loss.item()
