"""What a network needs is known before it is built. Oracle: the built network, and what autograd keeps of it."""

import pytest
import torch
from run_helpers import assert_refused, cli, flags, tiny

from blocklocal._common.errors import InputError
from blocklocal._common.limits import available_bytes, check_memory
from blocklocal._common.memory import saved_bytes
from blocklocal.runs import fits
from blocklocal.runs.build import build_on_cpu, check_memory_for
from blocklocal.runs.config import Config
from blocklocal.runs.facts import DatasetInfo

pytestmark = pytest.mark.usefixtures("no_reports")

FACTS = DatasetInfo(tuple("abc"), 1, 16, 16, (0.0,), (1.0,))
NETWORKS = [
    {"model": "mlp"},
    {"model": "mlp", "readout": 3, "twin": "chain"},
    {"model": "resnet18", "twin": "mirrored"},
    {"model": "resnet20", "rule": "greedy", "at": ("stage2.0",)},
    {"model": "resnet50", "rule": "backprop"},
    {"model": "vgg8b", "rule": "direct-feedback-alignment", "reconstruction": 1.0},
    {"model": "vgg8b", "rule": "feedback-alignment", "family": "bernoulli", "balance": "bytes"},
]


def parts(config: Config, monkeypatch: pytest.MonkeyPatch, batch: int = 8) -> dict[str, int]:
    """What the check finds, where there is no memory at all."""
    found: list[dict[str, int]] = []
    with monkeypatch.context() as patch:
        patch.setattr(fits, "available_bytes", lambda: 1)
        patch.setattr(fits, "check_memory", lambda what, each, *_: found.append(each))
        check_memory_for(config, FACTS, batch)
    return found[0]


@pytest.mark.parametrize("settings", NETWORKS, ids=str)
def test_the_weights_are_counted_and_nothing_is_counted_too_high(settings, monkeypatch):
    config = tiny(**settings)
    found = parts(config, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(fits, "available_bytes", lambda: None)
        network = build_on_cpu(config, FACTS)
    sizes = [sum(p.numel() for p in learner.parameters()) for learner in network.learners]
    if "balance" not in settings:
        assert found["weights"] == 4 * sum(sizes)
    assert found["optimiser"] == found["weights"]
    assert found["gradients"] <= 4 * sum(sizes)
    a, kept = torch.zeros(8, 1, 16, 16), []
    for learner in network.learners:
        with saved_bytes(learner) as saved:
            made = learner(a.clone().requires_grad_())
        kept.append(saved.peak)
        a = made.detach()
    assert 0 < found["activations"] <= sum(kept)


def test_no_random_number_is_drawn(monkeypatch):
    before = torch.get_rng_state()
    parts(tiny(model="resnet18"), monkeypatch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("optimizer", "momentum", "states"), [("sgd", 0.9, 1), ("sgd", 0.0, 0), ("adamw", 0.9, 2)])
def test_an_optimiser_keeps_its_states(optimizer, momentum, states, monkeypatch):
    found = parts(tiny(optimizer=optimizer, momentum=momentum), monkeypatch)
    assert found["optimiser"] == states * found["weights"]


def test_a_prediction_needs_the_weights_alone(monkeypatch):
    assert list(parts(tiny(), monkeypatch, batch=0)) == ["weights"]


HUGE = [
    ("width", 1_000_000, "TiB"),
    ("width", 100_000, "GiB"),
]


@pytest.mark.parametrize(("name", "value", "unit"), HUGE)
def test_a_network_that_fits_no_machine_is_refused_with_what_it_would_need(name, value, unit, tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "available_bytes", lambda: 8 * 2**30)
    said = cli("train", *flags(**{name: value}), "--output", tmp_path / "run", "--quiet")
    assert_refused(said, "would need at least", unit, "and 8.0 GiB are free here", "--width", folder=tmp_path)


@pytest.mark.parametrize("settings", [{"width": 100_000}, {"batch_size": 10**6, "model": "resnet20", "image_size": 64}])
def test_a_measurement_that_fits_no_machine_is_refused(settings, monkeypatch):
    monkeypatch.setattr(fits, "available_bytes", lambda: 8 * 2**30)
    given = {"model": "mlp", **settings}
    words = [word for name, value in given.items() for word in (f"--{name.replace('_', '-')}", value)]
    assert_refused(cli("simulate", "--measure", *words), "this training would need at least", "8.0 GiB are free")


def test_a_model_of_the_users_own_is_not_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "available_bytes", lambda: 1)
    file = tmp_path / "net.py"
    file.write_text(
        "from torch import nn\n"
        "def net(classes, channels, image_size):\n"
        "    size = channels * image_size[0] * image_size[1]\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(size, 4), nn.ReLU(), nn.Linear(4, classes))\n"
    )
    check_memory_for(tiny(model=f"{file}:net", width=None), FACTS, 8)


def test_what_meta_tensors_cannot_do_leaves_the_weights_of_the_model(monkeypatch):
    def fails(*_: object) -> None:
        raise NotImplementedError("no content")

    monkeypatch.setattr(fits, "_outputs", fails)
    assert list(parts(tiny(), monkeypatch)) == ["weights"]


def test_parts_that_fit_are_no_error_and_those_that_do_not_are_all_named():
    check_memory("a", {"weights": 600, "batch": 400}, "wait", available=1000)
    with pytest.raises(InputError) as refusal:
        check_memory("a", {"weights": 2048, "nothing": 0, "batch": 1024}, "take less", available=1024)
    assert str(refusal.value) == (
        "a would need at least 3.0 KiB of memory (weights 2.0 KiB, batch 1.0 KiB), and 1.0 KiB are free here: "
        "take less."
    )


def test_the_free_memory_is_a_number_or_not_known():
    free = available_bytes()
    assert free is None or 2**20 < free < 2**60


# --- numbers of layers and blocks: nothing loops over them before it is known that they fit


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--readout", 10**9), "readout must be a whole number of at least 0 and at most 100, not 1000000000"),
        (("--blocks", 10**9), "blocks must be"),
        (("--model-options", "depth", 10**9), "depth must be a whole number of at least 1 and at most 10,000"),
        (("--threads", 10**9), "threads must be"),
        (("--seed", 2**63), "seed must be a whole number of at least 0 and at most"),
        (("--lr", "1e308"), "lr must be a number above 0 and at most 1e+06, not 1e+308"),
        (("--epochs", "9" * 400), "epochs must be"),
        (("--epochs", "9" * 5000), "--epochs"),
        (("--processes", 10**9), "processes must be"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_number_without_measure_is_refused_before_anything_begins(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    said = cli("train", *flags(), *arguments, "--output", tmp_path / "run", "--quiet")
    assert_refused(said, words, folder=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--devices", 10**10), "devices must be"),
        (("--devices", *range(1, 102)), "from 1 to 100 numbers of devices, not 101"),
        (("--micro-batches", 10**10), "--micro-batches must be"),
        (("--micro-batches", 16384, "--devices", 1024, "--schedules", "zb-v"), "takes too long to simulate"),
        (("--chunks", 10**9), "chunks must be"),
        (("--bandwidth", "nan"), "bandwidth must be"),
        (("--forward", "1e308"), "forward must be"),
        (("--forward", "1e-320", "--backward-input", 0, "--backward-weight", 0), "less than can be told apart"),
        (("--plot", "p.png", "--devices", 16, "--micro-batches", 4096), "cannot be read"),
        (("--measure", "--image-size", 9460), "--image-size must be a whole number of at least 1 and at most 9,459"),
        (("--measure", "--classes", 65_537), "classes must be a whole number of at least 1 and at most 65,536"),
        (("--measure", "--repeats", 10**9), "repeats must be"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_simulation_without_end_is_refused_before_it_begins(arguments, words, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    said = cli("simulate", *arguments)
    assert said.status == 2, said.text
    assert words in said.text


@pytest.mark.parametrize("rule", ["block-local", "greedy", "backprop", "feedback-alignment"])
def test_who_can_train_with_one_block_at_a_time_is_told_so_and_nobody_else(rule, monkeypatch):
    monkeypatch.setattr(fits, "available_bytes", lambda: 1)
    with pytest.raises(InputError, match="machine with more") as refused:
        check_memory_for(tiny(rule=rule), FACTS, 8)
    assert ("--memory" in str(refused.value)) == (rule in ("block-local", "greedy"))


def test_who_looks_at_a_network_that_does_not_fit_is_told_how_one_block_at_a_time_does(monkeypatch):
    monkeypatch.setattr(fits, "available_bytes", lambda: 1)
    with pytest.raises(InputError, match="--visit 1"):
        check_memory_for(tiny(), FACTS)
