"""Processes of a test: started together, waited for, and killed with it, whatever happens."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch.distributed as dist
from fork_child import can_fork
from forking import Asked
from no_reports import NO_REPORTS

HERE = Path(__file__).parent
SECONDS = 150  # more than the group timeout of 60 s, so that its error is seen
LIMIT = 100  # less than a process would wait for others that do not come (120 s)
MARK = "BLOCKLOCAL_TEST_MARK"  # in the environment of what a test has started, and of what that has started


@contextlib.contextmanager
def started(
    commands: Sequence[Sequence[str]],
    folders: Sequence[Path] = (),
    each: Sequence[Mapping[str, str]] = (),
    *,
    real: bool = False,
    reports: bool = False,
    **environment: str,
) -> Iterator[list[subprocess.Popen[str]]]:
    """Run commands at the same time; what is still there at the end is killed, with all that it has started.

    folders: where each of them works. each: what it has in its environment besides. real: not as forks (`forking`).
    reports: a run in a fork writes its own.
    """
    known = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", MARK: uuid4().hex, **environment}
    known |= {} if real or reports else {NO_REPORTS: "1"}
    running: list[subprocess.Popen[str]] = []
    try:
        for number, command in enumerate(commands):
            own, folder = {**known, **(each[number] if each else {})}, folders[number] if folders else None
            running.append(start(command, own, folder, real=real))
        yield running
    finally:
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
        for pid in marked(known[MARK]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for process in running:
            process.communicate()


def start(command: Sequence[str], environment: dict[str, str], folder: Path | None, *, real: bool) -> subprocess.Popen:
    """It hears a hangup, also where the tests themselves run under nohup, which has it ignored."""
    forks = not real and can_fork(command, environment)
    return (Asked if forks else subprocess.Popen)(
        command if forks else ["env", "--default-signal=HUP", *command],
        env=environment,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def marked(mark: str) -> list[int]:
    """The living processes whose environment has the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def environment_of(pid: int) -> dict[str, str]:
    """As the process was started."""
    texts = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    return dict(text.split("=", 1) for text in texts if "=" in text)


def listening_on(pids: Sequence[int]) -> set[str]:
    """The addresses on which processes listen, as /proc/net/tcp and tcp6 write them (hexadecimal)."""
    sockets = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.update(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    return {line[1].partition(":")[0] for line in lines if line[3] == "0A" and line[9] in sockets}


def finished(running: Sequence[subprocess.Popen[str]], seconds: float = SECONDS) -> list[tuple[int, str, str]]:
    """(status, stdout, stderr) of every process, all of which must end in time."""
    end = time.monotonic() + seconds
    outcomes = []
    for process in running:
        out, err = process.communicate(timeout=max(0.1, end - time.monotonic()))
        outcomes.append((process.returncode, out, err))
    return outcomes


def work(task: str, size: int, folder: Path, replicas: int = 1) -> None:
    """Run a task of `parallel_worker` in `size` processes that meet in a file; all must end well."""
    script = str(HERE / "parallel_worker.py")
    commands = [
        [sys.executable, script, task, str(rank), str(size), str(folder), str(replicas)] for rank in range(size)
    ]
    with started(commands) as running:
        outcomes = finished(running)
    assert all(status == 0 for status, _, _ in outcomes), "\n".join(err for _, _, err in outcomes)


def command(*arguments: object) -> list[str]:
    """The command line, in a process of its own."""
    return [sys.executable, "-m", "blocklocal", *map(str, arguments)]


def python(code: str, *arguments: object) -> list[str]:
    """Python code, in a process of its own; `sys.argv[1:]` are the arguments."""
    return [sys.executable, "-c", code, *map(str, arguments)]


def torchrun(processes: int, *arguments: object, options: Sequence[str] = ()) -> list[str]:
    """The command line under torchrun, on a port that it chooses itself."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *options]
    return [*run, "-m", "blocklocal", *map(str, arguments)]


def faulty(rank: int, action: str, moment: str = "step", count: int = 1, file: Path | None = None) -> dict[str, str]:
    """Environment in which process `rank` fails (see `faults/sitecustomize.py`)."""
    fault = {"rank": rank, "action": action, "moment": moment, "count": count, "file": str(file)}
    return {"PYTHONPATH": str(HERE / "faults"), "BLOCKLOCAL_FAULT": json.dumps(fault)}


@contextlib.contextmanager
def ranks(
    arguments: Sequence[Sequence[object]],
    folders: Sequence[Path] = (),
    each: Sequence[Mapping[str, str]] = (),
    **environment: str,
) -> Iterator[list[subprocess.Popen[str]]]:
    """`blocklocal` with other arguments in every process; the store is here, as torchrun's agent has it.

    each: what a process has in its environment besides.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(len(arguments))}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "LOCAL_WORLD_SIZE": str(len(arguments)), **environment}
    besides = each or [{}] * len(arguments)
    own = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **more} for rank, more in enumerate(besides)]
    with started([command(*given) for given in arguments], folders, own, **shared) as running:
        yield running


def pids(folder: Path) -> list[int]:
    """The processes that have recorded a timeline in a run folder."""
    files = sorted((folder / "timeline").glob("process-*.jsonl"))
    return [json.loads(lines[0])["pid"] for file in files if (lines := file.read_text().splitlines())]


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.05)


@dataclass
class Run:
    """A launcher; `file` is there while the process that pauses does."""

    launcher: subprocess.Popen[str]
    mark: str
    file: Path

    def pausing(self) -> None:
        """Wait until the process is at its moment."""
        wait_until(lambda: self.file.exists() or self.launcher.poll() is not None)
        assert self.launcher.poll() is None

    def nobody_is_left(self) -> None:
        wait_until(lambda: not marked(self.mark), LIMIT)

    def ended(self) -> tuple[int, str]:
        """(status, what was said); nobody is left."""
        status, out, err = finished([self.launcher], LIMIT)[0]
        self.nobody_is_left()
        return status, out + err


@contextlib.contextmanager
def launched(
    settings: Path, *more: object, prefix: Sequence[str] = (), real: bool = False, **fault: Any
) -> Iterator[Run]:
    """`blocklocal train` in two processes, into `run` beside the settings. fault: as `faulty` takes it."""
    mark, file = uuid4().hex, settings.parent / "pausing"
    given = ["--config", settings, "--output", settings.parent / "run", "--quiet", "--processes", 2, *more]
    argv = [*prefix, *command("train", *given)]
    with started([argv], real=real, **{MARK: mark, **faulty(**fault, file=file)}) as running:
        yield Run(running[0], mark, file)


def assert_one_message(said: str) -> None:
    """And nothing of what torch has to say."""
    assert len(re.findall(r"^error: |^stopped\.$|Go on with", said, re.MULTILINE)) == 1, said
    assert not re.search(r"Traceback|frame #|^\[[A-Z]\d|\[rank\d\]|terminate called", said, re.MULTILINE), said


def garbage() -> list[bytes]:
    """What is no request to a store."""
    return [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 4096, b"\xff" * 4096, random.Random(0).randbytes(65536)]


def rank_of(mark: str, rank: int) -> int:
    """The process of a run that is number `rank` in it."""
    (found,) = [pid for pid in marked(mark) if environment_of(pid).get("RANK") == str(rank)]
    return found
