"""The report, its tables and pictures, from small fake run folders."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_helpers import SECTIONS, epoch, page, section, summary, write_run

from blocklocal._common.errors import InputError
from blocklocal.report.html import write_comparison, write_report
from blocklocal.report.plots import block_curves, levels, plot_comparison
from blocklocal.report.read import read_comparison, read_run
from blocklocal.report.table import aggregate
from blocklocal.report.words import conditions
from blocklocal.schemas.run import SUMMARISED


@pytest.fixture
def run(tmp_path: Path) -> Path:
    warning = {"event": "warning", "epoch": 2, "block": 1, "text": "message <shrinks>"}
    records = [epoch(1), epoch(2), warning, {"event": "unheard-of"}, epoch(3), epoch(4)]
    return write_run(tmp_path / "run", row=summary(), epochs=records, examples=True)


@pytest.fixture
def compared(tmp_path: Path) -> Path:
    folder = tmp_path / "compare"
    scores = {"block-local": [90.0, 92.0], "backprop": [96.0, 95.0], "frozen": [70.0, 72.0]}
    rows = [summary(rule, seed, test) for rule, tests in scores.items() for seed, test in enumerate(tests)]
    for row in rows:
        write_run(folder / f"{row['rule']}-seed{row['seed']}", row=row, epochs=[epoch(1), epoch(2)], examples=True)
    (folder / "compare.json").write_text(json.dumps(rows))
    return folder


class Tags(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.seen: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def test_every_section_is_there_and_filled(run):
    text = page(write_report(run))
    assert [name for name in SECTIONS if f'<section id="{name}">' in text] == SECTIONS
    assert all("<svg" in section(text, name) for name in ("learning", "depth", "messages"))
    assert section(text, "learning").count("<svg") == 2
    assert section(text, "examples").count("<img") == 2


def test_headline_carries_the_conditions(run):
    result = section(page(write_report(run)), "result")
    for words in ("90.0 %", "digits", "mlp", "3 blocks", "block-local", "4 epochs", "seed 0", "1 thread,", "cpu"):
        assert words in result, words
    assert "torch 2.13.0" in result
    assert "12.5 s" in result


def test_settings_that_are_not_usual_are_conditions(tmp_path):
    plain = write_report(write_run(tmp_path / "plain", row=summary(labelled=1.0, augment=""), epochs=[epoch(1)]))
    assert "labelled" not in section(page(plain), "result")
    row = summary(labelled=0.1, augment="crop:2", consistency=1.0, class_weights="", lora=None)
    said = section(page(write_report(write_run(tmp_path / "few", row=row, epochs=[epoch(1)]))), "result")
    for words in ("labelled 0.1", "augment crop:2", "consistency 1.0"):
        assert words in said, words
    for word in ("class weights", "lora", "mix"):
        assert word not in said, word
    assert "consistency" not in conditions([summary(consistency=0.0), summary("backprop", consistency=None)])


def test_what_an_older_run_does_not_name_was_the_usual(tmp_path):
    from blocklocal.runs.config import Config

    usual = Config().flat()
    assert {name: usual[name] for name in SUMMARISED} == SUMMARISED
    older, newer = summary(seed=0), summary(seed=1, **SUMMARISED, consistency=0.0, barlow=0.0)
    (line,) = aggregate([older, newer])
    assert line["n"] == 2


def test_an_older_comparison_has_the_settings_of_its_runs(tmp_path):
    row = summary(seed=0)
    write_run(tmp_path / "block-local-seed0", row=row, epochs=[epoch(1)])
    config = tmp_path / "block-local-seed0" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "augment": "crop:2"}))
    (tmp_path / "compare.json").write_text(json.dumps([row]))
    assert read_comparison(tmp_path)[0]["augment"] == "crop:2"
    (tmp_path / "compare.json").write_text(json.dumps([{**row, **SUMMARISED}]))
    assert read_comparison(tmp_path)[0]["augment"] == ""


def test_a_setting_of_the_wrong_type_is_told(tmp_path):
    for name, wrong in (("augment", ["crop"]), ("labelled", {"x": 1}), ("consistency", [1]), ("lora", "8")):
        run = write_run(tmp_path / name, row=summary(**{name: wrong}), epochs=[epoch(1)])
        with pytest.raises(InputError, match=rf"summary\.json: {name} must be"):
            write_report(run)


def test_where_runs_differ_every_value_is_a_condition():
    said = conditions([summary(augment="", lora=None), summary(augment="crop:2", lora=8), summary(labelled=0.1)])
    for words in ("augment none / crop:2", "lora none / 8", "labelled 1.0 / 0.1"):
        assert words in said, words


def test_a_run_with_fewer_labels_has_no_control_with_all_of_them():
    rows = [summary("frozen", seed=0), summary("block-local", seed=0), summary("block-local", seed=0, labelled=0.1)]
    found = {line["label"]: line["above_control"] for line in aggregate(rows)}
    assert found["block-local"] is not None
    assert found["block-local (labelled 0.1)"] is None


def test_the_ensemble_has_a_tile_and_a_row(tmp_path):
    row = summary(combined_test_top1=93.4)
    text = page(write_report(write_run(tmp_path / "run", row=row, epochs=[epoch(1), epoch(2)])))
    assert re.search(r"ensemble of all blocks.*?<dd[^>]*>93\.4 %", section(text, "result"), re.DOTALL)
    assert re.search(r"ensemble of all blocks.*?93\.4", section(text, "depth"), re.DOTALL)


def test_a_run_whose_output_alone_predicts_has_no_tile_for_the_ensemble(run):
    assert "ensemble" not in page(write_report(run))


def test_a_comparison_has_a_tile_per_rule_with_its_ensemble(compared):
    rows = json.loads((compared / "compare.json").read_text())
    for row in rows:
        if row["rule"] == "block-local":
            row["combined_test_top1"] = 94.0 + 2 * row["seed"]
    (compared / "compare.json").write_text(json.dumps(rows))
    tiles = section(page(write_comparison(compared)), "result").replace("\u00a0", " ")
    assert tiles.count("ensemble: 95.0 ± 1.4 %") == 1
    assert [tiles.count(f"{value} %</dd>") for value in ("91.0 ± 1.4", "95.5 ± 0.7", "71.0 ± 1.4")] == [1, 1, 1]


def test_a_single_accuracy_is_a_row_of_the_table_and_no_picture(run, compared):
    assert "track" not in section(page(write_report(run)), "comparison")
    assert section(page(write_report(compared / "frozen-seed0")), "comparison").count('class="track"') == 3


def test_curves_of_a_single_epoch_are_a_sentence(tmp_path):
    text = page(write_report(write_run(tmp_path / "run", row=summary(), epochs=[epoch(1)])))
    for name in ("learning", "messages"):
        assert "<svg" not in section(text, name)
        assert "One epoch is recorded" in section(text, name)
    assert "99.0" not in section(text, "depth")
    assert "51.0" in section(text, "depth")  # of the epoch, in the table of blocks


def test_axes_of_accuracies_run_from_0_to_100(run, compared, monkeypatch):
    from blocklocal.report import plots

    limits = []
    draw = plots.to_svg
    monkeypatch.setattr(plots, "to_svg", lambda figure, name: limits.append(figure.axes[0]) or draw(figure, name))
    write_report(run)
    write_comparison(compared)
    of_accuracy = [axes.get_ylim() for axes in limits if "top-1" in axes.get_ylabel()]
    assert len(of_accuracy) == 2 + 4
    assert all(low <= 0 and high >= 100 for low, high in of_accuracy)
    of_messages = [axes.get_ylim()[0] for axes in limits if "|b|" in axes.get_ylabel()]
    assert of_messages == [0.0] * 4


def test_contents_name_the_sections_of_the_page(run):
    text = page(write_report(run))
    listed = re.search(r"<nav.*?</nav>", text, re.DOTALL)
    assert listed
    assert re.findall(r'href="#(\w+)"', listed[0]) == re.findall(r'<section id="(\w+)"', text) == SECTIONS


def test_page_loads_nothing_from_elsewhere(run, compared):
    for path in (write_report(run), write_comparison(compared)):
        text = page(path)
        tags = Tags(text).seen
        assert not any(tag in ("script", "link", "iframe", "object") for tag, _ in tags)
        loads = [a[key] for _, a in tags for key in ("src", "href", "xlink:href") if key in a]
        assert loads
        assert all(load.startswith(("data:image/png;base64,", "#")) for load in loads)
        assert "@import" not in text
        assert not re.search(r"https?://", text)


def test_ids_on_one_page_are_unique(compared):
    ids = [a["id"] for _, a in Tags(page(write_comparison(compared))).seen if "id" in a]
    assert len(ids) == len(set(ids))


def test_names_are_escaped(run):
    text = page(write_report(run))
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "cat &amp; dog" in text
    assert "message &lt;shrinks&gt;" in section(text, "warnings")
    assert "&lt;b&gt;bold&lt;/b&gt;" in section(text, "settings")


def test_same_files_give_the_same_page(run):
    first = page(write_report(run))
    assert page(write_report(run)) == first


def test_depth_plot_has_lines_for_backprop_and_control_where_they_are_known():
    rows = [summary(), summary("backprop", test=96.0, blocks=1), summary("frozen", test=70.0)]
    lines = {line["rule"]: line for line in aggregate(rows)}
    assert [(curve.label, curve.y) for curve in levels(lines["block-local"])] == [
        ("backprop", [96.0]),
        ("frozen control", [70.0]),
    ]
    assert [curve.label for curve in levels(lines["frozen"])] == ["backprop"]
    assert levels(aggregate([summary()])[0]) == []


def test_message_curves_leave_out_the_block_without_a_message(run):
    assert [curve.label for curve in block_curves(read_run(run), "message")] == ["block 1", "block 2"]


def test_deep_networks_name_first_middle_and_last_block(tmp_path):
    deep = [0.5] * 20
    record = {"event": "epoch", "epoch": 1, "loss": deep}
    curves = block_curves(read_run(write_run(tmp_path / "run", row=None, epochs=[record])), "loss")
    assert len(curves) == 20
    assert [curve.label for curve in curves if curve.label] == ["block 1", "block 10", "block 20"]
    assert len({curve.colour for curve in curves}) == 20


def test_unfinished_run_has_a_report(tmp_path):
    folder = write_run(tmp_path / "run", row=None, epochs=[epoch(1), epoch(2)])
    text = page(write_report(folder))
    assert "not finished, 2 of 4 epochs done" in section(text, "result")
    assert "<svg" in section(text, "learning")
    assert "No examples" in section(text, "examples")


def test_run_without_an_epoch_has_a_report(tmp_path):
    text = page(write_report(write_run(tmp_path / "run", row=None, epochs=[])))
    assert "0 of 4 epochs" in section(text, "result")
    assert "No epoch is recorded yet" in section(text, "learning")


def test_backprop_run_without_messages_or_blocks_has_a_report(tmp_path):
    record = {
        **epoch(1),
        "loss": [0.4],
        "train_top1": [90.0],
        "validation_top1": [None],
        "message": [None],
        "parts": [{}],
    }
    row = summary("backprop", blocks=1, block_names=["all"], block_test_top1=[90.0], test_ece=None)
    text = page(write_report(write_run(tmp_path / "run", row=row, epochs=[record])))
    assert "No backward message was recorded" in section(text, "messages")


def test_epoch_run_twice_counts_as_last_written(tmp_path):
    records = [epoch(1), epoch(2, 50.0), {"event": "resumed", "epoch": 2, "step": 10}, epoch(2, 70.0), epoch(3)]
    data = read_run(write_run(tmp_path / "run", row=None, epochs=records))
    assert [record["epoch"] for record in data.epochs] == [1, 2, 3]
    assert data.epochs[1]["train_top1"][0] == 70.0
    assert "3 of 4 epochs" in page(write_report(tmp_path / "run"))


def test_half_a_last_line_is_left_out_with_a_warning(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"event": "epo')
    assert "cut short" in section(page(write_report(run)), "warnings")


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_missing_file_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(InputError, match=rf"{name} is missing"):
        write_report(run)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "[]"),
        ("config.json", "{"),
        ("metrics.jsonl", "{broken\n"),
        ("metrics.jsonl", "3\n"),
        ("metrics.jsonl", '{"event": "epoch", "epoch": 1}\n'),
        ("metrics.jsonl", '{"event": "epoch", "epoch": "one", "loss": [1.0]}\n'),
        ("metrics.jsonl", '{"event": "epoch", "epoch": 1, "loss": [1.0], "message": [1.0, 2.0]}\n'),
        ("metrics.jsonl", '{"event": "epoch", "epoch": 1, "loss": ["high"]}\n'),
        ("summary.json", "{}"),
        ("summary.json", '{"rule": "frozen", "test_top1": "good"}'),
        ("summary.json", '{"rule": "frozen", "block_test_top1": 3}'),
        ("examples.json", '{"classes": []}'),
        ("examples.json", '{"classes": ["a"], "examples": [{"png": "AAAA"}]}'),
    ],
)
def test_damaged_file_is_named(run, name, content):
    (run / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}.*[Ee]xpected"):
        write_report(run)


def test_example_of_an_unknown_class_is_refused(run):
    content = json.loads((run / "examples.json").read_text())
    content["examples"][1]["predicted"] = 3
    (run / "examples.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"example 2 is damaged.*class 3 is not one of 3"):
        write_report(run)


def test_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no run folder .*nowhere"):
        write_report(tmp_path / "nowhere")


def test_lone_run_says_that_its_control_is_missing(run):
    assert "No comparable run of the frozen control or of backprop" in section(page(write_report(run)), "result")


def test_run_beside_its_control_says_how_far_above_it_is(run, tmp_path):
    control = write_run(tmp_path / "control", row=summary("frozen", test=70.0), epochs=[epoch(1)])
    result = section(page(write_report(run, beside=[control, run])), "result")
    assert "20.0 points above the frozen control (70.0 %)" in result
    assert "No comparable run of backprop" in result


def test_run_in_a_compare_folder_is_shown_beside_its_siblings(compared):
    text = page(write_report(compared / "block-local-seed0"))
    assert "at 91.0 ± 1.4 (2 seeds), is 20.0 points above the frozen control (71.0 %)" in section(text, "result")
    assert "91.0 ± 1.4 (2 seeds)" in section(text, "comparison")


def test_comparison_page_has_every_rule_and_section(compared):
    text = page(write_comparison(compared))
    assert [name for name in SECTIONS if f'<section id="{name}">' in text] == SECTIONS
    for words in ("91.0 ± 1.4 (2 seeds)", "95.5 ± 0.7 (2 seeds)", "71.0 ± 1.4 (2 seeds)"):
        assert words in section(text, "comparison")
    assert section(text, "learning").count("<svg") == 6


def test_comparison_names_the_run_that_is_missing(compared):
    (compared / "frozen-seed1").rename(compared / "elsewhere")
    with pytest.raises(InputError, match="frozen-seed1"):
        write_comparison(compared)


@pytest.mark.parametrize("content", ["[]", "{}", '[{"seed": 0}]'])
def test_damaged_comparison_is_named(compared, content):
    (compared / "compare.json").write_text(content)
    with pytest.raises(InputError, match=r"compare\.json"):
        write_comparison(compared)


def test_picture_for_the_readme_is_a_small_png(compared, tmp_path):
    from PIL import Image

    rows = json.loads((compared / "compare.json").read_text())
    path = plot_comparison(rows, compared / "picture.png")
    assert path.stat().st_size < 300_000
    with Image.open(path) as picture:
        assert picture.width > 1000
    assert plot_comparison(rows, tmp_path / "other.png", runs=compared).exists()


def test_picture_without_its_runs_says_what_to_give(compared, tmp_path):
    rows = json.loads((compared / "compare.json").read_text())
    with pytest.raises(InputError, match="Give runs="):
        plot_comparison(rows, tmp_path / "picture.png")


def test_values_that_are_not_numbers_leave_a_gap(tmp_path):
    record = {**epoch(2), "loss": [float("nan"), float("inf"), 1.0]}
    folder = write_run(tmp_path / "run", row=summary(), epochs=[epoch(1), record, epoch(3)])
    assert "<svg" in section(page(write_report(folder)), "learning")
