"""Oracle: the library's own functions. `blocklocal simulate` says what these say."""

import json
from pathlib import Path

import pytest
from simulate_helpers import PIPELINES

from blocklocal._common.errors import InputError
from blocklocal._common.limits import in_bytes
from blocklocal.cli.simulate import simulate as command
from blocklocal.simulate import BlockCosts, Link, simulate, uniform_costs
from blocklocal.simulate.costs_file import CostsFile, load_costs, save_costs


def rows(tmp_path: Path, *flags: object) -> list[dict]:
    file = tmp_path / "results.json"
    command([*map(str, flags), "--json", str(file)])
    return json.loads(file.read_text())["results"]


@pytest.fixture
def costs_file(tmp_path: Path) -> Path:
    file = tmp_path / "costs.json"
    file.write_text(json.dumps({"blocks": [{"forward": 1, "backward_input": 1, "backward_weight": 1}] * 4}))
    return file


def test_every_schedule_is_in_the_table_and_in_the_file(tmp_path, capsys):
    found = rows(tmp_path, "--devices", 4, "--micro-batches", 8)
    assert [row["schedule"] for row in found] == [*PIPELINES, "block-local"]
    table = capsys.readouterr().out
    assert all(name in table for name in (*PIPELINES, "block-local", "27.3 %"))


def test_flags_reach_the_simulation(tmp_path):
    flags = (
        "--schedules 1f1b --devices 3 --micro-batches 6 --forward 2 --backward-input 3 --backward-weight 4 --update 1"
    )
    sizes = "--overhead 0.1 --activation-bytes 60 --message-bytes 30 --bandwidth 10 --latency 0.5"
    (row,) = rows(tmp_path, *flags.split(), *sizes.split())
    costs = uniform_costs(
        *(3, 2),
        forward=2,
        backward_input=3,
        backward_weight=4,
        update=1,
        overhead=0.1,
        activation_bytes=60,
        message_bytes=30,
    )
    wanted = simulate("1f1b", costs, 3, 6, link=Link(10, 0.5))
    assert row == {**vars(wanted), "batches_per_second": wanted.batches_per_second, "samples_per_second": None}


def test_loss_queue_and_chunks_reach_the_simulation(tmp_path):
    local, interleaved = rows(
        tmp_path, "--schedules", "block-local", "interleaved", "--loss", 2, "--queue", 1, "--chunks", 3, "--latency", 20
    )
    link = Link(latency=20.0)
    assert (
        local["step_seconds"]
        == simulate("block-local", uniform_costs(4, 6, loss=2), 4, link=link, depth=1).step_seconds
    )
    assert (
        interleaved["step_seconds"] == simulate("interleaved", uniform_costs(4, 6), 4, link=link, chunks=3).step_seconds
    )


def test_several_numbers_of_devices_make_a_sweep_with_curves(tmp_path, capsys):
    found = rows(tmp_path, "--devices", 2, 4, 8, "--schedules", "gpipe", "block-local", "--plot", tmp_path / "idle.png")
    assert [(row["devices"], row["micro_batches"]) for row in found[::2]] == [(2, 8), (4, 16), (8, 32)]
    assert (tmp_path / "idle.png").stat().st_size > 1000
    assert "gpipe" in (tmp_path / "idle.svg").read_text()


def test_a_timeline_is_drawn_for_one_number_of_devices(tmp_path):
    names = ("gpipe", "zb-v", "block-local")
    rows(tmp_path, "--devices", 2, "--micro-batches", 2, "--schedules", *names, "--plot", tmp_path / "timeline.png")
    picture = (tmp_path / "timeline.svg").read_text()
    assert all(name in picture for name in (*names, "weight gradient", "local loss"))


def test_costs_survive_their_file(tmp_path):
    costs = CostsFile([BlockCosts(1.5, 0.0, 2.0, weight_bytes=3.0, activation_bytes=4.0, forward_overhead=-0.25)], 32)
    save_costs(tmp_path / "costs.json", costs)
    assert load_costs(tmp_path / "costs.json") == costs


def test_a_file_of_costs_is_simulated_with_the_schedules_it_has_blocks_for(tmp_path, costs_file):
    found = rows(tmp_path, "--costs", costs_file, "--devices", 4)
    assert [row["schedule"] for row in found] == ["gpipe", "1f1b", "zb-h1", "zb-h2", "block-local"]
    assert found[1]["step_seconds"] == simulate("1f1b", [BlockCosts(1, 1, 1)] * 4, 4, 16).step_seconds


def test_measured_costs_are_saved_and_give_the_same_table_again(tmp_path):
    saved = tmp_path / "costs.json"
    network = "--model mlp --width 8 --blocks 4 --image-size 4 --channels 1 --batch-size 16 --repeats 1 --threads 1"
    first = rows(tmp_path, "--measure", *network.split(), "--devices", 2, "--save-costs", saved)
    assert load_costs(saved).batch_size == 16
    again = rows(tmp_path, "--costs", saved, "--devices", 2)
    assert first == again
    assert all(row["samples_per_second"] == pytest.approx(16 * row["batches_per_second"]) for row in again)


def test_help_says_what_is_left_out(capsys):
    with pytest.raises(SystemExit):
        command(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "Left out:",
        "start kernels",
        "jitter",
        "all-reduce",
        "BatchNorm",
        "optimiser state",
        "links that differ",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", 'a list "blocks"'),
        ('{"blocks": []}', "at least one block"),
        ('{"blocks": [1]}', r"blocks\[0\] must be an object, not 1"),
        ('{"blocks": [{"forward": 1}]}', "lacks backward_input, backward_weight"),
        ('{"blocks": [{"forward": -1, "backward_input": 1, "backward_weight": 1}]}', "block 0: forward must be"),
        ('{"blocks": [{"forwards": 1}]}', "Did you mean 'forward'"),
        ('{"blocks": [{"forward": 1, "backward_input": 1, "backward_weight": 1}], "batch": 1}', "Did you mean"),
        ('{"blocks": [{"forward": 1, "backward_input": 1, "backward_weight": 1}], "batch_size": 0}', "batch_size must"),
    ],
)
def test_a_bad_file_of_costs_is_refused_with_the_place(tmp_path, content, words):
    file = tmp_path / "costs.json"
    file.write_text(content)
    with pytest.raises(InputError, match=words):
        command(["--costs", str(file)])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--costs nowhere.json", "nowhere.json is missing"),
        ("--costs {costs} --devices 5", "4 blocks cannot fill 5 devices"),
        ("--costs {costs} --devices 4 --schedules zb-v", "needs at least 8 blocks"),
        ("--costs {costs} --forward 2", "take one"),
        ("--costs {costs} --measure", "not both"),
        ("--model mlp", "with --measure only"),
        ("--save-costs x.json", "with --measure only"),
        ("--measure --batch-size 8", "8 samples cannot be cut into 16"),
        ("--measure --rule backprop --batch-size 16 --width 4", "rule 'backprop'"),
        ("--measure --channels 0", "channels must be"),
        ("--devices 0", "devices must be"),
        ("--chunks 0", "chunks must be"),
        ("--queue 0 --schedules block-local", "queue|depth"),
        ("--forward -1", "forward must be a number of at least 0"),
        ("--bandwidth 0", "bandwidth must be"),
        ("--schedules zigzag", "unknown schedule 'zigzag'"),
        ("--micro-batches 6 --schedules interleaved", "give 8"),
        ("--devices 17 --plot x.png", "at most 16 devices"),
        ("--plot nowhere/x.png", "is not there"),
    ],
)
def test_bad_flags_are_refused_with_what_to_do(flags, words, costs_file, capsys):
    """By the command itself, or by tyro, which prints the same message."""
    with pytest.raises((InputError, SystemExit)) as refusal:
        command(flags.format(costs=costs_file).split())
    said = " ".join((str(refusal.value) + capsys.readouterr().err.replace("│", " ")).split())
    assert any(word in said for word in words.split("|")), said


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0.0 B"), (1536, "1.5 KiB"), (1023, "1.0 KiB"), (200 * 2**20, "200 MiB"), (2**60, "1048576 TiB")],
)
def test_sizes_are_said_with_a_unit(size, text):
    assert in_bytes(size) == text
