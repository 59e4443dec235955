"""Late messages of chained twins. Oracle: the messages of every step, kept, and read D steps later."""

from __future__ import annotations

import pytest
import torch
from rule_helpers import batch_of, data, network

from blocklocal import InputError, Learning
from blocklocal.rules.base import target_messages


def outgoing(net) -> list[torch.Tensor]:
    """What every hidden block's twin passes on now, given what arrives at it."""
    found, incoming = [], net.rows
    for learner in reversed(net.learners):
        if learner.twin is not None:
            found.append(learner.twin(incoming)[1])
            incoming = learner.twin.arriving(found[-1])
    return found[::-1]


CASES = [(twin, delay, "local") for twin in ("chain", "mirrored") for delay in (1, 2, 3)]


@pytest.mark.parametrize(("twin", "delay", "scope"), [*CASES, ("chain", 2, "neighbour")])
def test_a_block_reads_what_the_next_one_passed_on_so_many_steps_ago(twin, delay, scope):
    net = network("resnet18", twin=twin, message_delay=delay, blocks=4, scope=scope)
    kept = [outgoing(net)] * delay  # until the first late message is there, those of the initial weights count
    with torch.no_grad():
        for step in range(6):
            kept.append(outgoing(net))
            for k, learner in enumerate(net.learners[:-2]):
                expected, _ = learner.message(kept[step][k + 1])
                assert torch.equal(target_messages(net.learners, net.rows)[k], expected)
            with torch.enable_grad():
                net.step(*data("resnet18", seed=step))


def test_without_delay_messages_are_those_of_the_step():
    nets = [network("resnet18", twin="chain", blocks=4, message_delay=delay) for delay in (0, 1)]
    assert nets[0].learners[1].twin.late is None
    for _ in range(3):
        for net in nets:
            net.step(*data("resnet18"))
    assert not torch.equal(nets[0].learners[0].twin.network.weight, nets[1].learners[0].twin.network.weight)


def test_looking_at_messages_does_not_move_them_on():
    net = network("resnet18", twin="chain", message_delay=2)
    before = [learner.twin.late.clone() for learner in net.learners if learner.twin]
    net.predict(data("resnet18")[0])
    net.message_sizes()
    target_messages(net.learners, batch_of(net, *data("resnet18")).rows)
    assert all(torch.equal(a, learner.twin.late) for a, learner in zip(before, net.learners, strict=False))


def test_a_dense_twin_has_nothing_to_be_late():
    net = network("resnet18", twin="dense", message_delay=3)
    assert all(learner.twin is None or learner.twin.late is None for learner in net.learners)


def test_messages_under_way_are_part_of_the_weights():
    net = network("resnet18", twin="chain", message_delay=2)
    assert any(name.endswith("twin.late") for name in net.state_dict())


@pytest.mark.parametrize("bad", [-1, 1.5, True])
def test_a_delay_is_a_whole_number_of_steps(bad):
    with pytest.raises(InputError, match="message_delay must be a whole number of at least 0"):
        Learning(message_delay=bad)
