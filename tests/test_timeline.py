"""Reading a timeline. Oracles: the lines as they were written, and idle shares worked out by hand."""

import json

import pytest
from timeline_helpers import HEADER, LATE, START, STEP, header, timeline_of, totals, write_lines, write_pipeline

from blocklocal._common.errors import InputError
from blocklocal.timeline import read_timeline, shares

# --- what is in the files


def test_a_run_in_one_process_has_no_timeline(tmp_path):
    assert read_timeline(tmp_path) is None
    (tmp_path / "timeline").mkdir()
    (tmp_path / "timeline" / "process-0.jsonl").touch()
    assert read_timeline(tmp_path) is None


def test_header_steps_and_sums_come_back_as_written(tmp_path):
    write_pipeline(tmp_path, [[0, 1], [2]], range(5, 7))
    first, second = timeline_of(tmp_path).segments
    assert (first.process, first.stage, first.blocks, first.names) == (0, 0, (0, 1), ("stage1.0", "stage2.0"))
    assert (second.start, second.host, second.pid, second.threads, second.device) == (START + LATE, "h", 101, 1, "cpu")
    assert [step.step for step in second.steps] == [5, 6]
    assert [(span.kind, span.block) for span in first.steps[1].spans] == [
        ("compute", 0),
        ("compute", 1),
        ("send", None),
        ("compute", 1),
    ]
    assert (second.steps[0].spans[0].begin, second.steps[0].spans[0].end) == (0.75, 0.85)
    assert second.totals[0].compute == {2: 1.6}


def test_event_of_a_later_version_is_passed_over(tmp_path):
    write_lines(tmp_path, 0, [header(0, [0], START), {"event": "unheard-of"}])
    assert timeline_of(tmp_path).segments[0].steps == []


# --- reading: a run that was stopped


@pytest.mark.parametrize("half", ['{"event": "st', "{", '{"event": "step", "step": 3, "spans": [["wait", nul'])
def test_half_a_last_line_is_left_out_with_a_warning(tmp_path, half):
    path = write_lines(tmp_path, 0, [header(0, [0], START), totals(1, 4, 10.0, {"0": 7.0})])
    path.write_text(path.read_text() + half)
    timeline = timeline_of(tmp_path)
    assert len(timeline.segments[0].totals) == 1
    assert timeline.warnings == [
        "line 3 of timeline/process-0.jsonl is cut short and was left out (the run was stopped there)"
    ]


def test_half_a_line_before_a_resume_is_left_out_with_a_warning(tmp_path):
    path = write_lines(tmp_path, 0, [header(0, [0], START)])
    path.write_text(path.read_text() + '{"event": "st\n')
    write_lines(tmp_path, 0, [header(0, [0], START + 60)])
    timeline = timeline_of(tmp_path)
    assert [segment.start for segment in timeline.segments] == [START, START + 60]
    assert "line 2 of timeline/process-0.jsonl is cut short" in timeline.warnings[0]


def test_segments_of_a_resumed_run_are_grouped_by_launch(tmp_path):
    write_pipeline(tmp_path, [[0], [1]])
    write_pipeline(tmp_path, [[0], [1]], start=START + 100)
    places = [[(segment.process, segment.start) for segment in launch] for launch in timeline_of(tmp_path).launches]
    assert places == [[(0, START), (1, START + LATE)], [(0, START + 100), (1, START + 100 + LATE)]]


@pytest.mark.parametrize(("before", "after"), [([[0], [1, 2]], [[0], [1], [2]]), ([[0], [1], [2]], [[0, 1], [2]])])
def test_run_resumed_in_another_number_of_processes_has_two_launches(tmp_path, before, after):
    write_pipeline(tmp_path, before)
    write_pipeline(tmp_path, after, start=START + 100)
    launches = timeline_of(tmp_path).launches
    assert [[list(segment.blocks) for segment in launch] for launch in launches] == [before, after]
    assert list(shares(timeline_of(tmp_path))) == list(range(len(after)))


def test_replicas_of_one_launch_stay_together(tmp_path):
    write_pipeline(tmp_path, [[0], [1]], replicas=3)
    assert [[segment.process for segment in launch] for launch in timeline_of(tmp_path).launches] == [[*range(6)]]


# --- reading: damage is named, with file, line and what was expected

TOTALS = totals(1, 4, 10.0, {"0": 7.0})


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ([STEP], "is not of event 'process'"),
        ([{**HEADER, "process": 1}], "process is 1.*Expected 0, the number in the name"),
        ([{**HEADER, "blocks": []}], r"blocks must be .* not \[\]"),
        ([{**HEADER, "blocks": [0.5, 1]}], r"blocks\[0\] must be a whole number, not 0.5"),
        ([{**HEADER, "names": ["a"]}], "names must be a list of 2"),
        ([{**HEADER, "start": None}], "start must be a number, not null"),
        ([{**HEADER, "stage": -1}], "stage must be a whole number of at least 0, not -1"),
        ([{**HEADER, "threads": True}], "threads must be a whole number, not true"),
        ([HEADER, {**STEP, "step": "3"}], 'step must be a whole number, not "3"'),
        ([HEADER, {**STEP, "spans": None}], "spans must be a list, not null"),
        ([HEADER, {**STEP, "spans": [["sleep", None, 0.1, 0.2]]}], r"spans\[0\].*kind must be one of .*sleep"),
        ([HEADER, {**STEP, "spans": [["wait", None, 0.1]]}], r"spans\[0\] must be a list of at least 4 entries"),
        ([HEADER, {**STEP, "spans": [["compute", 2, 0.1, 0.2]]}], "the block of a compute span is 2"),
        ([HEADER, {**STEP, "spans": [["compute", None, 0.1, 0.2]]}], "the block of a compute span is None"),
        ([HEADER, {**STEP, "spans": [["wait", 0, 0.1, 0.2]]}], "the block of a wait span is 0"),
        ([HEADER, {**STEP, "spans": [["wait", None, 0.2, 0.1]]}], "ends before it begins"),
        (
            [HEADER, {**STEP, "spans": [["wait", None, -0.1, 0.1]]}],
            r"spans\[0\]\[2\] must be a number of at least 0, not -0.1",
        ),
        ([HEADER, {**STEP, "spans": [["wait", None, 0.1, float("nan")]]}], r"spans\[0\]\[3\] must be a number"),
        ([HEADER, STEP, {**STEP, "spans": [["wait", None, 0.19, 0.3]]}], "begins before.*one after the other"),
        ([HEADER, {**TOTALS, "seconds": -1.0}], "seconds must be a number of at least 0, not -1"),
        ([HEADER, {**TOTALS, "send": None}], "send must be a number, not null"),
        ([HEADER, {**TOTALS, "compute": {"2": 1.0}}], "compute has '2'"),
        ([HEADER, {**TOTALS, "compute": {"0": "long"}}], 'compute.0 must be a number, not "long"'),
    ],
)
def test_damaged_line_is_named(tmp_path, lines, complaint):
    write_lines(tmp_path, 0, lines)
    with pytest.raises(InputError, match=rf"process-0\.jsonl line {len(lines)}\b.*{complaint}") as caught:
        read_timeline(tmp_path)
    assert "Expected" in str(caught.value)


@pytest.mark.parametrize("broken", ["{broken\n", "3\n", "[1, 2]\n"])
def test_broken_line_in_the_middle_is_damage(tmp_path, broken):
    path = write_lines(tmp_path, 0, [HEADER])
    path.write_text(path.read_text() + broken + json.dumps(STEP) + "\n")
    with pytest.raises(InputError, match=r"process-0\.jsonl is damaged at line 2.*delete that line"):
        read_timeline(tmp_path)


# --- idle shares: sums by hand


def test_idle_is_the_share_of_the_three_waits_over_all_epochs(tmp_path):
    first = [totals(1, 5, 10.0, {"0": 4.0, "1": 3.0}, message=0.5, send=1.5)]
    second = [totals(2, 5, 30.0, {"0": 10.0, "1": 9.0}, message=1.5, send=2.5)]
    write_lines(tmp_path, 0, [header(0, [0, 1], START), *first, *second])
    write_lines(tmp_path, 1, [header(1, [2], START), totals(1, 10, 40.0, {"2": 10.0}, wait=30.0)])
    found = shares(timeline_of(tmp_path))
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].seconds, found[0].wait, found[0].message, found[0].send) == (40.0, 0.0, 2.0 / 40, 4.0 / 40)
    assert found[0].busy == {0: 14.0 / 40, 1: 12.0 / 40}
    assert found[0].idle == pytest.approx(6.0 / 40)
    assert found[0].other == pytest.approx(8.0 / 40)
    assert (found[1].idle, found[1].busy, found[1].other) == (0.75, {2: 0.25}, 0.0)


def test_shares_of_a_resumed_run_count_both_segments(tmp_path):
    write_lines(tmp_path, 0, [header(0, [0], START), totals(1, 5, 10.0, {"0": 9.0}, send=1.0)])
    write_lines(tmp_path, 0, [header(0, [0], START + 60), totals(1, 5, 10.0, {"0": 5.0}, send=5.0)])
    found = shares(timeline_of(tmp_path))[0]
    assert found is not None
    assert (found.seconds, found.idle, found.busy) == (20.0, 0.3, {0: 0.7})


def test_shares_leave_out_segments_in_another_layout(tmp_path):
    write_lines(tmp_path, 0, [header(0, [0, 1], START), totals(1, 5, 10.0, {"0": 1.0, "1": 1.0}, send=8.0)])
    write_lines(tmp_path, 0, [header(0, [0], START + 60), totals(1, 5, 10.0, {"0": 9.0}, send=1.0)])
    found = shares(timeline_of(tmp_path))[0]
    assert found is not None
    assert (found.seconds, found.idle, found.busy) == (10.0, 0.1, {0: 0.9})


def test_process_without_sums_has_no_shares_yet(tmp_path):
    write_lines(tmp_path, 0, [HEADER, STEP])
    write_lines(tmp_path, 1, [header(1, [2], START), totals(1, 0, 0.0, {"2": 0.0})])
    assert shares(timeline_of(tmp_path)) == {0: None, 1: None}


def test_parts_that_pass_the_whole_by_a_hair_leave_no_negative_rest(tmp_path):
    write_lines(tmp_path, 0, [header(0, [0], START), totals(1, 5, 10.0, {"0": 9.0}, send=1.0000001)])
    found = shares(timeline_of(tmp_path))[0]
    assert found is not None
    assert found.other == 0.0
