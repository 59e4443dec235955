"""A user's own model by reference: `path/to/file.py:function`, so that the command line can train any module."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from torch import nn

from blocklocal.errors import InputError, unknown


def is_reference(name: str) -> bool:
    """Whether a model's name is `file.py:function` rather than a registered one."""
    return ".py:" in name


def load_builder(reference: str) -> Callable[..., nn.Module]:
    """The function of a `file.py:function` reference. It is called with `classes`, `channels`, `image_size` (height,
    width in pixels) and the model's options, and returns the module.

    Raises InputError where the file or the function is missing, or the file does not run.
    """
    file, _, name = reference.rpartition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise InputError(f"there is no file {file}: --model takes a registered model, or path/to/file.py:function.")
    spec = importlib.util.spec_from_file_location(f"blocklocal_user_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's file raises, its author needs to read it
        raise InputError(f"{file} does not run: {type(error).__name__}: {error}") from error
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if name not in functions:
        raise unknown(f"function in {file}", name, functions)
    return vars(module)[name]


def build_from_file(reference: str, **arguments: object) -> nn.Module:
    """Build a user's model; InputError where its function does not take the arguments or returns no module."""
    builder = load_builder(reference)
    try:
        model = builder(**arguments)
    except TypeError as error:
        raise InputError(
            f"{reference} was called with {', '.join(arguments)} and failed: {error}. "
            "It must take classes, channels and image_size (or **options)."
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{reference} returned {type(model).__name__}, not an nn.Module.")
    return model


def sources(reference: str) -> list[Path]:
    """The file that a `file.py:function` names."""
    return [Path(reference.rpartition(":")[0]).expanduser().resolve()]
