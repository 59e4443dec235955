"""Named things that are found by being there: a new family, rule or model is one new file in its package."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Generic, TypeVar

from blocklocal._common.errors import InputError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary from name to thing whose look-up suggests the nearest name.

    `print(RULES)` lists what there is, a line each; `"greedy" in RULES` and `for name in RULES` work as on a `dict`.

    Args:
        kind: what the things are, in one word for messages ("rule").
        elsewhere: a sentence for messages on where others are that it does not hold.
    """

    def __init__(self, kind: str, elsewhere: str = ""):
        self.kind, self.elsewhere = kind, elsewhere
        self.items: dict[str, T] = {}
        self._summaries: dict[str, str] = {}

    def add(self, name: str, item: T, summary: str = "") -> T:
        """Register `item` under `name`, which nothing may have yet.

        Args:
            name: what it is asked for by.
            item: the thing itself.
            summary: one line about it; default: the item's own `summary`, or its docstring's first line.

        Returns:
            The item.
        """
        assert name not in self.items, f"{self.kind} {name!r} is registered twice"
        self.items[name] = item
        if summary:
            self._summaries[name] = summary
        return item

    def get(self, name: str) -> T:
        """The thing of that name.

        Raises:
            InputError: there is none; the message gives the nearest name.
        """
        if not isinstance(name, str) or name not in self.items:
            error = unknown(self.kind, name, self.items)
            raise InputError(f"{error} {self.elsewhere}") if self.elsewhere else error
        return self.items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self.items)

    def summary(self, name: str) -> str:
        """What the thing of that name is, in one line.

        Raises:
            InputError: there is none.
        """
        item = self.get(name)
        return self._summaries.get(name) or _one_line(item)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.items

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        width = max(map(len, self.items), default=0)
        lines = [f"  {name:{width}}  {self.summary(name)}".rstrip() for name in self]
        return "\n".join([f"{self.kind}: {len(self)} known", *lines])


def _one_line(item: Any) -> str:
    """Its `summary`, else the first line of its docstring; a text is its own summary."""
    if isinstance(item, str):
        return item
    text = getattr(item, "summary", None)
    if not isinstance(text, str):
        text = inspect.getdoc(getattr(item, "func", item)) or ""  # of a `partial`, the function's
    return text.strip().partition("\n")[0]


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers what it holds."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
