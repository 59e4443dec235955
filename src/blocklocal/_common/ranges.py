"""Which values a setting may take: said once, in a table beside the settings, and checked when they are made.

Bounds are wide: what no machine and no experiment needs lies outside. Inside them no count overflows a 64-bit number,
no number overflows a float32, and nothing loops for hours before it is found to be too much.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from blocklocal._common.errors import InputError, shown

MANY = 10**9  # images, steps, epochs: more than anybody has
LARGEST = 1e6  # of rates, weights and temperatures
MAX_PIXELS = 89_478_485  # of a picture: Pillow's own limit, above which it warns of one made to fill the memory
MOST_CLASSES = 65_536  # more than any set of labelled images has; above it stands a mistake in the labels


@dataclass(frozen=True)
class Range:
    """From `low` to `high`, both included but for the ends that are left out (`above` low, `below` high); or `zero`."""

    low: float
    high: float
    whole: bool = False
    above: bool = False
    below: bool = False
    zero: bool = False

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        if self.zero and value == 0:
            return True
        left_out = (self.above and value == self.low) or (self.below and value == self.high)
        return self.low <= value <= self.high and not left_out

    def words(self, value: object = math.inf) -> str:
        """As a message names it: a whole number of at least 1 and, where a value is not below that, at most 1,000.

        A bound that is itself left out is always named: it is part of what the number means (a share below 1).
        """
        kind = f"{'0 or ' if self.zero else ''}a {'whole ' if self.whole else ''}number"
        start = f"{kind} {'above' if self.above else 'of at least'} {_number(self.low)}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if math.isinf(self.high) or not (self.below or (number and value >= self.high)):
            return start
        return f"{start} and {'below' if self.below else 'at most'} {_number(self.high)}"


def whole(low: int, high: int) -> Range:
    """Whole numbers from `low` to `high`."""
    return Range(low, high, whole=True)


FROM_ONE = Range(1, math.inf, whole=True)  # a count that takes no memory, however large it is
COUNT = whole(1, MANY)
SEED = whole(0, 2**63 - 1)
WIDTH = whole(1, 10**6)
IMAGE_SIZE = whole(1, math.isqrt(MAX_PIXELS))
CLASSES = whole(1, MOST_CLASSES)
THREADS = whole(1, 1024)
WEIGHT = Range(0, LARGEST)
VOCABULARY = whole(257, 2**20)  # tokens of a tokenizer that is trained: more than the 256 bytes


def check_range(name: str, value: object, allowed: Range) -> None:
    """Raise InputError, with what may be given, for a value outside its range."""
    if value not in allowed:
        raise InputError(f"{name} must be {allowed.words(value)}, not {shown(value)}.")


def check_settings(settings: Any, ranges: Mapping[str, Range]) -> None:
    """Every field of a dataclass: a number lies in its range, a text is a text, a switch is true or false.

    A field whose default is None may be None; one whose default is a tuple holds numbers of its range, or texts.
    """
    for field in fields(settings):
        value, default = getattr(settings, field.name), field.default
        if value is None and default is None:
            continue
        if isinstance(default, tuple):
            _check_row(field.name, value, ranges.get(field.name))
        elif field.name in ranges:
            check_range(field.name, value, ranges[field.name])
        else:
            _check_kind(field.name, value, dict if field.default_factory is dict else type(default))


def _check_row(name: str, values: Any, allowed: Range | None) -> None:
    if not isinstance(values, tuple | list):
        raise InputError(f"{name} must be a list, not {shown(values)}.")
    for value in values:
        if allowed is not None:
            check_range(name, value, allowed)
        elif not isinstance(value, str | Path):
            raise InputError(f"{name} must be a list of texts, not {shown(values)}.")


def _check_kind(name: str, value: Any, kind: type) -> None:
    words = {str: "a text", bool: "true or false", dict: "an object of options"}
    if kind in words and not isinstance(value, kind):
        raise InputError(f"{name} must be {words[kind]}, not {shown(value)}.")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**15 else f"{value:g}"
