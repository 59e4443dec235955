"""The picture and the section of a run with one block at a time in memory. Oracle: the ideal chunk, of known times."""

import numpy as np
import pytest
from report_helpers import epoch, page, section, summary, write_run
from test_timeline_report import names, table, texts
from timeline_helpers import (
    START,
    streamed_header,
    timeline_of,
    visits,
    write_lines,
    write_pipeline,
    write_visits,
    write_visits_of_two,
)

from blocklocal.report.html import write_report
from blocklocal.report.timeline_plot import drawn_steps, timeline_figure

# --- the picture


def figure_of(run):
    figure = timeline_figure(timeline_of(run))
    assert figure is not None
    return figure


def edges(collection) -> list[tuple[float, float, float]]:
    """(left, right, lane) of the boxes of a collection."""
    boxes = [path.vertices for path in collection.get_paths()]
    return [(v[:, 0].min(), v[:, 0].max(), round((v[:, 1].min() + v[:, 1].max()) / 2)) for v in boxes]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_whole_chunk_from_the_middle_is_drawn(tmp_path):
    write_visits(tmp_path, visit=4, chunks=3)
    write_lines(tmp_path, 0, visits(3, 2, 100.0, 13))  # a shorter one, at the end of an epoch
    assert drawn_steps(timeline_of(tmp_path))[1] == [5, 6, 7, 8]


def test_last_launch_with_steps_is_drawn_whether_in_processes_or_in_visits(tmp_path):
    write_pipeline(tmp_path, [[0], [1]])
    write_visits(tmp_path, visit=2, start=START + 60)
    assert drawn_steps(timeline_of(tmp_path))[1] == [3, 4]
    write_lines(tmp_path, 0, [streamed_header(3, 5, START + 200)])
    assert drawn_steps(timeline_of(tmp_path))[1] == [3, 4]
    assert names(figure_of(tmp_path)) == ["block 1", "block 2", "block 3"]


def test_nothing_is_drawn_of_visits_where_no_step_was_recorded(tmp_path):
    write_lines(tmp_path, 0, [streamed_header(3, 4)])
    assert timeline_figure(timeline_of(tmp_path)) is None


def test_lanes_of_visits_carry_names_steps_and_shares(tmp_path):
    figure = figure_of(write_visits(tmp_path))
    assert names(figure) == ["block 1", "block 2", "block 3"]
    written = texts(figure)
    assert sorted(text for text in written if text.isdigit()) == sorted(["5", "6", "7", "8"] * 3)
    assert written.count("29 %") == 3  # 4 s of 14
    assert written.count("14 %") == 1  # computing waits for 2 s of 14, for all blocks
    assert legend(figure) == ["the block is fetched", "the block is written back", "computing waits for a block"]


def test_fetching_and_writing_back_lie_in_the_lane_of_their_block_at_their_time(tmp_path):
    [axes] = figure_of(write_visits(tmp_path)).axes
    found = {"\\\\\\\\": [], "....": []}
    for collection in axes.collections:
        if collection.get_hatch():
            found[collection.get_hatch()] += edges(collection)
    assert np.allclose(sorted(found["\\\\\\\\"]), [(0, 1, 0), (1, 2, 1), (5, 6, 2)])
    assert np.allclose(sorted(found["...."]), [(5, 6, 0), (9, 10, 1), (13, 14, 2)])


def test_one_step_has_one_colour_in_every_visit(tmp_path):
    [axes] = figure_of(write_visits(tmp_path)).axes
    seen = {}
    for collection in axes.collections:
        for left, right, lane in edges(collection):
            if not collection.get_hatch() and right - left == pytest.approx(1) and left > 0 and right < 13.5:
                seen.setdefault(round(left - 1) - 4 * lane, []).append(tuple(collection.get_facecolor()[0]))
    assert {step: len(colours) for step, colours in seen.items()} == {0: 3, 1: 3, 2: 3, 3: 3}
    assert all(len(set(colours)) == 1 for colours in seen.values())
    assert len({colours[0] for colours in seen.values()}) == 4


def test_what_is_not_there_is_not_in_the_legend(tmp_path):
    lines = visits(2, 2, 0.0, 1)
    for line in lines:
        line["spans"] = [span for span in line["spans"] if span[0] not in ("wait", "write")]
    write_lines(tmp_path, 0, [streamed_header(2, 2), *lines])
    assert legend(figure_of(tmp_path)) == ["the block is fetched"]


def test_two_visits_are_drawn_again_where_there_are_many_blocks(tmp_path):
    """Blocks 12 and 13 compute while 11 and 12 are written back and 13 and 14 are fetched."""
    figure = figure_of(write_visits(tmp_path, blocks=24, visit=16))
    assert len(figure.axes) == 2
    assert names(figure) == [f"block {k}" for k in range(1, 25)]
    labels = [label.get_text() for label in figure.axes[1].get_yticklabels()]
    assert labels == ["block 11", "block 12", "block 13", "block 14"]
    numbers = [text.get_text() for text in figure.axes[1].texts]
    assert sorted(numbers) == sorted([str(step) for step in range(17, 33)] * 2)
    assert figure.axes[1].get_xlim() == pytest.approx((0, 32))
    assert "blocks 12 and 13" in figure.axes[1].get_xlabel()


def test_steps_too_narrow_to_be_told_apart_are_one_box(tmp_path):
    [axes] = figure_of(write_visits(tmp_path, blocks=2, visit=1000, chunks=1)).axes
    boxes = [edge for c in axes.collections if not c.get_hatch() for edge in edges(c) if np.ptp(edge[:2]) > 500]
    assert np.allclose(sorted(boxes), [(1, 1001, 0), (1001, 2001, 1)])
    assert [text.get_text() for text in axes.texts].count("1–1000") == 2


def test_very_many_lanes_of_visits_stay_on_the_page(tmp_path):
    figure = figure_of(write_visits(tmp_path, blocks=100, visit=2, chunks=1))
    assert figure.get_size_inches()[1] < 11
    assert 10 < len(names(figure)) < 50


def test_several_processes_of_visits_are_drawn_side_by_side(tmp_path):
    """While the second process takes steps 3 and 4, the first takes 5 and 6; both waits have a hatch of their own."""
    write_visits_of_two(tmp_path)
    assert drawn_steps(timeline_of(tmp_path))[1] == [3, 4]
    figure = figure_of(tmp_path)
    assert names(figure) == ["process 0 · block 1", "block 2", "process 1 · block 3", "block 4"]
    numbers = sorted(text for text in texts(figure) if text.isdigit())
    assert numbers == sorted([*"3344", *"5566", *"1122", *"3344"])
    assert "waits for the forward message" not in legend(figure)  # that was before


def test_waits_for_a_block_and_for_a_message_have_entries_of_their_own(tmp_path):
    write_visits_of_two(tmp_path)
    for process in (0, 1):
        path = tmp_path / "timeline" / f"process-{process}.jsonl"
        path.write_text("".join(line + "\n" for line in path.read_text().splitlines()[:3]))  # the first chunk
    assert legend(figure_of(tmp_path))[2:] == ["computing waits for a block", "waits for the forward message"]


# --- the report


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", row=summary(), epochs=[epoch(1)])


def test_report_of_visits_has_layout_picture_and_shares(run):
    own = section(page(write_report(write_visits(run))), "timeline")
    assert own.count("<svg") == 1
    assert "1 process, one block at a time, visits of 4 steps, 1 thread, cpu" in own
    assert "Steps 5 to 8" in own
    assert "computing waits for a block: over all steps, 14.3 % of the time of training" in own
    assert table(own) == [
        ["0", "1", "stage1.0", "28.6 %", "7.1 %", "7.1 %", "14.3 %", "0.0 %"],
        ["2", "stage2.0", "28.6 %", "7.1 %", "7.1 %"],
        ["3", "stage3.0", "28.6 %", "7.1 %", "7.1 %"],
    ]
    assert "forward message" not in own


def test_report_of_visits_that_were_stopped_early_has_what_is_known(run):
    write_lines(run, 0, [streamed_header(2, 1), *visits(2, 1, 0.0, 1)])
    own = section(page(write_report(run)), "timeline")
    assert "visits of 1 step, 1 thread" in own
    assert own.count("<svg") == 1
    assert table(own) == [["0", "1", "stage1.0", *["–"] * 5], ["2", "stage2.0", *["–"] * 3]]


def test_report_of_visits_in_two_processes_says_so(run):
    own = section(page(write_report(write_visits_of_two(run))), "timeline")
    assert "2 processes, one block at a time in each, visits of 2 steps, 1 thread each, cpu, on one host" in own
    assert [row[:3] for row in table(own)] == [
        ["0", "1", "stage1.0"],
        ["2", "stage2.0", "–"],
        ["1", "3", "stage3.0"],
        ["4", "stage4.0", "–"],
    ]
