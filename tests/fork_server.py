"""The process that forks what a test asks for (`forking.py`): it has imported torch and the package already."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import socket
import sys
from typing import NoReturn

import fork_child
from fork_child import Start, fork

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


if __name__ == "__main__":
    fork_child.BASE_PATH[:] = sys.path[1:]
    serve(int(sys.argv[1]))
