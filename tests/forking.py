"""Python processes of a test without the seconds that the import of torch takes: forks of one that has imported it.

`Asked` stands for `subprocess.Popen` of a Python command. A server, one for each process of pytest, forks a child that
goes on as a fresh Python with these arguments would: environment, working folder, signals, PYTHONPATH and its
`sitecustomize`, a session of its own. The processes that `blocklocal --processes` starts in there are forks as well.

What a fork cannot show is that Python starts, what is imported when, and how the interpreter ends. `started(...,
real=True)` is for these facts. By default a fork writes an empty page in the place of a run's report (`NO_PAGES`).
"""

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
import select
import signal
import socket
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

NO_PAGES = "BLOCKLOCAL_TEST_NO_PAGES"
SEEN_TO = {"PYTHONPATH", "PYTHONIOENCODING", "PYTHONUNBUFFERED"}  # of the variables that Python reads when it starts
ROOM = 1 << 16  # bytes for the environment of a child, where /proc shows it
LOADED = (  # what a run imports, and torch imports late
    "blocklocal.cli.main",
    "blocklocal.parallel.run",
    "blocklocal.report",
    "torch._dynamo",
    "torch.distributed.device_mesh",
    "torch.distributed.fsdp",
    "torch.nn.parallel",
    "torch.utils.data",
)


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


# --- in the process that starts others


class Forked(subprocess.Popen):
    """A child of this process."""

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:
        pipes, session = rest[3:9], rest[14]
        streams = (pipes[0], pipes[3], pipes[5])
        self.pid = fork(Start(list(map(str, args)), env, cwd, streams, pass_fds, session))
        self._child_created = True
        self._close_pipe_fds(*pipes)


class Asked(subprocess.Popen):
    """A process that the server has forked; `poll`, `wait`, signals and pipes as those of `subprocess.Popen`."""

    _told = None

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:
        pipes = rest[3:9]
        told, tell = os.pipe()
        asked = json.dumps([list(map(str, args)), dict(env), str(cwd or os.getcwd())]).encode()
        streams = [number if file < 0 else file for number, file in ((1, pipes[3]), (2, pipes[5]))]
        socket.send_fds(server(), [asked], [*streams, tell])
        os.close(tell)
        self._told = os.fdopen(told, "rb", buffering=0)
        self.pid = self._number()
        self._child_created = True
        self._close_pipe_fds(*pipes)

    def _number(self) -> int:
        return int.from_bytes(self._told.read(8), "little")

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self.returncode is None and (wait_flags == 0 or select.select([self._told], [], [], 0)[0]):
            return self.pid, self._number()
        return 0, 0

    def _internal_poll(self, _deadstate: object = None) -> int | None:
        if self.returncode is None and self._told is not None and select.select([self._told], [], [], 0)[0]:
            self._handle_exitstatus(self._number())
        return self.returncode

    def _handle_exitstatus(self, sts: int, *more: Any) -> None:
        super()._handle_exitstatus(sts, *more)
        if self._told is not None:
            self._told.close()


spawn_python = util.spawnv_passfds
_server: list[socket.socket] = []
_base_path: list[str] = []  # of the server: sys.path without the folder of the script


def server() -> socket.socket:
    """The connection to the server, which ends with this process."""
    if not _server:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        known = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL", "ROOM": "x" * ROOM}
        argv = [sys.executable, __file__, str(its.fileno())]
        child = subprocess.Popen(
            argv, env=known, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        its.close()
        _server.append(ours)
        atexit.register(lambda: (ours.close(), child.wait()))
    return _server[0]


def run(arguments: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess:
    """As `subprocess.run`: a Python command, in a fork where one stands for it. pages: a run writes its report."""
    seconds, given = options.pop("timeout", 100), list(map(str, arguments))
    known = {**(options.pop("env", None) or os.environ), **({} if options.pop("pages", False) else {NO_PAGES: "1"})}
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (Asked if can_fork(given, known) else subprocess.Popen)(given, env=known, **options) as child:
        try:
            out, err = child.communicate(timeout=seconds)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(given, child.returncode, out, err)


# --- in the server


def serve(number: int) -> None:
    """Answer until whoever asks is gone."""
    for module in LOADED:
        importlib.import_module(module)
    os.chdir("/")
    asking = socket.socket(fileno=number)
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    while True:
        asked, files, _, _ = socket.recv_fds(asking, ROOM * 2, 3)
        if not asked:
            return
        if os.fork() == 0:
            asking.close()
            keep(json.loads(asked), *files)
        for file in files:
            os.close(file)


def reap() -> None:
    """Wait for those who keep, and have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def keep(asked: list, out: int, err: int, tell: int) -> NoReturn:
    """Fork the process that is asked for; tell its number, and its status at its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    arguments, environment, folder = asked
    with open(os.devnull) as nothing, contextlib.suppress(BrokenPipeError):
        pid = fork(Start(arguments, environment, folder, (nothing.fileno(), out, err), (), True))
        os.close(out)
        os.close(err)
        os.write(tell, pid.to_bytes(8, "little"))
        os.write(tell, os.waitpid(pid, 0)[1].to_bytes(8, "little"))
    os._exit(0)


# --- in both


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
    sys.path[:] = ["", *places, *_base_path]
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
    """Of the package: how it starts processes, and the page of a run where the test has no use for it."""
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
    if NO_PAGES in os.environ:
        report.write_report = lambda folder, **_: (folder / "report.html").touch()


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


if __name__ == "__main__":
    import forking  # this file as a module, by which the forks know its classes

    forking._base_path[:] = sys.path[1:]
    forking.serve(int(sys.argv[1]))
