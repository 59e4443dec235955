"""What the program writes on standard output and standard error, whatever they are: a terminal, a pipe, a file, closed.

Three things are made impossible in one place. A character that the stream cannot show is written another way (`→` as
`->`) instead of raising. A stream that is gone or full falls silent instead of stopping what is under way. And
standard output lets no control character through, but for what draws colours or a live table and asks for it
(`Screen.allowing`). Standard error lets all through, for the programs of others that write there: our own messages to
it go through `printable` or `one_line`.
"""

import codecs
import errno
import os
import re
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from io import TextIOBase
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

ESCAPING = "blocklocal"  # the name of our way to write what an encoding lacks
PAIRS = '→ -> ← <- – - — - − - ± +- × x · - • * … ... ² 2 ┃ | │ | ━ - ─ - τ tau ’ \' “ " ” "'
SUBSTITUTES: dict[str, str] = dict(zip(PAIRS.split()[::2], PAIRS.split()[1::2], strict=True))
# C0 but tab and line feed, DEL, C1, what turns the direction of writing, and halves of surrogate pairs.
UNSAFE = "[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
NO_CODES = r"\x1b\[\?25h"  # but the one that shows the cursor again, where a live table was cut off
COLOURS = r"\x1b\[[0-9;]*m"
GONE = (errno.EPIPE, errno.EIO, errno.ESHUTDOWN, errno.ECONNRESET)  # the reader has left: that is no fault


def printable(text: object, *, lines: bool = True) -> str:
    r"""Text in which control characters and bytes that are no text are written out, such as \x1b.

    Args:
        lines: tabs and line ends stay as they are. False, for a name, writes them out as well.
    """
    return re.sub(UNSAFE if lines else f"{UNSAFE}|[\t\n]", lambda found: _escaped(found[0]), str(text))


def one_line(text: str, most: int = 2000) -> str:
    """A text of foreign origin: printable, on one line, and not longer than `most` characters."""
    line = printable(" ".join(text.splitlines()))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def encodable(text: str, encoding: str) -> str:
    """`text` as it can be written in `encoding`."""
    return text.encode(encoding, ESCAPING).decode(encoding)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte of a file name that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x80 else chr(code).encode("ascii", "backslashreplace").decode()


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """For `codecs`: ASCII in the place of what an encoding cannot write."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(SUBSTITUTES.get(c) or _escaped(c) for c in lacking), error.end


codecs.register_error(ESCAPING, _substitute)


class Nowhere(TextIOBase):
    """What stands for a closed stream: it takes all, keeps nothing, and has no file to be closed."""

    encoding = "utf-8"  # type: ignore[assignment]

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


class Screen:
    """A text stream that never raises, and lets through some control codes alone.

    A stream that fails is led to nowhere from then on.

    Args:
        allowed: a pattern of the control codes that come through; None for all.

    Attributes:
        troubles: the errors that the stream failed with.
    """

    def __init__(self, stream: TextIO, allowed: str | None = NO_CODES):
        self.stream, self.allowed = stream, allowed
        self.troubles: list[OSError] = []

    def allowing(self, allowed: str | None) -> "Screen":
        """The same stream for a writer that needs control codes."""
        other = Screen(self.stream, allowed)
        other.troubles = self.troubles
        return other

    def write(self, text: str) -> int:
        if self.allowed is not None:
            text = re.sub(f"({self.allowed})|{UNSAFE}", lambda found: found[1] or _escaped(found[0]), text)
        self._try(lambda: self._write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:  # a stream that could not be told to use our substitutes
            self.stream.write(text.encode("ascii", ESCAPING).decode())

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.troubles.append(error)
            self._silence()
        except ValueError:  # the stream is closed
            self.troubles.append(BrokenPipeError(errno.EPIPE, "the stream is closed"))

    def _silence(self) -> None:
        """Lead the stream to nowhere: what is left in its buffer would fail again when Python ends."""
        with suppress(OSError, ValueError):  # where no file is behind it
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)

    @property
    def lost(self) -> OSError | None:
        """Why output that is still wanted was not written: a full disk, for example, but not a reader that has left."""
        return next((error for error in self.troubles if error.errno not in GONE), None)


@contextmanager
def screens() -> Generator[tuple[Screen, Screen]]:
    """Standard output and standard error as screens, for the time of the body."""
    _fill_closed()
    before = sys.stdout, sys.stderr
    out, err = Screen(_opened(sys.stdout)), Screen(_opened(sys.stderr), None)
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        yield out, err
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def _fill_closed() -> None:
    """Put nowhere in the place of closed standard streams: the next file to be opened would get their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _opened(stream: TextIO | None) -> TextIO:
    if stream is None:  # it was closed when Python started
        return Nowhere()  # type: ignore[return-value]
    with suppress(AttributeError, OSError, ValueError):  # no stream of Python's own, or in use already: see `_write`
        stream.reconfigure(errors=ESCAPING)  # type: ignore[union-attr]
    return stream


def allowing(stream: TextIO | None, allowed: str | None) -> Screen:
    """`stream` as a screen for a writer that needs control codes: COLOURS, or None for all."""
    if isinstance(stream, Screen):
        return stream.allowing(allowed)
    return Screen(_opened(stream) if stream is None else stream, allowed)


def console(stream: TextIO | None, allowed: str | None = COLOURS) -> "Console":
    """A rich console on `stream`, as a screen: rich itself ends the program where a pipe is closed.

    COLUMNS=0 stands for a width that is not known; rich would print nothing.
    """
    from rich.console import Console

    known = {name: value for name, value in os.environ.items() if name != "COLUMNS" or value.strip("0")}
    return Console(file=allowing(stream, allowed), _environ=known)  # type: ignore[arg-type]


def is_terminal(stream: Any) -> bool:
    """Whether a person sees the output as it is written. FORCE_COLOR and its like do not decide this."""
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False
