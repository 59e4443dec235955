"""Messages of several tensors, inputs of several tensors, masks and lengths that vary."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from message_helpers import CLASSES, Reader, UNet, images, reader, sentences, u_net
from rule_helpers import same
from torch import Tensor, nn

import blocklocal as bl
from blocklocal._common.message import Message
from blocklocal.block.step import StepContext
from blocklocal.network.edge import pair
from blocklocal.network.trial import _try
from blocklocal.streaming.footprint import footprints
from blocklocal.streaming.streamed import Streamed

# --- a skip connection that is carried across cuts


def test_a_u_net_whose_skip_is_carried_is_the_u_net_before_training():
    network, (x, _) = u_net(), images()[0]
    model = network.to_plain()
    assert isinstance(model, UNet)
    torch.testing.assert_close(network(x), model.plain(x), rtol=0, atol=0)


@pytest.mark.parametrize("rule", bl.RULES.names())
@pytest.mark.parametrize("scope", ["local", "neighbour"])
def test_a_u_net_learns_under_every_rule(rule, scope):
    network, (batch, *_) = u_net(rule=rule, scope=scope), images((12,))
    losses = [network.step(*batch)[-1].loss for _ in range(20)]
    assert losses[-1] < losses[0]


def test_no_gradient_crosses_a_cut_beside_the_hidden_tensor():
    network, (x, y) = u_net(), images()[0]
    whole = u_net(rule="backprop")
    for learner in (*network.learners, *whole.learners):
        learner.optimizer = None
    network.step(x, y)
    whole.step(x, y)
    own, true = (each.split.model.down.conv.weight.grad for each in (network, whole))
    alone = u_net()
    alone.learners[0].optimizer = None
    alone.learners[0].local_backward(
        alone.learners[0].receive(x, y, alone.own_messages()[0], context=StepContext(alone.stream), image=x)
    )
    assert torch.equal(own, alone.split.model.down.conv.weight.grad)
    assert not torch.equal(own, true)


# --- padding


@pytest.mark.parametrize(
    ("rule", "objective"), [*((rule, "evidence") for rule in bl.RULES.names()), ("block-local", "variational")]
)
@pytest.mark.parametrize("per_position", [False, True])
def test_padding_changes_no_loss_no_gradient_and_no_accuracy(rule, objective, per_position):
    found = []
    for longest in (0, 9):
        network = reader(per_position=per_position, rule=rule, objective=objective, similarity=0.5, family="gaussian")
        x, y = sentences([4, 2, 4], longest, per_position=per_position)
        results = network.step(x, y)
        scored = [None if r is None else r.counted(network.targets, y).sums for r in results]
        losses = [None if r is None else r.loss for r in results]
        found.append((losses, scored, network.state_dict(), bl.evaluate(network, [(x, y)]).block_top1))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rule", ["block-local", "greedy", "target-projection"])
def test_a_padded_batch_teaches_what_its_sentences_teach_one_by_one(rule):
    """Per sample, so that every sentence counts alike: the mean of the sentences' own losses and gradients."""
    lengths = [5, 2, 3]
    x, y = sentences(lengths)
    whole, losses = reader(rule=rule), []
    whole.configure(bl.sgd(lr=1.0, momentum=0, weight_decay=0))
    alone = copy.deepcopy(whole)
    for learner in (*whole.learners, *alone.learners):
        learner.optimizer = None
    together = [r.loss for r in whole.step(x, y)]
    for k, length in enumerate(lengths):
        own = {name: t[k : k + 1, :length] for name, t in x.items()}
        losses.append([r.loss for r in alone.step(own, y[k : k + 1])])
    torch.testing.assert_close(torch.tensor(losses).mean(0), torch.stack(together))
    for (name, one), (_, many) in zip(whole.named_parameters(), alone.named_parameters(), strict=True):
        if one.grad is not None and "local.twin" not in name:
            torch.testing.assert_close(one.grad, many.grad / len(lengths), rtol=1e-4, atol=1e-6)


def test_padded_positions_count_in_no_accuracy():
    network = reader(per_position=True)
    x, y = sentences([4, 2], 6, per_position=True)
    right = network.step(x, y)[-1].counted(network.targets, y).sums
    assert right[1] == 6


# --- inputs of several tensors


def test_a_batch_by_name_is_split_into_labels_and_the_rest():
    x, y = sentences([3, 2])
    given, targets = pair({**x, "labels": y})
    assert given == x
    assert targets is y


def test_batches_by_name_train_evaluate_and_predict():
    batches = []
    for lengths in ([4, 2, 3], [6, 6, 1], [2, 2]):
        x, y = sentences(lengths)
        batches.append({**x, "labels": y})
    network = reader()
    records = bl.Trainer(network, epochs=8).fit(batches, batches)
    assert records[-1]["loss"][-1] < records[0]["loss"][-1]
    assert bl.evaluate(network, batches).top1 == records[-1]["validation_top1"][-1]
    assert network.predict(sentences([3, 5])[0]).label.shape == (2,)


class Two(nn.Module):
    """Reads two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(4, 6), nn.Linear(3, 6)

    def forward(self, x: tuple[Tensor, Tensor]) -> Tensor:
        return torch.relu(self.left(x[0]) + self.right(x[1]))


def test_an_input_of_two_tensors_reaches_the_first_block_as_it_is():
    x, y = (torch.randn(8, 4), torch.randn(8, 3)), torch.arange(8) % CLASSES
    model = nn.Sequential(Two(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, CLASSES))
    network = bl.BlockLocal(bl.split(model, blocks=3, example=x), classes=CLASSES, example=x, readout=0)
    torch.testing.assert_close(network(x), model(x), rtol=0, atol=0)
    losses = [network.step(list(x), y)[-1].loss for _ in range(10)]
    assert losses[-1] < losses[0]


def test_a_network_may_see_its_first_input_of_several_tensors_in_training():
    x, y = sentences([3, 2])
    network = bl.BlockLocal(bl.split(Reader(), blocks=4), classes=CLASSES)
    assert network.step(x, y)[-1] is not None


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"input_ids": torch.zeros(2, 3).long(), "attention_mask": torch.ones(3, 3)}, "2 samples|3 samples"),
        ({"input_ids": torch.zeros(2, 3).long(), "attention_mask": "yes"}, "leave out what is no tensor"),
        ({"input_ids": torch.zeros(2, 3).long(), "attention_mask": torch.ones(2, 3, device="meta")}, "is on meta"),
        ({}, "leave out what is no tensor"),
        ((torch.zeros(2, 3), torch.full((2, 3), torch.nan)), "NaN"),
    ],
)
def test_inputs_that_do_not_fit_together_are_refused_and_nothing_changes(x, message):
    network = reader()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(bl.InputError, match=message):
        network.step(x, torch.tensor([0, 1]))
    assert same(before, network.state_dict())


@pytest.mark.parametrize("batch", [(torch.zeros(2), torch.zeros(2), torch.arange(2)), {"a": torch.zeros(2)}, [], 3])
def test_what_is_no_batch_is_named(batch):
    with pytest.raises(bl.InputError, match="a batch must be"):
        pair(batch)


# --- lengths that vary


def test_a_length_between_two_that_ran_is_not_tried_again(monkeypatch):
    tried = []

    def counted(learners, x, rows):
        tried.append(x["input_ids"].shape[1])
        return _try(learners, x, rows)

    monkeypatch.setattr("blocklocal.network.trial._try", counted)
    network = reader(per_position=True)
    tried.clear()
    for length in (3, 9, 6, 7, 4, 12):
        network.step(*sentences([length, 2], per_position=True))
    assert tried == [3, 9, 12]


# --- messages that do not fit together


class Wrong(nn.Module):
    """Gives a message with this mask or this tensor beside."""

    def __init__(self, **parts: Any):
        super().__init__()
        self.linear, self.parts = nn.Linear(4, 4), parts

    def forward(self, x: Tensor) -> Message:
        return Message(self.linear(x), **self.parts)


class Hidden(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, CLASSES)

    def forward(self, given: Message) -> Tensor:
        return self.linear(given.hidden)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"mask": torch.ones(2, 4).bool()}, r"mask of shape \[2, 4\] does not fit"),
        ({"mask": torch.ones(2, 3)}, "give mask.bool"),
        ({"beside": {"skip": torch.zeros(2, device="meta")}}, r"beside\['skip'\] is on meta"),
        ({"beside": {"skip": 3}}, r"beside\['skip'\] is int"),
    ],
)
def test_a_message_whose_tensors_do_not_fit_is_refused(parts, message):
    model = nn.Sequential(Wrong(**parts), Hidden())
    with pytest.raises(bl.InputError, match=message):
        bl.BlockLocal(bl.split(model, blocks=2), classes=CLASSES, example=torch.zeros(2, 3, 4))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reconstruction": 1.0}, "leave reconstruction out"),
        ({"normalise": "batch"}, "normalise='units'"),
        ({"twin": "mirrored"}, "twin='dense'"),
    ],
)
def test_local_losses_that_several_tensors_do_not_allow_are_refused(settings, message):
    with pytest.raises(bl.InputError, match=message):
        reader(**settings)


# --- the same weights in every walk


@pytest.mark.parametrize("cache", ["ram", "files"])
@pytest.mark.parametrize("kind", ["u-net", "words"])
def test_block_by_block_ends_with_the_weights_of_step_by_step(kind, cache, tmp_path):
    build = u_net if kind == "u-net" else reader
    batches = images() if kind == "u-net" else [sentences(lengths) for lengths in ([4, 2, 3], [7, 1], [5, 5, 5])]
    whole = build()
    records = bl.Trainer(whole, epochs=2).fit(batches, batches)
    streamed = Streamed(build, visit=2, cache=cache, store=tmp_path / "store")
    found = bl.Trainer(streamed, epochs=2).fit(batches, batches)
    for name in ("loss", "train_top1", "validation_top1"):
        assert [record[name] for record in found] == [record[name] for record in records]
    for one, other in zip(
        streamed.each(lambda learner: copy.deepcopy(learner.state_dict())), whole.learners, strict=True
    ):
        assert same(one, other.state_dict())


def test_what_a_streamed_block_of_several_tensors_needs_is_counted():
    network, (x, _) = u_net(), images()[0]
    first, second, *_ = footprints(network, x, bl.adam()).blocks
    skip, hidden = 6 * 4 * 8 * 8 * 4, 6 * 4 * 4 * 4 * 4
    assert first.sent == second.received == second.sent == skip + hidden
