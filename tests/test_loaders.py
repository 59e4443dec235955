"""What a Trainer takes batches from. Oracles: the message; the number of steps; the same weights as by hand."""

import logging
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from rule_helpers import same, state
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from blocklocal import BlockLocal, Images, InputError, Trainer, adam, evaluate, sgd, split

X, Y = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3
PAIRS = [(X[:8], Y[:8]), (X[8:], Y[8:])]
Batch = namedtuple("Batch", "images labels")


def network(**settings):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    return BlockLocal(split(model, 3), classes=3, **{"readout": 0, "optimizer": sgd(0.1), **settings})


def fit(train, validation=None, epochs=2, **settings):
    net = network(**settings)
    return net, Trainer(net, epochs=epochs).fit(train, validation)


# --- batches


WRONG = {
    "dict": ({"image": X, "label": Y}, "a dict with the keys image, label. .*collate_fn"),
    "text among them": ({"x": X, "labels": Y, "text": ["a", "b"]}, "of which text is a list and no tensor"),
    "other mapping": (UserDict(image=X, label=Y), "a UserDict with the keys image, label"),
    "three values": ((X, Y, torch.arange(16)), r"a tuple of 3 values \(Tensor, Tensor, Tensor\)"),
    "one value": ([X], r"a list of 1 values \(Tensor\)"),
    "no value": ((), "a tuple of 0 values"),
    "no target": ((X, None), r"a tuple of 2 values \(Tensor, NoneType\)"),
    "arrays": ((X.numpy(), Y.numpy()), r"\(ndarray, ndarray\)"),
    "array of targets": ((X, Y.numpy()), r"\(Tensor, ndarray\)"),
    "lists": ((X.tolist(), Y.tolist()), r"\(list, list\)"),
    "two letters": ("ab", "one str"),
    "a tensor of two": (torch.stack([X, X]), r"one tensor of shape \[2, 16, 4\]"),
    "None": (None, "None came|what came is None"),
    "a number": (1.0, "one float"),
    "an array": (np.zeros((2, 4)), "one ndarray"),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
class TestBatches:
    def test_training_says_what_a_batch_must_be_and_what_came(self, kind):
        batch, came = WRONG[kind]
        with pytest.raises(InputError, match=rf"a batch must be \(x, y\), two tensors.*{came}"):
            fit([batch, batch])

    def test_a_later_batch_is_looked_at_too(self, kind):
        batch, came = WRONG[kind]
        with pytest.raises(InputError, match=came):
            fit([*PAIRS, batch])

    def test_evaluation_and_validation_say_it_too(self, kind):
        batch, came = WRONG[kind]
        net = network()
        with pytest.raises(InputError, match=came):
            evaluate(net, [batch])
        with pytest.raises(InputError, match=came):
            fit(PAIRS, [batch])
        assert net.training


@pytest.mark.parametrize("kind", [tuple, list, lambda pair: Batch(*pair)], ids=["tuple", "list", "named"])
def test_pairs_of_any_kind_train_alike(kind):
    assert same(state(fit([kind(pair) for pair in PAIRS])[0]), state(fit(PAIRS)[0]))


# --- loaders


class Stream(IterableDataset):
    def __iter__(self):
        return iter([(X[0], 1)] * 16)


class Without:
    def __iter__(self):
        return iter(PAIRS)


class Refuses(Without):
    def __len__(self):
        raise TypeError("this loader has no length")


def generated():
    yield from PAIRS


NO_LENGTH = {
    "an iterable set": lambda: DataLoader(Stream(), batch_size=8),
    "no length": Without,
    "a length that refuses": Refuses,
    "an empty list": list,
    "an empty loader": lambda: DataLoader(TensorDataset(X[:3], Y[:3]), batch_size=8, drop_last=True),
}  # fmt: skip
USED_UP = {
    "a generator": generated,
    "an iterator": lambda: iter(PAIRS),
    "a zip": lambda: zip(X.split(8), Y.split(8), strict=True),
    "a loader's iterator": lambda: iter(DataLoader(TensorDataset(X, Y), batch_size=8)),
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_LENGTH)
def test_a_loader_without_a_length_is_refused(kind):
    with pytest.raises(InputError, match="the training loader needs a length of at least one batch"):
        fit(NO_LENGTH[kind]())


IMAGES = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 3)


@pytest.mark.parametrize(("wrong", "kind"), [(IMAGES, "of the kind Images"), (3, "of the kind int")])
def test_what_gives_no_batches_is_refused_before_training(wrong, kind):
    net = network()
    calls = {
        "training": lambda: Trainer(net).fit(wrong),
        "validation": lambda: Trainer(net).fit(PAIRS, wrong),
        "evaluation": lambda: evaluate(net, wrong),
    }
    for name, call in calls.items():
        with pytest.raises(InputError, match=rf"the {name} loader is {kind}, .* Wrap images in Batches\(data"):
            call()
    assert net.steps == 0


@pytest.mark.parametrize("kind", USED_UP)
def test_what_lasts_one_epoch_is_refused_before_training(kind):
    with pytest.raises(InputError, match=r"the training loader is an iterator \(.*give the loader itself"):
        fit(USED_UP[kind]())
    net = network()
    with pytest.raises(InputError, match=r"the validation loader is an iterator"):
        Trainer(net, epochs=2).fit(PAIRS, USED_UP[kind]())
    assert net.steps == 0


@pytest.mark.parametrize("kind", USED_UP)
def test_one_evaluation_takes_an_iterator(kind):
    net = network()
    assert evaluate(net, USED_UP[kind]()) == evaluate(net, PAIRS)


@pytest.mark.parametrize("loader", ["set", "loader", "validation of an iterable set"])
def test_what_torch_gives_trains(loader):
    batches = DataLoader(TensorDataset(X, Y), batch_size=8)
    validation = DataLoader(Stream(), batch_size=8) if "iterable" in loader else batches
    net, records = fit(batches if loader != "set" else PAIRS, validation)
    assert len(records) == 2
    assert same(state(net), state(fit(PAIRS)[0]))


class Counts(Without):
    """As many loaders do, it counts its epochs."""

    def __init__(self):
        self.epoch = 0

    def __len__(self):
        return 2

    def __iter__(self):
        self.epoch += 1
        return super().__iter__()


class Moves(Counts):
    def __init__(self):
        pass

    def __iter__(self):
        return iter(PAIRS)

    def epoch(self):
        raise AssertionError("it is something else")


class Seeds(Moves):
    def epoch(self, number, seed):
        raise AssertionError("it is something else")


class Named(Moves):
    epoch = "first"


class Numbered(Moves):
    """It knows its epochs by number, as Batches does."""

    def epoch(self, epoch, start=0):
        return iter(PAIRS[::-1][start:] if epoch else PAIRS[start:])


@pytest.mark.parametrize("kind", [Counts, Moves, Seeds, Named])
def test_an_epoch_that_is_something_else_is_left_alone(kind):
    net, records = fit(kind())
    assert len(records) == 2
    assert same(state(net), state(fit(PAIRS)[0]))


def test_a_method_epoch_of_number_and_start_gives_the_batches():
    net, by_hand = fit(Numbered())[0], network()
    by_hand.materialize(X)
    by_hand.configure(sgd(0.1), "one-cycle", 4)
    for x, y in [*PAIRS, *PAIRS[::-1]]:
        by_hand.step(x, y)
    by_hand.epoch = 1  # as the trainer counts
    assert same(state(net), state(by_hand))


class Changes(Counts):
    """Another number of batches in every epoch than it says: 2, then `later`."""

    def __init__(self, later):
        super().__init__()
        self.later = later

    def __iter__(self):
        self.epoch += 1
        return iter((PAIRS * 3)[: 2 if self.epoch <= 2 else self.later])  # the first look is for the shapes


@pytest.mark.parametrize("later", [1, 5])
def test_an_epoch_of_another_length_trains_with_a_warning(later, caplog):
    with caplog.at_level(logging.WARNING, "blocklocal"):
        net, records = fit(Changes(later))
    assert [record["step"] for record in records] == [2, 2 + later]
    (message,) = [record.getMessage() for record in caplog.records]
    assert f"epoch 2 had {later} batches, and the training loader's length was 2" in message
    assert net.steps == 2 + later


def test_an_epoch_without_a_batch_is_refused():
    with pytest.raises(InputError, match="the training loader gave no batch in epoch 2, though its length is 2"):
        fit(Changes(0))


def test_batches_of_the_right_length_give_no_warning(caplog):
    with caplog.at_level(logging.WARNING, "blocklocal"):
        fit(DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True))
    assert not caplog.records


def test_a_last_batch_of_one_names_drop_last():
    loader = DataLoader(TensorDataset(X, Y), batch_size=5)
    with pytest.raises(InputError, match=r"drop_last=True"):
        fit(loader, readout=1)
    assert len(fit(DataLoader(TensorDataset(X, Y), batch_size=5, drop_last=True), readout=1)[1]) == 2


# --- what the loop does for the network


def test_the_trainer_sets_the_epoch_of_the_mixing_schedule():
    """m = 1 / (1 + tau · epoch): the second epoch mixes a third of the backward message in."""
    settings = {"objective": "variational", "family": "bernoulli", "tau": 2.0}
    trained = fit(PAIRS, **settings)[0]
    nets = []
    for epochs in ((0, 1), (0, 0)):
        net = network(**settings)
        net.materialize(X)
        net.configure(sgd(0.1), "one-cycle", 4)
        for epoch in epochs:
            net.epoch = epoch
            for x, y in PAIRS:
                net.step(x, y)
        nets.append(net)
    assert same(state(trained), state(nets[0]))
    assert not same(state(trained), state(nets[1]))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_training_under_the_callers_no_grad_is_training(context):
    found = network(optimizer=adam(0.01))
    with context():
        Trainer(found, epochs=2).fit(PAIRS, PAIRS)
    assert same(state(found), state(fit(PAIRS, optimizer=adam(0.01))[0]))
