"""The processes of one method, seen from the program that measures: started once, then asleep between commands."""

import json
import math
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import IO, Any

from network import Host

from peers.base import Method, Task

_SCRIPT = Path(__file__).parent.parent / "parallel_worker.py"
_LEAD_SECONDS = 0.05  # from the command to the common start: time for every process to read it
_LOG_LINES = 25


@dataclass(frozen=True)
class Timing:
    """Seconds for a number of steps: from the common start to the last process's end, and per step once all are busy.

    The second is free of the time in which a pipeline fills: every process from the end of its own first step to its
    own end; the slowest counts.
    """

    seconds: float
    seconds_per_step: float
    loss: float


class Workers:
    """A method's processes, one per host (all on the last where there are fewer hosts), built and warmed up.

    folder: for their logs and the file with which they find each other. Use as a context manager: leaving ends them.
    """

    def __init__(self, method: Method, task: Task, hosts: Sequence[Host], folder: Path, warm_up: int):
        self.method = method
        self.logs = [folder / f"rank{rank}.log" for rank in range(method.processes)]
        self.processes: list[subprocess.Popen[str]] = []
        try:
            for rank, log in enumerate(self.logs):
                self.processes.append(_start(method, hosts[min(rank, len(hosts) - 1)], log))
                order = {"method": method.name, "task": asdict(task), "rank": rank, "warm_up": warm_up}
                self._tell(rank, order | {"store": str(folder / "store")})
            self.warm_up_loss = _loss(answer[-1] for answer in self._answers())
        except BaseException:
            self.close()
            raise

    def run(self, steps: int) -> Timing:
        """Let all processes take so many steps (at least 2) from a common start."""
        start = time.perf_counter() + _LEAD_SECONDS
        for rank in range(self.method.processes):
            self._tell(rank, {"steps": steps, "start": start})
        answers = self._answers()
        loss = _loss(answer["loss"] for answer in answers)
        if not math.isfinite(loss):
            raise RuntimeError(f"{self.method.name}: the loss is {loss} after {steps} steps.")
        return Timing(
            seconds=max(answer["end"] for answer in answers) - start,
            seconds_per_step=max(answer["end"] - answer["first"] for answer in answers) / (steps - 1),
            loss=loss,
        )

    def close(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tell(self, rank: int, order: dict) -> None:
        with suppress(BrokenPipeError):  # it has died: reading its answer will say why
            _pipe(self.processes[rank].stdin).write(json.dumps(order) + "\n")
            _pipe(self.processes[rank].stdin).flush()

    def _answers(self) -> list:
        """One answer of every process; the first that has ended is noticed at once, while others may wait for it."""
        waiting = {_pipe(process.stdout): rank for rank, process in enumerate(self.processes)}
        answers: dict[int, Any] = {}
        while waiting:
            for pipe in select.select(list(waiting), [], [])[0]:
                rank = waiting.pop(pipe)
                answers[rank] = self._answer(rank, pipe.readline())
        return [answers[rank] for rank in sorted(answers)]

    def _answer(self, rank: int, line: str) -> Any:
        if line:
            return json.loads(line)
        log = "\n".join(self.logs[rank].read_text().splitlines()[-_LOG_LINES:])
        raise RuntimeError(f"{self.method.name}: process {rank} ended unasked. Its last words:\n{log}")


def _start(method: Method, host: Host, log: Path) -> "subprocess.Popen[str]":
    variables = {
        "OMP_NUM_THREADS": str(method.threads),
        "GLOO_SOCKET_IFNAME": host.interface,
        "NCCL_SOCKET_IFNAME": host.interface,
    }
    with log.open("w") as errors:
        return subprocess.Popen(
            host.command(sys.executable, str(_SCRIPT)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | variables,
            start_new_session=True,  # Ctrl-C reaches the measuring program only, which then ends them
        )


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _loss(losses: Iterable[float | None]) -> float:
    """The mean over the processes that know it."""
    return mean(loss for loss in losses if loss is not None)
