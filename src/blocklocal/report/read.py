"""Read a run folder back: every figure of a report comes from these files and from nowhere else.

A run folder holds `config.json`, `metrics.jsonl` and, once the run is over, `summary.json` and `examples.json`.
Files are checked here, once; what comes out is trusted by the tables and plots.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blocklocal.errors import InputError

SERIES = ("loss", "train_top1", "validation_top1", "message")
NUMBERS = ("test_top1", "test_top3", "train_top1", "validation_top1", "test_nll", "test_ece", "seconds")


@dataclass(frozen=True)
class Run:
    """One run folder in memory. `epochs` holds one record per epoch, in order; accuracies are in percent."""

    path: Path
    config: dict[str, Any]
    epochs: list[dict[str, Any]]
    warnings: list[str]
    summary: dict[str, Any] | None = None
    examples: dict[str, Any] = field(default_factory=dict)

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
        """One name per block; the number alone where the run has not said its names."""
        names = self.row.get("block_names") or []
        return [str(names[k]) if k < len(names) else f"block {k + 1}" for k in range(self.blocks)]


def read_run(path: Path) -> Run:
    """Read a run folder, finished or not. Raises `InputError` naming the file that is missing or damaged."""
    path = Path(path)
    if not path.is_dir():
        raise InputError(f"{path} is not a folder. Expected a run folder, with config.json and metrics.jsonl in it.")
    epochs, warnings = _read_metrics(path / "metrics.jsonl")
    summary = _read_summary(path / "summary.json") if (path / "summary.json").exists() else None
    examples = _read_examples(path / "examples.json") if (path / "examples.json").exists() else {}
    config = _read_json(path / "config.json", dict, "an object of settings")
    return Run(path, config, epochs, warnings, summary, examples)


def read_comparison(folder: Path) -> list[dict[str, Any]]:
    """The summaries of a compare folder, one per rule and seed. Raises `InputError` naming a damaged file."""
    path = Path(folder) / "compare.json"
    rows = _read_json(path, list, "a list of run summaries, one per rule and seed")
    if not rows:
        raise InputError(f"{path} lists no run. Expected one summary per rule and seed: let the comparison finish one.")
    return [_check_summary(path, row) for row in rows]


def run_folder(folder: Path, row: dict[str, Any]) -> Path:
    """Where a compare folder keeps the run of one summary: as it says itself, else in `<rule>-seed<seed>`."""
    return Path(folder) / str(row.get("run") or f"{row['rule']}-seed{row.get('seed')}")


def _read_text(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path} is missing. Expected {expected}; check that the folder is the right one.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Expected {expected}.") from None


def _read_json(path: Path, kind: type, expected: str) -> Any:
    text = _read_text(path, expected)
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is damaged (line {error.lineno}: {error.msg}). Expected {expected}; run it again."
        ) from None
    if not isinstance(value, kind):
        raise InputError(f"{path} holds a {type(value).__name__}. Expected {expected}.")
    return value


def _read_metrics(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Epoch records and warnings. An epoch that was run again after a resume counts as last written."""
    text = _read_text(path, "one JSON object a line")
    epochs: dict[int, dict[str, Any]] = {}
    warnings: list[str] = []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line) if line.strip() else {}
        except json.JSONDecodeError as error:
            # A run that is writing right now, or was killed, leaves half a line at the end; elsewhere it is damage.
            if number == len(lines) and not text.endswith("\n"):
                warnings.append(
                    f"line {number} of {path.name} is cut short and was left out (the run was stopped there)"
                )
                break
            raise InputError(
                f"{path} is damaged at line {number} ({error.msg}). Expected one JSON object a line; delete that line."
            ) from None
        if not isinstance(record, dict):
            raise InputError(f"{path} line {number} holds a {type(record).__name__}. Expected a JSON object.")
        if record.get("event") == "epoch":
            epochs[_epoch_number(path, number, record)] = _check_epoch(path, number, record)
        elif record.get("event") == "warning":
            warnings.append(_warning(record))
    return [epochs[epoch] for epoch in sorted(epochs)], list(dict.fromkeys(warnings))


def _warning(record: dict[str, Any]) -> str:
    places = [f"{key} {record[key]}" for key in ("epoch", "block") if record.get(key) is not None]
    text = str(record.get("text", ""))
    return f"{', '.join(places)}: {text}" if places else text


def _epoch_number(path: Path, line: int, record: dict[str, Any]) -> int:
    epoch = record.get("epoch")
    if not isinstance(epoch, int) or epoch < 1:
        raise InputError(f"{path} line {line}: epoch is {epoch!r}. Expected a whole number of at least 1.")
    return epoch


def _check_epoch(path: Path, line: int, record: dict[str, Any]) -> dict[str, Any]:
    """Complete a record: every series has K entries, each a number or None."""
    loss = record.get("loss")
    blocks = len(loss) if isinstance(loss, list) else 0
    checked = dict(record)
    for key in SERIES:
        series = record.get(key)
        series = [None] * blocks if series is None else series
        if not blocks or not _is_series(series) or len(series) != blocks:
            raise InputError(f"{path} line {line}: {key} is {series!r}. Expected a list of a number or null per block.")
        checked[key] = series
    return checked


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _is_series(values: object) -> bool:
    return isinstance(values, list) and all(_is_number(value) for value in values)


def _read_summary(path: Path) -> dict[str, Any]:
    return _check_summary(path, _read_json(path, dict, "an object with rule, seed, test_top1, …"))


def _check_summary(path: Path, row: object) -> dict[str, Any]:
    if not isinstance(row, dict) or not isinstance(row.get("rule"), str):
        raise InputError(f"{path} holds a summary without a rule. Expected an object with rule, seed, test_top1, …")
    for key in NUMBERS:
        if not _is_number(row.get(key)):
            raise InputError(f"{path}: {key} of rule {row['rule']!r} is {row[key]!r}. Expected a number or null.")
    for key, good in (("block_test_top1", _is_series), ("block_names", lambda names: isinstance(names, list))):
        if row.get(key) is not None and not good(row[key]):
            raise InputError(f"{path}: {key} of rule {row['rule']!r} is {row[key]!r}. Expected one entry per block.")
    return row


def _read_examples(path: Path) -> dict[str, Any]:
    examples = _read_json(path, dict, "an object with classes and examples")
    if not isinstance(examples.get("classes"), list) or not isinstance(examples.get("examples"), list):
        raise InputError(f"{path} is damaged. Expected an object with the lists classes and examples.")
    return examples
