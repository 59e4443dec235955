"""What the first process has decided, made known to all: facts as JSON, tensors as bytes whose checksum is a fact.

Nothing here is a Python object of somebody else's: unpickled, it could run any code.
"""

import hashlib
import json
from collections.abc import Mapping
from math import inf
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from blocklocal._common.errors import InputError
from blocklocal.parallel.processes import Processes
from blocklocal.parallel.store import decode

T = TypeVar("T")
Said = tuple[Any, int, str]  # facts, number of bytes of the tensors, their SHA-256


def broadcast(
    processes: Processes, kind: type[T], mine: tuple[Any, Mapping[str, Tensor]] | None
) -> tuple[T, dict[str, Tensor]]:
    """What the first process gives as `mine`, in every process: facts (JSON-able, of type `kind`), and tensors.

    It may take its time to make them, as long as it lives.

    Raises:
        InputError: something else arrives.
    """
    processes.broadcasts += 1
    key, content = f"broadcast/{processes.broadcasts}", b""
    if mine is not None:
        content = save({name: tensor.contiguous() for name, tensor in mine[1].items()})
        processes.store.set(key, json.dumps([mine[0], len(content), hashlib.sha256(content).hexdigest()]))
    seconds = inf if processes.watch else processes.message_timeout
    said = processes.wait_for([key], seconds, lambda _: f"nothing has come from process 0 for {seconds:.0f} s.")[0]
    facts, size, digest = decode(said, tuple[kind, int, str])  # type: ignore[valid-type]
    return facts, _send(content, size, digest)


def _send(content: bytes, size: int, digest: str) -> dict[str, Tensor]:
    sent = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else torch.empty(size, dtype=torch.uint8)
    dist.broadcast(sent, src=0)
    arrived = sent.numpy().tobytes()
    try:
        if hashlib.sha256(arrived).hexdigest() != digest:
            raise ValueError("another checksum")
        return load(arrived)
    except (ValueError, SafetensorError) as error:
        raise InputError(f"what process 0 has sent arrived as something else ({error}).") from error
