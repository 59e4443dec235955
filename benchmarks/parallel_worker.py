"""One process of one method, started and told what to do by `parallel.py` with lines of JSON.

    in:  what to build                        out: the loss of every warm-up step
    in:  {"steps": 4, "start": 123.4}         out: {"first": …, "end": …, "loss": …}
    …                                         …
    in:  end of file                          the process ends

Times are `time.perf_counter()`, one clock for all processes of the machine. Between commands the process sleeps.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

import torch
import torch.distributed as dist
from peers import METHODS, Task
from peers.base import Place, Training
from torch import Tensor


def main() -> None:
    # Libraries print to standard output (gloo does): the answers get the pipe for themselves.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    order = json.loads(sys.stdin.readline())
    method = next(method for method in METHODS if method.name == order["method"])
    torch.set_num_threads(method.threads)
    task = Task(**order["task"])
    place = Place(order["rank"], method.processes, _device(task.device, order["rank"]), order["store"])
    training = method.build(task, place)
    training.begin(order["warm_up"])
    _answer(answers, [_number(training.step()) for _ in range(order["warm_up"])])
    training.finish()
    for line in sys.stdin:
        _answer(answers, timed(training, place.device, **json.loads(line)))
    if dist.is_initialized():
        dist.destroy_process_group()


def timed(training: Training, device: torch.device, steps: int, start: float) -> dict:
    """Take the steps from `start` on; when the first and when the last was done, and the last loss."""
    wait: Callable[[], None] = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else lambda: None
    training.begin(steps)
    time.sleep(max(0.0, start - time.perf_counter()))
    training.step()
    wait()
    first = time.perf_counter()
    loss = None
    for _ in range(steps - 1):
        loss = training.step()
    training.finish()
    wait()
    return {"first": first, "end": time.perf_counter(), "loss": _number(loss)}


def _device(kind: str, rank: int) -> torch.device:
    if kind != "cuda":
        return torch.device(kind)
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _number(loss: Tensor | None) -> float | None:
    return None if loss is None else loss.item()


def _answer(answers: TextIO, value: object) -> None:
    answers.write(json.dumps(value) + "\n")


if __name__ == "__main__":
    main()
