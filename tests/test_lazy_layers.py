"""Layers whose weights are drawn when they first see a shape: drawn from the seed, whatever torch's global state is."""

from pathlib import Path

import pytest
import torch
from parallel_helpers import command, finished, started
from run_helpers import assert_same_run, flags, tiny, weights, whole
from torch import nn

from blocklocal import BlockLocal, split
from blocklocal.runs.build import build_on_cpu
from blocklocal.runs.facts import DatasetInfo

pytestmark = pytest.mark.usefixtures("no_reports")

FACTS = DatasetInfo(tuple("0123456789"), 1, 8, 8, (0.3,), (0.3,))
LAZY = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm, self.out = nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(classes)
    def forward(self, x):
        return self.out(torch.relu(self.norm(self.conv(x))).flatten(1))

def chain(classes, channels, image_size, width):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(width), nn.ReLU(), nn.LazyLinear(classes))

def traced(classes, channels, image_size, width):
    return Plain(classes)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "lazy.py"
    path.write_text(LAZY)
    return path


def drawn(reference: str, seed: int, state: int, **changes) -> dict[str, torch.Tensor]:
    torch.manual_seed(state)
    network = build_on_cpu(tiny(model=reference, seed=seed, data="digits", **changes), FACTS)
    assert torch.initial_seed() == state
    return {name: value.clone() for name, value in network.state_dict().items()}


@pytest.mark.parametrize("kind", ["chain", "traced"])
@pytest.mark.parametrize("changes", [{}, {"readout": 1}, {"balance": "flops"}, {"rule": "backprop"}], ids=str)
def test_weights_depend_on_the_seed_alone(file, kind, changes):
    one, same, other = (drawn(f"{file}:{kind}", *draw, **changes) for draw in [(0, 1), (0, 2), (1, 1)])
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(one[name], same[name]) for name in one)
    blocks = [name for name in one if ".block." in name and name.endswith("weight") and one[name].dim() > 1]
    assert blocks
    assert not any(torch.equal(one[name], other[name]) for name in blocks)


@pytest.mark.slow
def test_two_processes_end_with_the_weights_of_one(file, tmp_path):
    one = whole(tiny(model=f"{file}:chain", data="digits", epochs=1), tmp_path / "one")
    settings = [*flags(model=f"{file}:chain", data="digits", epochs=1), "--quiet"]
    spread = command("train", *settings, "--processes", 2, "--placement", 1, 1, "--output", tmp_path / "two")
    with started([spread]) as running:
        ((status, _, err),) = finished(running)
    assert status == 0, err
    assert weights(one).keys() == weights(tmp_path / "two").keys()
    assert_same_run(one, tmp_path / "two")


class TestInPython:
    def model(self) -> nn.Module:
        return nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.LazyLinear(3))

    def batch(self) -> torch.Tensor:
        return torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def test_they_are_drawn_from_the_networks_seed_at_the_example_or_the_first_batch(self):
        drawn = []
        for state, seed, example in [(0, 5, True), (1, 5, False), (0, 6, True)]:
            torch.manual_seed(state)
            model = self.model()
            network = BlockLocal(
                split(model, blocks=2), classes=3, seed=seed, readout=0, example=self.batch() if example else None
            )
            network.materialize(self.batch())
            drawn.append(model[0].weight.detach().clone())
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])

    def test_a_split_with_an_example_leaves_them_undrawn(self):
        model, state = self.model(), torch.get_rng_state()
        split(model, blocks=2, example=self.batch(), balance="flops")
        assert all(nn.parameter.is_lazy(p) for p in model.parameters())
        assert torch.equal(torch.get_rng_state(), state)

    def test_weights_that_were_drawn_before_stay(self):
        model = self.model()
        model(self.batch())
        before = model[0].weight.detach().clone()
        BlockLocal(split(model, blocks=2), classes=3, example=self.batch(), readout=0)
        assert torch.equal(model[0].weight, before)

    def test_they_learn(self):
        model = self.model()
        network = BlockLocal(split(model, blocks=2), classes=3, example=self.batch(), readout=0)
        before = [p.detach().clone() for p in model.parameters()]
        network.step(self.batch(), torch.tensor([0, 1, 2, 0]))
        assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
        assert torch.equal(network.to_plain()(self.batch()), model.eval()(self.batch()))
