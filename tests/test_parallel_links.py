"""Messages between processes: as they were made, in bounded number, whoever is slow; and gradients of replicas."""

from __future__ import annotations

import pytest
import torch
from parallel_cases import BLOCKS, batches, plain
from parallel_helpers import work

from blocklocal.parallel.links import is_dense

pytestmark = [pytest.mark.xdist_group("processes"), pytest.mark.timeout(180)]


def test_messages_arrive_with_shape_type_and_layout(tmp_path):
    work("shapes", 2, tmp_path)  # asserts in the process that receives


@pytest.mark.parametrize(
    ("tensor", "dense"),
    [
        (torch.zeros(2, 3), True),
        (torch.zeros(2, 3).t(), True),
        (torch.zeros(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True),
        (torch.zeros(2, 6)[:, ::2], False),
        (torch.zeros(2, 1).expand(2, 3), False),
        (torch.zeros(1, 5)[:, 1:], True),
        (torch.zeros(3), True),
    ],
)
def test_a_tensor_is_dense_when_its_elements_fill_a_piece_of_memory(tensor, dense):
    assert is_dense(tensor) == dense


def test_a_slow_block_slows_the_ones_before_it_down_and_little_is_under_way(tmp_path):
    work("pressure", 2, tmp_path)
    for depth in (1, 3):
        fast, slow = (torch.load(tmp_path / f"{depth}.{rank}") for rank in range(2))
        ahead = [sum(b <= now for b in fast["begun"]) - k for k, now in enumerate(slow["begun"])]
        assert max(ahead) <= 2 * depth + 2  # under way on either side, and the one that each stage works on
        assert max(ahead[5:15]) > depth  # the fast one does not wait for every message to be read
        assert fast["waited"] > 0
        assert slow["held"] <= depth
        assert fast["held"] <= depth


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """Weights of every block after training with two replicas, in one group of blocks and in two."""
    found = []
    for stages in (1, 2):
        folder = tmp_path_factory.mktemp(f"stages{stages}")
        work("replicas", 2 * stages, folder, replicas=2)
        found.append([torch.load(folder / f"weights.{rank}") for rank in range(2 * stages)])
    return found


def test_replicas_of_a_block_hold_the_same_weights(replicated):
    (first, second), four = replicated
    for a, b in ((first, second), (four[0], four[1]), (four[2], four[3])):
        assert all(torch.equal(a[k][name], b[k][name]) for k in a for name in a[k])


def test_replicas_learn_the_same_however_the_blocks_are_spread(replicated):
    (whole, _), four = replicated
    parts = {**four[0], **four[2]}
    assert sorted(parts) == list(range(BLOCKS))
    assert all(torch.equal(whole[k][name], parts[k][name]) for k in whole for name in whole[k])


def test_replicas_average_the_gradient_of_the_whole_batch(replicated):
    """Up to rounding, what one process learns from all of it (but for the sample that does not divide)."""
    (whole, _), _ = replicated
    net = plain()
    for x, y in batches("mlp"):
        even = len(y) // 2 * 2
        net.step(x[:even], y[:even])
    alone = {unit.index: unit.state_dict() for unit in net.units}
    for k, weights in whole.items():
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, alone[k][name])
