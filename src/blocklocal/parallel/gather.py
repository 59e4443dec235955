"""The blocks of all stages brought together in the first process: the whole network again."""

import hashlib
import json
from collections.abc import Callable

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.block.learner import BlockLearner
from blocklocal.network.neighbours import Neighbours
from blocklocal.network.network import BlockLocal
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.store import decode
from blocklocal.training.learner_state import pack, unpack


def gathered(stage: Neighbours, processes: Processes, build: Callable[[], BlockLocal]) -> BlockLocal | None:
    """The network with what all processes have trained, in the first process; None in the others.

    Args:
        stage: the blocks of this process.
        processes: all of them; each calls this.
        build: makes the network, as before training.

    Raises:
        InputError: `build` makes another network, or something else arrives.
    """
    found = stage.each(_copied)  # in all replicas, because they may share what they train
    processes.gathers += 1
    if processes.address.rank != 0:
        if processes.replica == 0:
            for index, tensors in found:
                _send(processes, index, tensors)
        return None
    network = build()
    if len(network.learners) != stage.count:
        raise InputError(
            f"gather must build the network again that was trained, with {stage.count} blocks whose shapes are known; "
            f"this one has {len(network.learners)}."
        )
    here = dict(found)
    for learner in network.learners:
        _take(learner, here[learner.index] if learner.index in here else _receive(processes, learner.index))
    network.steps, network.epoch = stage.steps, stage.epoch
    return network


def _copied(learner: BlockLearner) -> tuple[int, dict[str, Tensor]]:
    """Its tensors, in memory of their own: a streamed block does not stay."""
    return learner.index, {name: tensor.clone() for name, tensor in pack(learner.state_dict()).items()}


def _take(learner: BlockLearner, tensors: dict[str, Tensor]) -> None:
    try:
        learner.load_state_dict(unpack(tensors))
    except RuntimeError as error:
        raise InputError(
            f"gather must build the network again that was trained: block {learner.index + 1} is another one ({error})."
        ) from error


def _key(processes: Processes, index: int) -> str:
    return f"gather/{processes.gathers}/{index}"


def _send(processes: Processes, index: int, tensors: dict[str, Tensor]) -> None:
    content = save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()})
    said = [processes.address.rank, len(content), hashlib.sha256(content).hexdigest()]
    processes.store.set(_key(processes, index), json.dumps(said))
    dist.send(torch.frombuffer(bytearray(content), dtype=torch.uint8), dst=0)


def _receive(processes: Processes, index: int) -> dict[str, Tensor]:
    key, seconds = _key(processes, index), processes.message_timeout
    said = processes.wait_for([key], seconds, lambda _: f"block {index + 1} has not come for {seconds:.0f} s.")[0]
    rank, size, digest = decode(said, tuple[int, int, str])  # type: ignore[arg-type]
    content = torch.empty(size, dtype=torch.uint8)
    dist.recv(content, src=rank)
    arrived = content.numpy().tobytes()
    try:
        if hashlib.sha256(arrived).hexdigest() != digest:
            raise ValueError("another checksum")
        return load(arrived)
    except (ValueError, SafetensorError) as error:
        raise InputError(f"block {index + 1} arrived as something else ({error}).") from error
