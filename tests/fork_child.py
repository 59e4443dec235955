"""A fork that becomes the Python process it stands for (`forking.py`), and forks in its turn what that would start."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import importlib
import io
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import types
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import process
from multiprocessing import util
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from no_reports import NO_REPORTS, empty_report

SEEN_TO = {"PYTHONPATH", "PYTHONIOENCODING", "PYTHONUNBUFFERED"}  # of the variables that Python reads when it starts
BASE_PATH: list[str] = []  # of the server: sys.path without the folder of the script
# Where the private `Popen._execute_child` has, after `env`: p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite;
# and start_new_session. The same in Python 3.10 to 3.13.
PIPES, SESSION = slice(3, 9), 14
spawn_python = util.spawnv_passfds


class Start(NamedTuple):
    """What a process is started with; streams: what becomes file 0, 1 and 2, where -1 leaves it as it is."""

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str | None
    streams: Sequence[int]
    keep: Sequence[int]
    session: bool


def can_fork(arguments: Sequence[str], environment: Mapping[str, str]) -> bool:
    """Whether a fork stands for such a process."""
    python = {name for name in {*environment, *os.environ} if name.startswith("PYTHON")} - SEEN_TO
    fault = json.loads(environment.get("BLOCKLOCAL_FAULT", "{}"))
    return (
        sys.platform == "linux"
        and str(arguments[0]) == sys.executable
        and (arguments[1] in ("-c", "-m") or Path(arguments[1]).suffix == ".py")
        and arguments[1:3] != ["-m", "torch.distributed.run"]  # it starts processes in a way of its own
        and all(environment.get(name) == os.environ.get(name) for name in python)
        and not (fault.get("moment") == "import" and fault["rank"] == int(environment.get("RANK", -1)))
    )


class Forked(subprocess.Popen):
    """A child of this process."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:
        pipes, session = rest[PIPES], rest[SESSION]
        streams = (pipes[0], pipes[3], pipes[5])
        self.pid = fork(Start(list(map(str, args)), env, cwd, streams, pass_fds, session))
        self._child_created = True
        self._close_pipe_fds(*pipes)


def fork(start: Start) -> int:
    """The number of a process that is all that `start` says, when this returns."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    reading, writing = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    with warnings.catch_warnings(action="ignore") if sys.version_info >= (3, 11) else contextlib.nullcontext():
        pid = os.fork()
    if pid == 0:
        become(start)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    os.close(writing)
    os.read(reading, 1)  # it is over when the child has closed all that it does not keep
    os.close(reading)
    return pid


def become(start: Start) -> NoReturn:
    status = 255
    try:
        if start.session:
            os.setsid()
        reset_signals()
        os.environ.clear()
        os.environ.update(start.environment)
        show_environment()
        set_files(start.streams, start.keep)
        os.chdir(start.folder or os.curdir)
        status = ended(lambda: go_on(list(start.arguments[1:])))
    finally:
        os._exit(status)


def reset_signals() -> None:
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def show_environment() -> None:
    """Where the kernel looks for it when /proc is read."""
    text = b"".join(name + b"=" + value + b"\0" for name, value in os.environb.items())
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    first, last = int(fields[47]), int(fields[48])
    if first:
        ctypes.memmove(first, text.ljust(last - first, b"\0"), last - first)


def set_files(streams: Sequence[int], kept: Sequence[int]) -> None:
    """Standard streams as Python opens them; all else is closed but `kept`."""
    moved = [file if file < 0 else fcntl.fcntl(file, fcntl.F_DUPFD, 10) for file in streams]
    for number, file in enumerate(moved):
        if file >= 0:
            os.dup2(file, number)
    first = 3
    for file in sorted(kept):
        os.set_inheritable(file, True)
        os.closerange(first, file)
        first = file + 1
    os.closerange(first, os.sysconf("SC_OPEN_MAX"))
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    known = {"encoding": encoding or "utf-8", "errors": errors or None}
    sys.stdin = open(0, closefd=False, **known)  # noqa: SIM115
    sys.stdout = writing(1, **known)
    sys.stderr = writing(2, line_buffering=True, **{**known, "errors": "backslashreplace"})


def writing(number: int, **known: Any) -> io.TextIOWrapper:
    file, at_once = io.FileIO(number, "w", closefd=False), bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(file if at_once else io.BufferedWriter(file), write_through=at_once, **known)


def go_on(arguments: list[str]) -> None:
    """What `python ARGUMENT …` does."""
    search = os.environ.get("PYTHONPATH", "")
    places = [place for place in search.split(os.pathsep) if place]
    sys.path[:] = ["", *places, *BASE_PATH]
    importlib.invalidate_caches()
    replace_parts()
    for place in places:
        if (Path(place) / "sitecustomize.py").exists():
            runpy.run_path(f"{place}/sitecustomize.py")
    if arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    elif arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path[0] = str(Path(arguments[0]).resolve().parent)
        runpy.run_path(arguments[0], run_name="__main__")


def replace_parts() -> None:
    """Of the package: how it starts processes, and the report of a run where the test has no use for it."""
    from blocklocal import report
    from blocklocal._common import starting

    def popen(arguments: Sequence[str], **options: Any) -> subprocess.Popen:
        return (Forked if can_fork(arguments, options["env"]) else subprocess.Popen)(arguments, **options)

    def spawn(path: bytes, arguments: Sequence[Any], kept: Sequence[int]) -> int:
        given = [os.fsdecode(argument) for argument in arguments]
        if not can_fork(given, os.environ):
            return spawn_python(path, arguments, kept)
        return fork(Start(given, dict(os.environ), None, (-1, -1, -1), kept, False))

    starting.subprocess = types.SimpleNamespace(Popen=popen, DEVNULL=subprocess.DEVNULL)
    util.spawnv_passfds = spawn
    process._threads_wakeups.clear()  # else a worker would take leave of the threads of the pool that it is in
    if NO_REPORTS in os.environ:
        report.write_report = empty_report


def ended(work: Any) -> int:
    """Run it to the end of a program: what a fresh Python would do with what it raises, and its status."""
    status = 0
    try:
        work()
    except SystemExit as asked:
        if isinstance(asked.code, str):
            print(asked.code, file=sys.stderr)
        status = asked.code if isinstance(asked.code, int) else int(asked.code is not None)
    except BaseException as error:
        traceback.print_exc()
        status = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # gone, closed, or none
            stream.flush()
    return status & 0xFF
