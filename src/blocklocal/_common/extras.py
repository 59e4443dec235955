"""Libraries that only parts of the package need: the core imports with torch, numpy, msgspec and safetensors alone."""

from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from typing import Literal, ParamSpec, TypeVar

from blocklocal._common.errors import InputError

Extra = Literal["cli", "data", "report", "text", "hf", "timm", "torchvision", "lora"]
EXTRAS: dict[Extra, dict[str, str]] = {
    "cli": {"tyro": "tyro", "rich": "rich", "filelock": "filelock"},
    "data": {"PIL": "pillow", "pyarrow": "pyarrow", "datasets": "datasets", "sklearn": "scikit-learn"},
    "report": {"matplotlib": "matplotlib", "jinja2": "jinja2", "tensorboard": "tensorboard", "scipy": "scipy"},
    "text": {"tokenizers": "tokenizers"},
    "hf": {"transformers": "transformers"},
    "timm": {"timm": "timm", "torchvision": "torchvision"},
    "torchvision": {"torchvision": "torchvision"},
    "lora": {"peft": "peft"},
}
"""Extra → name of a module → name of the package that holds it."""

P = ParamSpec("P")
T = TypeVar("T")


def check_extras(*extras: Extra) -> None:
    """Look whether the libraries of these extras are installed, without importing them.

    Raises:
        InputError: with what is missing and how to install it.
    """
    missing = {extra: [EXTRAS[extra][name] for name in EXTRAS[extra] if find_spec(name) is None] for extra in extras}
    absent = [extra for extra in extras if missing[extra]]
    if absent:
        packages = ", ".join(package for extra in absent for package in missing[extra])
        raise InputError(
            f"this needs {packages}, not installed here: pip install '.[{','.join(absent)}]' in the checkout, or "
            f'pip install "blocklocal[{",".join(absent)}]" (or [all] for everything).'
        )


def needs(*extras: Extra) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function that looks for the libraries of these extras before it begins (`check_extras`)."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @wraps(function)
        def checked(*args: P.args, **kwargs: P.kwargs) -> T:
            check_extras(*extras)
            return function(*args, **kwargs)

        return checked

    return decorate
