"""Messages between processes: as they were made, in bounded number, whoever is slow; and gradients of replicas."""

from __future__ import annotations

import pytest
import torch
from message_helpers import SEVERAL
from parallel_cases import BLOCKS, batches, plain
from parallel_helpers import work
from parallel_worker import MISFITS
from run_helpers import equal

from blocklocal._common.dense import is_dense
from blocklocal._common.message import Message, tensors_of
from blocklocal.parallel.layout import MessageLayout
from blocklocal.training.evaluation import measure_blocks

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


def test_every_process_refuses_targets_that_do_not_fit_the_output_before_anything_changes(tmp_path):
    work("misfits", 3, tmp_path)
    for rank in range(3):
        said = torch.load(tmp_path / f"misfits.{rank}")
        assert said.keys() == set(MISFITS)
        for case, (message, unchanged) in said.items():
            assert "targets of shape [6, 1] do not fit the network's output, which needs [6]" in message, (rank, case)
            assert unchanged, (rank, case)


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
    """What two replicas know after training: one group of blocks and two, with a copy of the blocks each or shared."""

    def trained(task: str, stages: int) -> list[dict]:
        folder = tmp_path_factory.mktemp(f"{task}{stages}")
        work(task, 2 * stages, folder, replicas=2)
        return [torch.load(folder / f"replica.{rank}") for rank in range(2 * stages)]

    return {(task, stages): trained(task, stages) for task in ("replicas", "shards") for stages in (1, 2)}


@pytest.mark.parametrize("task", ["replicas", "shards"])
def test_replicas_of_a_block_hold_the_same_weights(replicated, task):
    (first, second), four = replicated[task, 1], replicated[task, 2]
    for a, b in ((first, second), (four[0], four[1]), (four[2], four[3])):
        assert equal(a["weights"], b["weights"])
        assert equal(a["learners"], b["learners"])


@pytest.mark.parametrize("task", ["replicas", "shards"])
def test_replicas_learn_the_same_however_the_blocks_are_spread(replicated, task):
    (whole, _), four = replicated[task, 1], replicated[task, 2]
    for kept in ("weights", "learners"):
        parts = {**four[0][kept], **four[2][kept]}
        assert sorted(parts) == list(range(BLOCKS))
        assert equal(whole[kept], parts)


def test_replicas_average_the_gradient_of_the_whole_batch(replicated):
    """Up to rounding, what one process learns from all of it (but for the sample that does not divide)."""
    (whole, _) = replicated["replicas", 1]
    net = plain()
    for x, y in batches("mlp"):
        even = len(y) // 2 * 2
        net.step(x[:even], y[:even])
    alone = {learner.index: learner.state_dict() for learner in net.learners}
    for k, weights in whole["weights"].items():
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, alone[k][name])


@pytest.mark.parametrize("stages", [1, 2])
def test_replicas_that_share_the_parameters_learn_what_those_with_a_copy_do(replicated, stages):
    for copied, shared in zip(replicated["replicas", stages], replicated["shards", stages], strict=True):
        torch.testing.assert_close(shared["weights"], copied["weights"], rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(shared["learners"], copied["learners"], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(shared["seen"], copied["seen"], rtol=1e-5, atol=1e-6)  # in between, too


def test_each_replica_holds_half_of_what_they_share(replicated):
    for known in replicated["shards", 1]:
        assert known["held"] < 0.51 * known["all"]
    assert all(known["held"] == known["all"] for known in replicated["replicas", 1])


@pytest.mark.parametrize("size", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_messages_of_several_tensors_and_of_varying_length_teach_what_they_teach_in_one_process(tmp_path, size):
    work("several", size, tmp_path)
    for kind, (build, given) in SEVERAL.items():
        torch.set_num_threads(1)
        whole, shares = build(), [torch.load(tmp_path / f"{kind}.{rank}") for rank in range(size)]
        whole.configure(whole.optimizer)
        for step, (x, y) in enumerate(given):
            losses = [loss for share in shares for loss in share["losses"][step]]
            assert losses == [r.loss for r in whole.step(x, y)], (kind, step)
        assert measure_blocks(whole, given)[0]["top1"] == [top1 for share in shares for top1 in share["top1"]], kind
        for share in shares:
            for k, weights in share["weights"].items():
                assert equal(weights, whole.learners[k].state_dict()), (kind, k)


PARTS = {
    "one": torch.arange(6.0).view(3, 2).t(),
    "several": Message(torch.arange(6.0).view(1, 3, 2), {"a": torch.tensor(3), "b": torch.ones(1, 5).bool()}),
    "masked": Message(torch.zeros(2, 3, 1).bfloat16(), {}, torch.tensor([[True, False, True]] * 2)),
}


@pytest.mark.parametrize("kind", PARTS)
def test_a_message_is_the_same_after_it_was_packed(kind):
    message = PARTS[kind]
    layout = MessageLayout.read(MessageLayout.of(message).written().encode())
    found = layout.unpack(layout.pack(message))
    assert type(found) is type(message)
    assert equal(tensors_of(found), tensors_of(message))
    assert MessageLayout.of(found) == MessageLayout.of(message)
