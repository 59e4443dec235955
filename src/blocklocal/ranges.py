"""Which values a setting may take: said once, in a table beside the settings, and checked when they are made.

Bounds are wide: what no machine and no experiment needs lies outside. Inside them no count overflows a 64-bit number,
no number overflows a float32, and nothing loops for hours before it is found to be too much.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from blocklocal.errors import InputError, shown

MANY = 10**9  # images, steps, epochs: more than anybody has
LARGEST = 1e6  # of rates, weights and temperatures


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
        """As a message names it: a whole number of at least 1 and, where a value is not below that, at most 1,000."""
        kind = f"{'0 or ' if self.zero else ''}a {'whole ' if self.whole else ''}number"
        start = f"{kind} {'above' if self.above else 'of at least'} {_number(self.low)}"
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if math.isinf(self.high) or not number or not value >= self.high:
            return start
        return f"{start} and {'below' if self.below else 'at most'} {_number(self.high)}"


def whole(low: int, high: int) -> Range:
    """Whole numbers from `low` to `high`."""
    return Range(low, high, whole=True)


COUNT = whole(1, MANY)
SEED = whole(0, 2**63 - 1)
WIDTH = whole(1, 10**6)
THREADS = whole(1, 1024)
WEIGHT = Range(0, LARGEST)


def check_range(name: str, value: object, allowed: Range) -> None:
    """Raise InputError, with what may be given, for a value outside its range."""
    if value not in allowed:
        raise InputError(f"{name} must be {allowed.words(value)}, not {shown(value)}.")


def check_settings(settings: Any, ranges: Mapping[str, Range]) -> None:
    """Every field of a dataclass: a number lies in its range, a text is a text, a switch is true or false.

    A field whose default is None may be None.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if value is None and field.default is None:
            continue
        if field.name in ranges:
            values = value if isinstance(value, tuple | list) and isinstance(field.default, tuple) else (value,)
            for each in values:
                check_range(field.name, each, ranges[field.name])
        elif isinstance(field.default, str) and not isinstance(value, str):
            raise InputError(f"{field.name} must be a text, not {shown(value)}.")
        elif isinstance(field.default, bool) and not isinstance(value, bool):
            raise InputError(f"{field.name} must be true or false, not {shown(value)}.")


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) and abs(value) < 10**15 else f"{value:g}"
