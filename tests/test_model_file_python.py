"""A model's file is ordinary Python: what runs with `python file.py` runs here, and what fails is said in one line."""

from __future__ import annotations

import pickle
import sys
import typing
from pathlib import Path

import pytest
import torch
from run_helpers import assert_refused, train
from torch import nn

from blocklocal._common.errors import InputError
from blocklocal.models import build_model
from blocklocal.models.file import load_builder, sources

SIZES = {"classes": 3, "channels": 1, "image_size": (4, 4)}
NET = "nn.Sequential(nn.Flatten(), nn.Linear(16, 3))"
PLAIN = f"from torch import nn\ndef net(classes, channels, image_size):\n    return {NET}\n"


def written(folder: Path, text: str | bytes, name: str = "net.py") -> str:
    """A reference to the function `net` of a file with this text."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return f"{folder / name}:net"


def build(reference: str, **more: typing.Any) -> nn.Module:
    return build_model(reference, **SIZES, **more)


def one_line(reference: str, *words: str) -> None:
    """It is refused with all of `words`, in a message of one line."""
    with pytest.raises(InputError) as refused:
        build(reference)
    message = str(refused.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


RUNS = {
    "a dataclass with postponed annotations": f"""
from __future__ import annotations
from dataclasses import dataclass
from typing import ClassVar
from torch import nn
@dataclass
class Settings:
    kind: ClassVar[str] = "x"
    width: int = 8
def net(classes, channels, image_size):
    assert Settings().width == 8
    return {NET}
""",
    "type hints that are looked up": f"""
from __future__ import annotations
import typing
from torch import nn
class Some:
    def f(self, other: Some) -> nn.Module: ...
def net(classes, channels, image_size):
    assert typing.get_type_hints(Some.f)["other"] is Some
    return {NET}
""",
    "a look at itself in sys.modules": f"""
import sys
from torch import nn
HERE = sys.modules[__name__]
def net(classes, channels, image_size):
    assert HERE.net is net and __file__.endswith("net.py")
    return {NET}
""",
    "the source of itself": f"""
import inspect
from torch import nn
def net(classes, channels, image_size):
    assert "def net" in inspect.getsource(net)
    return {NET}
""",
    "a class": f"""
from torch import nn
class net(nn.Module):
    def __init__(self, classes, channels, image_size):
        super().__init__()
        self.layers = {NET}
    def forward(self, x):
        return self.layers(x)
""",
    "a lambda": f"from torch import nn\nnet = lambda classes, channels, image_size: {NET}\n",
    "a partial": f"""
from functools import partial
from torch import nn
def make(extra, classes, channels, image_size):
    return {NET}
net = partial(make, 1)
""",
    "an object that is called": f"""
from torch import nn
class Maker:
    def __call__(self, classes, channels, image_size):
        return {NET}
net = Maker()
""",
    "an encoding of its own": f"# -*- coding: latin-1 -*-\nname = '\xe9'\n{PLAIN}".encode("latin-1"),
    "a main part": PLAIN + "if __name__ == '__main__':\n    raise SystemExit('not a script here')\n",
}


@pytest.mark.parametrize("source", RUNS.values(), ids=RUNS)
def test_what_is_ordinary_python_builds(tmp_path, source):
    model = build(written(tmp_path, source))
    assert model(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


FAILS = {
    "an exit": ("raise SystemExit(3)", ("does not run", "SystemExit: 3", "line 1")),
    "an exit without a word": ("import sys\nsys.exit()", ("does not run", "SystemExit", "line 2")),
    "recursion": ("def f(): return f()\nf()", ("does not run", "RecursionError")),
    "no memory": ("x = 1\nraise MemoryError", ("does not run", "MemoryError", "line 2")),
    "a syntax error": ("x = 1\ndef net(:\n", ("does not run", "SyntaxError", "line 2")),
    "no UTF-8": (b"x = 1\nname = '\xe9'\n", ("does not run", "SyntaxError", "utf-8")),
    "a null byte": (b"x = 1\0\n", ("does not run", "null bytes")),
    "an absent library": ("import absent_library", ("ModuleNotFoundError", "absent_library")),
    "a builder that fails": (
        "def net(classes, channels, image_size):\n    x = 1\n    return {}['w']",
        ("net.py:net failed", "KeyError: 'w'", "line 3"),
    ),
    "a builder with an error of several lines": (
        "def net(**sizes):\n    raise RuntimeError('one\\ntwo')",
        ("net.py:net failed", "RuntimeError: one two"),
    ),
    "a builder that exits": ("def net(**sizes):\n    raise SystemExit(1)", ("net.py:net failed", "SystemExit: 1")),
    "a TypeError inside": ("def net(**sizes):\n    return 1 + 'a'", ("net.py:net failed", "TypeError", "line 2")),
    "too few arguments": ("def net(classes): ...", ("must take classes, channels and image_size",)),
    "a module in the place of a function": (
        "from torch import nn\nnet = nn.Linear(1, 1)",
        ("is a module that is built already", "give a function"),
    ),
    "a class that is returned": (
        "from torch import nn\ndef net(**sizes):\n    return nn.Linear",
        ("the class Linear",),
    ),
    "a tuple that is returned": ("def net(**sizes):\n    return 1, 2", ("returned tuple, not an nn.Module",)),
}


@pytest.mark.parametrize(("source", "words"), FAILS.values(), ids=FAILS)
def test_what_fails_in_the_file_is_one_line_with_its_place(tmp_path, source, words):
    one_line(written(tmp_path, source), *words)


@pytest.mark.parametrize("source", ["raise KeyboardInterrupt", "def net(**sizes): raise KeyboardInterrupt"])
def test_an_interrupt_in_the_file_is_an_interrupt(tmp_path, source):
    with pytest.raises(KeyboardInterrupt):
        build(written(tmp_path, source))


class TestNeighbours:
    HELPER = f"from torch import nn\nKEPT = []\ndef make(classes, channels, image_size):\n    return {NET}\n"

    def test_a_sibling_a_package_and_a_folder_of_modules_are_imported(self, tmp_path):
        written(tmp_path, self.HELPER, "helper_of_net.py")
        written(tmp_path / "package_of_net", "from .inner import make", "__init__.py")
        written(tmp_path / "package_of_net", self.HELPER, "inner.py")
        written(tmp_path / "folder_of_net", self.HELPER, "inner.py")
        for name in ("helper_of_net", "package_of_net", "folder_of_net.inner"):
            reference = written(tmp_path, f"from {name} import make\nnet = make\n")
            assert build(reference)(torch.zeros(1, 1, 4, 4)).shape == (1, 3)

    def test_an_import_inside_the_function_finds_it_too(self, tmp_path):
        written(tmp_path, self.HELPER, "late_helper.py")
        reference = written(tmp_path, "def net(**sizes):\n    from late_helper import make\n    return make(**sizes)\n")
        assert isinstance(build(reference), nn.Sequential)

    def test_the_search_path_is_as_it_was(self, tmp_path):
        written(tmp_path, self.HELPER, "helper_of_net.py")
        path, finders = list(sys.path), list(sys.meta_path)
        build(written(tmp_path, "from helper_of_net import make as net"))
        with pytest.raises(InputError):
            build(written(tmp_path, "import helper_of_net, absent_library", "other.py"))
        assert (sys.path, sys.meta_path) == (path, finders)

    def test_a_sibling_does_not_stand_for_the_standard_library(self, tmp_path):
        for name in ("queue.py", "profile.py", "colorsys.py"):
            written(tmp_path, "raise RuntimeError('the sibling')", name)
        build(written(tmp_path, "import queue, profile, colorsys\n" + PLAIN))

    @pytest.mark.parametrize("name", ["torch", "blocklocal"])
    def test_a_sibling_does_not_stand_for_this_library_or_torch(self, tmp_path, name):
        written(tmp_path, "raise RuntimeError('the sibling')", f"{name}.py")
        before = sys.modules[name]
        build(written(tmp_path, f"import {name}\n" + PLAIN))
        assert sys.modules[name] is before

    def test_files_and_siblings_of_the_same_name_in_two_folders_do_not_collide(self, tmp_path):
        made = {}
        for width in (5, 6, 5):
            folder = tmp_path / str(width)
            written(folder, f"from torch import nn\nWIDTH = {width}\n", "shared_name.py")
            reference = written(
                folder, "from torch import nn\nimport shared_name\nnet = lambda **s: nn.Linear(1, shared_name.WIDTH)\n"
            )
            made[width] = load_builder(reference)
        assert {width: builder(**SIZES).out_features for width, builder in made.items()} == {5: 5, 6: 6}

    def test_a_module_of_that_name_elsewhere_in_the_program_stays_what_it_is(self, tmp_path, monkeypatch):
        own = type(sys)("used_elsewhere")
        monkeypatch.setitem(sys.modules, "used_elsewhere", own)
        written(tmp_path, self.HELPER, "used_elsewhere.py")
        build(written(tmp_path, "from used_elsewhere import make as net"))
        assert sys.modules["used_elsewhere"] is own

    def test_the_sources_of_a_model_are_its_file_and_the_siblings_it_imported_when_it_was_built(self, tmp_path):
        written(tmp_path, self.HELPER, "helper_of_sources.py")
        written(tmp_path, "WIDTH = 3\n", "not_imported.py")
        reference = written(
            tmp_path, "def net(**sizes):\n    from helper_of_sources import make\n    return make(**sizes)"
        )
        assert [path.name for path in sources(reference)] == ["net.py"]
        build(reference)
        assert [path.name for path in sources(reference)] == ["net.py", "helper_of_sources.py"]


def test_what_the_file_defines_can_be_pickled_also_after_a_second_load(tmp_path):
    written(tmp_path, "from torch import nn\nclass Inner(nn.Linear): pass\n", "pickled_sibling.py")
    reference = written(
        tmp_path,
        "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.layer = nn.Linear(1, 1)\ndef net(**sizes):\n    return Net()\n",
    )
    first, second = build(reference), build(reference)
    for model in (first, second):
        assert torch.equal(pickle.loads(pickle.dumps(model)).layer.weight, model.layer.weight)
    assert isinstance(
        pickle.loads(
            pickle.dumps(build(written(tmp_path, "from pickled_sibling import Inner\nnet = lambda **s: Inner(1, 1)\n")))
        ),
        nn.Linear,
    )


def test_an_edited_file_is_read_anew_however_fast_the_edit(tmp_path):
    for width in range(1, 6):
        reference = written(tmp_path, f"from torch import nn\nnet = lambda **sizes: nn.Linear(1, {width})\n")
        assert build(reference).out_features == width
    assert not list(tmp_path.glob("**/*.pyc"))


@pytest.mark.parametrize("where", ["file", "sibling"])
def test_a_module_that_the_file_keeps_is_a_new_one_at_every_build(tmp_path, where):
    kept = "from torch import nn\nMODEL = nn.Linear(2, 3)\n"
    written(tmp_path, kept, "keeps_a_model.py")
    first = kept if where == "file" else "from keeps_a_model import MODEL\n"
    reference = written(tmp_path, first + "def net(**sizes):\n    return MODEL\n")
    torch.manual_seed(0)
    one = build(reference)
    torch.manual_seed(1)
    other = build(reference)
    assert one is not other
    assert not torch.equal(one.weight, other.weight)


def test_weights_that_were_returned_before_are_refused(tmp_path, monkeypatch):
    keeper = type(sys)("keeps_across_loads")
    keeper.layer = nn.Linear(2, 3)
    monkeypatch.setitem(sys.modules, "keeps_across_loads", keeper)
    reference = written(
        tmp_path, "import keeps_across_loads as k\nfrom torch import nn\nnet = lambda **s: nn.Sequential(k.layer)\n"
    )
    build(reference)
    one_line(reference, "'0.weight' once before", "build a new module")


def source(body: str, made: str = "Net()") -> str:
    return (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport torch\nfrom torch import nn\n"
        "@dataclass\nclass Output:\n    one: object\n    other: object\n"
        "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.a, self.b = nn.Linear(64, 8), nn.Linear(8, 10)\n"
        f"    def forward(self, x):\n        y = self.b(torch.relu(self.a(x.flatten(1))))\n        return {body}\n"
        f"def net(classes, channels, image_size, width):\n    return {made}\n"
    )


class TestCommandLine:
    @pytest.mark.parametrize(
        ("body", "made", "words"),
        [
            ("y, y", "Net()", ("one tensor", "tuple")),
            ("{'one': y, 'other': y}", "Net()", ("one tensor", "dict with the tensors one, other")),
            ("Output(y, y)", "Net()", ("one tensor", "Output with the tensors one, other")),
            ("None", "Net()", ("one tensor", "NoneType")),
            ("y", "Net().double()", ("torch.float64", "model.float()")),
            ("y", "Net().half()", ("torch.float16", "model.float()")),
            ("y", "Net().to('meta')", ("'a.weight'", "meta")),
            ("y", "nn.Sequential(nn.Flatten(), nn.Linear(63, 10))", ("Sequential cannot run", "[2, 1, 8, 8]", "63")),
            ("y", "torch.compile(Net())", ("torch.compile", "_orig_mod")),
            ("y", "nn.DataParallel(Net())", ("DataParallel", "model.module")),
        ],
    )
    def test_a_model_that_cannot_be_trained_is_one_line_that_names_the_cause(self, tmp_path, body, made, words):
        reference = written(tmp_path, source(body, made))
        blocks = 1 if "Sequential" in made else 2
        said = train(tmp_path, "--data", "digits", model=reference, width=8, blocks=blocks)
        assert_refused(said, *words)

    def test_a_file_may_print_and_its_siblings_train(self, tmp_path):
        written(tmp_path, source("y"), "written_beside.py")
        reference = written(tmp_path, "print('hello from the file')\nfrom written_beside import net\n")
        said = train(tmp_path, "--data", "digits", model=reference, epochs=1)
        assert said.status == 0, said.text
