"""Oracle: a network that was never saved. One that is loaded goes on as that one does, bit for bit."""

from pathlib import Path

import pytest
import torch
from torch import nn

import blocklocal as bl
from blocklocal.training.loop import Stopped


def network(hidden: int = 8) -> bl.BlockLocal:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, hidden), nn.ReLU(), nn.Dropout(0.5), nn.Linear(hidden, 3))
    net = bl.BlockLocal(
        bl.split(model, blocks=2), classes=3, example=torch.zeros(2, 6), tau=0.5, objective="variational"
    )
    net.configure(bl.adam(lr=0.01), "cosine", 20)
    return net


def steps(net: bl.BlockLocal, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        net.step(torch.randn(4, 6, generator=generator), torch.randint(3, (4,), generator=generator))


def test_a_loaded_network_goes_on_as_if_it_had_never_been_saved(tmp_path) -> None:
    whole, stopped = network(), network()
    whole.epoch = stopped.epoch = 3
    steps(whole, 0, 8)
    steps(stopped, 0, 5)
    bl.save(stopped, tmp_path / "a" / "net")
    again = network()
    bl.load(again, tmp_path / "a" / "net")
    assert (again.steps, again.epoch) == (5, 3)
    steps(again, 5, 8)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_the_newest_of_several_saves_is_loaded(tmp_path) -> None:
    net, again = network(), network()
    for last in (1, 2, 3):
        steps(net, last - 1, last)
        bl.save(net, tmp_path / "net")
    bl.load(again, tmp_path / "net")
    assert again.steps == 3


def test_a_failed_save_leaves_the_older_one(tmp_path, monkeypatch) -> None:
    net, again = network(), network()
    bl.save(net, tmp_path / "net")
    steps(net, 0, 1)
    monkeypatch.setattr(
        "blocklocal.training.checkpoint_draft.write_checksums", lambda *_: (_ for _ in ()).throw(OSError(28, "full"))
    )
    with pytest.raises(OSError, match="full"):
        bl.save(net, tmp_path / "net")
    bl.load(again, tmp_path / "net")
    assert again.steps == 0


def test_a_folder_with_other_things_is_left_alone(tmp_path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(bl.InputError, match="other things"):
        bl.save(network(), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_what_cannot_be_loaded_is_said(tmp_path) -> None:
    with pytest.raises(bl.InputError, match="no network is saved"):
        bl.load(network(), tmp_path / "none")
    bl.save(network(), tmp_path / "net")
    other = network(hidden=9)
    before = [p.clone() for p in other.parameters()]
    with pytest.raises(bl.InputError):
        bl.load(other, tmp_path / "net")
    assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))


def test_a_network_without_shapes_is_refused(tmp_path) -> None:
    lazy = bl.BlockLocal(bl.split(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), blocks=2), classes=3)
    with pytest.raises(bl.InputError, match="shapes"):
        bl.save(lazy, tmp_path / "net")


# --- after a Trainer, which configures optimisers and schedules

EXAMPLE = [(torch.ones(4, 6), torch.tensor([0, 1, 2, 0])), (torch.zeros(4, 6), torch.tensor([2, 1, 0, 0]))]


def trained(folder: Path) -> bl.BlockLocal:
    net = network()
    bl.Trainer(net, optimizer=bl.sgd(lr=0.01), epochs=2).fit(EXAMPLE)
    bl.save(net, folder)
    return net


def test_a_network_that_is_not_configured_alike_is_told_how_and_keeps_its_weights(tmp_path) -> None:
    net, again = trained(tmp_path), network()
    before = [p.clone() for p in again.parameters()]
    with pytest.raises(bl.InputError, match=r"configure\(optimizer, schedule, steps\).*optimizers=False") as said:
        bl.load(again, tmp_path)
    assert "anew" not in str(said.value)
    assert all(torch.equal(a, b) for a, b in zip(before, again.parameters(), strict=True))
    again.configure(bl.sgd(), "one-cycle", 4)
    bl.load(again, tmp_path)
    assert again.rate() == net.rate()


def test_weights_steps_and_epoch_are_loaded_alone_into_a_network_of_another_optimiser(tmp_path) -> None:
    net, again = trained(tmp_path), network()
    drawn = torch.get_rng_state()
    bl.load(again, tmp_path, optimizers=False)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in net.state_dict().items())
    assert (again.steps, again.epoch) == (4, 1)
    assert isinstance(again.learners[0].optimizer, torch.optim.Adam)
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize("what", ["another cut", "a damaged file", "a damaged file with an older one", "optimisers"])
def test_no_message_about_a_saved_network_speaks_of_runs(tmp_path, what) -> None:
    net, again = trained(tmp_path), network(hidden=9 if what == "another cut" else 8)
    again.configure(bl.sgd(), "cosine" if what == "optimisers" else "one-cycle", 4)
    older = what == "a damaged file with an older one"
    if older:
        steps(net, 4, 5)
        bl.save(net, tmp_path)
    if what.startswith("a damaged"):
        (max(tmp_path.iterdir()) / "block-0.safetensors").write_bytes(b"")
    with pytest.raises(bl.InputError) as said:
        bl.load(again, tmp_path)
    words = ("the run", "config.json", "--", "train anew")
    assert not [word for word in words if word in str(said.value)]
    assert ("Remove step-00000005" in str(said.value)) == older


# --- a Trainer that goes on


def trainer_of(net: bl.BlockLocal, stop_at: int = 0) -> bl.Trainer:
    return bl.Trainer(net, optimizer=bl.adam(lr=0.01), epochs=3, should_stop=lambda: net.steps == stop_at)


@pytest.mark.parametrize("stop_at", [1, 2, 3, 5])
def test_a_trainer_that_is_loaded_goes_on_as_if_it_had_never_stopped(tmp_path, stop_at) -> None:
    whole, stopped, again = network(), network(), network()
    wanted = trainer_of(whole).fit(EXAMPLE)
    trainer = trainer_of(stopped, stop_at)
    with pytest.raises(Stopped):
        trainer.fit(EXAMPLE)
    bl.save(stopped, tmp_path, trainer=trainer)
    other = trainer_of(again)
    other.prepare(EXAMPLE)
    bl.load(again, tmp_path, trainer=other)
    records = other.fit(EXAMPLE)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    assert [record["loss"] for record in records] == [record["loss"] for record in wanted]


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("of another network", "another network"),
        ("not prepared", r"trainer\.prepare\(train\)"),
        ("without optimisers", "leave out optimizers=False"),
        ("of other batches", "2 steps per epoch, and here there are 1"),
        ("saved without", r"save\(network, folder, trainer=trainer\)"),
    ],
)
def test_a_trainer_that_cannot_go_on_is_told_why_and_nothing_is_loaded(tmp_path, case, words) -> None:
    net, again = network(), network()
    trainer, other = trainer_of(net), trainer_of(network() if case == "of another network" else again)
    trainer.fit(EXAMPLE)
    bl.save(net, tmp_path, trainer=None if case == "saved without" else trainer)
    if case != "not prepared":
        other.prepare(EXAMPLE[:1] if case == "of other batches" else EXAMPLE)
    with pytest.raises(bl.InputError, match=words):
        bl.load(again, tmp_path, trainer=other, optimizers=case != "without optimisers")
    assert (again.steps, other.epoch) == (0, 0)


def test_a_trainer_of_another_network_is_not_saved(tmp_path) -> None:
    with pytest.raises(bl.InputError, match="another network"):
        bl.save(network(), tmp_path / "net", trainer=trainer_of(network()))
