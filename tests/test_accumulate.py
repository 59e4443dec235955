"""Gradient accumulation: one large batch is the oracle; and every walk takes the same updates."""

import pytest
import streaming_helpers as st
import torch
from rule_helpers import CLASSES, SAMPLES, same, state
from run_helpers import assert_same_run, stopped, tiny, train, whole
from torch import Tensor, nn

import blocklocal as bl
from blocklocal import BlockLocal, InputError, Trainer, sgd, split
from blocklocal.network.updates import with_updates
from blocklocal.runs.run import resume_run
from blocklocal.training.loop import Stopped

RULES = ["block-local", "greedy", "backprop", "direct-feedback-alignment"]


def network(optimizer=None, **settings) -> BlockLocal:
    torch.manual_seed(0)
    layers = [nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, CLASSES)]
    cut = split(nn.Sequential(*layers), blocks=3)
    given = optimizer or sgd(lr=0.1)
    return BlockLocal(cut, classes=CLASSES, example=torch.zeros(2, 9), optimizer=given, readout=0, **settings)


def data(count: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(SAMPLES, 9, generator=draw), torch.randint(CLASSES, (SAMPLES,), generator=draw))]
    return pairs + (data(count - 1, seed + 1) if count > 1 else [])


def joined(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def close(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.allclose(a[k], b[k], rtol=1e-4, atol=1e-6) for k in a)


def weights(net: BlockLocal) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize(
    "settings", [*({"rule": rule} for rule in RULES), {"scope": "neighbour"}], ids=[*RULES, "neighbour"]
)
def test_equal_parts_teach_what_one_large_batch_does(settings):
    parts, whole = network(sgd(lr=0.1, clip=0.5), **settings), network(sgd(lr=0.1, clip=0.5), **settings)
    batches = data(6)
    Trainer(parts, epochs=2, schedule="cosine", accumulate=3).fit(batches)
    Trainer(whole, epochs=2, schedule="cosine").fit([joined(batches[:3]), joined(batches[3:])])
    assert close(weights(parts), weights(whole))
    assert parts.rate() == whole.rate()
    assert parts.steps == 3 * whole.steps


def test_the_last_update_of_an_epoch_takes_the_mean_of_what_is_left():
    parts, whole, batches = network(), network(), data(5)
    Trainer(parts, epochs=1, schedule="constant", accumulate=3).fit(batches)
    Trainer(whole, epochs=1, schedule="constant").fit([joined(batches[:3]), joined(batches[3:])])
    assert close(weights(parts), weights(whole))


def test_steps_without_an_update_change_no_weight_and_a_step_with_one_takes_their_mean():
    parts, whole, batches = network(), network(), data(2)
    before = weights(parts)
    parts.step(*batches[0], update=False)
    assert same(before, weights(parts))
    parts.step(*batches[1])
    whole.step(*joined(batches))
    assert close(weights(parts), weights(whole))


@pytest.mark.parametrize("count", range(5))
def test_updates_come_after_every_so_many_batches_and_after_the_last(count):
    assert [update for _, update in with_updates(range(count), 2)] == [
        t % 2 == 1 or t == count - 1 for t in range(count)
    ]
    assert [batch for batch, _ in with_updates(range(count), 3)] == list(range(count))


def test_training_stops_at_an_update_alone_and_goes_on_bit_for_bit(tmp_path):
    batches = data(6)

    def trainer(net, **settings):
        made = Trainer(net, optimizer=sgd(lr=0.1), epochs=2, accumulate=3, **settings)
        made.prepare(batches)
        return made

    whole, first, second = network(), network(), network()
    trainer(whole).fit(batches)
    stopped = trainer(first, should_stop=lambda: first.steps > 6)
    with pytest.raises(Stopped):
        stopped.fit(batches)
    assert first.steps == 9
    bl.save(first, tmp_path / "kept", trainer=stopped)
    again = trainer(second)
    bl.load(second, tmp_path / "kept", trainer=again)
    again.fit(batches)
    assert same(state(whole), state(second))


def test_after_a_batch_that_fails_training_goes_on_from_the_last_update():
    alone, net, batches = network(), network(), data(6)
    Trainer(alone, epochs=1, schedule="constant", accumulate=3).fit(batches)
    trainer = Trainer(net, epochs=1, schedule="constant", accumulate=3)
    bad = [*batches[:4], (torch.full((SAMPLES, 9), torch.nan), batches[4][1]), batches[5]]
    with pytest.raises(InputError, match="NaN"):
        trainer.fit(bad)
    trainer.fit(batches)
    assert same(state(alone), state(net))


@pytest.mark.parametrize("visit", [2, 4])
def test_a_streamed_network_takes_the_same_updates(visit):
    def build():
        return network()

    batches, one = data(7), network()
    streamed = bl.Streamed(build, visit=visit)
    for net in (one, streamed):
        Trainer(net, optimizer=sgd(lr=0.1), epochs=2, accumulate=2).fit(batches)
    st.assert_same_network(one, streamed)


def test_a_visit_must_be_whole_updates_and_a_step_alone_is_refused():
    streamed = bl.Streamed(network, visit=3)
    with pytest.raises(InputError, match="give a visit of 2"):
        Trainer(streamed, epochs=1, accumulate=2).fit(data(4))
    with pytest.raises(InputError, match="within a chunk"):
        bl.Streamed(network, visit=2).step(*data(1)[0], update=False)


def test_a_run_that_accumulates_resumes_bit_for_bit(tmp_path):
    config = tiny(accumulate=2, batch_size=10)
    done, other = whole(config, tmp_path / "whole"), stopped(config, tmp_path / "two", steps=3)
    resume_run(other, quiet=True)
    assert_same_run(done, other)


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--visit", 2)])
def test_several_processes_take_the_same_updates(tmp_path, more):
    train(tmp_path / "one", accumulate=2, batch_size=10)
    assert train(tmp_path / "two", "--processes", 2, *more, accumulate=2, batch_size=10).status == 0
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
