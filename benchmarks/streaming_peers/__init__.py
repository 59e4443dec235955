"""The ways to train that `streaming.py` measures, each run in a process of its own by `streaming_worker.py`."""

from streaming_peers import block_local, fsdp, streamed_backprop, whole_backprop
from streaming_peers.base import Bytes, Peer, Size, Task

STREAMED, IN_MEMORY = "block by block", "block-local in memory"
BACKPROP, CHECKPOINTED, STREAMED_BACKPROP = "backprop", "backprop, checkpointing", "backprop, streamed"
FSDP = "backprop, FSDP2 with CPU offload"  # CUDA

PEERS = {
    STREAMED: block_local.Streaming,
    IN_MEMORY: block_local.InMemory,
    BACKPROP: whole_backprop.Backprop,
    CHECKPOINTED: whole_backprop.Checkpointed,
    STREAMED_BACKPROP: streamed_backprop.StreamedBackprop,
    FSDP: fsdp.Sharded,
}

__all__ = [
    "BACKPROP", "CHECKPOINTED", "FSDP", "IN_MEMORY", "PEERS", "STREAMED", "STREAMED_BACKPROP",
    "Bytes", "Peer", "Size", "Task",
]  # fmt: skip
