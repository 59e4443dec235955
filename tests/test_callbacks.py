"""Callbacks: when each hook is called, and what a training that fails leaves behind."""

import pytest
import torch
from rule_helpers import data, network, same, state

from blocklocal import Callback, InputError, Trainer
from blocklocal.parallel import relay
from blocklocal.training import observers
from blocklocal.training.loop import Stopped

BATCHES = [data(seed=seed) for seed in range(3)]
BAD = (torch.zeros(4, 1, 8, 8), torch.full((4,), 99))


class Log(Callback):
    """Writes down every call."""

    def __init__(self, calls, name=""):
        self.calls, self.name = calls, name

    def start(self, trainer):
        self.calls.append(f"{self.name}start")

    def step(self, trainer, losses):
        assert len(losses) == len(trainer.network.learners)
        self.calls.append(f"{self.name}step {trainer.step}")

    def epoch(self, trainer, record):
        assert record["epoch"] == trainer.epoch
        self.calls.append(f"{self.name}epoch {trainer.epoch}")

    def end(self, trainer, error):
        self.calls.append(f"{self.name}end {type(error).__name__}")


class Failing(Callback):
    """Raises in one hook, the first time that it is called at or after a step."""

    def __init__(self, hook, error, step=0):
        self.error = error
        self.wanted = step
        setattr(self, hook, self.fail)

    def fail(self, trainer, *_):
        if self.error is not None and trainer.step >= self.wanted:
            error, self.error = self.error, None
            raise error


def test_hooks_are_called_at_the_start_after_steps_after_epochs_and_at_the_end():
    calls = []
    Trainer(network(), epochs=2, callbacks=[Log(calls)]).fit(BATCHES)
    steps = [[f"step {i}" for i in range(first, first + 3)] for first in (1, 4)]
    assert calls == ["start", *steps[0], "epoch 1", *steps[1], "epoch 2", "end NoneType"]


def test_callbacks_are_called_in_their_order_and_end_in_the_opposite_one():
    calls = []
    Trainer(network(), epochs=1, callbacks=[Log(calls, "a "), Log(calls, "b ")]).fit(BATCHES[:1])
    names = ["a start", "b start", "a step 1", "b step 1", "a epoch 1", "b epoch 1", "b end NoneType", "a end NoneType"]
    assert calls == names


def test_the_older_name_takes_callbacks_too():
    calls = []
    Trainer(network(), epochs=1, observers=[Log(calls)]).fit(BATCHES)
    assert calls[0] == "start"


def test_a_callback_without_hooks_changes_nothing():
    nets = [network() for _ in range(2)]
    for net, callbacks in zip(nets, ([], [Callback()]), strict=True):
        Trainer(net, epochs=1, callbacks=callbacks).fit(BATCHES)
    assert same(state(nets[0]), state(nets[1]))


@pytest.mark.parametrize("wrong", [Callback, lambda trainer: None, None], ids=["a class", "a function", "None"])
def test_what_is_no_callback_is_refused(wrong):
    with pytest.raises(InputError, match=r"blocklocal\.Callback"):
        Trainer(network(), callbacks=[wrong])


@pytest.mark.parametrize("older", ["on_start", "on_step", "on_epoch", "on_end"])
def test_hooks_under_their_older_names_are_refused(older):
    kind = type("Losses", (Callback,), {older: lambda self, *_: None})
    with pytest.raises(InputError, match=f"Losses has {older}, .* start, step, epoch, end"):
        Trainer(network(), callbacks=[kind()])


@pytest.mark.parametrize("wrong", [Callback(), None, 3])
@pytest.mark.parametrize("name", ["callbacks", "observers"])
def test_callbacks_that_are_no_list_are_refused(name, wrong):
    with pytest.raises(InputError, match=r"callbacks must be a list.*not "):
        Trainer(network(), **{name: wrong})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, not 0"),
        ({"first_epoch": -1}, "first_epoch must be a whole number of at least 0, not -1"),
        ({"first_epoch": 2}, "first_epoch must be a whole number of at least 0 and at most 1, not 2"),
        ({"first_epoch": "a"}, "first_epoch must be a whole number of at least 0, not 'a'"),
        ({"look_every": 0}, "look_every must be a whole number of at least 1, not 0"),
        ({"look_every": None}, "look_every must be a whole number of at least 1, not None"),
        ({"should_stop": True}, "should_stop must be a function without arguments, not True"),
    ],
)
def test_a_setting_of_a_trainer_that_is_impossible_is_refused(wrong, words):
    with pytest.raises(InputError, match=words):
        Trainer(network(), **{"epochs": 2, **wrong})


@pytest.mark.parametrize("module", [observers, relay], ids=["training", "parallel"])
def test_the_librarys_own_observers_are_callbacks(module):
    own = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == module.__name__]
    hooked = [each for each in own if "epoch" in vars(each)]
    assert hooked
    assert all(issubclass(each, Callback) for each in hooked)


def test_end_is_called_with_what_ended_the_training():
    calls, net = [], network()
    with pytest.raises(InputError):
        Trainer(net, epochs=1, callbacks=[Log(calls)]).fit([BATCHES[0], BAD])
    assert calls == ["start", "step 1", "end InputError"]
    calls.clear()
    with pytest.raises(Stopped):
        Trainer(net, epochs=1, callbacks=[Log(calls)], should_stop=lambda: True).fit(BATCHES)
    assert calls[-1] == "end Stopped"


def test_those_that_have_started_end_where_another_one_fails_to_start():
    calls = []
    callbacks = [Log(calls, "a "), Failing("start", RuntimeError("no disk")), Log(calls, "b ")]
    with pytest.raises(RuntimeError, match="no disk"):
        Trainer(network(), epochs=1, callbacks=callbacks).fit(BATCHES)
    assert calls == ["a start", "a end RuntimeError"]


# --- a training that fails leaves the network usable

ERRORS = {"error": RuntimeError, "Ctrl-C": KeyboardInterrupt}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize(
    ("hook", "step"), [("start", 0), ("step", 1), ("step", 3), ("step", 5), ("epoch", 0), ("end", 0)]
)
def test_a_second_fit_after_a_failure_ends_with_the_weights_of_one_without(hook, step, error):
    whole, broken = network(), network()
    wanted = Trainer(whole, epochs=2).fit(BATCHES)
    trainer = Trainer(broken, epochs=2, callbacks=[Failing(hook, error(), step)])
    with pytest.raises(error):
        trainer.fit(BATCHES)
    records = trainer.fit(BATCHES)
    assert same(state(whole), state(broken))
    assert (broken.steps, broken.epoch) == (whole.steps, whole.epoch)
    assert [record["loss"] for record in records] == [record["loss"] for record in wanted]


def test_a_fit_goes_on_after_a_bad_batch_once_it_is_mended():
    whole, broken = network(), network()
    Trainer(whole, epochs=1).fit(BATCHES)
    trainer = Trainer(broken, epochs=1)
    with pytest.raises(InputError):
        trainer.fit([BATCHES[0], BAD, BATCHES[2]])
    assert broken.steps == 1
    trainer.fit(BATCHES)
    assert same(state(whole), state(broken))


@pytest.mark.parametrize("bad", ["batch", "callback", "validation"])
def test_a_failed_fit_puts_back_every_mode_and_leaves_no_gradient(bad):
    net = network("sequential")
    net.eval()
    list(net.modules())[3].train()
    before = [module.training for module in net.modules()]
    train = [BATCHES[0], BAD] if bad == "batch" else BATCHES
    callbacks = [Failing("step", RuntimeError(), 2)] if bad == "callback" else []
    with pytest.raises((InputError, RuntimeError)):
        Trainer(net, epochs=1, callbacks=callbacks).fit(train, [BAD] if bad == "validation" else None)
    assert [module.training for module in net.modules()] == before
    assert all(parameter.grad is None for parameter in net.parameters())


def test_a_fit_that_succeeds_leaves_the_network_in_training_mode_as_a_step_does():
    net = network("sequential").eval()
    Trainer(net, epochs=1).fit(BATCHES)
    assert all(module.training for module in net.modules())


def test_after_a_failed_validation_the_epoch_is_measured_and_not_trained_again():
    whole, broken = network(), network()
    Trainer(whole, epochs=1).fit(BATCHES)
    trainer = Trainer(broken, epochs=1)
    with pytest.raises(InputError):
        trainer.fit(BATCHES, [BAD])
    records = trainer.fit(BATCHES, BATCHES)
    assert len(records) == 1
    assert same(state(whole), state(broken))
