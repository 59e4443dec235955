"""Training goes on in the middle of an epoch: with loaders that say where they stand, and a word where they cannot."""

import json
import logging

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import blocklocal as bl
from blocklocal._common.errors import InputError
from blocklocal.training.loop import Stopped
from blocklocal.training.plain_state import from_plain, to_plain


class Remembering:
    """A loader that shuffles by a generator of its own, and says where it stands."""

    def __init__(self, batches: list, seed: int = 0):
        self.batches, self.draw = batches, torch.Generator().manual_seed(seed)
        self.order, self.given = None, 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        if self.order is None:
            self.order, self.given = torch.randperm(len(self.batches), generator=self.draw), 0
        while self.given < len(self.batches):
            self.given += 1
            yield self.batches[int(self.order[self.given - 1])]
        self.order = None

    def state_dict(self):
        return {"order": self.order, "given": self.given, "draw": self.draw.get_state()}

    def load_state_dict(self, state):
        self.order, self.given = state["order"], state["given"]
        self.draw.set_state(state["draw"])


def pairs(count: int = 6) -> list:
    draw = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 3, generator=draw), torch.arange(4) % 2) for _ in range(count)]


def network() -> bl.BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    return bl.BlockLocal(bl.split(model, blocks=2), classes=2, example=torch.zeros(2, 3))


def weights(trained: bl.BlockLocal) -> list:
    return [p.detach().clone() for p in trained.parameters()]


@pytest.mark.parametrize("stop", [2, 6, 9])
def test_a_loader_with_a_state_goes_on_bit_for_bit(tmp_path, stop):
    def loader():
        return Remembering(pairs())

    whole = network()
    bl.Trainer(whole, epochs=3).fit(loader())

    first, batches = network(), loader()
    trainer = bl.Trainer(first, epochs=3, should_stop=lambda: first.steps == stop)
    with pytest.raises(Stopped):
        trainer.fit(batches)
    bl.save(first, tmp_path / "saved", trainer=trainer)

    second, batches = network(), loader()
    trainer = bl.Trainer(second, epochs=3)
    trainer.prepare(batches)
    bl.load(second, tmp_path / "saved", trainer=trainer)
    trainer.fit(batches)
    assert all(map(torch.equal, weights(whole), weights(second)))


def test_another_fit_in_the_same_program_goes_on_too():
    whole = network()
    bl.Trainer(whole, epochs=2).fit(Remembering(pairs()))
    stopping, loader = network(), Remembering(pairs())
    trainer = bl.Trainer(stopping, epochs=2, should_stop=lambda: stopping.steps == 4)
    with pytest.raises(Stopped):
        trainer.fit(loader)
    trainer.fit(loader)
    assert all(map(torch.equal, weights(whole), weights(stopping)))


def test_a_loader_that_cannot_go_on_is_named_and_one_that_keeps_its_order_is_not(caplog):
    x, y = (torch.cat(part) for part in zip(*pairs(), strict=True))
    shuffled = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    ordered = DataLoader(TensorDataset(x, y), batch_size=4)
    for loader, warned in ((shuffled, True), (ordered, False), (pairs(), False)):
        caplog.clear()
        stopping = network()
        trainer = bl.Trainer(stopping, epochs=1, should_stop=lambda net=stopping: net.steps == 2)
        with pytest.raises(Stopped):
            trainer.fit(loader)
        with caplog.at_level(logging.WARNING, "blocklocal"):
            trainer.fit(loader)
        assert ("DataLoader) cannot go on in the middle of an epoch: its first 2 batches" in caplog.text) == warned


def test_a_state_that_json_cannot_hold_is_told_once_and_left_out(caplog):
    class Strange(Remembering):
        def state_dict(self):
            return {"it": object()}

    stopping = network()
    trainer = bl.Trainer(stopping, epochs=1, should_stop=lambda: stopping.steps == 2)
    with caplog.at_level(logging.WARNING, "blocklocal"), pytest.raises(Stopped):
        trainer.fit(Strange(pairs()))
    assert "loader" not in trainer.state()
    assert caplog.text.count("holds a object, which a checkpoint cannot keep") == 1


def test_states_come_back_as_they_were():
    state = {
        "a": [1, 2.5, None, True, "x"], 3: (1, (2,)), "bytes": b"\0\xff", "tensor": torch.arange(6).view(2, 3),
        "empty": {}, "flat": torch.tensor(2.0),
    }  # fmt: skip
    back = from_plain(json.loads(json.dumps(to_plain(state))))
    assert torch.equal(back.pop("tensor"), state.pop("tensor"))
    assert back.pop("flat") == state.pop("flat")
    assert back == state


@pytest.mark.parametrize("damaged", [{"tensor": 3}, {"a": 1, "b": 2}, {"code": "x"}, {"items": [[1]]}])
def test_a_damaged_state_is_refused(damaged):
    with pytest.raises(InputError, match="damaged"):
        from_plain(damaged)


@pytest.mark.filterwarnings("ignore:'set_vital'")
def test_the_loader_of_torchdata_goes_on_bit_for_bit(tmp_path):
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    x, y = (torch.cat(part) for part in zip(*pairs(), strict=True))

    def loader():
        # with a generator of its own, torchdata gives another order after the epoch in which it was stopped
        return stateful.StatefulDataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)

    whole = network()
    bl.Trainer(whole, epochs=2).fit(loader())
    first = network()
    trainer = bl.Trainer(first, epochs=2, should_stop=lambda: first.steps == 4)
    with pytest.raises(Stopped):
        trainer.fit(loader())
    bl.save(first, tmp_path / "saved", trainer=trainer)
    second, batches = network(), loader()
    trainer = bl.Trainer(second, epochs=2)
    trainer.prepare(batches)
    bl.load(second, tmp_path / "saved", trainer=trainer)
    trainer.fit(batches)
    assert all(map(torch.equal, weights(whole), weights(second)))
