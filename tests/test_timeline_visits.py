"""The timeline of a run that has one block at a time in memory: recorded, read and exported.

Oracles: what was done; the lines as they were written; an ideal chunk, whose times are known; the order that blocks
and steps must keep.
"""

import threading
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
from parallel_helpers import command, finished, started
from run_helpers import cli, flags, stopping, tiny, train, without_reports
from timeline_helpers import (
    HEADER,
    START,
    streamed_header,
    timeline_of,
    totals,
    visits,
    write_lines,
    write_pipeline,
    write_visits,
    write_visits_of_two,
)

from blocklocal._common.errors import InputError
from blocklocal.runs.run import resume_run, start_run
from blocklocal.streaming.settings import Streaming
from blocklocal.timeline import Segment, Span, read_timeline, shares, trace_events
from blocklocal.timeline.visits import VisitRecorder

# --- recording


def recorder(run: Path, steps: int) -> VisitRecorder:
    header = {key: value for key, value in streamed_header(2, 2).items() if key not in ("event", "start")}
    run.mkdir(exist_ok=True)
    record = VisitRecorder(run / "timeline" / "process-0.jsonl", header, steps=steps)
    record.begin()
    return record


def take_chunk(record: VisitRecorder, first: int, steps: int) -> None:
    with record.chunk(first, steps):
        for block in (0, 1):
            with record.span("fetch", block):
                pass
            with record.span("wait", block):
                pass
            for t in range(steps):
                with record.span("compute", block, t):
                    pass
            with record.span("write", block):
                pass


def segment_of(run: Path) -> Segment:
    [segment] = timeline_of(run).segments
    return segment


def counted(spans) -> Counter:
    return Counter((span.kind, span.block) for span in spans)


VISITED = {("fetch", 0): 1, ("fetch", 1): 1, ("wait", 0): 1, ("wait", 1): 1, ("write", 0): 1, ("write", 1): 1}


def test_first_step_of_a_chunk_has_what_is_done_once_per_visit(tmp_path):
    record = recorder(tmp_path, steps=10)
    take_chunk(record, 5, 2)
    record.close()
    first, second = segment_of(tmp_path).steps
    assert (first.step, second.step) == (5, 6)
    assert counted(first.spans) == {**VISITED, ("compute", 0): 1, ("compute", 1): 1}
    assert counted(second.spans) == {("compute", 0): 1, ("compute", 1): 1}


def test_first_steps_are_kept_and_all_are_summed(tmp_path):
    record = recorder(tmp_path, steps=3)
    for first in (1, 3, 5):
        take_chunk(record, first, 2)
    sums = record.totals(1)
    record.close()
    assert sums["steps"] == 6
    assert [step.step for step in segment_of(tmp_path).steps] == [1, 2, 3]
    assert 0 < sum([sums["wait"], *sums["compute"].values()]) <= sums["seconds"]
    assert sums["fetch"].keys() == sums["write"].keys() == sums["compute"].keys() == {"0", "1"}
    assert segment_of(tmp_path).totals[0].fetch == {int(block): s for block, s in sums["fetch"].items()}


def test_a_new_stretch_counts_from_nothing():
    record = VisitRecorder()
    record.begin()
    take_chunk(record, 1, 2)
    record.begin()
    assert record.totals(2)["steps"] == 0
    assert record.totals(2)["compute"] == {}


def test_what_happens_outside_of_training_is_not_recorded(tmp_path):
    record = recorder(tmp_path, steps=10)
    take_chunk(record, 1, 1)
    first = record.totals(1)
    for kind in ("fetch", "wait"):  # as for an evaluation
        with record.span(kind, 0):
            pass
    record.begin()
    take_chunk(record, 2, 1)
    record.pause()
    with record.span("fetch", 0):
        pass
    second = record.totals(2)
    record.close()
    assert [counted(step.spans)["fetch", 0] for step in segment_of(tmp_path).steps] == [1, 1]
    sums = {1: first, 2: second}
    for step, each in enumerate(segment_of(tmp_path).steps, 1):
        [fetch] = [span for span in each.spans if (span.kind, span.block) == ("fetch", 0)]
        assert sums[step]["fetch"]["0"] == pytest.approx(fetch.end - fetch.begin, abs=2e-6)


def test_a_wait_for_another_process_interrupts_computing_in_its_step(tmp_path):
    record = recorder(tmp_path, steps=10)
    with record.span("wait"):  # before the chunk, for the word that one follows
        pass
    with record.chunk(1, 2), record.span("compute", 1, 1), record.span("send"):
        pass
    sums = record.totals(1)
    record.close()
    first, second = segment_of(tmp_path).steps
    assert counted(first.spans) == {("wait", None): 1}
    assert [(span.kind, span.block) for span in second.spans] == [("compute", 1), ("send", None), ("compute", 1)]
    assert all(a.end <= b.begin for a, b in pairwise(second.spans))
    assert sums["wait"] > 0
    assert sums["send"] > 0


def test_a_chunk_that_fails_leaves_no_step(tmp_path):
    record = recorder(tmp_path, steps=10)
    with pytest.raises(OSError, match="full"), record.chunk(1, 2), record.span("compute", 0):
        raise OSError("the disk is full")
    take_chunk(record, 1, 2)
    record.close()
    assert [step.step for step in segment_of(tmp_path).steps] == [1, 2]
    assert counted(segment_of(tmp_path).steps[0].spans)["compute", 0] == 1


def test_no_span_is_lost_where_several_threads_record_at_once(tmp_path):
    record = recorder(tmp_path, steps=1)

    def work(kind: str) -> None:
        for _ in range(300):
            with record.span(kind, 0):
                pass

    with record.chunk(1, 1):
        threads = [threading.Thread(target=work, args=(kind,)) for kind in ("compute", "fetch", "write", "wait")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    record.close()
    [step] = segment_of(tmp_path).steps
    assert set(counted(step.spans).values()) == {300}
    begins = [span.begin for span in step.spans]
    assert begins == sorted(begins)


def test_memory_does_not_grow_with_steps_that_are_not_kept():
    record = VisitRecorder()
    record.begin()
    for chunk in range(100):
        take_chunk(record, 2 * chunk + 1, 2)
    assert record._spans == []
    assert len(record._sums) == 8  # four kinds, two blocks


# --- reading


def test_spans_of_visits_come_back_as_written_though_they_overlap(tmp_path):
    segment = segment_of(write_visits(tmp_path, blocks=2, visit=3, chunks=2))
    assert (segment.visit, segment.blocks) == (3, (0, 1))
    assert [step.step for step in segment.steps] == [1, 2, 3, 4, 5, 6]
    assert Span("fetch", 1, 1.0, 2.0) in segment.steps[0].spans
    assert Span("compute", 0, 1.0, 2.0) in segment.steps[0].spans
    assert segment.steps[1].spans == (Span("compute", 0, 2.0, 3.0), Span("compute", 1, 5.0, 6.0))
    assert (segment.totals[0].fetch, segment.totals[0].write) == ({0: 2.0, 1: 2.0}, {0: 2.0, 1: 2.0})


def test_a_chunk_begins_where_blocks_are_fetched(tmp_path):
    run = write_visits(tmp_path, visit=4, chunks=1)
    write_lines(run, 0, visits(3, 2, 100.0, 5))  # the last steps of an epoch are fewer
    assert [[step.step for step in chunk] for chunk in segment_of(run).chunks] == [[1, 2, 3, 4], [5, 6]]


def test_file_from_before_there_were_visits_is_read(tmp_path):
    for segment in timeline_of(write_pipeline(tmp_path, [[0, 1], [2]])).segments:
        assert segment.visit == 0
        assert set(segment.totals[0].fetch.values()) == set(segment.totals[0].write.values()) == {0.0}


VISITS = streamed_header(2, 4)


def step(*span: object) -> dict:
    return {"event": "step", "step": 1, "spans": [list(span)]}


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([{**VISITS, "visit": -1}], "visit must be a whole number of at least 0, not -1"),
        (
            [VISITS, step("fetch", None, 0.1, 0.2)],
            r"the block of a fetch span is None.*one of \[0, 1\] for compute, wait, fetch, write",
        ),
        ([VISITS, step("write", 2, 0.1, 0.2)], "the block of a write span is 2"),
        ([VISITS, step("compute", None, 0.1, 0.2)], "the block of a compute span is None"),
        ([VISITS, step("send", 0, 0.1, 0.2)], "the block of a send span is 0.*null for a wait for another process"),
        ([HEADER, step("fetch", 0, 0.1, 0.2)], "the block of a fetch span is 0.*null for a wait"),
        ([VISITS, {**totals(1, 4, 9.0, {}), "fetch": {"2": 1.0}}], "fetch has '2'"),
        ([VISITS, {**totals(1, 4, 9.0, {}), "write": {"0": -1.0}}], r"write\.… must be a number of at least 0"),
    ],
)
def test_damaged_line_of_visits_is_named(tmp_path, lines, complaint):
    write_lines(tmp_path, 0, lines)
    with pytest.raises(InputError, match=rf"process-0\.jsonl line {len(lines)}\b.*{complaint}") as caught:
        read_timeline(tmp_path)
    assert "Expected" in str(caught.value)


def test_shares_of_visits_are_those_of_the_computing_thread(tmp_path):
    """A chunk of 14 s: 3 blocks compute 4 s each, and computing waits for the first fetch and the last write."""
    found = shares(timeline_of(write_visits(tmp_path)))[0]
    assert found is not None
    assert found.busy == pytest.approx({0: 4 / 14, 1: 4 / 14, 2: 4 / 14})
    assert found.idle == pytest.approx(2 / 14)
    assert found.other == pytest.approx(0.0)
    assert found.fetch == found.write == pytest.approx({0: 1 / 14, 1: 1 / 14, 2: 1 / 14})


def test_shares_count_visits_of_the_same_length_alone(tmp_path):
    write_visits(tmp_path, visit=2)
    write_visits(tmp_path, visit=4, start=START + 100)
    found = shares(timeline_of(tmp_path))[0]
    assert found is not None
    assert (found.seconds, found.idle) == (42.0, pytest.approx(2 / 14))


# --- the trace


def of(events, *phases: str):
    return [event for event in events if event["ph"] in phases]


def test_trace_of_visits_has_a_thread_each_for_computing_waiting_fetching_and_writing(tmp_path):
    events = trace_events(timeline_of(write_visits(tmp_path)))
    names = {e["tid"]: e["args"]["name"] for e in of(events, "M") if e["name"] == "thread_name"}
    assert sorted(names.values()) == ["computing", "fetching", "waiting", "writing back"]
    kinds = {"compute": "computing", "wait": "waiting", "fetch": "fetching", "write": "writing back"}
    spans = of(events, "X")
    assert {(e["cat"], names[e["tid"]]) for e in spans} == set(kinds.items())
    assert {e["name"] for e in spans if e["cat"] == "wait"} == {"waits for block 1", "waits for block 3"}
    assert of(events, "s", "f") == []


def test_spans_of_one_thread_of_visits_do_not_overlap_and_last_as_recorded(tmp_path):
    timeline = timeline_of(write_visits(tmp_path))
    threads, traced = defaultdict(list), defaultdict(float)
    for event in of(trace_events(timeline), "X"):
        threads[event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        traced[event["cat"]] += event["dur"] / 1e6
    assert all(end <= begin for edges in threads.values() for (_, end), (begin, _) in pairwise(edges))
    assert traced == {"compute": 36.0, "fetch": 9.0, "write": 9.0, "wait": 6.0}


def test_arrows_of_visits_lead_from_computing_to_computing_of_the_same_step(tmp_path):
    events = trace_events(timeline_of(write_visits_of_two(tmp_path)))
    ends = defaultdict(dict)
    for flow in of(events, "s", "f"):
        at = [e for e in of(events, "X") if e["tid"] == flow["tid"] and e["ts"] <= flow["ts"] < e["ts"] + e["dur"]]
        ends[flow["id"]][flow["ph"]] = [(e["cat"], e["args"]["block"], e["args"]["step"]) for e in at]
    assert sorted(ends.values(), key=lambda end: end["s"]) == [
        {"s": [("compute", 2, step)], "f": [("compute", 3, step)]} for step in range(1, 7)
    ]


def test_trace_of_a_run_in_processes_has_no_thread_for_fetching(tmp_path):
    events = trace_events(timeline_of(write_pipeline(tmp_path, [[0], [1]])))
    assert {e["args"]["name"] for e in of(events, "M") if e["name"] == "thread_name"} == {"computing", "waiting"}


# --- a real run: 2 epochs of 3 steps, in visits of 2 and 1


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("streamed")
    said = train(folder, "--visit", 2, blocks=3)
    assert said.status == 0, said.text
    return folder / "run"


def spans_of(segment: Segment, kind: str) -> dict[tuple[int, int], list[Span]]:
    """By (block, step)."""
    found = defaultdict(list)
    for each in segment.steps:
        for span in each.spans:
            if span.kind == kind:
                assert span.block is not None
                found[span.block, each.step].append(span)
    return found


def test_every_block_computes_every_step_once(run):
    segment = segment_of(run)
    assert (segment.visit, segment.blocks, segment.process) == (2, (0, 1, 2), 0)
    assert {key: len(spans) for key, spans in spans_of(segment, "compute").items()} == {
        (block, step): 1 for block in range(3) for step in range(1, 7)
    }


def test_every_block_is_fetched_and_written_back_once_per_chunk(run):
    segment = segment_of(run)
    assert [[step.step for step in chunk] for chunk in segment.chunks] == [[1, 2], [3], [4, 5], [6]]
    once = {(block, first): 1 for block in range(3) for first in (1, 3, 4, 6)}
    for kind in ("fetch", "write"):
        assert {key: len(spans) for key, spans in spans_of(segment, kind).items()} == once


def test_a_block_is_fetched_before_it_computes_and_written_back_after(run):
    segment = segment_of(run)
    fetched, written = spans_of(segment, "fetch"), spans_of(segment, "write")
    compute = spans_of(segment, "compute")
    for chunk in segment.chunks:
        first, last = chunk[0].step, chunk[-1].step
        for block in range(3):
            assert fetched[block, first][0].end <= compute[block, first][0].begin
            assert compute[block, last][0].end <= written[block, first][0].begin


def test_computing_keeps_the_order_of_blocks_and_steps(run):
    compute = {key: span for key, [span] in spans_of(segment_of(run), "compute").items()}
    for (block, step), span in compute.items():
        for before in ((block - 1, step), (block, step - 1)):
            if before in compute:
                assert compute[before].end <= span.begin


def test_sums_of_a_run_are_within_its_seconds(run):
    sums = segment_of(run).totals
    assert [(each.epoch, each.steps) for each in sums] == [(1, 3), (2, 3)]
    for each in sums:
        assert 0 < each.wait + sum(each.compute.values()) <= each.seconds
        assert all(seconds > 0 for kind in (each.fetch, each.write) for seconds in kind.values())


def test_report_and_trace_of_a_run_are_written(run, tmp_path):
    text = (run / "report.html").read_text(encoding="utf-8")
    assert "1 process, one block at a time, visits of 2 steps" in text
    said = cli("trace", run, "--output", tmp_path / "trace.json", "--picture", tmp_path / "picture")
    assert said.status == 0, said.text
    assert (tmp_path / "picture.png").exists()


def test_resumed_run_appends_a_segment(tmp_path):
    with without_reports():
        with stopping(2):  # asked after every chunk
            start_run(tiny(), tmp_path / "run", quiet=True, streaming=Streaming(2))
        resume_run(tmp_path / "run", quiet=True, streaming=Streaming(1))
    first, second = timeline_of(tmp_path / "run").segments
    assert (first.visit, second.visit) == (2, 1)
    assert [step.step for step in first.steps] + [step.step for step in second.steps] == [1, 2, 3, 4, 5, 6]


def test_steps_of_the_timeline_can_be_chosen(tmp_path):
    with without_reports():
        train(tmp_path, "--visit", 2, "--timeline", 1)
    segment = segment_of(tmp_path / "run")
    assert [step.step for step in segment.steps] == [1]
    assert [each.steps for each in segment.totals] == [3, 3]


def test_run_with_all_blocks_in_memory_has_no_timeline_and_is_told_how_to_have_one(tmp_path):
    with without_reports():
        train(tmp_path)
    assert not (tmp_path / "run" / "timeline").exists()
    said = cli("trace", tmp_path / "run")
    assert said.status == 2
    assert "--processes 2 or more, or with --visit N" in said.text


@pytest.mark.xdist_group("processes")
@pytest.mark.timeout(180)
def test_every_process_of_a_run_records_its_own_visits(tmp_path):
    spread = ("--visit", 2, "--processes", 2, "--placement", 1, 2, "--output", tmp_path / "run", "--quiet")
    with started([command("train", *flags(blocks=3), *spread)]) as running:
        status, _, err = finished(running)[0]
    assert status == 0, err
    first, second = timeline_of(tmp_path / "run").segments
    assert (first.visit, first.blocks, second.visit, second.blocks) == (2, (0,), 2, (1, 2))
    for segment in (first, second):
        steps = {(block, step) for block in segment.blocks for step in range(1, 7)}
        assert set(spans_of(segment, "compute")) == steps
        once = {(block, chunk): 1 for block in segment.blocks for chunk in (1, 3, 4, 6)}
        for kind in ("fetch", "write"):
            assert {key: len(spans) for key, spans in spans_of(segment, kind).items()} == once
        assert [(each.epoch, each.steps) for each in segment.totals] == [(1, 3), (2, 3)]
    waits = [span for step in second.steps for span in step.spans if span.kind == "wait" and span.block is None]
    assert waits  # for the first process, which has its first visit then
    assert all(share is not None and 0 < share.idle < 1 for share in shares(timeline_of(tmp_path / "run")).values())
