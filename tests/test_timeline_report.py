"""The picture and the section of the report. Oracle: the ideal pipeline, whose shares and slots are known."""

import json
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from report_helpers import epoch, page, section, summary, write_run
from timeline_helpers import START, header, ideal, replicated, shared, timeline_of, write_lines, write_pipeline

from blocklocal.report.html import write_comparison, write_report
from blocklocal.report.timeline_plot import drawn_steps, timeline_figure

# --- the picture


def texts(figure) -> list[str]:
    [axes] = figure.axes
    return [text.get_text() for text in axes.texts]


def names(figure) -> list[str]:
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_ten_steps_from_the_middle_are_drawn(tmp_path):
    write_pipeline(tmp_path, [[0], [1]], range(100, 140))
    assert drawn_steps(timeline_of(tmp_path))[1] == list(range(115, 125))


def test_longest_stretch_that_all_processes_recorded_is_drawn(tmp_path):
    write_pipeline(tmp_path, [[0], [1]], range(20))
    path = tmp_path / "timeline" / "process-1.jsonl"
    lines = [line for line in path.read_text().splitlines() if json.loads(line).get("step") not in (0, 8)]
    path.write_text("\n".join(lines) + "\n")
    assert drawn_steps(timeline_of(tmp_path))[1] == list(range(9, 19))


def test_last_launch_with_steps_of_all_processes_is_drawn(tmp_path):
    write_pipeline(tmp_path, [[0, 1], [2]], range(5))
    write_pipeline(tmp_path, [[0], [1], [2]], range(5, 9), start=START + 60)
    launch, steps = drawn_steps(timeline_of(tmp_path))
    assert (len(launch), steps) == (3, [5, 6, 7, 8])
    for process, blocks in enumerate([[0, 1], [2]]):
        write_lines(tmp_path, process, [header(process, blocks, START + 120 + process)])
    launch, steps = drawn_steps(timeline_of(tmp_path))
    assert (len(launch), steps) == (3, [5, 6, 7, 8])
    assert names(timeline_figure(timeline_of(tmp_path)))[0] == "process 0 · block 1"


def test_nothing_is_drawn_where_no_step_was_recorded_by_all(tmp_path):
    write_pipeline(tmp_path, [[0], [1]], range(4))
    write_lines(tmp_path, 2, [header(2, [2], START)])
    assert timeline_figure(timeline_of(tmp_path)) is None


def test_lanes_carry_names_steps_and_shares(tmp_path):
    figure = timeline_figure(timeline_of(shared(tmp_path)))
    assert figure is not None
    assert names(figure) == ["process 0 · block 1", "block 2", "process 1 · block 3", "block 4"]
    written = texts(figure)
    assert set(map(str, range(1, 11))) <= set(written)
    assert written.count("40 %") == 4  # 0.8 of the time, in two blocks
    assert written.count("10 %") == 2
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["waits for the forward message", "waits for room in the queue"]


def test_one_step_has_one_colour_in_every_lane(tmp_path):
    figure = timeline_figure(timeline_of(ideal(tmp_path)))
    assert figure is not None
    boxes = [c for c in figure.axes[0].collections if not c.get_hatch()]
    seen = defaultdict(set)
    for box in boxes:
        left = min(path.vertices[:, 0].min() for path in box.get_paths())
        right = max(path.vertices[:, 0].max() for path in box.get_paths())
        lane = (box.get_paths()[0].vertices[:, 1].min() + 0.42) / 1.35  # lanes are one and a gap apart
        # Time 0 is 0.1 s into slot 1, where stage 0 begins step 1.
        slot = round((left + right) / 2 + 1.1 - 0.55)
        seen[slot - round(lane)].add(tuple(box.get_facecolor()[0]))
    assert set(range(1, 11)) <= set(seen)
    assert all(len(seen[step]) == 1 for step in range(2, 10))
    assert all(seen[step] != seen[step + 1] for step in range(2, 9))


def test_lane_shows_what_its_own_block_computes(tmp_path):
    """Block 1 shares its process with block 2 and computes for 0.2 s of every slot."""
    figure = timeline_figure(timeline_of(shared(tmp_path)))
    assert figure is not None
    paths = [path for c in figure.axes[0].collections if not c.get_hatch() for path in c.get_paths()]
    widths = [
        np.ptp(path.vertices[:, 0]) for path in paths if np.ptp(path.vertices[:, 1]) and path.vertices[:, 1].max() < 0.5
    ]
    assert widths == pytest.approx([0.2] * len(widths))
    assert len(widths) == 11  # steps 1 to 10, and 11 before the second process is done with 10


def test_many_lanes_stay_on_the_page_with_a_name_per_process(tmp_path):
    figure = timeline_figure(timeline_of(write_pipeline(tmp_path, [list(range(30)), list(range(30, 60))])))
    assert figure is not None
    assert names(figure) == ["process 0", "process 1"]
    assert figure.get_size_inches()[1] < 11


# --- the report


class Ids(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.seen: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.seen += [value for key, value in attrs if key == "id"]


def table(text: str) -> list[list[str]]:
    """Cells of the rows of a section's table."""
    rows: list[list[str]] = []

    class Cells(HTMLParser):
        inside = False

        def handle_starttag(self, tag, attrs):
            self.inside = tag == "td"
            if tag == "tr":
                rows.append([])
            elif tag == "td":
                rows[-1].append("")

        def handle_endtag(self, tag):
            self.inside = False

        def handle_data(self, data):
            if self.inside:
                rows[-1][-1] += data

    Cells().feed(text[text.index("<table") :])
    return [row for row in rows if row]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", row=summary(processes=2), epochs=[epoch(1), epoch(2)])


def test_report_of_a_parallel_run_has_a_timeline_with_picture_and_shares(run):
    text = page(write_report(shared(run)))
    own = section(text, "timeline")
    assert own.count("<svg") == 1
    assert "2 processes, 1 thread each, cpu, on one host" in own
    assert "Steps 1 to 10" in own
    assert table(own) == [
        ["0", "1", "stage1.0", "40.0 %", "10.0 %", "0.0 %", "0.0 %", "10.0 %", "10.0 %"],
        ["2", "stage2.0", "40.0 %"],
        ["1", "3", "stage3.0", "40.0 %", "10.0 %", "10.0 %", "0.0 %", "0.0 %", "10.0 %"],
        ["4", "stage4.0", "40.0 %"],
    ]
    assert "2 processes" in section(text, "result")


def test_report_of_a_run_in_one_process_has_no_timeline(run):
    assert 'id="timeline"' not in page(write_report(run))


def test_timeline_loads_nothing_and_has_ids_of_its_own(run):
    text = page(write_report(shared(run)))
    assert "http" not in section(text, "timeline")
    ids = Ids(text).seen
    assert len(ids) == len(set(ids))


def test_replicas_are_counted_in_the_layout(run):
    assert "4 processes (2 replicas of 2), 1 thread each" in section(page(write_report(replicated(run))), "timeline")


def test_run_that_was_stopped_early_has_a_report_with_what_is_known(run):
    path = write_lines(run, 0, [header(0, [0], START)])
    path.write_text(path.read_text() + '{"event": "st')
    write_lines(run, 1, [header(1, [1], START)])
    text = page(write_report(run))
    assert "No step was recorded by every process yet" in section(text, "timeline")
    assert table(section(text, "timeline"))[0] == ["0", "1", "stage1.0", *["–"] * 6]
    assert "cut short" in section(text, "warnings")


def test_names_of_blocks_are_escaped(run):
    write_lines(run, 0, [{**header(0, [0], START), "names": ["<b>stem</b>"], "device": "<i>"}])
    text = page(write_report(run))
    assert "&lt;b&gt;stem&lt;/b&gt;" in section(text, "timeline")
    assert "<i>" not in text


def test_comparison_page_of_parallel_runs_is_written(tmp_path):
    row = summary(processes=2)
    shared(write_run(tmp_path / "block-local-seed0", row=row, epochs=[epoch(1)]))
    (tmp_path / "compare.json").write_text(json.dumps([row]))
    assert 'id="timeline"' not in page(write_comparison(tmp_path))
