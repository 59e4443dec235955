"""Blocks whose parameters, gradients and optimiser states are sharded among replicas (PyTorch's FSDP2).

A sharded parameter is a `DTensor` of which every replica holds its rows; FSDP2 gathers it where a module runs, and
leaves every replica its part of the mean gradient.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.block.loss import HiddenLoss

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import FSDPModule


def shard(learner: BlockLearner, mesh: "DeviceMesh") -> "list[FSDPModule]":
    """Divide what the learner trains among the processes of a one-dimensional mesh, module by module.

    Each of block, twin, readout, classifier and decoders is sharded by itself, because each is called by itself (the
    twin before the block). The optimiser must be built afterwards: the parameters are other ones.

    Returns:
        The modules; one that ran without a backward pass must be told to `reshard`, or it goes on with the values it
        has gathered.

    Raises:
        InputError: a parameter cannot be sharded.
    """
    from torch.distributed.fsdp import FSDPModule, fully_shard

    modules = list(_trained(learner)) if learner.trains else []
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.dim() == 0:
                raise InputError(
                    f"block {learner.index + 1}: {name} is a single number, which FSDP2 cannot divide: give it the "
                    "shape [1], or leave out --shard."
                )
            parameter.data = parameter.data.contiguous()  # FSDP2 takes no other layout
        fully_shard(module, mesh=mesh)
    return cast(list[FSDPModule], modules)


def check_average(mesh: "DeviceMesh") -> None:
    """Raise InputError where this torch's gloo adds up what it should average, as old ones silently do."""
    import torch.distributed as dist

    if mesh.device_type != "cpu":
        return
    mean = torch.zeros(1)
    dist.reduce_scatter_tensor(mean, torch.ones(mesh.size()), op=dist.ReduceOp.AVG, group=mesh.get_group())
    if mean.item() != 1:
        raise InputError(
            f"torch {torch.__version__} averages wrongly over gloo (1 and 1 give {mean.item():g}), so gradients would "
            "be too large: leave out --shard on the CPU, or install a newer torch."
        )


def _trained(learner: BlockLearner) -> Iterator[nn.Module]:
    """The modules that are called by themselves and hold something to learn."""
    parts: list[nn.Module] = [learner.block]
    if isinstance(learner.local, HiddenLoss):
        parts += [part for part in learner.local.children() if part is not learner.local.decoders]
        parts += learner.local.decoders.values()
    for part in parts:
        if any(parameter.requires_grad for parameter in part.parameters()):
            yield part


def sharded(tensor: Tensor) -> bool:
    """Whether this is one replica's part of a tensor."""
    return hasattr(tensor, "full_tensor")


def local_shard(tensor: Tensor) -> Tensor:
    """The part of a tensor that this replica holds."""
    return cast(Any, tensor).to_local() if sharded(tensor) else tensor


def gather_full(tensor: Tensor) -> Tensor:
    """The whole tensor. Where it is sharded, all replicas must call this, and the result is on the CPU."""
    return cast(Any, tensor).full_tensor().cpu() if sharded(tensor) else tensor


def shard_like(tensor: Tensor, like: Tensor | None) -> Tensor:
    """A whole tensor divided as `like` is. Where that is sharded, all replicas must call this, and get their part."""
    if like is None or not sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    held = cast(DTensor, like)
    return distribute_tensor(tensor.to(held.device), held.device_mesh, held.placements)


def gather_full_state(state: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's `state_dict` with whole tensors."""
    kept = {
        index: {name: gather_full(value) if isinstance(value, Tensor) else value for name, value in values.items()}
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}


def shard_state_like(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The inverse of `gather_full_state`, for an optimiser of sharded parameters."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kept = {
        index: {
            name: shard_like(value, parameters[index]) if isinstance(value, Tensor) else value
            for name, value in values.items()
        }
        for index, values in state["state"].items()
    }
    return {**state, "state": kept}
