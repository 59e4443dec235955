"""Read a run folder back: every figure of a report comes from these files and from nowhere else.

A run folder holds `config.json`, `metrics.jsonl` and, once the run is over, `summary.json`, `examples.json` and
`confusion.json`, which runs of older versions do not have.
Files are checked here, once, by their schemas (`blocklocal.schemas.run`); what comes out is trusted by the tables and
plots.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from blocklocal._common.errors import InputError
from blocklocal._common.files import MIB, is_there, read_bytes
from blocklocal.schemas import NotJson, Setting, check, parse, read_json, read_rows
from blocklocal.schemas.run import (
    SUMMARISED,
    Confusion,
    Epoch,
    Examples,
    Known,
    Summary,
    Warned,
    check_settings_there,
    summarised,
)

SERIES = ("train_top1", "validation_top1", "message")
MOST_METRICS, MOST_EXAMPLES = 256 * MIB, 1024 * MIB
SUMMARY = "an object with rule, seed, test_top1, …, as a run writes it"


@dataclass(frozen=True)
class Run:
    """One run folder in memory. `epochs` holds one record per epoch, in order; accuracies are in percent."""

    path: Path
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    warnings: list[str]
    summary: dict[str, Any] | None = None
    examples: Examples = field(default_factory=lambda: Examples([], []))
    confusion: Confusion | None = None

    @property
    def row(self) -> dict[str, Any]:
        """What is known of the run, in the form of a summary; `finished` is false where there is no summary yet."""
        return {**self.config, **({"finished": False} if self.summary is None else self.summary)}

    @property
    def blocks(self) -> int:
        """Number of blocks K, from the records, which are there before the summary is."""
        if self.epochs:
            return len(self.epochs[-1]["loss"])
        return len((self.summary or {}).get("block_test_top1") or [])

    @property
    def block_names(self) -> list[str]:
        """One name per block; the number alone where the run does not have the names."""
        names = self.row.get("block_names") or []
        return [str(names[k]) if k < len(names) else f"block {k + 1}" for k in range(self.blocks)]


def read_run(path: Path) -> Run:
    """Read a run folder, finished or not.

    Raises:
        InputError: a file is missing or damaged; the message names it.
    """
    path = Path(path)
    check_settings_there(path)
    epochs, warnings = _read_metrics(path / "metrics.jsonl")
    summary = read_summary(path / "summary.json") if is_there(path / "summary.json") else None
    examples = _read_examples(path / "examples.json") if is_there(path / "examples.json") else Examples([], [])
    confusion = _read_confusion(path / "confusion.json") if summary and is_there(path / "confusion.json") else None
    config = read_rows(path / "config.json", dict[str, Setting], what="an object of settings")
    check(config, Known, where=path / "config.json", what="an object of settings")
    return Run(path, config, epochs, warnings, summary, examples, confusion)


def read_comparison(folder: Path) -> list[dict[str, Any]]:
    """The summaries of a compare folder, one per rule and seed.

    Raises:
        InputError: a file is damaged; the message names it.
    """
    kind = Annotated[list[Summary], Meta(min_length=1, max_length=100_000)]
    what = "a list of run summaries, one per rule and seed: let the comparison finish one"
    return [_with_settings(folder, row) for row in read_rows(Path(folder) / "compare.json", kind, what=what)]


def _with_settings(folder: Path, row: dict[str, Any]) -> dict[str, Any]:
    """The summary with the settings that it should carry; an older one does not, and its run's configuration does."""
    config = run_folder(folder, row) / "config.json"
    if all(name in row for name in SUMMARISED) or not is_there(config):
        return row
    return {**summarised(read_rows(config, dict[str, Setting], what="an object of settings")), **row}


def read_summary(path: Path) -> dict[str, Any]:
    """The summary of a finished run, with all its keys."""
    return read_rows(path, Summary, what=SUMMARY)


def run_folder(folder: Path, row: dict[str, Any]) -> Path:
    """Where a compare folder keeps the run of one summary: as it says itself, else in `<rule>-seed<seed>`."""
    return Path(folder) / str(row.get("run") or f"{row['rule']}-seed{row.get('seed')}")


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Epoch records and warnings. An epoch that was run again after a resume counts as last written."""
    content = read_bytes(path, what="one JSON object a line", most=MOST_METRICS)
    epochs: dict[int, dict[str, Any]] = {}
    warnings: list[str] = []
    lines = content.split(b"\n")
    for number, line in enumerate(lines, 1):
        where, what = f"{path} line {number}", "one JSON object a line, as training writes it"
        try:
            record = parse(line, gaps=True) if line.strip() else {}
        except NotJson as error:
            # A run that is writing right now, or was killed, leaves half a line at the end; elsewhere it is damage.
            if number == len(lines):
                warnings.append(
                    f"line {number} of {path.name} is cut short and was left out (the run was stopped there)"
                )
                break
            raise InputError(
                f"{path} is damaged at line {number} ({error}). Expected one JSON object a line; delete that line."
            ) from error
        event = check(record, dict[str, Any], where=where, what=what).get("event")
        if event == "epoch":
            number_of_epoch = check(record, Epoch, where=where, what=what).epoch
            epochs[number_of_epoch] = _complete(record)
        elif event == "warning":
            warnings.append(_warning(check(record, Warned, where=where, what=what)))
    return [epochs[epoch] for epoch in sorted(epochs)], list(dict.fromkeys(warnings))


def _complete(record: dict[str, Any]) -> dict[str, Any]:
    """Every series has an entry per block, None where nothing is known."""
    unknown = [None] * len(record["loss"])
    return {**record, **{key: record.get(key) or unknown for key in SERIES}}


def _warning(record: Warned) -> str:
    known = {"epoch": record.epoch, "block": record.block}
    places = [f"{name} {number}" for name, number in known.items() if number is not None]
    return f"{', '.join(places)}: {record.text}" if places else record.text


def _read_examples(path: Path) -> Examples:
    what = "an object with classes and examples, as a run writes it"
    return read_json(path, Examples, what=what, gaps=True, most=MOST_EXAMPLES)


def _read_confusion(path: Path) -> Confusion:
    what = "an object with of, names and counts ([row asked for, row answered, how often]), as a run writes it"
    return read_json(path, Confusion, what=what, most=MOST_EXAMPLES)
