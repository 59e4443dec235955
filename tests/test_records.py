"""What the training loop writes down and whom it tells. Oracles: a clock that the test sets, and counting by hand."""

from types import SimpleNamespace

import pytest
from rule_helpers import data, network, same, state

from blocklocal import BlockLocal, Callback, InputError, Trainer, sgd
from blocklocal.training import loop
from blocklocal.training.loop import Stopped

BATCHES = [data(seed=seed) for seed in range(3)]  # of 4 samples


class Looks(Callback):
    """The steps at which `step` was called."""

    def __init__(self):
        self.steps = []

    def step(self, trainer, losses):
        self.steps.append(trainer.step)


class Shorter(list):
    """As long as it says in the first epoch, three batches in the second."""

    def epoch(self, number, start=0):
        return iter(self[start : 3 if number else None])


@pytest.fixture
def clock(monkeypatch):
    """It advances by a quarter of a second whenever it is read: 0.25 s per step, since it is read once in each."""
    now = SimpleNamespace(seconds=100.0)

    def read():
        now.seconds += 0.25
        return now.seconds

    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=read))
    return now


@pytest.mark.usefixtures("clock")
def test_a_record_counts_the_seconds_and_the_images_of_its_own_epoch():
    net = network()
    net.shares = 2  # as if a second process trained on as many samples
    trainer = Trainer(net, epochs=2, schedule="constant", optimizer=sgd(0.1))
    records = trainer.fit(BATCHES)
    assert [(r["epoch"], r["step"], r["seconds"]) for r in records] == [(1, 3, 0.75), (2, 6, 0.75)]
    assert [r["images_per_second"] for r in records] == [24 / 0.75] * 2
    assert [r["lr"] for r in records] == [0.1] * 2
    assert (trainer.seconds, trainer.images) == (1.5, 48)


def test_the_samples_of_one_process_are_those_of_its_batches():
    trainer = Trainer(network(), epochs=1)
    assert (trainer.seconds, trainer.images, trainer.epoch, trainer.step_in_epoch) == (0.0, 0, 0, 0)
    trainer.fit(BATCHES)
    assert trainer.images == 12


@pytest.mark.usefixtures("clock")
def test_the_record_of_an_epoch_that_was_stopped_and_goes_on_elsewhere_is_that_of_the_whole_epoch():
    asked = iter([False, True])
    net, whole = network(), network()
    first = Trainer(net, epochs=1, schedule="constant", should_stop=lambda: next(asked))
    with pytest.raises(Stopped):
        first.fit(BATCHES)
    second = Trainer(net, epochs=1, schedule="constant")
    second.prepare(BATCHES)
    second.restore(first.state())
    (record,) = second.fit(Shorter(BATCHES))
    (expected,) = Trainer(whole, epochs=1, schedule="constant").fit(BATCHES)
    assert record == expected
    assert same(state(net), state(whole))


def test_records_of_a_restored_state_are_a_copy():
    first = Trainer(network(), epochs=1)
    records = first.fit(BATCHES)
    second = Trainer(network(), epochs=2)
    second.restore(first.state())
    assert second.records == records
    assert second.records is not records


def test_without_validation_no_block_has_an_accuracy_on_it():
    (record,) = Trainer(network(), epochs=1).fit(BATCHES)
    assert record["validation_top1"] == [None] * 3


def test_the_learning_rate_of_a_record_is_that_of_the_last_block():
    (record,) = Trainer(network(rule="frozen"), epochs=1, schedule="constant", optimizer=sgd(0.3)).fit(BATCHES)
    assert record["lr"] == 0.3


@pytest.mark.parametrize("epochs", [0, -1, 1.5, True])
def test_a_number_of_epochs_is_a_whole_one_of_at_least_1(epochs):
    with pytest.raises(InputError, match="epochs"):
        Trainer(network(), epochs=epochs)


# --- when callbacks are shown the losses


class Device(str):
    """The CPU by another name."""

    type = "cuda"
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


class OnCuda(BlockLocal):
    """A network that says it is on CUDA; the numbers stay where they are."""

    device = Device("cpu")  # type: ignore[assignment]


def test_on_cuda_callbacks_see_every_so_manieth_step_and_the_last_of_every_epoch():
    """The second epoch ends before its time, so that nobody knew which step would be its last."""
    looks, net = Looks(), network()
    net.__class__ = OnCuda
    Trainer(net, epochs=2, callbacks=[looks], look_every=3).fit(Shorter([*BATCHES, *BATCHES[:2]]))
    assert looks.steps == [3, 5, 6, 8]


def test_on_the_cpu_callbacks_see_every_step_once():
    looks = Looks()
    Trainer(network(), epochs=2, callbacks=[looks], look_every=3).fit(Shorter([*BATCHES, *BATCHES[:2]]))
    assert looks.steps == list(range(1, 9))


def test_what_was_seen_before_a_stop_at_the_end_of_an_epoch_is_not_shown_again():
    looks, net = Looks(), network()
    trainer = Trainer(net, epochs=1, callbacks=[looks], should_stop=lambda: net.steps == 3)
    with pytest.raises(Stopped):
        trainer.fit(BATCHES)
    (record,) = trainer.fit(BATCHES)
    assert record["step"] == 3
    assert looks.steps == [1, 2, 3]


# --- a saved state that does not fit


def saved(**changes):
    trainer = Trainer(network(), epochs=1)
    trainer.fit(BATCHES)
    return {**trainer.state(), **changes}


def test_the_state_of_a_network_alone_is_no_place_to_go_on_from():
    with pytest.raises(InputError, match="of a network alone"):
        Trainer(network(), epochs=2).restore({"step": 3})


def test_a_state_with_another_number_of_steps_per_epoch_is_refused():
    trainer = Trainer(network(), epochs=2)
    trainer.prepare(BATCHES)
    with pytest.raises(InputError, match="of a run with 5 steps per epoch, and here there are 3"):
        trainer.restore(saved(steps_per_epoch=5))


@pytest.mark.parametrize("prepared", [False, True])
def test_a_state_is_taken_where_the_number_of_steps_is_not_known_on_one_side(prepared):
    trainer = Trainer(network(), epochs=2)
    if prepared:
        trainer.prepare(BATCHES)
    trainer.restore(saved(**({"steps_per_epoch": None} if prepared else {})))
    assert trainer.epoch == 1


def test_a_state_before_the_epoch_in_which_the_schedule_begins_is_refused():
    with pytest.raises(InputError, match="the checkpoint is of epoch 2, before epochs were added after epoch 2"):
        Trainer(network(), epochs=4, first_epoch=2).restore(saved())


@pytest.mark.parametrize(("first", "inside", "rate"), [(0, 0, 0.05), (1, 0, 0.1), (1, 1, 0.0)])
def test_a_schedule_begins_anew_at_the_start_of_the_epochs_that_were_added_and_nowhere_else(first, inside, rate):
    """A cosine after three steps: half of its two epochs, or all of its one, which then begins again."""
    net = network()
    trainer = Trainer(net, epochs=2, schedule="cosine", first_epoch=first, optimizer=sgd(0.1))
    trainer.prepare(BATCHES)
    for x, y in BATCHES:
        net.step(x, y)
    trainer.restore(saved(step_in_epoch=inside))
    assert net.learners[-1].optimizer.param_groups[0]["lr"] == pytest.approx(rate)


def test_state_before_the_first_step_has_no_tally():
    trainer = Trainer(network(), epochs=1)
    assert trainer.state()["tally"] is None
    assert trainer.state()["step"] == 0
