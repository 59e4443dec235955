"""Oracle: the rule itself. One reader for all files of a run: what is wrong is an InputError that names the place."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
from report_helpers import epoch, page, section, summary, write_run
from timeline_helpers import HEADER, START, header, totals, write_lines

from blocklocal._common.errors import InputError
from blocklocal._common.files import cut_half_line, write_text
from blocklocal.report import write_comparison, write_report
from blocklocal.report.read import read_run
from blocklocal.runs.facts import DatasetInfo
from blocklocal.runs.saved import load_cuts, load_facts
from blocklocal.schemas import Text, Whole, check, parse, read_json, read_rows
from blocklocal.schemas.kinds import Percent, Plain
from blocklocal.timeline import read_timeline, shares
from blocklocal.training.observers import MetricsFile


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    accuracy: Percent | None = None


class Kind(msgspec.Struct):
    name: Text
    count: Whole = 0
    blocks: list[Inner] = []
    options: dict[str, float] = {}


@dataclass(frozen=True)
class Closed:
    epochs: int = 0


def read(tmp_path: Path, content: str | bytes, kind: Any = Kind, **more: Any) -> Any:
    file = tmp_path / "some.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_json(file, kind, what="a thing", **more)


def refusal(tmp_path: Path, content: str | bytes, kind: Any = Kind) -> str:
    with pytest.raises(InputError) as caught:
        read(tmp_path, content, kind)
    text = str(caught.value)
    assert str(tmp_path / "some.json") in text
    return text


# --- what is wrong is named: key, what stands there, what may


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "must be an object, not [1]. Expected a thing"),
        ("{}", "name is missing"),
        ('{"name": 3}', "name must be a text, not 3"),
        ('{"name": "a", "count": -1}', "count must be a whole number of at least 0, not -1"),
        ('{"name": "a", "count": 1.5}', "count must be a whole number, not 1.5"),
        ('{"name": "a", "count": true}', "count must be a whole number, not true"),
        ('{"name": "a", "count": 1e9}', "count must be a whole number, not 1000000000.0"),
        (f'{{"name": "a", "count": {10**30}}}', "count must be a whole number of at most 1e+12, not 1000"),
        ('{"name": "a", "blocks": [{}, {"accuracy": 101}]}', "blocks[1].accuracy must be a number of at most 100"),
        ('{"name": "a", "blocks": [{"accurracy": 1}]}', "blocks[0]: 'accurracy' is a key that nothing has"),
        ('{"name": "a", "blocks": {}}', "blocks must be a list, not {}"),
        ('{"name": "a", "blocks": [{"accuracy": NaN}]}', "blocks[0].accuracy must be a number"),
        ('{"name": "a", "blocks": [{"accuracy": 1e999}]}', "blocks[0].accuracy must be a number of at most 100"),
        ('{"name": "a", "options": {"b": 1, "c": "x"}}', 'options.c must be a number, not "x"'),
        ('{"name": "' + "n" * 20_000 + '"}', "name must be a text of at most 10,000 letters"),
    ],
)
def test_a_wrong_value_is_named_with_its_key_and_what_may_stand_there(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_an_unknown_key_of_a_closed_kind_is_answered_with_the_nearest(tmp_path):
    assert "unknown key 'epoch'. Did you mean 'epochs'" in refusal(tmp_path, '{"epoch": 1}', Closed)


@pytest.mark.parametrize("value", ["x" * 10**6, [0] * 10**5, {str(k): 0 for k in range(10**5)}, 10**4000])
def test_a_message_is_short_whatever_stands_there(value):
    with pytest.raises(InputError) as caught:
        check({"name": value, "count": value}, Kind, where="here", what="a thing")
    assert len(str(caught.value)) < 300


# --- what is no JSON, or no file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not valid JSON"),
        ('{"name": "a"', "not valid JSON (line 1"),
        (b'{"name": "\xff"}', "byte 11 is not UTF-8"),
        ('{"name": "\\ud800"}', "half of a surrogate pair"),
        ('{"name": "a\\u0000b"}', "a null character"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"name": ' + "[" * 900 + "]" * 900 + "}", "name must be a text"),
        ("1" * 5_000, "a number of thousands of digits" if hasattr(sys, "set_int_max_str_digits") else "must be"),
    ],
    ids=["empty", "torn", "no utf-8", "surrogate", "null", "deep", "deep value", "digits"],
)
def test_what_is_no_json_is_refused(tmp_path, content, words):
    assert words in refusal(tmp_path, content)


def test_text_of_any_language_and_undecodable_names_are_read(tmp_path):
    assert read(tmp_path, '\ufeff{"name": "café 日本 \\ud83d\\ude00"}').name == "café 日本 \U0001f600"
    assert read(tmp_path, '{"name": "caf\\udce9 \\\\u0000"}').name == "caf\udce9 \\u0000"


def test_gaps_are_null_where_they_may_be(tmp_path):
    assert read(tmp_path, "[NaN, Infinity, -Infinity, 1]", list[float | None], gaps=True) == [None, None, None, 1]


def test_a_folder_a_pipe_a_device_and_a_large_file_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(2**40)  # takes no room on the disk
    found = {"pipe": "a pipe or a device", "zero": "a pipe or a device", "large": "larger than 64 MiB"}
    for name, words in {**found, ".": "is a folder", "none": "is missing", "large/x": "is missing"}.items():
        with pytest.raises(InputError, match=words):
            read_json(tmp_path / name, Kind, what="a thing")
    with pytest.raises(InputError, match="is not the name of a file"):
        read_json(tmp_path / "a\0b", Kind, what="a thing")


def test_a_file_that_may_not_be_read_is_not_a_missing_one(tmp_path, monkeypatch):
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "some.json").write_text("{}")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(InputError, match=r"some\.json cannot be read \(Permission denied\)"):
        read_json(tmp_path / "some.json", Kind, what="a thing")


def test_keys_that_no_schema_lists_are_kept_and_bounded(tmp_path):
    file = tmp_path / "row.json"
    file.write_text('{"name": "a", "more": {"x": [1, 2]}}')
    assert read_rows(file, Kind, what="a row") == {"name": "a", "more": {"x": [1, 2]}}
    file.write_text('{"name": "a", "more": ' + "[" * 50 + "]" * 50 + "}")
    with pytest.raises(InputError, match="must be"):
        read_rows(file, Kind, what="a row")


@pytest.mark.parametrize("value", [None, True, 10**100, 1e40, "é", [[1], {"a": [[None]]}], {"a": {"b": [1, "x"]}}])
def test_any_json_of_bounded_depth_is_plain(value):
    assert check(value, Plain, where="here", what="anything") == value


def test_bytes_that_are_no_json_never_crash_the_reader():
    for k in range(256):
        for text in (bytes([k]), b'{"a": ' + bytes([k]) + b"}", b'"\\u' + bytes([k]) + b'fff"'):
            try:
                parse(text)
            except ValueError:
                continue


# --- the files of a run


def test_images_larger_than_can_be_trained_on_are_refused(tmp_path):
    facts = DatasetInfo(("a", "b"), 3, 50_000, 50_000, (0.5,) * 3, (0.25,) * 3)
    write_text(tmp_path / "data.json", json.dumps(facts.flat()))
    with pytest.raises(InputError, match="3x50000x50000 numbers are more than this library trains on"):
        load_facts(tmp_path)


def test_a_data_set_is_what_a_network_can_be_built_for(tmp_path):
    good = DatasetInfo(("a", "b"), 1, 8, 8, (0.5,), (0.25,))
    write_text(tmp_path / "data.json", msgspec.json.encode(good).decode())
    assert load_facts(tmp_path) == good
    for name, value, words in (
        ("classes", [], "classes must be a list of at least 1 entries"),
        ("classes", ["a", 3], r"classes\[1\] must be a text"),
        ("channels", 0, "channels must be"),
        ("channels", 3, "mean must have 3 entries"),
        ("height", 10**9, "height must be a whole number of at most 100000, not 1000000000"),
        ("std", [0.0], "std must be above 0"),
        ("std", [float("nan")], r"std\[0\] must be a number"),
        ("mean", 0.5, "mean must be a list"),
        ("depth", 1, "unknown key 'depth'"),
    ):
        flat = {**msgspec.to_builtins(good), name: value}
        write_text(tmp_path / "data.json", json.dumps(flat))
        with pytest.raises(InputError, match=words):
            load_facts(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '["0"]', "[0.5]", "[-1]", "null", "[0, 1000000000000000]", "[0"])
def test_cuts_are_a_list_of_counts(tmp_path, content):
    (tmp_path / "cuts.json").write_text(content)
    with pytest.raises(InputError, match=r"cuts\.json"):
        load_cuts(tmp_path)


def test_no_cuts_are_none_and_a_link_to_nowhere_is_not(tmp_path):
    assert load_cuts(tmp_path) is None
    (tmp_path / "cuts.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cuts\.json is missing"):
        load_cuts(tmp_path)


def test_warnings_of_damaged_metrics_are_those_that_can_be_read(tmp_path):
    lines = [
        '{"event": "warning", "epoch": 1, "block": 2, "kind": "lags", "text": "x"}',
        '{"event": "warning"}',
        '{"event": "warning", "block": "2", "kind": "lags"}',
        '{"event": "warning", "block": 1, "kind": ["lags"]}',
        "[" * 5_000,
        "7" * 5_000,
        "null",
        '"\\ud800"',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert MetricsFile(tmp_path / "metrics.jsonl").warnings() == {(2, "lags")}


def test_metrics_that_are_a_pipe_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(InputError, match="a pipe or a device"):
        cut_half_line(tmp_path / "metrics.jsonl")


def test_epochs_in_any_order_with_gaps_and_other_blocks_are_drawn(tmp_path):
    few = {"event": "epoch", "epoch": 9, "loss": [None], "parts": [{"x": None}]}
    records = [epoch(7), epoch(3), few, {**epoch(3), "validation_top1": None}, {**epoch(1), "parts": None}]
    run = write_run(tmp_path / "run", row=None, epochs=records)
    assert [record["epoch"] for record in read_run(run).epochs] == [1, 3, 7, 9]
    assert "<svg" in section(page(write_report(run)), "learning")


def test_a_long_run_has_a_report(tmp_path):
    lines = [{"event": "epoch", "epoch": k, "loss": [1.0 / (k % 9 + 1)]} for k in range(1, 20_001)]
    run = write_run(tmp_path / "run", row=None, epochs=lines)
    path = write_report(run)
    assert "20000 of 4 epochs" in page(path)
    assert path.stat().st_size < 2_000_000


@pytest.mark.parametrize("name", ["../elsewhere", "/etc", "..", "a/b", "a\\b", ""])
def test_a_comparison_reads_no_folder_outside_of_itself(tmp_path, name):
    (tmp_path / "c").mkdir()
    write_text(tmp_path / "c" / "compare.json", json.dumps([{**summary(), "run": name}]))
    with pytest.raises(InputError, match=r"compare\.json: \[0\]"):
        write_comparison(tmp_path / "c")


@pytest.mark.parametrize(
    "png",
    ["", "AAAA", "no base64!", "iVBORw0KGgo=", "R0lGODlhAQABAAAAACw="],
    ids=["none", "bytes", "text", "start", "gif"],
)
def test_a_report_embeds_nothing_but_pictures(tmp_path, png):
    run = write_run(tmp_path / "run", row=summary(), epochs=[epoch(1)], examples=True)
    content = json.loads((run / "examples.json").read_text())
    content["examples"][0]["png"] = png
    write_text(run / "examples.json", json.dumps(content))
    with pytest.raises(InputError, match=r"example 1 is damaged \(png does not hold a PNG image"):
        write_report(run)


# --- timelines


def test_two_stretches_of_one_process_are_two_launches(tmp_path):
    write_lines(tmp_path, 0, [header(0, [0, 1], START), totals(1, 1, 1.0, {"0": 0.5, "1": 0.5})])
    write_lines(tmp_path, 0, [header(0, [2, 3], START + 1), totals(1, 1, 1.0, {"2": 1.0})])
    timeline = read_timeline(tmp_path)
    assert timeline is not None
    assert [segment.blocks for launch in timeline.launches for segment in launch] == [(0, 1), (2, 3)]
    assert shares(timeline)[0].busy == {2: 1.0, 3: 0.0}


@pytest.mark.parametrize("blocks", [[0, 0], [10**9], list(range(20_000))], ids=["twice", "far", "many"])
def test_blocks_of_a_process_are_few_and_different(tmp_path, blocks):
    write_lines(tmp_path, 0, [{**HEADER, "blocks": blocks, "names": ["x"] * len(blocks)}])
    with pytest.raises(InputError, match="blocks must be"):
        read_timeline(tmp_path)


# --- text that is written


def test_what_is_no_utf_8_is_written_with_a_replacement(tmp_path):
    write_text(tmp_path / "x.txt", "caf\udce9\n")
    assert (tmp_path / "x.txt").read_text(encoding="utf-8") == "caf\\udce9\n"
