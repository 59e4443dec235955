"""The flags that a command's dataclass stands for, read off its fields: for messages and for completion in a shell."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from blocklocal._common.choices import values


@dataclass(frozen=True)
class Flag:
    """One setting as a flag.

    Attributes:
        setting: its name in the dataclass.
        names: how it is typed: of a switch also the one that turns it off.
        choices: the names that it takes, where these are known.
        several: whether it takes more than one value.
    """

    setting: str
    names: tuple[str, ...]
    choices: tuple[str, ...] = ()
    several: bool = False


def flags_of(kind: type) -> Iterator[Flag]:
    """The flags of a dataclass and of the dataclasses in its fields; what is given without a flag is left out."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, *notes = (
            get_args(hints[field.name]) if get_origin(hints[field.name]) is Annotated else (hints[field.name],)
        )
        if is_dataclass(hint):
            yield from flags_of(hint)  # type: ignore[arg-type]
        elif tyro.conf.Positional not in notes:
            yield _flag(field.name, hint)


def _flag(setting: str, hint: Any) -> Flag:
    name = setting.replace("_", "-")
    if hint is bool:
        return Flag(setting, (f"--{name}", f"--no-{name}"))
    return Flag(setting, (f"--{name}",), tuple(_choices(hint)), get_origin(hint) in (tuple, dict))


def _choices(hint: Any) -> Iterator[str]:
    """The names in a `Literal`, alone or with `| str` behind it."""
    for part in (hint, *get_args(hint)):
        if get_origin(part) is Literal:
            yield from values(part)


def in_flags(message: str, kind: type) -> str:
    """A message that begins with the name of a setting ("image_size must be …"), with the flag in its place."""
    name, must, rest = message.partition(" must be ")
    flag = next((flag for flag in flags_of(kind) if flag.setting == name), None)
    return f"{flag.names[0]}{must}{rest}" if must and flag else message
