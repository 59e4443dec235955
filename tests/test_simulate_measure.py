"""Oracle: bytes counted by hand, the network itself, and times that must add up."""

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.simulate import measure, simulate

SAMPLES, UNITS = 24, 16


def network(**settings: object) -> bl.BlockLocal:
    torch.manual_seed(0)
    layers = [nn.Sequential(nn.Linear(UNITS, UNITS, bias=False), nn.Sigmoid()) for _ in range(2)]
    model = nn.Sequential(*layers, nn.Linear(UNITS, 3))
    cut = bl.split(model, at=["1", "2"], example=torch.zeros(2, UNITS))
    return bl.BlockLocal(
        cut, classes=3, optimizer=bl.sgd(0.1), example=torch.zeros(2, UNITS), **{"readout": 0, **settings}
    )


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(SAMPLES, UNITS), torch.randint(0, 3, (SAMPLES,))


def test_bytes_are_those_of_the_tensors(batch):
    first, second, last = measure(network(), *batch, repeats=1)
    map_bytes = SAMPLES * UNITS * 4
    assert first.forward_bytes == second.backward_bytes == map_bytes
    assert last.forward_bytes == SAMPLES * 3 * 4
    assert second.activation_bytes == 2 * map_bytes  # input of the linear layer, output of the sigmoid
    assert second.local_bytes is not None
    assert second.local_bytes > second.activation_bytes - map_bytes


def test_the_first_block_needs_no_gradient_of_its_input(batch):
    first, *others = measure(network(), *batch, repeats=1)
    assert first.backward_input == 0
    assert first.backward_weight > 0
    assert all(block.backward_input > 0 for block in others)


def test_a_network_is_left_as_it_was(batch):
    net = network()
    net.step(*batch)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    drawn, mode = torch.get_rng_state(), net.training
    measure(net, *batch, repeats=1)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert torch.equal(drawn, torch.get_rng_state())
    assert net.training == mode
    assert net.steps == 1


def test_a_pass_of_the_measured_micro_batch_takes_what_was_measured(batch):
    """Overhead is defined so: never a negative time, up to the number of micro-batches that was measured."""
    costs = measure(network(), *batch, micro_batches=6, repeats=2)
    for m in range(1, 7):
        assert simulate("zb-h1", costs, 3, m).step_seconds > 0
    whole = measure(network(), *batch, repeats=1)
    assert all(block.forward_overhead == block.backward_weight_overhead == 0 for block in whole)


@pytest.mark.parametrize("twin", ["dense", "chain"])
def test_hidden_blocks_pay_for_their_local_loss(twin, batch):
    costs = measure(network(twin=twin), *batch, repeats=5)
    assert all(block.local_backward is not None and block.update > 0 for block in costs)
    assert all(block.loss > 0 for block in costs[:-1])


def test_a_frozen_block_has_nothing_to_update(batch):
    frozen, _, last = measure(network(rule="frozen"), *batch, repeats=1)
    assert frozen.update == 0
    assert last.update > 0


def test_what_cannot_be_measured_is_refused(batch):
    with pytest.raises(InputError, match="rule 'backprop' does not train blocks"):
        measure(network(rule="backprop"), *batch)
    with pytest.raises(InputError, match="24 samples cannot be cut into 25"):
        measure(network(), *batch, micro_batches=25)
    with pytest.raises(InputError, match="repeats must be"):
        measure(network(), *batch, repeats=0)
