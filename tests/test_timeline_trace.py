"""The trace. Oracles: the rules of the format, on every kind of run, and the spans as they were recorded."""

import json
import os
from collections import defaultdict
from itertools import pairwise
from typing import Any

import pytest
from timeline_helpers import (
    HEADER,
    START,
    STEP,
    fine,
    ideal,
    moved,
    replicated,
    resumed,
    shared,
    timeline_of,
    write_lines,
    write_pipeline,
)

from blocklocal._common.errors import InputError
from blocklocal.cli.trace import trace
from blocklocal.timeline import trace_events, write_trace

RUNS = [ideal, shared, replicated, resumed, moved, fine]


@pytest.fixture(params=RUNS, ids=lambda make: make.__name__)
def events(request, tmp_path) -> list[dict[str, Any]]:
    path, _ = write_trace(request.param(tmp_path))
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["displayTimeUnit"] == "ms"
    return content["traceEvents"]


def of(events: list[dict[str, Any]], *phases: str) -> list[dict[str, Any]]:
    return [event for event in events if event["ph"] in phases]


def nanoseconds(event: dict[str, Any]) -> tuple[int, int]:
    begin = round(event["ts"] * 1000)
    return begin, begin + round(event["dur"] * 1000)


def enclosing(events: list[dict[str, Any]], flow: dict[str, Any]) -> list[dict[str, Any]]:
    """The complete events of the arrow's thread that are open at its time."""
    time = round(flow["ts"] * 1000)
    own = [each for each in of(events, "X") if (each["pid"], each["tid"]) == (flow["pid"], flow["tid"])]
    return [each for each in own if nanoseconds(each)[0] <= time < nanoseconds(each)[1]]


def test_every_event_has_the_fields_that_its_phase_demands(events):
    assert {event["ph"] for event in events} == {"M", "X", "s", "f"}
    for event in events:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert event["pid"] >= 1  # 0 is the idle task of Linux to Perfetto
    for event in of(events, "X", "s", "f"):
        assert isinstance(event["tid"], int)
        assert event["ts"] >= 0
    assert all(event["dur"] >= 0 and event["args"]["step"] >= 0 for event in of(events, "X"))


def test_events_are_sorted_by_time_and_begin_at_zero(events):
    times = [event["ts"] for event in of(events, "X", "s", "f")]
    assert times == sorted(times)
    assert times[0] == 0


def test_every_process_and_thread_has_one_name(events):
    for kind, keys in (("process_name", ("pid",)), ("thread_name", ("pid", "tid"))):
        named = [tuple(event[key] for key in keys) for event in of(events, "M") if event["name"] == kind]
        assert len(named) == len(set(named))
        assert {tuple(event[key] for key in keys) for event in of(events, "X")} <= set(named)


def test_spans_of_one_thread_do_not_overlap(events):
    threads = defaultdict(list)
    for event in of(events, "X"):
        threads[event["pid"], event["tid"]].append(nanoseconds(event))
    assert threads
    for edges in threads.values():
        assert all(end <= begin for (_, end), (begin, _) in pairwise(edges))


def test_every_arrow_has_both_ends_and_points_forward_in_time(events):
    ends = defaultdict(list)
    for event in of(events, "s", "f"):
        assert isinstance(event["id"], int)
        ends[event["name"], event["cat"], event["id"]].append(event)
    assert ends
    for start, finish in ends.values():
        assert (start["ph"], finish["ph"], finish["bp"]) == ("s", "f", "e")
        assert start["ts"] <= finish["ts"]


def test_every_arrow_leads_from_computing_to_computing_of_the_same_step(events):
    starts = {event["id"]: event for event in of(events, "s")}
    assert starts
    for finish in of(events, "f"):
        [sender], [receiver] = (enclosing(events, end) for end in (starts[finish["id"]], finish))
        assert (sender["cat"], receiver["cat"]) == ("compute", "compute")
        assert sender["args"]["step"] == receiver["args"]["step"]
        assert receiver["args"]["block"] == sender["args"]["block"] + 1


# --- what it says of a run


def test_processes_are_named_with_blocks_and_host(tmp_path):
    names = [
        event["args"]["name"]
        for event in trace_events(timeline_of(shared(tmp_path)))
        if event["ph"] == "M" and event["name"] == "process_name"
    ]
    assert names == ["process 0 · blocks 1–2 · h", "process 1 · blocks 3–4 · h"]


def test_spans_of_the_trace_last_as_long_as_those_recorded(tmp_path):
    timeline = timeline_of(resumed(tmp_path))
    recorded = defaultdict(float)
    for segment in timeline.segments:
        for step in segment.steps:
            for span in step.spans:
                recorded[span.kind] += span.end - span.begin
    traced = defaultdict(float)
    for event in of(trace_events(timeline), "X"):
        traced[event["cat"]] += event["dur"] / 1e6
    assert traced == pytest.approx(recorded)


def test_blocks_compute_consecutive_steps_at_the_same_time(tmp_path):
    """In slot 5 the three stages hold the steps 5, 4 and 3."""
    spans = [e for e in of(trace_events(timeline_of(ideal(tmp_path))), "X") if e["cat"] == "compute"]
    # Times count from the first computing, 0.1 s into slot 0.
    open_now = [e for e in spans if e["ts"] <= 5.3e6 < e["ts"] + e["dur"]]
    assert sorted((e["args"]["block"], e["args"]["step"]) for e in open_now) == [(1, 5), (2, 4), (3, 3)]


def test_arrows_only_where_both_ends_were_recorded(tmp_path):
    write_pipeline(tmp_path, [[0], [1]], range(10))
    path = tmp_path / "timeline" / "process-1.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line).get("step") not in (0, 4, 5)]
    path.write_text("\n".join(lines) + "\n")
    events = trace_events(timeline_of(tmp_path))
    assert [enclosing(events, e)[0]["args"]["step"] for e in of(events, "f")] == [1, 2, 3, 6, 7, 8, 9]
    assert len(of(events, "s")) == 7


def test_arrow_leaves_from_the_part_of_the_computing_before_the_send(tmp_path):
    events = trace_events(timeline_of(shared(tmp_path)))
    for start in of(events, "s"):
        [span] = enclosing(events, start)
        # The last block of the first process computes for 0.2 s before its send and for 0.4 s after it.
        assert (span["args"]["block"], span["dur"]) == (2, pytest.approx(0.2e6))


def test_replicas_send_no_messages_to_each_other(tmp_path):
    events = trace_events(timeline_of(replicated(tmp_path)))
    ends = defaultdict(list)
    for event in of(events, "s", "f"):
        ends[event["id"]].append(event["pid"])
    assert {tuple(pids) for pids in ends.values()} == {(1, 2), (3, 4)}
    assert len(ends) == 2 * 12


def test_arrows_against_the_clock_are_left_out(tmp_path):
    """The clock of the second host is three slots behind: its spans lie before those it depends on."""
    write_pipeline(tmp_path, [[0], [1]])
    path = tmp_path / "timeline" / "process-1.jsonl"
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "start": START - 3}), *rest]) + "\n")
    events = trace_events(timeline_of(tmp_path))
    assert of(events, "s", "f") == []
    assert min(event["ts"] for event in of(events, "X")) == 0


def test_launches_follow_each_other_after_a_second(tmp_path):
    events = of(trace_events(timeline_of(resumed(tmp_path))), "X")
    # Eight steps through two stages take nine slots, but for the first 0.1 s in which nothing is recorded.
    gap = next(e for e in events if e["ts"] >= 9.0e6)["ts"]
    assert max(e["ts"] + e["dur"] for e in events if e["ts"] < 9.0e6) == pytest.approx(8.9e6)
    assert gap == pytest.approx(9.9e6)


# --- the file, and the command


def test_command_writes_into_the_run_folder_and_says_how_to_open_it(tmp_path, capsys):
    trace([str(shared(tmp_path))])
    said = capsys.readouterr().out
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert f"{tmp_path / 'trace.json'}: {len(of(events, 'X', 's'))} events" in said
    assert "ui.perfetto.dev" in said
    assert "chrome://tracing" in said


def test_command_draws_what_the_report_draws(tmp_path, capsys):
    trace([str(shared(tmp_path / "run")), "--picture", str(tmp_path / "steps")])
    assert (tmp_path / "steps.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "steps.svg").read_text()
    assert str(tmp_path / "steps.png") in capsys.readouterr().out


def test_command_writes_where_it_is_told_to(tmp_path, capsys):
    trace([str(shared(tmp_path / "run")), "--output", str(tmp_path / "new" / "my.json")])
    assert json.loads((tmp_path / "new" / "my.json").read_text())["traceEvents"]
    assert not (tmp_path / "run" / "trace.json").exists()
    assert str(tmp_path / "new" / "my.json") in capsys.readouterr().out


def test_same_run_gives_the_same_trace(tmp_path):
    first = write_trace(resumed(tmp_path))[0].read_bytes()
    assert write_trace(tmp_path)[0].read_bytes() == first


def test_trace_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path, _ = write_trace(shared(tmp_path))
    before = path.read_bytes()
    write_pipeline(tmp_path, [[0, 1], [2, 3]], start=START + 100)

    def full(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="no space"):
        write_trace(tmp_path)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir() if each.is_file()] == ["trace.json"]


def test_run_in_one_process_is_told_to_use_processes(tmp_path):
    with pytest.raises(InputError, match=r"no timeline: it ran in one process.*--processes.*--visit"):
        trace([str(tmp_path)])


def test_missing_folder_no_steps_and_a_folder_as_output_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no run folder .*nowhere"):
        write_trace(tmp_path / "nowhere")
    write_lines(tmp_path, 0, [HEADER])
    with pytest.raises(InputError, match="no step is recorded"):
        write_trace(tmp_path)
    write_lines(tmp_path, 0, [STEP])
    with pytest.raises(InputError, match=r"is a folder: give the name of a file in it"):
        write_trace(tmp_path, tmp_path)
