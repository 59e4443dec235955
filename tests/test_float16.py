"""float16 with a loss scale per block: float32 and torch's GradScaler are the oracles."""

import pytest
import streaming_helpers as st
import torch
from rule_helpers import data, network, same, state
from run_helpers import assert_same_run, stopped, tiny, train, whole

import blocklocal as bl
from blocklocal import InputError, Trainer, adamw, sgd
from blocklocal.runs.run import resume_run
from blocklocal.training.loop import Stopped

BATCHES = [data(seed=seed) for seed in range(4)]
SMALL = 1e-6  # gradients that float16 cannot hold (its smallest number is 6e-8, and it has few digits near it)


def scale_by(learner, size, **more):
    scaler = learner.scale._scaler
    scaler.load_state_dict({**scaler.state_dict(), "scale": size, **more})


def parameters(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def half(**settings):
    net = network("mlp", **settings)
    net.autocast(torch.float16)
    return net


@pytest.mark.parametrize(
    "settings", [{}, {"scope": "neighbour"}, {"rule": "backprop"}, {"rule": "direct-feedback-alignment"}], ids=str
)
def test_an_update_is_about_that_of_float32(settings):
    one, other = network("mlp", optimizer=sgd(lr=0.5, momentum=0.0), **settings), half(**settings)
    other.configure(sgd(lr=0.5, momentum=0.0))
    for learner in other.learners:
        scale_by(learner, 64.0)
    before = parameters(one)
    one.step(*BATCHES[0])
    other.step(*BATCHES[0])
    moved = torch.cat([(p - before[name]).flatten() for name, p in one.named_parameters()])
    also = torch.cat([(p - before[name]).flatten() for name, p in other.named_parameters()])
    assert (moved - also).norm() < 0.02 * moved.norm()


def test_gradients_that_float16_cannot_hold_arrive_all_the_same():
    torch.manual_seed(0)
    learner = half().learners[-1]
    x = torch.ones(2, 6)
    out = learner(x)
    assert out.dtype == torch.float16
    pending = bl.block.learner.BlockPass(out, x, None)
    learner.outer_backward(pending, torch.full(out.shape, SMALL / 100))
    learner.scale._scaler.unscale_(learner.optimizer)
    grads = [p.grad for p in learner.parameters() if p.grad is not None]
    assert grads[-1] == pytest.approx(torch.full_like(grads[-1], 2 * SMALL / 100), rel=1e-2)


def test_an_update_that_is_not_finite_is_left_out_by_its_block_alone_and_halves_its_scale():
    net = half(optimizer=adamw(0.01))
    for learner, size in zip(net.learners, (1e38, 8.0, 8.0), strict=True):
        scale_by(learner, size)
    before = [parameters(learner) for learner in net.learners]
    net.step(*BATCHES[0])
    moved = [not same(kept, parameters(learner)) for kept, learner in zip(before, net.learners, strict=True)]
    assert moved == [False, True, True]
    assert net.learners[0].scale._scaler.get_scale() == pytest.approx(5e37)
    assert [learner.schedule.last_epoch for learner in net.learners] == [0, 1, 1]


def test_the_scale_resumes_bit_for_bit(tmp_path):
    def trainer(net, **settings):
        made = Trainer(net, optimizer=adamw(0.01), epochs=2, **settings)
        made.prepare(BATCHES)
        scale_by(net.learners[0], 1e37, growth_interval=2)
        return made

    once, first, second = half(), half(), half()
    trainer(once).fit(BATCHES)
    cut = trainer(first, should_stop=lambda: first.steps == 5)
    with pytest.raises(Stopped):
        cut.fit(BATCHES)
    bl.save(first, tmp_path / "kept", trainer=cut)
    again = trainer(second)
    bl.load(second, tmp_path / "kept", trainer=again)
    again.fit(BATCHES)
    assert same(state(once), state(second))
    scales = [[learner.scale._scaler.state_dict() for learner in net.learners] for net in (once, second)]
    assert scales[0] == scales[1]


def test_a_checkpoint_of_float32_is_refused_where_a_scale_is_wanted_and_the_other_way(tmp_path):
    nets = {"float32": network("mlp"), "float16": half()}
    for name, net in nets.items():
        Trainer(net, epochs=1).fit(BATCHES)
        bl.save(net, tmp_path / name)
    for name, net in zip(("float16", "float32"), nets.values(), strict=True):
        with pytest.raises(InputError, match="loss scale"):
            bl.load(net, tmp_path / name)
        bl.load(net, tmp_path / name, optimizers=False)


def test_without_float16_there_is_no_scale_and_the_optimisers_state_is_torchs():
    net = half()
    assert set(net.learners[0].optimizer.state_dict()) == {"state", "param_groups", "scaler"}
    net.autocast(None)
    assert set(net.learners[0].optimizer.state_dict()) == {"state", "param_groups"}


def test_a_streamed_network_has_the_same_scales():
    one, streamed = half(), bl.Streamed(lambda: network("mlp"), visit=2)
    streamed.autocast(torch.float16)
    for net in (one, streamed):
        Trainer(net, optimizer=adamw(0.01), epochs=1, accumulate=2, ema=0.9).fit(BATCHES)
    st.assert_same_network(one, streamed)


def test_a_run_in_float16_resumes_bit_for_bit(tmp_path):
    config = tiny(precision="float16")
    done, other = whole(config, tmp_path / "whole"), stopped(config, tmp_path / "two", steps=4)
    resume_run(other, quiet=True)
    assert_same_run(done, other)


@pytest.mark.slow
def test_several_processes_have_the_same_scales(tmp_path):
    train(tmp_path / "one", precision="float16")
    assert train(tmp_path / "two", "--processes", 2, precision="float16").status == 0
    assert_same_run(tmp_path / "one" / "run", tmp_path / "two" / "run")
