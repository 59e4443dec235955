"""A program of one's own with any DataLoader: several processes end with the whole network that one process trains."""

from __future__ import annotations

import sys

import pytest
import torch
from parallel_helpers import finished, started

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]
PROGRAM = """
import sys
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import blocklocal as bl
from blocklocal.parallel import Stage, find_address, join

torch.set_num_threads(1)
out = sys.argv[1]


def build():
    torch.manual_seed(0)
    layers = [nn.Linear(9, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)]
    cut = bl.split(nn.Sequential(*layers, nn.Linear(8, 5)), at=["3", "5"])
    return bl.BlockLocal(cut, classes=5, example=torch.zeros(2, 9), optimizer=bl.sgd(lr=0.05))


draw = torch.Generator().manual_seed(1)
images = TensorDataset(torch.randn(50, 9, generator=draw), torch.randint(5, (50,), generator=draw))
train = DataLoader(images, batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(2))
held = DataLoader(images, batch_size=16)
address = find_address()
if address is None:
    whole = build()
    records = bl.Trainer(whole, epochs=2, accumulate=2).fit(train, held)
else:
    with join(address) as processes:
        stage = Stage(build(), processes, placement=(1, 2))
        bl.Trainer(stage, epochs=2, accumulate=2).fit(train, held)
        stage.finish()
        whole = stage.gather(build)
if whole is not None:
    figures = bl.evaluate(whole, held)
    bl.save(whole, out + "/saved")
    whole.save_pretrained(out + "/mine")
    torch.save({"state": whole.state_dict(), "nll": figures.nll}, out + "/whole.pt")
"""


def test_under_torchrun_a_program_ends_with_the_whole_network(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    found = []
    for name, argv in (("one", [sys.executable]), ("two", run)):
        (tmp_path / name).mkdir()
        with started([[*argv, str(program), str(tmp_path / name)]]) as running:
            status, _, err = finished(running)[0]
        assert status == 0, err
        found.append(torch.load(tmp_path / name / "whole.pt"))
        assert (tmp_path / name / "mine" / "model.safetensors").is_file()
    one, two = (each["state"] for each in found)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert found[0]["nll"] == found[1]["nll"]
