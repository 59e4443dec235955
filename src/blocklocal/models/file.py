"""A user's own model by reference: `path/to/file.py:function`, so that the command line can train any module.

The file is ordinary Python: it runs as a module of its own name in sys.modules, and may import its siblings.
"""

import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import WeakValueDictionary

from torch import nn

from blocklocal._common.errors import InputError, unknown
from blocklocal.models.siblings import FreshLoader, Siblings

_numbers = count()
_imported: dict[Path, list[Path]] = {}  # a user's file → its siblings that were imported
_built: "WeakValueDictionary[int, nn.Parameter]" = WeakValueDictionary()  # the weights of every model, by id


def is_reference(name: str) -> bool:
    """Whether a model's name is `file.py:function` rather than a registered one."""
    return ".py:" in name


def file_of(reference: str) -> Path:
    """The file of a `file.py:function`."""
    return Path(reference.rpartition(":")[0]).expanduser()


def load_builder(reference: str) -> Callable[..., nn.Module]:
    """The function of a `file.py:function` reference. The file runs anew at every load.

    The function is called with `classes`, `channels`, `image_size` (height, width in pixels) and the model's options,
    and returns the module.

    Raises:
        InputError: the file or the function is missing, or the file does not run.
    """
    file, _, name = reference.rpartition(":")
    path = file_of(reference)
    if not path.is_file():
        raise InputError(f"there is no file {file}: --model takes a registered model, or path/to/file.py:function.")
    siblings = Siblings(path.resolve().parent)
    module = _ran(path, siblings)
    _imported[path.resolve()] = siblings.files()
    builder = vars(module).get(name)
    if not callable(builder):
        own = [key for key, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__]
        raise InputError(f"{file}: {unknown('function', name, own)}")
    if isinstance(builder, nn.Module):
        raise InputError(f"{reference} is a module that is built already: give a function that builds a new one.")

    @functools.wraps(builder, updated=())
    def build(*args: Any, **kwargs: Any) -> Any:
        try:
            with siblings.importable():
                return builder(*args, **kwargs)
        finally:
            _imported[path.resolve()] = siblings.files()

    return build


def build_from_file(reference: str, **arguments: object) -> nn.Module:
    """Build a user's model.

    Raises:
        InputError: the function does not take the arguments, fails, or returns no module.
    """
    builder, path = load_builder(reference), file_of(reference)
    _check_takes(reference, builder, arguments)
    try:
        model = builder(**arguments)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises, its author needs to read it
        raise InputError(f"{reference} failed: {_said(error, path)}") from error
    if isinstance(model, type):
        raise InputError(
            f"{reference} returned the class {model.__name__}: it must return a module, made by calling it."
        )
    if not isinstance(model, nn.Module):
        raise InputError(f"{reference} returned {type(model).__name__}, not an nn.Module.")
    _check_new(reference, model)
    return model


def _ran(path: Path, siblings: Siblings) -> ModuleType:
    """Run the file as a module, which stays known under a name of its own."""
    stem = re.sub(r"\W", "_", path.stem)
    name = f"blocklocal_user_{stem}_{next(_numbers)}"
    spec = spec_from_file_location(name, path, loader=FreshLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module
    try:
        with siblings.importable():
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if not isinstance(error, (Exception, SystemExit)):  # Ctrl-C
            raise
        raise InputError(f"{path} does not run: {_said(error, path)}") from error
    return module


def _said(error: BaseException, path: Path) -> str:
    """An error of the user's code as one line, with the last line of the file that it passed."""
    text = " ".join(str(error).split())
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    where = f" (line {lines[-1]})" if lines and not isinstance(error, SyntaxError) else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{where}"


def _check_takes(reference: str, builder: Callable[..., nn.Module], arguments: dict[str, object]) -> None:
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):  # nothing that Python can look into: calling it will tell
        return
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise InputError(
            f"{reference} was called with {', '.join(arguments)} and failed: {error}. "
            "It must take classes, channels and image_size (or **options)."
        ) from error


def _check_new(reference: str, model: nn.Module) -> None:
    """Raise InputError for weights that an earlier model has: two networks would train them, one seed after another."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in trained:
        if _built.get(id(parameter)) is parameter:
            raise InputError(
                f"{reference} returned the weight {name!r} once before: it must build a new module each time."
            )
    _built.update({id(parameter): parameter for _, parameter in trained})


def sources(reference: str) -> list[Path]:
    """The file that a `file.py:function` names, and the siblings that it has imported so far, as absolute paths."""
    path = file_of(reference).resolve()
    return [path, *_imported.get(path, ())]
