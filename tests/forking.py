"""Python processes of a test without the seconds that the import of torch takes: forks of one that has imported it.

`Asked` stands for `subprocess.Popen` of a Python command. A server (`fork_server.py`), one for each process of pytest,
forks a child that goes on as a fresh Python with these arguments would (`fork_child.py`): environment, working folder,
signals, PYTHONPATH and its `sitecustomize`, a session of its own. The processes that `blocklocal --processes` starts in
there are forks as well.

What a fork cannot show is that Python starts, what is imported when, and how the interpreter ends. `started(...,
real=True)` is for these facts. By default a run in a fork writes no report (`no_reports.py`).
"""

from __future__ import annotations

import atexit
import json
import os
import select
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fork_child import PIPES, can_fork
from fork_server import ROOM
from no_reports import NO_REPORTS

SERVER = Path(__file__).with_name("fork_server.py")
_server: list[socket.socket] = []


class Asked(subprocess.Popen):
    """A process that the server has forked; `poll`, `wait`, signals and pipes as those of `subprocess.Popen`."""

    _told = None

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, *rest) -> None:
        pipes = rest[PIPES]
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
        told = self._told.read(8)
        if len(told) < 8:
            self._told.close()
        assert len(told) == 8, "who forks the process, or waits for it, has gone without a word"
        return int.from_bytes(told, "little")

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


def server() -> socket.socket:
    """The connection to the server, which ends with this process."""
    if not _server:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        known = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "FATAL", "ROOM": "x" * ROOM}
        argv = [sys.executable, str(SERVER), str(its.fileno())]
        child = subprocess.Popen(
            argv, env=known, pass_fds=[its.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        its.close()
        _server.append(ours)
        atexit.register(lambda: (ours.close(), child.wait()))
    return _server[0]


def run(arguments: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess:
    """As `subprocess.run`: a Python command, in a fork where one stands for it. reports: a run writes its own."""
    seconds, given = options.pop("timeout", 100), list(map(str, arguments))
    known = {**(options.pop("env", None) or os.environ), **({} if options.pop("reports", False) else {NO_REPORTS: "1"})}
    if options.pop("capture_output", False):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with (Asked if can_fork(given, known) else subprocess.Popen)(given, env=known, **options) as child:
        try:
            out, err = child.communicate(timeout=seconds)
        except BaseException:
            child.kill()
            raise
    return subprocess.CompletedProcess(given, child.returncode, out, err)
