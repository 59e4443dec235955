"""Finds the command, runs it, and turns errors a user can act on into one message without a traceback.

Nothing heavy is imported here: a command's module is imported when the command is run.
"""

import logging
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module

from blocklocal import __version__
from blocklocal._common.errors import InputError, Interrupted, file_trouble, number_trouble, unknown
from blocklocal._common.extras import check_extras
from blocklocal._common.screen import Screen, printable, screens


@dataclass(frozen=True)
class Command:
    """A command of the program.

    Attributes:
        place: `module:function` below `blocklocal.cli`.
        printed: what it makes is what it prints, not files.
    """

    place: str
    summary: str
    printed: bool = False

    def run(self, arguments: list[str]) -> None:
        module, _, function = self.place.partition(":")
        getattr(import_module(f"blocklocal.cli.{module}"), function)(arguments)


COMMANDS: dict[str, Command] = {
    "train": Command("train:train", "Train one network block by block and write a run folder with a report."),
    "plan": Command(
        "plan:plan",
        "What a run with one block at a time in memory would need, beside other ways to train.",
        printed=True,
    ),
    "compare": Command(
        "commands:compare", "Train the same settings under several rules and seeds; one table, one report."
    ),
    "evaluate": Command("evaluate:evaluate", "Measure every block of a trained run on a split.", printed=True),
    "calibrate": Command(
        "calibrate:calibrate", "Fit confidences, and early exits or intervals, on the validation part of a run."
    ),
    "predict": Command(
        "commands:predict",
        "Class and confidence for image files: of the output, of each block and of the ensemble.",
        printed=True,
    ),
    "generate": Command("generate:generate", "Text from a run that was trained on a text.", printed=True),
    "export": Command("export:export", "Write the trained model of a run as a folder for others, with a model card."),
    "report": Command("commands:report", "Write report.html again, for runs or comparisons."),
    "recipes": Command(
        "commands:recipes", "List the named recipes, or print one as JSON (blocklocal recipes NAME).", printed=True
    ),
    "reproduce": Command(
        "reproduce:reproduce", "Re-make table1, figure2 or figure3 of the paper, or measure accuracy beside backprop's."
    ),
    "diagnose": Command("diagnose:diagnose", "What holds a run back, block by block, and what to try."),
    "trace": Command("trace:trace", "Write the timeline of a run, for a trace viewer."),
    "simulate": Command(
        "simulate:simulate",
        "Compare pipeline schedules and block-local learning on 2 to 1,024 devices, by event simulation.",
        printed=True,
    ),
    "completion": Command(
        "completion:completion", "Print a script with which bash or zsh completes commands and flags.", printed=True
    ),
}


def usage() -> str:
    lines = [
        f"blocklocal {__version__}: train networks as blocks that learn by themselves.",
        "",
        "usage: blocklocal COMMAND …",
        "",
    ]
    lines += [f"  {name:12} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "blocklocal COMMAND --help lists every setting of a command."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit status (0 done, 1 failed, 2 bad input, 130 stopped by the user).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    with screens() as (out, _), _warnings():
        status = _run(given)
        out.flush()
        return _check_printed(status, given, out)


class _Lines(logging.Handler):
    """What the library warns of, as lines on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(record.getMessage(), 0, kind=f"{record.levelname.lower()}: ")


@contextmanager
def _warnings() -> Generator[None]:
    logger, lines = logging.getLogger("blocklocal"), _Lines(logging.WARNING)
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


def _run(given: list[str]) -> int:
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if given[0] in ("-V", "--version"):
        print(f"blocklocal {__version__}")
        return 0
    try:
        if given[0] not in COMMANDS:
            raise unknown("command", given[0], COMMANDS)
        check_extras("cli")
        COMMANDS[given[0]].run(given[1:])
    except SystemExit as leave:  # tyro has printed help (0), or what was wrong with a flag (2)
        return leave.code if isinstance(leave.code, int) else 1
    except InputError as error:
        return _say(str(error), 2)
    except Interrupted as stop:
        return _say(str(stop), 130, kind="")
    except KeyboardInterrupt:
        return _say("stopped.", 130, kind="")
    except OSError as error:
        return _say(file_trouble(error), 1)
    except (MemoryError, RuntimeError, OverflowError) as error:
        text = number_trouble(error)
        if text is None:
            raise
        return _say(text, 1)
    return 0


def _check_printed(status: int, given: list[str], out: Screen) -> int:
    """Say that output was lost on a full disk; where it was all that was asked for, the command has failed."""
    if out.lost is None:
        return status
    command = COMMANDS.get(given[0]) if given else None
    _say(f"what was printed is not complete: {out.lost.strerror}.", 0, kind="warning: ")
    return status or (1 if command is None or command.printed else 0)


def _say(text: str, status: int, kind: str = "error: ") -> int:
    print(f"{kind}{printable(text)}", file=sys.stderr)
    return status
