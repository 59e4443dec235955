"""Finds the command, runs it, and turns errors a user can act on into one message without a traceback."""

import sys
from collections.abc import Callable, Sequence

from blocklocal import __version__
from blocklocal.cli import commands
from blocklocal.cli.diagnose import diagnose
from blocklocal.cli.reproduce import reproduce
from blocklocal.cli.simulate import simulate
from blocklocal.cli.trace import trace
from blocklocal.errors import InputError, file_trouble, unknown
from blocklocal.training.run import Interrupted

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": commands.train,
    "compare": commands.compare,
    "evaluate": commands.evaluate,
    "predict": commands.predict,
    "report": commands.report,
    "recipes": commands.recipes,
    "reproduce": reproduce,
    "diagnose": diagnose,
    "trace": trace,
    "simulate": simulate,
}


def usage() -> str:
    lines = [
        f"blocklocal {__version__}: train networks as blocks that learn by themselves.",
        "",
        "usage: blocklocal COMMAND …",
        "",
    ]
    lines += [f"  {name:10} {(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join([*lines, "", "blocklocal COMMAND --help lists every setting of a command."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (0 done, 1 failed, 2 bad input, 130 stopped by the user)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if given[0] in ("-V", "--version"):
        print(f"blocklocal {__version__}")
        return 0
    try:
        if given[0] not in COMMANDS:
            raise unknown("command", given[0], COMMANDS)
        COMMANDS[given[0]](given[1:])
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
    return 0


def _say(text: str, status: int, kind: str = "error: ") -> int:
    print(f"{kind}{text}", file=sys.stderr)
    return status
