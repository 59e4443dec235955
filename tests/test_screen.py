"""What is written on standard output and error. Oracle: the bytes that arrive, and the exit status."""

import logging
import os
import re
import subprocess
import sys
from io import BytesIO, StringIO, TextIOWrapper, UnsupportedOperation
from pathlib import Path

import forking
import pytest
from run_helpers import TINY, cli, flags, summary

from blocklocal._common.screen import COLOURS, ESCAPING, Screen, allowing, printable
from blocklocal.cli.main import COMMANDS, Command

EVIL = "x\x1b]0;owned\x07\x1b[2J\r\x9b2J\u202e\udce9"
SPELT = r"x\x1b]0;owned\x07\x1b[2J\x0d\x9b2J\u202e\xe9"


def blocklocal(*arguments: object, python: str = "", **options) -> subprocess.CompletedProcess:
    """The command in a process of its own, as it is installed: the working folder is not on sys.path."""
    program = f"import sys; sys.path = [p for p in sys.path if p not in ('', '.')]; {python}"
    program += "\nfrom blocklocal.cli import main; sys.exit(main())"
    given = [argument if isinstance(argument, bytes) else str(argument) for argument in arguments]
    if python == LOADED:
        return subprocess.run([sys.executable, "-c", program, *given], timeout=100, **options)
    return forking.run([sys.executable, "-c", program, *map(os.fsdecode, given)], **options)


def without(*names: str, **more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in names} | more


# --- what is imported

LOADED = (
    "import atexit; atexit.register(lambda: print([m for m in ('torch', 'tyro', 'numpy', 'rich') if m in sys.modules]))"
)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",), ("--version",), ("-V",), ("trian",)])
def test_help_loads_nothing_heavy(arguments):
    done = blocklocal(*arguments, python=LOADED, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_line_of_a_command_is_its_own_first_sentence():
    from importlib import import_module

    for command in COMMANDS.values():
        module, _, name = command.place.partition(":")
        function = getattr(import_module(f"blocklocal.cli.{module}"), name)
        assert function.__doc__.splitlines()[0] == command.summary


EVERY_NAME = """
import pickle, sys, blocklocal
assert "torch" not in sys.modules
{first}
import blocklocal as bl
from blocklocal import BlockLocal
assert set(bl.__all__) <= set(dir(bl))
for name in bl.__all__:
    assert getattr(bl, name) is vars(bl)[name], name
assert bl.family.__name__ == "family" and bl.split.__name__ == "split" and bl.evaluate.__name__ == "evaluate"
assert bl.training.Trainer is bl.Trainer and bl.simulate.simulate
assert pickle.loads(pickle.dumps(bl.sgd())) == bl.sgd() and pickle.loads(pickle.dumps(bl.split)) is bl.split
for name in ("nothing", "__nothing__", "a.b", "training.run"):
    assert not hasattr(bl, name), name
names = {{}}
exec("from blocklocal import *", names)
assert set(bl.__all__) <= set(names)
"""


@pytest.mark.parametrize(
    "first", ["", "import blocklocal.splitting.split, blocklocal.families.base, blocklocal.training.evaluation"]
)
def test_the_package_offers_every_name_whatever_was_imported_first(first):
    subprocess.run([sys.executable, "-c", EVERY_NAME.format(first=first)], check=True, timeout=100)


# --- encodings


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_can_say_everything(encoding):
    file = TextIOWrapper(BytesIO(), encoding=encoding, errors=ESCAPING)
    Screen(file).write("a → b – ± × … ┃ ė \udce9\n")
    file.flush()
    said = file.buffer.getvalue().decode(encoding)
    assert said.endswith("\\xe9\n")
    if encoding == "ascii":
        assert said == "a -> b - +- x ... | \\u0117 \\xe9\n"
    if encoding == "utf-8":
        assert said.startswith("a → b – ± × … ┃ ė ")


def test_a_stream_that_cannot_be_told_how_to_spell_gets_ascii():
    file = TextIOWrapper(BytesIO(), encoding="latin-1")
    Screen(file).write("a → é\n")
    file.flush()
    assert file.buffer.getvalue() == rb"a -> \xe9" + b"\n"


ENCODINGS = [
    {"PYTHONIOENCODING": "ascii"},
    pytest.param({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, marks=pytest.mark.slow),
    pytest.param({"PYTHONIOENCODING": "cp1252:strict"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize("surroundings", ENCODINGS, ids=str)
def test_a_run_may_have_a_name_that_is_not_utf_8_and_words_that_cannot_be_encoded(surroundings, tmp_path):
    environment = without("PYTHONIOENCODING", "LC_ALL", **surroundings)
    train = ("train", *flags(epochs=1), "--output", b"caf\xe9")
    done = blocklocal(*train, capture_output=True, cwd=tmp_path, env=environment, reports=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert rb"seed 0 -> caf\xe9" in done.stdout
    assert rb"report: caf\xe9/report.html" in done.stdout
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"]


def test_what_stands_for_a_closed_stream_takes_all_and_opens_no_file():
    screen = allowing(None, COLOURS)
    print("nobody reads this", file=screen, flush=True)
    assert not screen.troubles
    with pytest.raises(UnsupportedOperation):
        screen.fileno()


# --- names


def test_no_control_code_of_a_name_is_printed(capsysbinary):
    assert printable(EVIL) == SPELT
    file = StringIO()
    Screen(file).write(f"{EVIL}\n\t\x1b[1mbold\x1b[0m")
    assert file.getvalue() == SPELT + "\n\t" + r"\x1b[1mbold\x1b[0m"


def test_the_cursor_can_be_shown_again():
    file = StringIO()
    Screen(file).write("\x1b[?25h")
    assert file.getvalue() == "\x1b[?25h"


def test_a_writer_of_colours_gets_colours_and_no_more():
    file = StringIO()
    Screen(file).allowing(COLOURS).write("\x1b[1;31mred\x1b[0m\x1b[2J\x1b[?25l")
    assert file.getvalue() == "\x1b[1;31mred\x1b[0m" + r"\x1b[2J\x1b[?25l"


@pytest.mark.parametrize(
    "arguments",
    [(EVIL,), ("train", "--epochs", EVIL), ("train", f"--{EVIL}"), ("train", "--data", EVIL), ("evaluate", EVIL)],
    ids=["command", "value", "flag", "data", "folder"],
)
def test_an_argument_that_is_printed_again_cannot_steer_the_terminal(arguments, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    said = cli(*arguments)
    assert said.status == 2
    assert r"\x1b]0;owned" in said.out + said.err
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", said.out + said.err)


def test_a_warning_of_the_library_is_a_line(monkeypatch):
    def warn(arguments: list[str]) -> None:
        logging.getLogger("blocklocal").warning("left out: %s", "\x1b]0;owned\x07")

    monkeypatch.setattr(Command, "run", lambda self, arguments: warn(arguments))
    for _ in range(2):  # once each time: what one call puts up it takes down again
        assert cli("recipes").err == "warning: left out: \\x1b]0;owned\\x07\n"


# --- pipes and files that fail


@pytest.fixture
def broken_pipe():
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("arguments", [("--help",), ("--version",), ("recipes",), ("train", "--help")], ids=" ".join)
def test_a_reader_that_has_left_is_no_error(arguments, broken_pipe):
    done = blocklocal(*arguments, stdout=broken_pipe, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_closed_pipe_costs_neither_the_run_nor_its_checkpoint(broken_pipe, tmp_path):
    train = ("train", *flags(), "--output", "run")
    done = blocklocal(*train, stdout=broken_pipe, stderr=broken_pipe, cwd=tmp_path)
    assert done.returncode == 0
    assert summary(tmp_path / "run")["epochs"] == TINY["epochs"]
    assert (tmp_path / "run" / "report.html").exists()


def close(*numbers: int) -> str:
    return f"import os; [os.close(n) for n in {numbers}]; sys.stdout, sys.stderr = " + ", ".join(
        f"None if {n} in {numbers} else sys.{name}" for n, name in ((1, "stdout"), (2, "stderr"))
    )


SOME = [pytest.param(numbers, marks=pytest.mark.slow) for numbers in ((1,), (2,), (1, 2))]


@pytest.mark.parametrize("numbers", [*SOME, (0, 1, 2)], ids=str)
def test_closed_standard_streams_are_no_error_and_no_file_takes_their_place(numbers, tmp_path):
    code = close(*numbers)
    train = ("train", *flags(epochs=1), "--output", "run")
    done = blocklocal(*train, python=code, cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json_files_are_whole(tmp_path / "run")


def json_files_are_whole(folder: Path) -> bool:
    import json

    return all(isinstance(json.loads(path.read_text()), dict | list) for path in folder.glob("*.json"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is always full")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--help",), 1),
        (("recipes", "quickstart"), 1),
        pytest.param(("train",), 0, marks=pytest.mark.slow),
    ],
)
def test_lost_output_is_said_and_fails_a_command_that_only_prints(arguments, status, tmp_path):
    more = (*flags(epochs=1), "--output", "run") if arguments == ("train",) else ()
    with open("/dev/full", "w") as full:
        done = blocklocal(*arguments, *more, stdout=full, stderr=subprocess.PIPE, cwd=tmp_path)
    assert done.returncode == status
    assert done.stderr == b"warning: what was printed is not complete: No space left on device.\n"
    if more:
        assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.parametrize("name", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_colours_in_a_file_are_no_live_table(tmp_path, monkeypatch, name, no_reports):
    monkeypatch.setenv(name, "1")
    said = cli("train", *flags(), "--output", tmp_path / "run")
    assert said.status == 0
    assert not re.search(r"\x1b\[[0-9;?]*[^0-9;?m]", said.out + said.err)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", said.out).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("block-local", "train:", "validation:", "test:", "epoch", "epoch", "test", "report:"),
    ]


# --- numbers that no check has foreseen


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "there is not enough memory for this."),
        (MemoryError("Unable to allocate 9. TiB for an array"), "(Unable to allocate 9. TiB for an array)"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "to allocate 9 bytes",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB."), "Tried to allocate 20.00 GiB"),
        (OverflowError("int too large to convert to float"), "a number is too large to work with"),
        (RuntimeError("Storage size calculation overflowed with sizes=[9, 9]"), "a number is too large to work with"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_too_little_memory_and_too_large_numbers_are_one_line(monkeypatch, error, words):
    def fail(self: Command, arguments: list[str]) -> None:
        raise error

    monkeypatch.setattr(Command, "run", fail)
    for command in COMMANDS:
        said = cli(command)
        assert said.status == 1
        assert said.err.count("\n") == 1
        assert words in said.err


def test_an_error_of_ours_keeps_its_traceback(monkeypatch):
    def fail(self: Command, arguments: list[str]) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(Command, "run", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        cli("train")
