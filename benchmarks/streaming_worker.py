"""One peer of `streaming.py` in a process of its own, which takes orders on its standard input.

    python benchmarks/streaming_worker.py '{"peer": …, "task": …, "threads": 2, "limit": null}'

Orders are lines: the number of steps to take, or nothing more to end. Every answer is a line of JSON. Memory is counted
beyond what the interpreter has with torch loaded.
"""

import json
import os
import resource
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

OUT_OF_MEMORY = (
    "can't allocate memory", "not enough memory", "bad_alloc", "out of memory", "Cannot allocate memory",
    "can't start new thread",  # whose stack has no room
)  # fmt: skip


def memory(kind: str) -> int:
    """Bytes of this process: resident now ("VmRSS") or at most so far ("VmHWM")."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(lines[kind].split()[0])


BEFORE = memory("VmHWM")  # the interpreter with torch loaded


def main() -> None:
    given = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes elsewhere
    if given["limit"]:
        resource.setrlimit(resource.RLIMIT_AS, (given["limit"], given["limit"]))
    torch.set_num_threads(given["threads"])
    try:
        for answer in _answers(given):
            print(json.dumps(answer), file=answers, flush=True)
    except Exception as error:  # what a library makes of memory that it does not get
        said = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, MemoryError) and not any(words in said for words in OUT_OF_MEMORY):
            raise
        print(json.dumps({"out_of_memory": said[:300]}), file=answers, flush=True)


def _answers(given: dict):
    from streaming_peers import PEERS, Size, Task
    from streaming_peers.base import batch, text

    task = Task(**given["task"] | {"size": Size(**given["task"]["size"])})
    text()
    peer, taken = PEERS[given["peer"]](task), 0
    yield {"ready": True}
    for line in sys.stdin:
        steps, before = int(line), replace(peer.moved)
        batches = [batch(task.size, taken + k) for k in range(steps)]
        started, busy = time.perf_counter(), time.process_time()
        loss = peer.train(batches)
        if task.device != "cpu":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
        taken, busy = taken + steps, time.process_time() - busy
        moved = {name: value - getattr(before, name) for name, value in asdict(peer.moved).items()}
        yield {
            "steps": steps,
            "seconds": seconds,
            "cpu": busy,
            "loss": loss,
            "moved": moved,
            **_memory_now(task.device),
        }
    peak = _memory_now(task.device)["peak"]
    yield {"peak": peak, "digest": peer.digest(), "steps": taken}


def _memory_now(device: str) -> dict[str, int]:
    if device != "cpu":
        return {"now": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()}
    return {"now": memory("VmRSS") - BEFORE, "peak": memory("VmHWM") - BEFORE}


if __name__ == "__main__":
    main()
