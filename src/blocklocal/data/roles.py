"""Splits by their usual names, and which of them plays which part: training, validation, test."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from blocklocal._common.errors import InputError
from blocklocal.data.source import Encoded, Unlabelled

log = logging.getLogger("blocklocal")

ROLES = ("train", "validation", "test")
_NAMES = {
    "train": "train|training",
    "validation": "validation|validate|valid|val|dev|development|evaluation|eval",
    "test": "test|testing",
}
_PATTERN = re.compile(
    f"(?:{'|'.join(f'(?P<{role}>{names})' for role, names in _NAMES.items())})"
    r"(?:[ _.-]?(?:set|data|images?|imgs?|split|\d{1,4}))?",
    re.IGNORECASE,
)


def role_of(name: str) -> str | None:
    """The split that a name means, in any case: "train" for "Training", "validation" for "val"; else None."""
    found = _PATTERN.fullmatch(name)
    return found.lastgroup if found else None


def by_role(names: Iterable[str], where: object) -> dict[str, str]:
    """Role → name, of those names that are a split's.

    Raises:
        InputError: two names have one role.
    """
    found: dict[str, str] = {}
    for name in names:
        role = role_of(name)
        if role is None:
            continue
        if role in found:
            raise InputError(f"{where} holds {found[role]!r} and {name!r}: both are a {role} split. Keep one of them.")
        found[role] = name
    return found


def cast(
    parts: Mapping[str, Encoded | Unlabelled], where: object, missing: str
) -> tuple[Encoded, Encoded | None, Encoded]:
    """(train, validation, test) of the splits that a set has, by role.

    A labelled validation split stands in for a test split that is not there or has no labels, and a warning says so. It
    is then no validation split any more.

    Args:
        missing: ends the sentence of the error for a split that is not there.

    Raises:
        InputError: there is nothing to train on or to test on.
    """
    train, validation, test = (parts.get(role) for role in ROLES)
    if train is None:
        raise InputError(f"{where} has no train split{missing}")
    if isinstance(train, Unlabelled):
        raise InputError(f"the training images of {where} have no labels: {train.why}. {train.remedy}".rstrip())
    if isinstance(test, Encoded):
        if isinstance(validation, Unlabelled):
            note = f"left out: the validation split {validation.origin}, which has no labels ({validation.why})"
            return replace(train, notes=(*train.notes, note)), None, test
        return train, validation, test
    if isinstance(validation, Encoded):
        return train, None, _stand_in(validation, test, where)
    if isinstance(test, Unlabelled):
        raise InputError(
            f"the test split {test.origin} has no labels ({test.why}), and there is no labelled validation split to "
            f"take its place: add one to {where}, or labels for the test split. {test.remedy}".rstrip()
        )
    raise InputError(f"{where} has no test split{missing}")


def _stand_in(validation: Encoded, test: Unlabelled | None, where: object) -> Encoded:
    why = "the set has no test split" if test is None else f"the test split {test.origin} has no labels"
    log.warning("%s: %s is used as the test split: %s", where, validation.origin, why)
    return replace(validation, origin=f"{validation.origin} ({why})")
