"""The modules beside a user's file, importable while the file runs, as `python file.py` would have it.

A sibling comes before an installed library of its name, and never before the standard library, torch or this
library. Every load imports its siblings anew: two files may have siblings of the same name, and what one module
keeps does not reach the next network.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from pkgutil import iter_modules
from types import CodeType, ModuleType

_KEPT = frozenset({*sys.stdlib_module_names, "torch", "blocklocal", "__main__"})
_ours: dict[str, ModuleType] = {}  # all siblings that are in sys.modules at present


class FreshLoader(SourceFileLoader):
    """Compiles the file as it is now: no cached bytecode is read, and none is written beside a user's file."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


class Siblings:
    """The modules in `folder`. While `importable()` is open, this is a finder of Python's import."""

    def __init__(self, folder: Path):
        self.folder = str(folder)
        self._loaded: dict[str, ModuleType] = {}

    def files(self) -> list[Path]:
        """The files that were imported so far."""
        named = [Path(module.__file__) for module in self._loaded.values() if getattr(module, "__file__", None)]
        return sorted(path for path in named if Path(self.folder) in path.parents)

    @contextmanager
    def importable(self) -> Generator[None]:
        self._finder = FileFinder(self.folder, (FreshLoader, [".py"]), (ExtensionFileLoader, EXTENSION_SUFFIXES))
        self._found = {name.partition(".")[0] for name in self._loaded}
        hidden = _take(self._names())
        sys.modules.update(self._loaded)
        sys.meta_path.insert(0, self)  # type: ignore[arg-type]
        try:
            yield
        finally:
            sys.meta_path.remove(self)  # type: ignore[arg-type]
            self._loaded = _take(self._found)
            foreign = {name: module for name, module in hidden.items() if _ours.get(name) is not module}
            self._leave(foreign)

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The sibling of that name; None for all else, which Python then looks for itself."""
        if path is not None or name in _KEPT:
            return None
        spec = self._finder.find_spec(name)
        if spec is not None and spec.loader is None and getattr(PathFinder.find_spec(name), "loader", None) is not None:
            return None  # a folder without __init__.py, where a library has that name
        if spec is not None:
            self._found.add(name)
        return spec

    def _names(self) -> set[str]:
        """The names that mean a sibling here, whatever was imported under them before."""
        regular = {module.name for module in iter_modules([self.folder])}
        plain = {name for name in _ours if Path(self.folder, name).is_dir()}
        return (regular | plain) - _KEPT

    def _leave(self, foreign: dict[str, ModuleType]) -> None:
        """Siblings stay known, so that their classes can be pickled, unless another module has the name."""
        taken = {name.partition(".")[0] for name in foreign}
        staying = {name: module for name, module in self._loaded.items() if name.partition(".")[0] not in taken}
        sys.modules.update(staying)
        sys.modules.update(foreign)
        _ours.update(staying)


def _take(tops: set[str]) -> dict[str, ModuleType]:
    """Remove the modules of these names, and those inside them, from Python's list."""
    return {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
