"""matplotlib as this library draws with it: in one style, whatever the surroundings say.

A notebook exports MPLBACKEND, a `matplotlibrc` may lie in the working folder, a user's program may have set a style:
none of it changes or breaks a figure here, and nothing changes for the user's own plots. Figures are made with
matplotlib's object interface: no pyplot, so no global state and no display.
"""

import logging
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

LONGEST = 200  # letters of a name that a picture shows


def import_matplotlib() -> Any:
    """The module `matplotlib`. Where nothing has imported it yet, what the surroundings name cannot make that fail.

    The user's backend is kept for the user's own plots where matplotlib knows it. A library that imports matplotlib by
    itself is safe after this call.
    """
    if "matplotlib" not in sys.modules:
        _import_first()
    import matplotlib

    return matplotlib


def _import_first() -> None:
    backend = os.environ.pop("MPLBACKEND", None)  # refused with an error where its package is not installed
    try:
        import matplotlib
    except Exception as error:  # whatever a matplotlibrc that is no text leads to
        logging.getLogger("blocklocal").warning("matplotlib is used with its own settings: yours fail (%s).", error)
        for half_imported in [name for name in sys.modules if name.startswith("matplotlib.")]:
            del sys.modules[half_imported]
        with _elsewhere():
            import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        try:
            matplotlib.rcParams["backend"] = backend
        except ValueError as error:
            logging.getLogger("blocklocal").debug("MPLBACKEND is ignored: %s", error)


@contextmanager
def _elsewhere() -> Generator[None]:
    """Where no settings for matplotlib are found: in an empty folder, with an empty file as the user's."""
    here, named = os.getcwd(), os.environ.get("MATPLOTLIBRC")
    with tempfile.TemporaryDirectory() as empty:
        os.environ["MATPLOTLIBRC"] = os.devnull
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(here)
            if named is None:
                del os.environ["MATPLOTLIBRC"]
            else:
                os.environ["MATPLOTLIBRC"] = named


@contextmanager
def own_style() -> Generator[None]:
    """matplotlib's defaults: `@own_style()` stands above every function that makes a figure or writes one."""
    matplotlib = import_matplotlib()
    with matplotlib.rc_context():
        defaults = matplotlib.rcParamsDefault.items()
        matplotlib.rcParams.update({key: value for key, value in defaults if key != "backend"})
        yield
