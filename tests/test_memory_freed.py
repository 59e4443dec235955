"""The graph of a block is gone when the next block runs: counted in saved bytes and seen through weak references."""

import gc
import weakref
from itertools import pairwise

import pytest
import torch
from rule_helpers import LOCAL_RULES, batch_of, data, network, pendings

from blocklocal._common.memory import saved_bytes
from blocklocal.rules.base import receive, target_messages

LEARNING = [rule for rule in LOCAL_RULES if rule != "frozen"]
PARTS = {"readout": 1, "reconstruction": 1.0, "similarity": 0.5}
NETWORKS = [("mlp", {}), ("resnet18", {}), ("resnet18", PARTS), ("traced", PARTS)]


def watch(net, look):
    """Call look(k) when block k starts."""
    for learner in net.learners:
        learner.block.register_forward_pre_hook(lambda *_, k=learner.index: look(k))


def kept_by(net, k, x, y):
    """Bytes that the graph of block k alone keeps, its loss included."""
    batch, a = batch_of(net, x, y), x
    messages = target_messages(net.learners, batch.rows)
    with torch.no_grad():
        for learner in net.learners[:k]:
            a = learner(a)
    with saved_bytes(net) as kept:
        pending = receive(net.learners[k], a, batch, messages[k])
        at_the_end = kept.live
    del pending
    return at_the_end


@pytest.mark.parametrize(("architecture", "settings"), NETWORKS)
@pytest.mark.parametrize("rule", LOCAL_RULES)
def test_nothing_is_kept_when_the_next_block_starts(rule, architecture, settings):
    net = network(architecture, rule, **settings)
    x, y = data(architecture)
    live = []
    with saved_bytes(net) as kept:
        watch(net, lambda k: live.append(kept.live))
        net.step(x, y)
        live.append(kept.live)
    assert live == [0] * (len(net.learners) + 1)
    assert kept.peak > 0


@pytest.mark.parametrize(("architecture", "settings"), NETWORKS)
@pytest.mark.parametrize("rule", LEARNING)
def test_the_peak_is_that_of_the_largest_block_and_less_than_the_sum(rule, architecture, settings):
    net = network(architecture, rule, **settings).train()
    x, y = data(architecture)
    each = [kept_by(net, k, x, y) for k in range(len(net.learners))]
    with saved_bytes(net) as kept:
        net.step(x, y)
    assert max(each) <= kept.peak < sum(each)


def test_backprop_keeps_all_blocks_at_a_time():
    x, y = data("resnet18", samples=16)
    peaks = {}
    for rule in ("backprop", "greedy", "block-local"):
        net = network("resnet18", rule, blocks=4)
        with saved_bytes(net) as kept:
            net.step(x, y)
        peaks[rule] = kept.peak
    assert peaks["block-local"] < 0.6 * peaks["backprop"]
    assert peaks["greedy"] < 0.6 * peaks["backprop"]


@pytest.mark.parametrize("twin", ["chain", "mirrored"])
def test_only_the_graphs_of_twins_still_to_be_used_are_kept(twin):
    net = network("resnet18", twin=twin)
    x, y = data("resnet18")
    with saved_bytes(net) as kept:
        messages = target_messages(net.learners, net.rows)
        twins = kept.live
        del messages
        assert kept.live == 0
        live = []
        watch(net, lambda k: live.append(kept.live))
        net.step(x, y)
        live.append(kept.live)
    assert live[0] == twins
    assert live == sorted(live, reverse=True)
    assert live[-2:] == [0, 0]  # the last block has no twin


@pytest.mark.parametrize("rule", LEARNING)
def test_what_a_block_computed_inside_is_collected_before_the_next_block_starts(rule):
    """Without help from the garbage collector: the last reference is the graph's."""
    net = network("resnet18", rule)
    inside, dead = {learner.index: [] for learner in net.learners}, []
    for learner in net.learners:
        for module in learner.block.modules():
            if module is not learner.block:  # the block's own output lives on as the message
                module.register_forward_hook(lambda m, a, out, k=learner.index: inside[k].append(weakref.ref(out)))
    watch(net, lambda k: dead.append([ref() is None for ref in inside[k - 1]]) if k else None)
    gc.disable()
    try:
        net.step(*data("resnet18"))
    finally:
        gc.enable()
    assert len(dead) == 2
    # the block's last unit returns the block's own output
    assert all(len(refs) > 4 and sum(not gone for gone in refs) <= 1 for refs in dead)


def test_neighbour_scope_keeps_two_blocks_at_a_time():
    x, y = data("resnet18")
    net = network("resnet18", blocks=4, scope="neighbour").train()
    each = [kept_by(net, k, x, y) for k in range(4)]
    live = []
    with saved_bytes(net) as kept:
        watch(net, lambda k: live.append(kept.live))
        net.step(x, y)
    pairs = [a + b for a, b in pairwise(each)]
    assert live[:2] == [0, each[0]]
    assert max(pairs) * 0.9 < kept.peak < sum(each)
    assert kept.live == 0


def test_neighbour_scope_keeps_the_graph_of_a_twin_no_longer_than_that_of_its_block():
    x, y = data("resnet18")
    net = network("resnet18", blocks=4, scope="neighbour", twin="mirrored").train()
    each = [kept_by(net, k, x, y) for k in range(3)]  # without the graphs of twins
    live = []
    with saved_bytes(net) as kept:
        watch(net, lambda k: live.append(kept.live))
        net.step(x, y)
    assert live[1] == live[0] + each[0]  # all twins' graphs are alive at first
    assert live[2] < live[0] + each[1]
    assert live[3] < live[0] + each[2]


@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_the_graph_of_the_last_block_is_gone_when_it_is_updated(scope):
    net = network("resnet18", scope=scope)
    live = []
    with saved_bytes(net) as kept:
        net.learners[-1].update = lambda: live.append(kept.live)
        net.step(*data("resnet18"))
    assert live == [0]


@pytest.mark.parametrize("rule", ["block-local", "greedy", "backprop", "direct-feedback-alignment"])
def test_results_of_a_step_carry_no_graph(rule):
    net = network("mlp", rule, readout=1, reconstruction=1.0)
    with saved_bytes(net) as kept:
        results = net.step(*data())
        assert kept.live == 0
    for result in results:
        if result is not None:
            tensors = [result.loss, result.scores, result.message_size, *result.parts.values()]
            assert all(t.grad_fn is None and not t.requires_grad for t in tensors if t is not None)


def test_a_graph_that_somebody_keeps_is_counted():
    """The control of this file."""
    net = network("mlp")
    with saved_bytes(net) as kept:
        held = pendings(net, *data())
        assert kept.live > 0
        held.clear()
        assert kept.live == 0
