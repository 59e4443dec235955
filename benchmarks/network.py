"""Hosts that are not there: network namespaces of this machine, joined by a switch whose cables have a stated rate.

    with hosts(2, rate="100mbit") as (first, second):
        subprocess.run(first.command("python", "worker.py", "--address", first.address))

Every host is a namespace with a loopback of its own and one interface, `first.interface`; a token bucket (`tc tbf`) at
both ends of its cable holds each direction to the rate. Only the network is separate: files, processes, cores and the
host name are those of the machine (so tell torchrun the address, `--local-addr`, and gloo the interface,
`GLOO_SOCKET_IFNAME`). End what runs on the hosts before leaving the block: then the namespaces are deleted, also after
an error or Ctrl-C. Needs Linux, root and iproute2.
"""

import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_SUBNET = "10.231.0"  # seen inside the namespaces only
_CABLE = "link0"
_BUCKET_SECONDS = 0.002  # the burst that a cable lets through at once; short beside any message worth timing
_SMALLEST_BUCKET = 64 * 1024  # bytes: one packet as the kernel hands it over
_numbers = itertools.count()


class NoNetwork(RuntimeError):
    """Hosts cannot be made here; says why."""


@dataclass(frozen=True)
class Host:
    """Where a process runs: its address, the interface that has it, and the namespace (None: the machine itself)."""

    address: str = "127.0.0.1"
    interface: str = "lo"
    namespace: str | None = None

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs `arguments` on this host."""
        if self.namespace is None:
            return list(arguments)
        return ["ip", "netns", "exec", self.namespace, *arguments]


@contextmanager
def hosts(count: int = 2, rate: str | None = None) -> Iterator[list[Host]]:
    """`count` hosts (2 to 250) that reach each other; rate: of every cable, such as "1gbit" or "100mbit".

    Raises NoNetwork where they cannot be made, and ValueError for a rate or count that cannot be understood.
    """
    if not 2 <= count <= 250:
        raise ValueError(f"count must be 2 to 250 hosts, not {count}.")
    shaping = None if rate is None else _shaping(rate)
    _check_system()
    prefix = f"bl{os.getpid()}-{next(_numbers)}"
    switch = f"{prefix}-switch"
    made = [Host(f"{_SUBNET}.{i + 1}", _CABLE, f"{prefix}-host{i}") for i in range(count)]
    try:
        _build(switch, made, shaping)
        yield made
    finally:
        _delete([*(host.namespace or "" for host in made), switch])


def bits_per_second(rate: str) -> float:
    """ "100mbit" -> 1e8. Raises ValueError for anything but a number with kbit, mbit or gbit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg])bit", rate)
    if not found or float(found[1]) == 0:
        raise ValueError(f"unknown rate {rate!r}: give a number and a unit, such as 1gbit, 100mbit or 500kbit.")
    return float(found[1]) * {"k": 1e3, "m": 1e6, "g": 1e9}[found[2]]


def _shaping(rate: str) -> list[str]:
    bucket = max(_SMALLEST_BUCKET, int(bits_per_second(rate) / 8 * _BUCKET_SECONDS))
    return ["tbf", "rate", rate, "burst", str(bucket), "latency", "50ms"]


def _check_system() -> None:
    lacking = [tool for tool in ("ip", "tc") if shutil.which(tool) is None]
    if sys.platform != "linux":
        raise NoNetwork(f"network namespaces are a part of Linux; this is {sys.platform}.")
    if lacking:
        raise NoNetwork(f"no {' and no '.join(lacking)} on the path: install iproute2.")
    if os.geteuid() != 0:
        raise NoNetwork("network namespaces need root: run as root.")


def _build(switch: str, made: Sequence[Host], shaping: Sequence[str] | None) -> None:
    _run("ip", "netns", "add", switch)
    _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
    _run("ip", "-n", switch, "link", "set", "bridge", "up")
    for i, host in enumerate(made):
        _plug_in(host, switch, f"port{i}", shaping)


def _plug_in(host: Host, switch: str, port: str, shaping: Sequence[str] | None) -> None:
    """A namespace for the host, and its cable to the switch."""
    name = host.namespace
    assert name is not None
    _run("ip", "netns", "add", name)
    _run("ip", "-n", name, "link", "add", host.interface, "type", "veth", "peer", "name", port, "netns", switch)
    _run("ip", "-n", switch, "link", "set", port, "master", "bridge")
    _run("ip", "-n", name, "addr", "add", f"{host.address}/24", "dev", host.interface)
    for namespace, end in ((name, "lo"), (name, host.interface), (switch, port)):
        _run("ip", "-n", namespace, "link", "set", end, "up")
    if shaping is not None:
        for namespace, end in ((name, host.interface), (switch, port)):
            _run("tc", "-n", namespace, "qdisc", "add", "dev", end, "root", *shaping)


def _run(*command: str) -> None:
    # In a session of its own: a Ctrl-C in the terminal stops this program, not the command half way.
    done = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if done.returncode:
        raise NoNetwork(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}")


def _delete(names: Sequence[str]) -> None:
    """Delete the namespaces, and their cables with them; names that were not made yet are passed over."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})  # a second Ctrl-C waits
    try:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, start_new_session=True)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
