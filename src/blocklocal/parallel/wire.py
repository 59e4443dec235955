"""One send or receive over `torch.distributed`, and what goes wrong with it."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch import Tensor

from blocklocal._common.errors import first_line


class LinkError(Exception):
    """A message to or from process `peer` did not get through.

    Args:
        late: it took longer than `Processes.message_timeout`.
    """

    def __init__(self, peer: int, late: bool, reason: str):
        super().__init__(reason)
        self.peer, self.late = peer, late


def begin(operation: Callable[..., Any], tensor: Tensor, peer: int, group: Any) -> Any:
    """Post a send or receive."""
    try:
        return operation(tensor, peer, group=group)
    except (dist.DistError, RuntimeError) as error:
        raise LinkError(peer, False, first_line(error)) from error


def wait(work: Any, peer: int, timeout: float, on: Tensor | None = None) -> None:
    """Until a posted send or receive is done.

    Args:
        on: the tensor, where it may be on a CUDA device: there its stream waits and not this thread, and the process
            group's own watch looks at the time.

    Raises:
        LinkError: the peer is gone, or silent for `timeout` seconds.
    """
    begun = time.monotonic()
    try:
        if on is not None and on.is_cuda:
            work.wait()
        else:
            work.wait(timedelta(seconds=timeout))
    except (dist.DistError, RuntimeError) as error:
        raise LinkError(peer, time.monotonic() - begun > 0.9 * timeout, first_line(error)) from error


def is_lost_connection(error: BaseException) -> bool:
    """Whether torch says that another process is gone."""
    known = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
    return isinstance(error, RuntimeError) and any(words in str(error) for words in known)
