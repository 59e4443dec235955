"""Several hosts, which are network namespaces of this machine: torchrun over them, blocks × data, a lost host."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from parallel_helpers import command, faulty, finished, pids, started, wait_until
from run_helpers import assert_same_run, summary, with_dropout

from blocklocal.parallel.watch import is_running
from blocklocal.timeline import read_timeline

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]


def load_network() -> ModuleType:
    path = Path(__file__).parent.parent / "benchmarks" / "network.py"
    spec = importlib.util.spec_from_file_location("network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["network"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


network = load_network()


@pytest.fixture
def two() -> Iterator[list]:
    try:
        with network.hosts(2) as made:
            yield made
    except network.NoNetwork as reason:
        pytest.skip(f"no hosts here: {reason}")


def on(hosts: list, each: int, *arguments: object) -> list[list[str]]:
    """The command line under torchrun on every host. In a namespace of its own, a port is free."""
    first = hosts[0].address
    commands = []
    for rank, host in enumerate(hosts):
        run = [sys.executable, "-m", "torch.distributed.run", f"--nnodes={len(hosts)}", f"--nproc-per-node={each}"]
        run += [f"--node-rank={rank}", f"--master-addr={first}", "--master-port=29500", f"--local-addr={host.address}"]
        commands.append(host.command(*run, "-m", "blocklocal", *map(str, arguments)))
    return commands


def settings(folder: Path) -> Path:
    with_dropout(train_size=60, model_options={"dropout": "0"}, augment="").save(folder / "settings.json")
    return folder / "settings.json"


def test_blocks_times_data_over_two_hosts_is_the_run_of_one_host(tmp_path, two):
    at, out, alone = settings(tmp_path), tmp_path / "run", tmp_path / "alone"
    arguments = ["train", "--config", at, "--output", out, "--replicas", 2, "--quiet"]
    with started(on(two, 2, *arguments), GLOO_SOCKET_IFNAME=two[0].interface) as running:
        outcomes = finished(running, 120)
    assert [status for status, _, _ in outcomes] == [0, 0], outcomes
    spread = ["--processes", 2, "--replicas", 2, "--quiet"]
    with started([command("train", "--config", at, "--output", alone, *spread)]) as running:
        assert finished(running)[0][0] == 0
    # Two groups of blocks with two replicas each learn what one group with two replicas learns.
    assert summary(out)["processes"] == 4
    assert_same_run(out, alone)
    timeline = read_timeline(out)
    assert timeline is not None
    assert sorted({segment.process for segment in timeline.segments}) == [0, 1, 2, 3]


@pytest.mark.slow
def test_when_the_cable_of_a_host_is_cut_both_sides_stop_and_say_so(tmp_path, two):
    at, out = settings(tmp_path), tmp_path / "run"
    arguments = ["train", "--config", at, "--output", out, "--epochs", 200, "--quiet"]
    slow = faulty(0, "slow", "step")
    with started(on(two, 1, *arguments), GLOO_SOCKET_IFNAME=two[0].interface, **slow) as running:
        wait_until(lambda: len(pids(out)) == 2)
        known = pids(out)
        cut = ["ip", "-n", two[1].namespace, "link", "set", two[1].interface, "down"]
        subprocess.run(cut, check=True)
        wait_until(lambda: not any(map(is_running, known)), 40)
        for launcher in running:  # torchrun's own patience with a lost store is longer
            launcher.kill()
        said = [launcher.communicate()[1] for launcher in running]
    assert re.search(r"error: process 1 \(.*\) has not answered for 15 s", said[0]), said[0]
    assert "the store of the run has not answered process 1 for 15 s" in said[1], said[1]
