"""--compile: blocks compiled by torch learn what they learn without; a machine without a compiler is told so."""

import json
import os
import subprocess
import sys

import pytest
import torch
from run_helpers import assert_refused, flags, train

from blocklocal import InputError
from blocklocal.network import compiling


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch.compile, about itself
def test_a_compiled_run_ends_about_where_an_ordinary_one_does(tmp_path):
    losses = []
    for name, more in (("one", []), ("two", ["--compile"])):
        assert train(tmp_path / name, *more).status == 0
        lines = (tmp_path / name / "run" / "metrics.jsonl").read_text().splitlines()
        losses.append(json.loads(lines[-1])["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_machine_where_it_does_not_work_is_told_what_to_install(monkeypatch):
    def fails(function):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(InputError, match=r"No working C.. compiler found\): install a C.. compiler"):
        compiling.check_compiler(torch.device("cpu"))


@pytest.mark.slow
def test_the_command_says_so_before_there_is_a_folder(tmp_path):
    command = [sys.executable, "-m", "blocklocal", "train", *flags(), "--compile", "--output", str(tmp_path / "run")]
    said = subprocess.run(
        command,
        env={**os.environ, "CXX": "/nonexistent/cxx", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
    )
    assert said.returncode == 2
    assert "install a C++ compiler" in " ".join(said.stderr.split())
    assert not (tmp_path / "run").exists()


def test_blocks_that_come_and_go_are_not_compiled(tmp_path):
    assert_refused(train(tmp_path, "--compile", "--visit", 2), "--compile", folder=tmp_path / "run")


def test_a_rule_that_replaces_gradients_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("blocklocal.runs.machine.check_compiler", lambda device: None)
    said = train(tmp_path, "--compile", rule="feedback-alignment")
    assert_refused(said, "torch.compile cannot follow", folder=tmp_path / "run")
