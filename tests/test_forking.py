"""A fork stands for a Python of its own. Oracle: that Python, started with the same arguments."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import forking
import pytest
from fork_child import can_fork
from forking import Asked
from parallel_helpers import MARK, environment_of, faulty, marked, python, started, wait_until

pytestmark = [
    pytest.mark.xdist_group("processes"),
    pytest.mark.skipif(sys.platform != "linux", reason="there are no forks here: every process is a Python of its own"),
]

TELLS = """
import os, signal, sys
print(sys.argv, os.getcwd(), repr(sys.stdin.read()), sys.stdout.encoding, sys.path[0], __name__)
print(sorted((name, value) for name, value in os.environ.items() if name not in ("LC_CTYPE", "_")))
print([signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE)])
print(os.getsid(0) == os.getpid(), os.listdir("/proc/self/fd")[:3], file=sys.stderr)
"""
ENDS = {
    "tells what it is": TELLS,
    "status": "import sys; print('a'); sys.exit(3)",
    "text": "raise SystemExit('what went wrong')",
    "error": "raise ValueError('what went wrong')",
    "killed": "import os; os.kill(os.getpid(), 9)",
    "interrupted": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
    "terminated": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "at exit": "import atexit; atexit.register(print, 'bye'); print('unflushed', end='')",
    "at once": "import os; print('never seen'); os._exit(4)",
    "a thread": "import threading, time; threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "no stream": "import os, sys; os.close(1); sys.stdout = None",
}


def outcome(kind: type[subprocess.Popen], argv: list[str], folder: Path) -> tuple[int, str, str]:
    """(status, output, the last line of the errors)."""
    with open(os.devnull) as nothing:
        process = kind(
            argv,
            cwd=folder,
            env={**os.environ, "MORE": os.fsdecode(b"\xff = ")},
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            text=True,
        )
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err.strip().rpartition("\n")[2]


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS)
def test_a_fork_is_and_ends_like_a_python_of_its_own(tmp_path, code):
    argv = python(code, "an argument", "ä")
    assert outcome(Asked, argv, tmp_path) == outcome(subprocess.Popen, argv, tmp_path)


def test_a_script_finds_its_neighbours(tmp_path):
    (tmp_path / "neighbour.py").write_text("name = __name__")
    (tmp_path / "script.py").write_text("import neighbour, sys; print(neighbour.name, __name__, sys.argv)")
    argv = [sys.executable, str(tmp_path / "script.py"), "x"]
    assert outcome(Asked, argv, Path("/")) == outcome(subprocess.Popen, argv, Path("/"))


def test_it_is_seen_with_its_environment_and_gets_signals(tmp_path):
    with started([python("import time; print('here', flush=True); time.sleep(100)")], **{MARK: "a mark"}) as (child,):
        assert isinstance(child, Asked)
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        assert marked("a mark") == [child.pid]
        assert environment_of(child.pid)["GLOO_SOCKET_IFNAME"] == "lo"
        assert child.poll() is None
        child.send_signal(signal.SIGHUP)
        assert child.wait(60) == -signal.SIGHUP
        assert child.poll() == -signal.SIGHUP


@pytest.mark.parametrize(
    "wait", [lambda child: child.wait(60), lambda child: wait_until(lambda: child.poll() is not None)]
)
def test_a_fork_whose_status_nobody_tells_has_not_ended_well(wait):
    with started([python("import time; time.sleep(100)")]) as (child,):
        keeper = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[1])  # its parent
        os.kill(keeper, signal.SIGKILL)
        with pytest.raises(AssertionError, match="without a word"):
            wait(child)
        child.returncode = -signal.SIGKILL  # what `started` does to it


def test_a_fork_that_nobody_makes_is_not_taken_for_one(monkeypatch):
    asking, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    monkeypatch.setattr(forking, "server", lambda: asking)
    with asking, asked, ThreadPoolExecutor(1) as pool:
        refused = pool.submit(lambda: [os.close(file) for file in socket.recv_fds(asked, 1, 3)[1]])
        with pytest.raises(AssertionError, match="without a word"):
            Asked(python("pass"), env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert len(refused.result()) == 3


def test_a_fork_stands_for_no_process_whose_start_is_what_is_looked_at():
    argv, known = python("pass"), {**os.environ, "RANK": "1"}
    assert can_fork(argv, known)
    assert not can_fork(argv, {**known, "PYTHONUTF8": "0"})
    assert not can_fork(argv, {**known, **faulty(1, "kill", "import")})
    assert can_fork(argv, {**known, **faulty(0, "kill", "import")})
    assert not can_fork(["nohup", *argv], known)
    assert not can_fork([sys.executable, "-m", "torch.distributed.run", "x.py"], known)
