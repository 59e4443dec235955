"""What a run prints, in a terminal and elsewhere."""

import re
from io import StringIO

import pytest
from rich.console import Console

from blocklocal.errors import InputError
from blocklocal.training.progress import Progress


def record(epoch: int, **changes) -> dict:
    base = {
        "epoch": epoch,
        "step": epoch * 10,
        "images_per_second": 1234.4,
        "loss": [1.21, 0.98],
        "train_top1": [44.0, 55.0],
        "validation_top1": [40.1, 52.3],
        "message": [0.1234, None],
    }
    return {**base, **changes}


class Clock:
    """A clock that the test winds on."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def plain():
    return Console(file=StringIO(), force_terminal=False, width=40)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=StringIO(), force_terminal=True, width=100, height=40)


def written(console: Console) -> str:
    return console.file.getvalue()


def test_plain_output_is_one_line_per_epoch(plain):
    clock = Clock()
    with Progress("digits", ["a", "b"], 8, 10, console=plain, clock=clock) as progress:
        for epoch in (1, 2):
            for step in range(10):
                progress.step((epoch - 1) * 10 + step + 1, [2.0, 1.0])
            clock.now += 7.0
            progress.epoch(record(epoch))
    assert written(plain).splitlines() == [
        "digits",
        "epoch 1/8  loss 1.21 0.98  val % 40.1 52.3  1234 img/s  left 0:49",
        "epoch 2/8  loss 1.21 0.98  val % 40.1 52.3  1234 img/s  left 0:42",
    ]


def test_time_left_after_a_resume_counts_only_the_steps_done_since(plain):
    clock = Clock()
    with Progress("digits", ["a", "b"], 4, 10, start_step=20, console=plain, clock=clock) as progress:
        clock.now = 90.0
        progress.epoch(record(3))
    assert "left 1:30" in written(plain)


def test_unknown_values_are_left_out_of_the_line(plain):
    with Progress("digits", ["a", "b"], 2, 10, console=plain, clock=Clock()) as progress:
        progress.epoch(record(1, validation_top1=[None, None], images_per_second=None, loss=[None, 0.5]))
    line = written(plain).splitlines()[1]
    assert "val %" not in line
    assert "loss – 0.50" in line


def test_deep_networks_still_fit_a_line(plain):
    names = [str(k) for k in range(20)]
    with Progress("deep", names, 2, 10, console=plain, clock=Clock()) as progress:
        progress.epoch(record(1, loss=[float(k) for k in range(20)], validation_top1=[None] * 20))
    assert "loss 0.00 1.00 2.00 3.00 … 16.00 17.00 18.00 19.00" in written(plain)


def test_warnings_and_notes_are_lines_and_brackets_are_text(plain):
    with Progress("[bold]run", ["a"], 1, 1, console=plain) as progress:
        progress.warn("loss of [block 1] is not finite, after a long sentence that is wider than the console")
        progress.note("saved [here]")
    lines = written(plain).splitlines()
    assert lines[0] == "[bold]run"
    assert lines[1].startswith("warning: loss of [block 1] is not finite")
    assert lines[1].endswith("console")
    assert lines[2] == "saved [here]"


def last_frame(console: Console) -> str:
    return written(console)[written(console).rindex("epoch ") :]


def test_terminal_shows_one_row_per_block(terminal):
    names = ["stem", "[middle]", "head"]
    with Progress("digits", names, 2, 10, console=terminal) as progress:
        progress.epoch(record(1, **{k: [1.5, 2.5, 3.5] for k in ("loss", "train_top1", "validation_top1", "message")}))
        progress.warn("careful")
    frame = last_frame(terminal)
    for name, value in zip(names, ("1.500", "2.500", "3.500"), strict=True):
        rows = [line for line in frame.splitlines() if name in line]
        assert len(rows) == 1
        assert value in rows[0]
    assert "warning: careful" in written(terminal)
    # Sentence, bar, then the table on lines of its own: every row is as wide as the head.
    box = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).rstrip() for line in frame.splitlines()]
    assert box[2].startswith("┏")
    assert len({len(line) for line in box[2:9]}) == 1
    assert "step 10/20" in frame
    assert "1234 img/s" in frame


def test_terminal_shows_the_running_mean_of_the_epoch(terminal):
    clock = Clock()
    with Progress("digits", ["stem", "head"], 2, 10, console=terminal, clock=clock) as progress:
        progress.step(1, [1.0, 5.0])
        clock.now = 1.0
        progress.step(2, [2.0, 7.0])
        frame = last_frame(terminal)
        assert "1.500" in frame
        assert "6.000" in frame
        progress.epoch(record(1))
        progress.step(11, [9.0, 9.0])
    assert "9.000" in last_frame(terminal)


def test_steps_within_the_refresh_time_draw_nothing(terminal):
    with Progress("digits", ["stem"], 1, 1000, console=terminal, clock=Clock()) as progress:
        before = len(written(terminal))
        for step in range(100):
            progress.step(step + 1, [1.0])
        assert len(written(terminal)) == before


def test_cursor_comes_back_after_an_error(terminal):
    with pytest.raises(RuntimeError), Progress("digits", ["stem"], 1, 10, console=terminal):
        raise RuntimeError
    assert written(terminal).rindex("\x1b[?25h") > written(terminal).rindex("\x1b[?25l")


def test_live_can_be_refused_in_a_terminal(terminal):
    with Progress("digits", ["a", "b"], 2, 10, console=terminal, live=False) as progress:
        progress.epoch(record(1))
    assert "epoch 1/2" in written(terminal)
    assert "validation %" not in written(terminal)


def test_silent_progress_prints_nothing(capsys):
    with Progress.silent() as progress:
        progress.step(1, [1.0])
        progress.epoch(record(1))
        progress.warn("x")
        progress.note("y")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("names", "epochs", "steps"), [([], 1, 1), (["a"], 0, 1), (["a"], 1, 0)])
def test_counts_below_one_are_refused(names, epochs, steps):
    with pytest.raises(InputError):
        Progress("digits", names, epochs, steps)
