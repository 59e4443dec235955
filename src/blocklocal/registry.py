"""Named things that are found by being there: a new family, rule or model is one new file in its package."""

import importlib
import pkgutil
from types import ModuleType
from typing import Generic, TypeVar

from blocklocal.errors import unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """A dictionary from name to thing whose look-up suggests the nearest name."""

    def __init__(self, kind: str):
        self.kind = kind
        self.items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        assert name not in self.items, f"{self.kind} {name!r} is registered twice"
        self.items[name] = item
        return item

    def get(self, name: str) -> T:
        if not isinstance(name, str) or name not in self.items:
            raise unknown(self.kind, name, self.items)
        return self.items[name]

    def names(self) -> list[str]:
        return sorted(self.items)


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers what it holds."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
