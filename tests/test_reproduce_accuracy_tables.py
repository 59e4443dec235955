"""Oracles: SciPy's t distribution, differences worked out by hand, and the rows that a table is made of."""

import importlib.util
import json
import statistics
from pathlib import Path

import pytest
from scipy import stats

from experiments.accuracy import Accuracy
from experiments.accuracy_paired import Paired, by_seed, paired, student
from experiments.accuracy_picture import proxy_picture
from experiments.accuracy_tables import HEADINGS, TARGETS, panels, tables, verdict


def row(method: str, test: float, seed: int = 0, group: str = "proxy", blocks: int = 4, **more) -> dict:
    blocks = 1 if method in ("backprop", "feedback-alignment") else blocks
    settings = {"group": group, "set": "cifar10", "model": "resnet18", "method": method, "blocks": blocks}
    figures = {"test_top1": test, "validation_top1": test - 1, "train_top1": test + 2, "test_ece": 0.1, "seconds": 5.0}
    learning = {"objective": "evidence", "readout": 2, "reconstruction": 0.0, "normalise": "none"}
    return {
        "job": f"{group}-{method}-{blocks}-seed{seed}",
        "rule": "x",
        "seed": seed,
        **settings,
        "changes": {"augment": "flip", "batch_size": 128, "balance": "bytes"},
        "width": 16,
        "data": "cifar10",
        "validation_size": 5000,
        "epochs": 8,
        **learning,
        **figures,
        **more,
    }


def cells(text: str, label: str) -> list[dict[str, str]]:
    """The lines of the tables that begin with this label, by heading."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.splitlines() if line[:1] == "|"]
    return [dict(zip(HEADINGS, line, strict=True)) for line in lines if line[0] == label]


THREE = [row("backprop", value, seed) for seed, value in enumerate((80.0, 79.0, 81.0))]
OURS = (78.0, 77.5, 78.5)
DIFFERENCE = "to backprop (95 % interval)"


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 10, 29, 100])
def test_the_quantiles_are_scipys(freedom):
    for confidence in (0.5, 0.95, 0.999):
        assert student(freedom, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_the_interval_is_that_of_a_paired_t_test():
    ours, theirs = {0: 78.0, 1: 77.5, 2: 78.5, 3: 90.0}, {2: 81.0, 1: 79.0, 0: 80.0, 9: 1.0}
    known = paired(ours, theirs)
    assert known.differences == (-2.0, -1.5, -2.5)
    wanted = stats.ttest_rel([78.0, 77.5, 78.5], [80.0, 79.0, 81.0]).confidence_interval(0.95)
    assert known.interval == pytest.approx((wanted.low, wanted.high))


def test_one_seed_has_a_difference_and_no_interval_and_none_has_neither():
    assert (Paired((-2.0,)).mean, Paired((-2.0,)).interval) == (-2.0, None)
    assert (Paired(()).mean, Paired(()).interval) == (None, None)
    assert by_seed([row("frozen", 1.0), row("frozen", float("nan"), 1), row("frozen", 2.0, 2)]) == {0: 1.0, 2: 2.0}


def test_a_line_has_its_difference_to_backprop_of_the_same_seeds_and_its_height_above_the_control_of_its_cuts():
    rows = [*THREE, *(row("block-local", v, seed, combined_test_top1=v + 1) for seed, v in enumerate(OURS))]
    rows += [row("frozen", 50.0 + seed, seed) for seed in range(3)]
    rows += [row("frozen", 20.0, seed, blocks=8) for seed in range(3)]
    (line,) = cells(tables(rows), "block-local, 4 blocks")
    assert line == {
        "rule": "block-local, 4 blocks",
        "test %": "78.00 ± 0.50 (3 seeds)",
        DIFFERENCE: "-2.00 (-3.24 to -0.76)",
        "above control": "+27.00",
        "all blocks %": "79.00 ± 0.50",
        "all blocks to backprop": "-1.00 (-2.24 to +0.24)",
        "validation %": "77.00 ± 0.50",
        "train %": "80.0 ± 0.5",
        "ECE": "0.100",
    }
    (best,) = cells(tables(rows), "backprop")
    assert (best[DIFFERENCE], best["above control"], best["all blocks to backprop"]) == ("–", "–", "–")


def test_a_line_of_one_seed_has_no_interval_and_missing_pairs_are_counted():
    (line,) = cells(tables([THREE[0], row("block-local", 78.5)]), "block-local, 4 blocks")
    assert (line["test %"], line[DIFFERENCE]) == ("78.50 (1 seed)", "-1.50")
    rows = [*THREE[:2], *(row("block-local", value, seed) for seed, value in enumerate(OURS))]
    (line,) = cells(tables(rows), "block-local, 4 blocks")
    assert line["test %"] == "78.00 ± 0.50 (3 seeds)"
    assert line[DIFFERENCE].startswith("-1.75 (2 pairs) (")


def test_the_table_of_rules_takes_the_runs_of_the_proxy_that_are_its_own_too():
    rows = [*THREE, row("block-local", 78.0), row("block-local", 70.0, blocks=8), row("frozen", 50.0)]
    rows += [row("block-local", 10.0, 1), row("greedy", 76.0, group="rules"), row("neighbour", 79.0)]
    rows += [row("neighbour", 20.0, 1)]
    rules = panels(rows)[1]
    assert rules.group == "rules"
    assert [(line.label, [r["seed"] for r in line.rows]) for line in rules.lines()] == [
        ("backprop", [0]),
        ("frozen control, 4 blocks", [0]),
        ("block-local, 4 blocks", [0]),
        ("block-local, neighbour scope, 4 blocks", [0]),
        ("greedy with the same readout, 4 blocks", [0]),
    ]
    (greedy,) = cells(tables(rows), "greedy with the same readout, 4 blocks")
    assert (greedy[DIFFERENCE], greedy["above control"]) == ("-4.00", "+26.00")
    assert [r["job"] for r in panels(rows)[0].rows if r["group"] == "rules"] == []


@pytest.mark.parametrize(("gap", "said"), [(-1.5, "met (-1.50"), (-1.51, "missed (-1.51"), (0.4, "met (+0.40")])
def test_a_target_is_met_from_its_figure_on(gap, said):
    text = verdict(panels([row("backprop", 80.0), row("block-local", 80.0 + gap)]))
    assert f"block-local, 4 blocks: {said} over 1 seed); mean at least -1.5 is wanted" in text
    assert "8 blocks" not in text


def test_a_target_of_the_interval_needs_two_seeds_and_looks_at_its_lower_end():
    def grey(*gaps: float) -> str:
        rows = [row("backprop", 99.0, seed, "grey", set="mnist") for seed in range(len(gaps))]
        rows += [row("block-local", 99.0 + gap, seed, "grey", set="mnist") for seed, gap in enumerate(gaps)]
        return verdict(panels(rows))

    assert "MNIST, block-local, 4 blocks: not known yet (lower end of the interval at least -0.4" in grey(0.0)
    assert "missed (-0.50 over 3 seeds" in grey(0.0, -0.2, 0.2)  # the mean is 0, and 4.303 * 0.2 / sqrt(3) = 0.497
    assert "met (-0.25 over 3 seeds" in grey(0.0, -0.1, 0.1)


def test_a_target_of_one_set_says_nothing_of_another():
    def longer(images: str) -> str:
        rows = [row(m, 80.0, seed, "longer", set=images) for m in ("backprop", "block-local") for seed in (0, 1)]
        return verdict(panels(rows))

    assert "met (+0.00 over 2 seeds)" in longer("fashion-mnist")
    assert longer("cifar10") == ""


def test_all_blocks_together_are_judged_beside_the_last():
    rows = [row("backprop", 80.0), row("block-local", 78.0, combined_test_top1=79.0)]
    text = verdict(panels(rows))
    assert "missed (-2.00 over 1 seed); mean at least -1.5 is wanted; all blocks together: met (-1.00)" in text


def test_every_target_speaks_of_a_line_that_is_trained():
    jobs = [job.settings for job in Accuracy().jobs("quick")]
    for target in TARGETS:
        wanted = (target.group, target.method, target.blocks)
        alike = [j for j in jobs if (j["group"], j["method"], j["blocks"]) == wanted]
        assert any(target.set in ("", j["set"]) for j in alike)


def test_conditions_and_the_settings_of_block_local_stand_beside_the_figures():
    text = tables([row("backprop", 80.0), row("block-local", 78.0)])
    assert "5,000 validation images, augmentation flip, batches of 128" in text
    assert "Block-local: objective evidence, readout 2; every other setting off; cut for equal bytes." in text


def test_published_figures_stand_below_the_deep_networks_alone():
    text = tables([row("backprop", 92.0, group="deep", model="resnet32"), row("backprop", 80.0)])
    assert text.count("Published") == 1
    assert "InfoPro, 4 modules: 8.58 (backprop 7.37, difference -1.21)" in text
    assert "AugLocal" not in text


def test_the_picture_has_a_dot_per_seed_and_lines_for_backprop_and_the_control():
    rows = [*THREE, *(row("block-local", value, seed) for seed, value in enumerate(OURS))]
    rows += [row("frozen", 50.0), row("frozen", 20.0, blocks=8), row("greedy", 76.0, group="rules")]
    figure = proxy_picture(rows)
    assert figure is not None
    axes = figure.axes[0]
    across = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert across == [statistics.fmean((80.0, 79.0, 81.0)), 50.0]
    dots = sorted(float(x) for line in axes.lines if line.get_marker() == "o" for x in line.get_xdata())
    assert dots == sorted([80.0, 79.0, 81.0, *OURS, 50.0, 20.0])
    assert proxy_picture([row("greedy", 76.0, group="rules")]) is None


def test_the_figure_is_the_same_bytes_for_the_same_rows(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Accuracy().write([*THREE, row("block-local", 78.0)], tmp_path / folder)
    for name in ("accuracy.png", "accuracy.svg"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_page_of_results_has_accuracy_where_its_rows_are_kept(tmp_path):
    spec = importlib.util.spec_from_file_location("make_results", Path(__file__).parents[1] / "docs/make_results.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    folder = tmp_path / "results" / "accuracy"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps([*THREE, row("block-local", 78.0)]))
    (folder / "notes.md").write_text("## Words of ours")
    assert script.main([str(tmp_path / "results")]) == 0
    page = (tmp_path / "results.md").read_text()
    assert "## Words of ours" in page
    assert "block-local, 4 blocks" in page
    assert "(results/accuracy/accuracy.png)" in page
