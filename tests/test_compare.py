"""Oracle: single runs. A comparison is the runs of every rule and seed, one row for each."""

import json
import os
from pathlib import Path

import pytest
from run_helpers import StopAfter, assert_same_run, cli, flags, summary, timeless, tiny

from blocklocal._common.errors import InputError, Interrupted
from blocklocal.runs.compare import Variant, compare, parse_variant
from blocklocal.runs.run import start_run

RULES = ("block-local:objective=variational,family=bernoulli", "block-local", "backprop", "frozen")


pytestmark = pytest.mark.usefixtures("no_reports")


def run(output: Path, rules=("backprop", "frozen"), seeds=(0,), **options) -> list[dict]:
    changes = options.pop("changes", {})
    return compare(tiny(epochs=1, **changes), rules, seeds, output, quiet=True, **options)


def rows(folder: Path) -> list[dict]:
    return json.loads((folder / "compare.json").read_text())


# --- rows


def test_there_is_one_row_per_rule_and_seed_with_the_same_keys(tmp_path):
    said = cli("compare", *flags(epochs=1), "--rules", *RULES, "--seeds", 0, 1, "--output", tmp_path / "c", "--quiet")
    assert said.status == 0
    table = rows(tmp_path / "c")
    assert [(row["rule"], row["objective"], row["seed"]) for row in table] == [
        (rule, objective, seed)
        for seed in (0, 1)
        for rule, objective in (
            ("block-local", "variational"),
            ("block-local", "evidence"),
            ("backprop", None),
            ("frozen", None),
        )
    ]
    assert len({frozenset(row) for row in table}) == 1
    assert table[0]["family"] == "bernoulli"
    assert table[1]["family"] == "rectified"
    assert (tmp_path / "c" / "report.html").stat().st_size > 0
    for rule in ("backprop", "frozen"):
        assert rule in said.out
    for row in table:
        assert summary(tmp_path / "c" / row["run"]) | {"run": row["run"]} == row


def test_a_run_of_a_comparison_is_the_run_alone(tmp_path):
    run(tmp_path / "c", ("block-local:readout=1,reconstruction=0.5",), (3,))
    alone = tiny(epochs=1, readout=1, reconstruction=0.5, seed=3)
    start_run(alone, tmp_path / "alone", quiet=True)
    assert_same_run(next((tmp_path / "c").glob("*-seed3")), tmp_path / "alone")


def test_rules_share_data_and_first_weights_but_not_results(tmp_path):
    table = run(tmp_path / "c", ("block-local", "backprop"))
    assert table[0]["parameters"] == table[1]["parameters"]
    assert timeless(table[0])["test_nll"] != timeless(table[1])["test_nll"]


# --- variants


def test_a_variant_is_a_rule_and_its_settings_with_their_types():
    assert parse_variant("frozen") == Variant("frozen")
    variant = parse_variant("block-local:objective=variational,readout=2,label-smoothing=0.1")
    assert variant == Variant("block-local", (("objective", "variational"), ("readout", 2), ("label_smoothing", 0.1)))
    config = variant.apply(tiny(), seed=7)
    assert (config.learning.readout, config.learning.label_smoothing, config.machine.seed) == (2, 0.1, 7)


def test_slugs_are_folder_names_and_differ_between_variants():
    slugs = [parse_variant(text).slug for text in (*RULES, "block-local:tau=0.5")]
    assert len(set(slugs)) == len(slugs)
    assert all("/" not in slug and ":" not in slug and "=" not in slug for slug in slugs)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("blok-local", "unknown rule 'blok-local'. Did you mean 'block-local'"),
        ("block-local:objectiv=evidence", "unknown setting 'objectiv'. Did you mean 'objective'"),
        ("block-local:rule=frozen", "unknown setting 'rule'"),
        ("block-local:readout=many", "readout must be a whole number, not 'many'"),
        ("block-local:readout", "readout must be a whole number, not ''"),
        ("block-local:normalise=unit", "unknown normalise 'unit'. Did you mean 'units'"),
        ("block-local:objective=evidense", "unknown objective 'evidense'. Did you mean 'evidence'"),
        ("block-local:readout=-1", "readout must be a whole number"),
        ("block-local:epochs=3", "unknown setting 'epochs'"),
        ("", "unknown rule ''"),
    ],
)
def test_a_bad_variant_is_refused_before_the_first_run(tmp_path, text, words):
    said = cli("compare", *flags(), "--rules", "frozen", text, "--output", tmp_path / "c")
    assert said.status == 2
    assert words in said.text
    assert "Traceback" not in said.text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("rules", "seeds"), [(("frozen", "frozen"), (0,)), (("frozen",), (1, 1)), ((), (0,)), (("frozen",), ())]
)
def test_repeated_or_no_rules_and_seeds_are_refused(tmp_path, rules, seeds):
    with pytest.raises(InputError, match=r"once|at least one"):
        run(tmp_path / "c", rules, seeds)
    assert list(tmp_path.iterdir()) == []


# --- an existing folder


def stop_in_second_run(output: Path, monkeypatch: pytest.MonkeyPatch, **options) -> Interrupted:
    stops = iter([10**6, 2])
    with monkeypatch.context() as patch:
        patch.setattr("blocklocal.runs.train.StopSignals", lambda: StopAfter(next(stops)))
        with pytest.raises(Interrupted) as caught:
            run(output, **options)
    return caught.value


def test_resume_keeps_finished_runs_and_goes_on_with_the_stopped_one(tmp_path, monkeypatch):
    stop = stop_in_second_run(tmp_path / "c", monkeypatch)
    assert "--resume" in str(stop)
    assert len(rows(tmp_path / "c")) == 1
    finished = tmp_path / "c" / "backprop-seed0"
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    table = run(tmp_path / "c", resume=True)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    run(tmp_path / "whole")
    assert [timeless(row) for row in table] == [timeless(row) for row in rows(tmp_path / "whole")]
    for name in ("backprop-seed0", "frozen-seed0"):
        assert_same_run(tmp_path / "c" / name, tmp_path / "whole" / name)


def test_resume_adds_rules_and_seeds_to_a_finished_comparison(tmp_path):
    run(tmp_path / "c", ("frozen",), (0,))
    table = run(tmp_path / "c", ("frozen", "backprop"), (0, 1), resume=True)
    assert [(row["rule"], row["seed"]) for row in table] == [
        ("frozen", 0),
        ("backprop", 0),
        ("frozen", 1),
        ("backprop", 1),
    ]


def test_resume_refuses_runs_of_other_settings(tmp_path):
    run(tmp_path / "c", ("frozen",))
    with pytest.raises(InputError, match=r"other settings: lr \(0.1 there, 0.2 now\)"):
        run(tmp_path / "c", ("frozen",), resume=True, changes={"lr": 0.2})


def test_an_existing_folder_is_refused_and_left_as_it_is(tmp_path):
    run(tmp_path / "c", ("frozen",))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"exists already.*--resume or --replace"):
        run(tmp_path / "c")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_replace_puts_the_new_comparison_in_the_place_of_the_old_one(tmp_path):
    run(tmp_path / "c", ("frozen",))
    run(tmp_path / "c", ("backprop",), replace=True)
    assert [row["rule"] for row in rows(tmp_path / "c")] == ["backprop"]
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
    assert not (tmp_path / "c" / "frozen-seed0").exists()
    assert ".c-new" not in (tmp_path / "c" / "report.html").read_text()


def test_replace_makes_a_folder_that_is_not_there_yet(tmp_path):
    run(tmp_path / "c", ("frozen",), replace=True)
    assert [row["rule"] for row in rows(tmp_path / "c")] == ["frozen"]


@pytest.mark.parametrize("failure", ["run", "swap"])
def test_the_old_folder_survives_a_replacement_that_fails(tmp_path, monkeypatch, failure):
    run(tmp_path / "c", ("frozen",))
    before = {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()}

    def fail(*_, **__):
        raise OSError(28, os.strerror(28))

    place = {
        "run": "blocklocal.runs.compare.start_run",
        "swap": "blocklocal.runs.compare._swap",
    }[failure]
    with monkeypatch.context() as patch:
        patch.setattr(place, fail)
        with pytest.raises(OSError, match="No space left"):
            run(tmp_path / "c", ("backprop",), replace=True)
    assert {path: path.read_bytes() for path in (tmp_path / "c").rglob("*") if path.is_file()} == before
    run(tmp_path / "c", ("backprop",), replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


def test_a_stopped_replacement_goes_on_with_resume(tmp_path, monkeypatch):
    run(tmp_path / "c", ("frozen",))
    stop_in_second_run(tmp_path / "c", monkeypatch, replace=True)
    assert [row["rule"] for row in rows(tmp_path / "c")] == ["frozen"]
    finished = tmp_path / ".c-new" / "backprop-seed0" / "summary.json"
    before = finished.read_bytes()
    run(tmp_path / "c", replace=True, resume=True)
    assert [row["rule"] for row in rows(tmp_path / "c")] == ["backprop", "frozen"]
    assert (tmp_path / "c" / "backprop-seed0" / "summary.json").read_bytes() == before


def test_a_folder_that_is_no_comparison_is_never_replaced(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years")
    said = cli("compare", *flags(epochs=1), "--rules", "frozen", "--replace", "--output", tmp_path / "precious")
    assert said.status == 2
    assert "is not a comparison" in said.err
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years"


def test_resume_without_a_folder_is_refused():
    said = cli("compare", *flags(epochs=1), "--rules", "frozen", "--resume")
    assert said.status == 2
    assert "--resume needs --output" in said.err


def test_a_bad_last_seed_is_refused_before_the_first_run(tmp_path):
    said = cli("compare", *flags(epochs=1), "--rules", "frozen", "--seeds", 0, -1, "--output", tmp_path / "c")
    assert said.status == 2
    assert not (tmp_path / "c").exists()
