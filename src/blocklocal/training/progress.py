"""What a training run shows on the console: a live table in a terminal, one plain line per epoch elsewhere.

Of several processes only the last one shows it; a program that wants no output takes `Progress.silent()`.
"""

import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from blocklocal._common.errors import InputError
from blocklocal._common.measures import main_of
from blocklocal._common.ranges import FROM_ONE, check_range
from blocklocal._common.screen import console as screen
from blocklocal._common.screen import encodable, is_terminal, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

REFRESH_SECONDS = 0.25  # a faster table costs time and nobody can read it
NOTHING = "–"
NARROWEST = 20  # columns of a terminal for a table; below, lines


class NullProgress:
    """The same methods as `Progress`, and no output."""

    def __enter__(self) -> "NullProgress":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step(self, step: int, losses: Sequence[float]) -> None:
        """Nothing."""

    def work(self, text: str, ahead: float) -> None:
        """Nothing."""

    def epoch(self, record: dict[str, Any]) -> None:
        """Nothing."""

    def warn(self, text: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


class Progress:
    """Progress of one training run, as a context manager around the loop.

    An output that fails (a closed pipe, a full disk) ends what is shown and nothing else.

    Args:
        steps_per_epoch: optimiser steps.
        start_step: optimiser steps that were done before (a resumed run).
        console: a rich console (default: standard output).
        live: whether there is a live table; None for one where the output is a terminal, which FORCE_COLOR does not
            decide.
        clock: returns seconds.

    Raises:
        InputError: a count is below one, or there is no block.
    """

    def __init__(
        self,
        title: str,
        block_names: Sequence[str],
        epochs: int,
        steps_per_epoch: int,
        *,
        start_step: int = 0,
        console: "Console | None" = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        check_range("epochs", epochs, FROM_ONE)
        check_range("steps_per_epoch", steps_per_epoch, FROM_ONE)
        if not block_names:
            raise InputError("block_names is empty. Expected one name per block.")
        self.title, self.block_names = printable(title), [printable(name) for name in block_names]
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.console = screen(sys.stdout, None) if console is None else console
        self.live = _can_be_live(self.console) if live is None else live
        self._lost = False  # the output has failed: nothing is shown any more
        self._clock = clock
        self._start_step, self._done = start_step, start_step
        self._start_time = self._shown = clock()
        self._sums, self._count = [0.0] * len(self.block_names), 0
        self._record: dict[str, Any] = {}
        self._work, self._ahead = "", 0.0
        self._display: Live | None = None

    @staticmethod
    def silent() -> NullProgress:
        """A progress that prints nothing."""
        return NullProgress()

    def __enter__(self) -> "Progress":
        self._start_time = self._shown = self._clock()
        if self.live:
            from rich.live import Live

            # No refresh thread: the table is drawn from the training loop, so it can neither race nor outlive it.
            self._display = display = Live(self._render(), console=self.console, auto_refresh=False)
            self._show(lambda: display.start(refresh=True))
        else:
            self._line(self.title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._refresh()
            self._show(self._display.stop, always=True)  # it also gives back what it has put in the place of stdout
            self._display = None

    def step(self, step: int, losses: Sequence[float]) -> None:
        """After a training step: the number of steps done in all, and the loss of every block."""
        self._done, self._work, self._ahead = step, "", 0.0
        self._sums = [total + loss for total, loss in zip(self._sums, losses, strict=True)]
        self._count += 1
        if self._display is not None and self._clock() - self._shown >= REFRESH_SECONDS:
            self._refresh()

    def work(self, text: str, ahead: float) -> None:
        """Between two steps that all blocks have taken: what is done now.

        Args:
            text: shown in the live table.
            ahead: steps' worth of work that is done beyond the last of those steps.
        """
        self._work, self._ahead = printable(text), ahead
        if self._display is not None and self._clock() - self._shown >= REFRESH_SECONDS:
            self._refresh()

    def epoch(self, record: dict[str, Any]) -> None:
        """After an epoch: its record, as written to metrics.jsonl (accuracies in percent)."""
        self._record = record
        self._done = record.get("step", record["epoch"] * self.steps_per_epoch)
        self._sums, self._count = [0.0] * len(self.block_names), 0
        if self._display is not None:
            self._refresh()
        else:
            self._line(self._epoch_line(record))

    def warn(self, text: str) -> None:
        """A line that stays on the screen, marked as a warning."""
        self._line(f"warning: {printable(text)}", style="yellow")

    def note(self, text: str) -> None:
        """A line that stays on the screen."""
        self._line(printable(text))

    def _line(self, text: str, style: str = "") -> None:
        # Square brackets in a name are text here, not markup; a log line is never broken in two.
        plain = {"markup": False, "highlight": False, "emoji": False, "soft_wrap": True}
        self._show(lambda: self.console.print(encodable(text, self.console.encoding), style=style, **plain))

    def _show(self, action: Callable[[], object], *, always: bool = False) -> None:
        """What only shows must not end a training: the first output that fails is the last one that is tried."""
        if self._lost and not always:
            return
        try:
            action()
        except (OSError, ValueError):  # ValueError: the stream is closed, or cannot say a character
            self._lost = True

    def _refresh(self) -> None:
        assert self._display is not None
        display, self._shown = self._display, self._clock()
        self._show(lambda: display.update(self._render(), refresh=True))

    def _losses(self) -> Sequence[float | None]:
        """The running mean in an epoch, the recorded mean right after it."""
        if self._count:
            return [total / self._count for total in self._sums]
        return self._record.get("loss") or [None] * len(self.block_names)

    def _left(self) -> str:
        """Time left at the mean pace of this process so far (steps done before a resume do not count)."""
        steps = self._done + self._ahead - self._start_step
        if steps <= 0:
            return NOTHING
        remaining = max(self.epochs * self.steps_per_epoch - self._done - self._ahead, 0)
        return _clock_text((self._clock() - self._start_time) / steps * remaining)

    def _rate(self) -> str:
        rate = self._record.get("images_per_second")
        if rate is not None:
            return f"{rate:.0f} samples/s"
        seconds = self._clock() - self._start_time
        steps = self._done - self._start_step
        return f"{steps / seconds:.1f} steps/s" if steps > 0 and seconds > 0 else NOTHING

    def _epoch_line(self, record: dict[str, Any]) -> str:
        parts = [f"epoch {record['epoch']}/{self.epochs}"]
        main = main_of([record])
        measured = "val %" if main.percent else f"val {main.title}"
        for name, key, digits in (("loss", "loss", 2), (measured, f"validation_{main.name}", main.digits)):
            values = record.get(key) or []
            if any(value is not None for value in values):
                parts.append(f"{name} {_list(values, digits)}")
        return "  ".join([*parts, self._rate(), f"left {self._left()}"])

    def _render(self) -> "RenderableType":
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        total = self.epochs * self.steps_per_epoch
        epoch = min(self._done // self.steps_per_epoch + 1, self.epochs)
        text = f"epoch {epoch}/{self.epochs}  step {self._done}/{total}  {self._rate()}  left {self._left()}"
        if self._work:
            text += f"  {self._work}"
        bar = Table.grid()  # a bare progress bar ends without a line break
        bar.add_row(ProgressBar(total=total, completed=self._done, width=min(60, self.console.width)))
        # The table comes last: where a deep network has more rows than the screen, rows are cut and not the time left.
        return Group(Text(self.title, style="bold"), Text(text), bar, self._table())

    def _table(self) -> "RenderableType":
        from rich.table import Table
        from rich.text import Text

        table = Table()
        table.add_column("block", overflow="ellipsis", no_wrap=True)
        main = main_of([self._record])
        word = "%" if main.percent else main.title
        for heading in ("loss", f"train {word}", f"validation {word}", "|b|"):
            table.add_column(heading, justify="right", no_wrap=True)
        series = [
            self._losses(),
            *(self._record.get(key) or [] for key in (f"train_{main.name}", f"validation_{main.name}", "message")),
        ]
        for k, name in enumerate(self.block_names):
            values = [column[k] if k < len(column) else None for column in series]
            table.add_row(
                Text(name),
                *(_number(v, digits) for v, digits in zip(values, (3, main.digits, main.digits, 4), strict=True)),
            )
        return table


def _can_be_live(console: "Console") -> bool:
    wide = console.width >= NARROWEST
    return is_terminal(console.file) and console.is_terminal and not console.is_dumb_terminal and wide


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"


def _list(values: Sequence[float | None], digits: int) -> str:
    """The values of all blocks; of a deep network the first four and the last four."""
    texts = [_number(value, digits) for value in values]
    return " ".join(texts if len(texts) <= 8 else [*texts[:4], "…", *texts[-4:]])


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
