"""What msgspec says of a wrong value, in this library's words: the key, what must stand there, what stands there."""

import json
import re
from typing import Any

from blocklocal._common.errors import LONGEST

_LOST: Any = object()  # nothing is known to stand there
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "null": "null",
    "array": "a list",
    "object": "an object",
}
BOUND_SIGNS = {"least": ">=", "most": "<="}
BOUNDS = {">=": "of at least", "<=": "of at most", ">": "above", "<": "below"}


def explain(error: str, value: Any) -> str:
    """The message of a `msgspec.ValidationError` about `value`, as half a sentence: `loss[1] must be …, not "high"`."""
    text, _, place = error.partition(" - at `")
    path, found = _follow(place.rpartition("$")[2].rstrip("`"), value, text.rpartition("got ")[2].strip("`"))
    if missing := re.fullmatch(r"Object missing required field `(.*)`", text):
        return f"{_within(path)}{missing[1]} is missing"
    if extra := re.fullmatch(r"Object contains unknown field `(.*)`", text):
        return f"{_within(path)}{extra[1]!r} is a key that nothing has"
    wanted = _wanted(text)
    if wanted is None:  # said by a check of this library
        return f"{_within(path)}{text.rstrip('.')}"
    return f"{path or 'what it holds'} must be {wanted}" + ("" if found is _LOST else f", not {_as_json(found)}")


def _follow(path: str, value: Any, got: str) -> tuple[str, Any]:
    """Where a path of msgspec leads, and to what; it says `[...]` for a key that is not in the schema."""
    names = []
    for key, index in re.findall(r"\.([^.\[\]]+)|\[(\d+|\.\.\.)\]", path):
        if index == "..." and isinstance(value, dict):
            key = next((name for name, each in value.items() if _kind(each) == got), "…")
        names.append(f".{key}" if key else f"[{index}]")
        try:
            value = value[key or int(index)]
        except (KeyError, IndexError, TypeError, ValueError):
            value = _LOST
    return "".join(names).lstrip("."), value


def _kind(value: Any) -> str:
    """The name that msgspec has for the type of a JSON value."""
    return {bool: "bool", str: "str", list: "array", dict: "object", type(None): "null"}.get(
        type(value), type(value).__name__
    )


def _within(path: str) -> str:
    return f"{path}: " if path else ""


def _wanted(text: str) -> str | None:
    if text.startswith(("Number out of range", "Integer value out of range")):
        return "a number of a size that can be"
    if text.startswith(("Invalid enum value", "Invalid value")):
        return "one of the names that are known"
    expected = re.match(r"Expected `([^`]+)`", text)
    if expected is None:
        return None
    kinds = " or ".join(TYPES.get(kind, kind) for kind in expected[1].split(" | "))
    return kinds + _bound(text[expected.end() :], "letters" if expected[1] == "str" else "entries")


def _bound(rest: str, counted: str) -> str:
    """` of length <= 5` → ` of at most 5 letters`."""
    rest = re.sub(r" of at (least|most) length", lambda side: f" of length {BOUND_SIGNS[side[1]]}", rest)
    if size := re.match(r" of length (?:(>=|<=) )?(\d+)", rest):
        return f" {BOUNDS[size[1]] if size[1] else 'of'} {int(size[2]):,} {counted}"
    if limit := re.match(r" (>=|<=|>|<) (\S+)", rest):
        return f" {BOUNDS[limit[1]]} {float(limit[2]):g}"
    return ""


def _as_json(value: Any) -> str:
    """A value as JSON, cut to a length that can be read."""
    if isinstance(value, list) and len(value) > LONGEST:
        return f"a list of {len(value):,}"
    if isinstance(value, dict) and len(value) > LONGEST:
        return f"an object of {len(value):,} keys"
    if isinstance(value, str):
        value = value[: 2 * LONGEST]
    try:
        text = json.dumps(value)
    except (RecursionError, ValueError):
        return "something nested deeply"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
