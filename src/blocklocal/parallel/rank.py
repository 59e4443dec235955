"""The first lines of a process that `--processes` starts: from here on it ends with its launcher.

Nothing slow is imported before. The launcher alone holds the other end of a pipe, so the pipe's end is the launcher's,
however it went.
"""

import os
import signal
import sys
import threading
from contextlib import suppress

DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)


def end_with_launcher(pipe: int) -> None:
    """End this process when its launcher ends. On Linux the kernel kills it then, even where it is stopped (Ctrl-Z)."""
    if sys.platform == "linux":
        with suppress(ImportError, OSError, AttributeError):  # a Python without ctypes, a C library without prctl
            import ctypes

            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    threading.Thread(target=_await_end, args=(pipe,), name="launcher", daemon=True).start()


def _await_end(pipe: int) -> None:
    while os.read(pipe, 1):
        pass
    os._exit(1)


def main() -> None:
    """`rank.py PIPE ARGUMENT …`: run `blocklocal ARGUMENT …`."""
    end_with_launcher(int(sys.argv.pop(1)))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # during the imports a traceback would tell the user nothing
    from blocklocal.cli import main

    status = main()
    if status == 0:
        sys.exit(0)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)  # torch's threads, which may wait for processes that are gone, are not to be taken down in order


if __name__ == "__main__":
    main()
