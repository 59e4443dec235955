"""Facts of a run of neighbouring learners: modes, progress in the state_dict, what lies at its edges, compiling."""

from contextlib import nullcontext
from dataclasses import fields

import pytest
import torch
from torch import nn

from blocklocal import BlockLocal, InputError, Learning, sgd, split
from blocklocal.block.edges import Open
from blocklocal.block.step import StepContext
from blocklocal.block.targets import target_rows
from blocklocal.network.settings import LearningSettings
from blocklocal.rules.base import Batch, local_step


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)
    )


def network(**settings) -> BlockLocal:
    return BlockLocal(
        split(model(), blocks=2), classes=3, example=torch.zeros(4, 6), optimizer=sgd(lr=0.1), readout=1, **settings
    )


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(5, 6, generator=generator), torch.tensor([0, 1, 2, 0, 1])


def norm_of(net: BlockLocal) -> nn.BatchNorm1d:
    return next(part for part in net.modules() if isinstance(part, nn.BatchNorm1d))


def test_a_part_that_the_user_put_in_evaluation_mode_stays_there_in_a_step() -> None:
    net = network()
    norm_of(net).eval()
    before = norm_of(net).running_mean.clone()
    net.step(*batch())
    assert torch.equal(norm_of(net).running_mean, before)
    assert net.training


def test_a_step_of_a_network_in_evaluation_mode_trains_all_of_it() -> None:
    net = network().eval()
    net.step(*batch())
    assert all(part.training for part in net.modules())
    assert norm_of(net).running_mean.any()


def test_predict_puts_back_the_mode_of_every_part() -> None:
    net = network()
    norm_of(net).eval()
    net.predict(batch()[0])
    assert not norm_of(net).training
    assert net.training


def test_predict_puts_back_modes_after_an_error() -> None:
    net = network()
    norm_of(net).eval()

    def fail(*_):
        raise RuntimeError("a hook of the user's own")

    net.learners[1].block.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a hook"):
        net.predict(batch()[0])
    assert not norm_of(net).training
    assert net.training


def test_steps_and_epoch_are_in_the_state_dict_so_random_streams_go_on() -> None:
    first, second = network(), network()
    for _ in range(3):
        first.step(*batch())
    first.epoch = 2
    second.load_state_dict(first.state_dict())
    assert (second.steps, second.epoch) == (3, 2)
    first.configure(sgd(lr=0.1))
    second.configure(sgd(lr=0.1))
    first.step(*batch())
    second.step(*batch())
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)  # the dropout of step 3, not of step 0


def test_a_state_dict_without_progress_loads_and_leaves_it() -> None:
    saved = {name: value for name, value in network().state_dict().items() if name != "_extra_state"}
    net = network()
    net.step(*batch())
    net.load_state_dict(saved)
    assert net.steps == 1


@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_a_failed_step_leaves_no_gradient(scope: str) -> None:
    """Under the scope neighbour the first block has its own loss's when the second fails."""
    net = network(scope=scope)

    def fail(*_):
        raise RuntimeError("a full memory")

    net.step(*batch())
    net.learners[1].block.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="a full memory"):
        net.step(*batch())
    assert all(p.grad is None for p in net.parameters())


def test_messages_pass_the_edges_in_the_stated_order() -> None:
    """As a stage does: the learners get what the edges give, and the edges get what the learners make."""

    class Noted(Open):
        def __init__(self):
            super().__init__(lambda index: notes.append(f"block {index}") or nullcontext())

        def take_target(self, rows, *, learning):
            notes.append(f"take target, learning: {learning}")
            return rows

        def pass_target(self, late):
            notes.append("pass target")

        def take_forward(self, x):
            notes.append("take forward")
            return x

        def send_forward(self, a):
            assert not a.requires_grad
            notes.append("send forward")

    net, notes = network(), []
    x, y = batch()
    local_step(net.learners, Batch(x, y, target_rows(net.targets), StepContext(), Noted()))
    assert notes == ["take target, learning: True", "pass target", "take forward", "block 0", "block 1", "send forward"]


def test_looking_asks_for_messages_without_moving_them_on_and_gives_the_last_output_to_the_edge() -> None:
    class Noted(Open):
        def take_target(self, rows, *, learning):
            notes.append(f"take target, learning: {learning}")
            return rows

        def send_forward(self, a):
            notes.append(f"send forward {list(a.shape)}")

    net, notes = network(), []
    net.edges = Noted()
    net.message_sizes()
    net.block_logits(batch()[0])
    assert notes == ["take target, learning: False"] * 2 + ["send forward [5, 3]"]


def test_scores_of_what_is_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="finite"):
        network().block_logits(torch.full((5, 6), float("nan")))


def test_a_run_is_told_when_something_begins_when_a_learner_has_looked_and_when_a_step_is_over() -> None:
    net, notes = network(), []
    for name in ("begin", "looked", "after_step"):
        setattr(net, name, lambda name=name: notes.append(name))
    net.step(*batch())
    net.block_logits(batch()[0])
    net.message_sizes()
    assert notes == ["begin", "after_step", "begin", "looked", "looked", "begin", "looked"]


def test_a_new_network_has_taken_no_step_and_has_its_samples_for_itself() -> None:
    net = network()
    assert (net.steps, net.epoch, net.shares) == (0, 0, 1)


def test_a_schedule_of_no_stated_length_is_of_one_step() -> None:
    net = network()
    net.configure(sgd(lr=0.1), "cosine")
    rates = []
    for _ in range(2):
        rates.append([group["lr"] for learner in net.learners for group in learner.optimizer.param_groups])
        net.step(*batch())
    assert rates == [[0.1, 0.1], [0.0, 0.0]]


def test_an_optimiser_that_is_configured_is_the_networks() -> None:
    net = network()
    net.configure(sgd(lr=0.7))
    assert net.optimizer == sgd(lr=0.7)


@pytest.mark.parametrize("shaped", [True, False])
def test_all_blocks_run_in_the_precision_that_is_asked_for_also_those_that_are_made_later(shaped) -> None:
    example = torch.zeros(4, 6) if shaped else None
    net = BlockLocal(split(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), 2), classes=3, example=example)
    net.autocast(torch.bfloat16)
    net.materialize(batch()[0])
    assert [learner.autocast for learner in net.learners] == [torch.bfloat16] * 2
    assert net.learners[0](batch()[0]).dtype == torch.bfloat16


def test_loading_a_state_dict_is_strict_and_leaves_parameters_the_tensors_that_they_are() -> None:
    net = network()
    before = [id(p) for p in net.parameters()]
    net.load_state_dict(network().state_dict())
    assert [id(p) for p in net.parameters()] == before
    for wrong in ({}, {"else": torch.zeros(1), **net.state_dict()}):
        with pytest.raises(RuntimeError, match=r"Missing key|Unexpected key"):
            net.load_state_dict(wrong)


@pytest.mark.filterwarnings("ignore")  # of torch.compile, about itself
def test_a_compiled_network_steps_and_predicts_as_before() -> None:
    plain, compiled = network(), network()
    compiled.compile(backend="eager")
    for _ in range(2):
        for a, b in zip(plain.step(*batch()), compiled.step(*batch()), strict=True):
            assert torch.allclose(a.loss, b.loss)
    assert torch.allclose(plain.predict(batch()[0]).probabilities, compiled.predict(batch()[0]).probabilities)
    assert plain.state_dict().keys() == compiled.state_dict().keys()


def test_a_rule_that_changes_gradients_is_not_compiled() -> None:
    with pytest.raises(InputError, match="feedback-alignment"):
        network(rule="feedback-alignment").compile()


def test_keyword_arguments_are_the_fields_of_learning() -> None:
    assert {field.name: field.type for field in fields(Learning)} == LearningSettings.__annotations__


def test_a_state_with_the_older_name_of_learners_is_loaded() -> None:
    older = {name.replace("_learners.", "_units.", 1): value for name, value in network().state_dict().items()}
    assert any(name.startswith("_units.") for name in older)
    fresh = network()
    for parameter in fresh.parameters():
        parameter.data.zero_()
    fresh.load_state_dict(older)
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), network().parameters(), strict=True))
