"""A run's settings as plain dataclasses: what is trained, on what, how. Saved with the run as one flat JSON object."""

import dataclasses
import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from blocklocal._common.choices import (
    is_choice,
)
from blocklocal._common.errors import InputError, unknown
from blocklocal._common.files import is_there, write_text
from blocklocal.network.settings import Learning
from blocklocal.runs.settings import Data, Machine, Model, Optimisation
from blocklocal.schemas import Text, check, read_json
from blocklocal.schemas.run import check_settings_there

_UNDECIDED = {"model": "auto", "optimizer": "auto", "lr": None}  # what `usual.suited` decides by the data


@dataclass(frozen=True)
class Config:
    """Everything that decides a run."""

    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    learning: Learning = field(default_factory=Learning)
    """Rule and local losses. What a rule fixes itself (a greedy block has no twin) is ignored."""
    optimisation: Optimisation = field(default_factory=Optimisation)
    machine: Machine = field(default_factory=Machine)

    def inputs(self, samples: int) -> int:
        """How many inputs a network takes for so many samples of a batch: two views of each, or one."""
        return 2 * samples if self.learning.two_views else samples

    def flat(self) -> dict[str, Any]:
        """All settings as one JSON-able object; names are unique over the groups."""
        return {name: value for group in dataclasses.asdict(self).values() for name, value in group.items()}

    def edit(self, **changes: Any) -> "Config":
        """A copy with settings changed by name, whichever group they belong to.

        Raises:
            InputError: a name is unknown, or a value cannot be used.
        """
        groups = _groups()
        for name in changes:
            if name not in groups:
                raise unknown("setting", name, groups)
        edited = {}
        for group in dataclasses.fields(self):
            own = {name: value for name, value in changes.items() if groups[name] == group.name}
            edited[group.name] = dataclasses.replace(getattr(self, group.name), **own)
        return Config(**edited)

    def differences(self, there: "Config") -> list[str]:
        """Settings that are others in a run that is there, in words; what is left to the data here cannot be."""
        mine, theirs = self.flat(), there.flat()
        told = {name: value for name, value in mine.items() if value != _UNDECIDED.get(name, ...)}
        return [
            f"{name} ({theirs[name]!r} there, {value!r} now)" for name, value in told.items() if value != theirs[name]
        ]

    def save(self, path: Path) -> None:
        write_text(path, json.dumps(self.flat(), indent=2) + "\n")


def _groups() -> dict[str, str]:
    """Setting name → group name."""
    groups: dict[str, str] = {}
    for group in dataclasses.fields(Config):
        for setting in dataclasses.fields(group.default_factory):  # type: ignore[arg-type]
            assert setting.name not in groups, f"two settings are called {setting.name!r}"
            groups[setting.name] = group.name
    return groups


def load_config(path: Path) -> Config:
    """A saved `config.json`, or the one in a run folder.

    Raises:
        InputError: it is missing, damaged, or has settings that cannot be used.
    """
    file = path / "config.json" if path.is_dir() else path
    if path.is_dir():
        check_settings_there(path)
    if not is_there(file):
        raise InputError(f"no configuration at {file}: give a run folder or its config.json.")
    what = "one JSON object of settings, as a run folder has it in its config.json"
    flat = read_json(file, dict[str, Any], what=what)
    for name in flat:
        if name not in _groups():
            raise InputError(f"{file}: {unknown('setting', name, _groups())}")
    given = check(flat, _schema(), where=file, what=what)
    try:
        return Config().edit(**{name: getattr(given, name) for name in flat})
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


@cache
def _schema() -> type[msgspec.Struct]:
    """The type of each setting, as its group has it; options of a model are what JSON has for a word or a number.

    A setting with choices is any text here: its group says which there are.
    """
    kinds: dict[Any, Any] = {str: Text, dict[str, str]: dict[Text, Text | int | float | bool]}
    hints = [get_type_hints(group.default_factory) for group in dataclasses.fields(Config)]  # type: ignore[arg-type]
    given = [(name, str if is_choice(kind) else kind) for each in hints for name, kind in each.items()]
    fields = [(name, kinds.get(kind, kind), msgspec.UNSET) for name, kind in given]
    return msgspec.defstruct("Settings", fields)
