"""What a run prints, in a terminal and elsewhere."""

import os
import re
import subprocess
import sys
import tempfile
import textwrap
from io import BytesIO, StringIO, TextIOWrapper

import forking
import pytest
from rich.console import Console

from blocklocal._common.errors import InputError
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


class Screen(StringIO):
    """A file that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Full(Screen):
    """A terminal, pipe or file that fails from the first line on."""

    def __init__(self, error: Exception):
        super().__init__()
        self.error, self.tried = error, 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise self.error


@pytest.fixture
def plain():
    return Console(file=StringIO(), force_terminal=False, width=40)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    return Console(file=Screen(), width=100, height=40)


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
        "epoch 1/8  loss 1.21 0.98  val % 40.1 52.3  1234 samples/s  left 0:49",
        "epoch 2/8  loss 1.21 0.98  val % 40.1 52.3  1234 samples/s  left 0:42",
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
    assert "1234 samples/s" in frame


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


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE", "CI"])
def test_variables_that_ask_for_colour_ask_for_no_live_table(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    pipe = Console(file=StringIO(), width=100)
    with Progress("digits", ["a", "b"], 2, 10, console=pipe) as progress:
        progress.epoch(record(1))
        progress.warn("careful")
    lines = re.sub(r"\x1b\[[0-9;]*m", "", written(pipe)).splitlines()
    assert [line.split()[0] for line in lines] == ["digits", "epoch", "warning:"]
    assert not re.search(r"\x1b\[[0-9;?]*[^0-9;?m]", written(pipe))  # colours, and no code that moves the cursor


@pytest.mark.parametrize(("name", "value"), [("TERM", "dumb"), ("COLUMNS", "19"), ("COLUMNS", "1")])
def test_a_terminal_that_no_table_can_be_drawn_in_gets_lines(monkeypatch, name, value):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv(name, value)
    narrow = Console(file=Screen())
    with Progress("digits", ["a", "b"], 2, 10, console=narrow) as progress:
        progress.epoch(record(1))
    assert "\x1b[?25l" not in written(narrow)
    assert "epoch 1/2" in written(narrow)


def test_a_width_of_zero_is_one_that_is_not_known(monkeypatch):
    monkeypatch.setenv("COLUMNS", "0")
    monkeypatch.setattr(sys, "stdout", StringIO())
    with Progress("digits", ["a", "b"], 2, 10) as progress:
        progress.epoch(record(1))
    assert "epoch 1/2" in sys.stdout.getvalue()


@pytest.mark.parametrize("columns", ["20", "garbage", "-1", "99999999999"])
def test_odd_widths_do_not_disturb_a_live_table(monkeypatch, columns):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", columns)
    screen = Console(file=Screen())
    with Progress("digits", ["stem", "head"], 2, 10, console=screen) as progress:
        progress.epoch(record(1))
    assert "\x1b[?25l" in written(screen)


FAILURES = [OSError(28, "No space left on device"), OSError(5, "Input/output error"), ValueError("closed file")]


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("error", FAILURES, ids=str)
def test_an_output_that_fails_silences_progress_and_nothing_else(monkeypatch, error, live):
    monkeypatch.setenv("TERM", "xterm")
    file = Full(error)
    with Progress("digits", ["a", "b"], 2, 10, console=Console(file=file, width=80), live=live) as progress:
        progress.epoch(record(1))
        tried = file.tried
        progress.step(11, [1.0, 2.0])
        progress.warn("careful")
        progress.note("saved")
        progress.epoch(record(2))
        assert file.tried == tried
    assert tried > 0


def test_standard_output_is_itself_again_after_a_live_table_that_failed(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    before = sys.stdout
    with Progress("digits", ["a"], 1, 1, console=Console(file=Full(FAILURES[0]), width=80)):
        pass
    assert sys.stdout is before


def test_a_pipe_that_is_closed_ends_no_program_that_shows_progress():
    program = """
        from blocklocal.training.progress import Progress
        with Progress("digits", ["a"], 99, 1) as progress:
            for epoch in range(1, 100):
                progress.epoch({"epoch": epoch})
        open("done", "w").close()
    """
    with tempfile.TemporaryDirectory() as folder:
        reading, writing = os.pipe()
        os.close(reading)
        run = [sys.executable, "-c", textwrap.dedent(program)]
        done = forking.run(run, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=folder, timeout=60)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, "")
        assert os.listdir(folder) == ["done"]


def test_an_encoding_that_lacks_a_character_gets_another_spelling():
    latin = TextIOWrapper(BytesIO(), encoding="latin-1")
    with Progress("a → b", ["a", "b"], 2, 10, console=Console(file=latin, width=80)) as progress:
        progress.epoch(record(1, loss=[None, 0.5]))
    latin.flush()
    title, line = latin.buffer.getvalue().decode("latin-1").splitlines()
    assert title == "a -> b"
    assert "loss - 0.50" in line


@pytest.mark.parametrize("live", [True, False])
def test_names_cannot_steer_the_terminal(monkeypatch, live):
    monkeypatch.setenv("TERM", "xterm")
    evil = "x\x1b]0;owned\x07\x1b[2J\x9b2J\u202e\udce9"
    screen = Console(file=Screen(), width=100)
    with Progress(evil, [evil, "b"], 2, 10, console=screen, live=live) as progress:
        progress.epoch(record(1))
        progress.warn(evil)
        progress.note(evil)
    for code in ("\x1b]0;", "\x07", "\x1b[2J", "\x9b", "\u202e", "\udce9"):
        assert code not in written(screen)
    assert r"\x1b]0;owned\x07" in written(screen)


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
