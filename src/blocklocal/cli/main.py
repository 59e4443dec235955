"""Finds the command, runs it, and turns errors a user can act on into one message without a traceback."""

import errno
import sys
from collections.abc import Callable, Sequence

from blocklocal import __version__
from blocklocal.cli import commands
from blocklocal.cli.reproduce import reproduce
from blocklocal.errors import InputError, unknown
from blocklocal.training.run import Interrupted

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": commands.train,
    "compare": commands.compare,
    "evaluate": commands.evaluate,
    "predict": commands.predict,
    "report": commands.report,
    "recipes": commands.recipes,
    "reproduce": reproduce,
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
        return _say(_file_trouble(error), 1)
    return 0


def _say(text: str, status: int, kind: str = "error: ") -> int:
    print(f"{kind}{text}", file=sys.stderr)
    return status


def _file_trouble(error: OSError) -> str:
    """A file that cannot be written (a full disk), or read: what it was, and what to do."""
    where = f" ({error.filename})" if error.filename else ""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{error.strerror or error}{where}."
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free some space (or choose another --output)" if full else "Choose another --output"
    return (
        f"cannot write: {error.strerror}{where}. {remedy}; a run goes on from its last checkpoint with --resume, and "
        "`reproduce` with the same command."
    )
