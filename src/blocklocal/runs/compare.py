"""The same settings under several rules and seeds: one folder of runs, one table, one report."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError, Interrupted, unknown
from blocklocal._common.extras import needs
from blocklocal._common.files import write_text
from blocklocal.network.settings import Learning
from blocklocal.rules import RULES
from blocklocal.runs.code import check_same_code
from blocklocal.runs.conclude import only_shows
from blocklocal.runs.config import Config, load_config
from blocklocal.runs.facts import AnySet, DatasetInfo
from blocklocal.runs.origin import code_of, is_finished
from blocklocal.runs.run import resume_run, start_run
from blocklocal.runs.saved import read_summary
from blocklocal.runs.sets import load_data
from blocklocal.runs.usual import suited
from blocklocal.schemas.run import summarised


@dataclass(frozen=True)
class Variant:
    """A rule, and the settings in which it differs from the others."""

    rule: str
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def slug(self) -> str:
        """The name of its run folders."""
        text = "-".join([self.rule, *(f"{name}-{value}" for name, value in self.changes)])
        return re.sub(r"[^A-Za-z0-9.]+", "-", text)

    def apply(self, config: Config, seed: int) -> Config:
        return config.edit(rule=self.rule, seed=seed, **dict(self.changes))


def parse_variant(text: str) -> Variant:
    """`rule`, or `rule:setting=value,setting=value` for settings of how blocks learn.

    Raises:
        InputError: the rule or a setting is unknown, or a value cannot be used.
    """
    rule, _, rest = text.partition(":")
    RULES.get(rule)
    kinds: dict[str, Any] = {f.name: type(f.default) for f in fields(Learning)}
    changes = []
    for item in filter(None, rest.split(",")):
        name, _, value = item.partition("=")
        name = name.strip().replace("-", "_")
        if name not in kinds or name == "rule":
            raise unknown("setting", name, kinds)
        try:
            changes.append((name, kinds[name](value)))
        except ValueError as error:
            wanted = "a whole number" if kinds[name] is int else "a number"
            raise InputError(f"{item!r}: {name} must be {wanted}, not {value!r}.") from error
    return Variant(rule, tuple(changes))


@needs("cli", "data", "report")
def compare(
    config: Config,
    rules: Sequence[str],
    seeds: Sequence[int],
    output: Path,
    *,
    resume: bool = False,
    replace: bool = False,
    quiet: bool = False,
) -> list[dict[str, Any]]:
    """Train every rule with every seed.

    Args:
        resume: go on in an existing folder (finished runs are kept as they are; their settings must be the same).
        replace: put the new folder in the place of an older comparison, once it is complete.

    Returns:
        The summaries, also written to `compare.json` after each run.

    Raises:
        InputError: a rule or seed is unknown or repeated, or the folder is no comparison.
        Interrupted: the user stops it.
    """
    variants = [parse_variant(rule) for rule in rules]
    if not variants or not seeds:
        raise InputError("compare needs at least one rule and one seed.")
    if len({v.slug for v in variants}) < len(variants) or len(set(seeds)) < len(seeds):
        raise InputError("every rule and every seed may be named once.")
    for variant in variants:  # before the first run: a mistake in the last variant or seed should not cost an hour
        for seed in seeds:
            variant.apply(config, seed)
    output = output.absolute()
    if replace and output.exists() and any(output.iterdir()) and not (output / "compare.json").is_file():
        raise InputError(f"{output} is not a comparison (it has no compare.json) and is not replaced: name another.")
    if output.exists() and not resume and not replace:
        raise InputError(f"{output} exists already: choose another --output, or give --resume or --replace.")
    folder = output.with_name(f".{output.name}-new") if replace else output
    if replace and not resume:
        shutil.rmtree(folder, ignore_errors=True)
    data = load_data(config)
    config = suited(config, DatasetInfo.of(data))
    if not quiet:
        print(*data.account, sep="\n", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for variant in variants:
            run = folder / f"{variant.slug}-seed{seed}"
            try:
                row = finish_run(variant.apply(config, seed), run, quiet=quiet, data=data)
                rows.append(row | {"run": run.name})
            except Interrupted:
                raise Interrupted(run, f"the same command with --resume --output {output}") from None
            write_text(folder / "compare.json", json.dumps(rows, indent=1) + "\n")
    with only_shows("the report", output):
        from blocklocal.report import write_comparison

        write_comparison(folder)
    if replace:
        _swap(folder, output)
    return rows


def finish_run(
    config: Config,
    run: Path,
    *,
    quiet: bool = False,
    data: AnySet | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """The summary of a run, whatever is there of it: finished, it is read; begun, it goes on; else it is trained anew.

    Raises:
        InputError: the folder holds a run with other settings.
    """
    if run.exists():
        _check_settings(config, run)
        check_same_code(run, config.model.model, code_of(run))
        if is_finished(run):
            return {**summarised(config.flat()), **read_summary(run)}  # an older one lacks these settings
        return resume_run(run, quiet=quiet, should_stop=should_stop, trust=True)  # the user's own model: see above
    return start_run(config, run, quiet=quiet, data=data, should_stop=should_stop)


def _check_settings(config: Config, run: Path) -> None:
    """A run kept from an earlier comparison must be one of this comparison, or the table would mix two."""
    other = config.differences(load_config(run))
    if other:
        raise InputError(
            f"{run} was trained with other settings: {', '.join(other)}. Give the same settings, or another --output."
        )


def _swap(new: Path, place: Path) -> None:
    old = place.with_name(f".{place.name}-old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
