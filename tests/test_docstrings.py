"""Oracle: the source. Docstrings name arguments, fields and errors in sections; ruff's rules D hold their layout."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import blocklocal

PACKAGE = Path(__file__).parents[1] / "src" / "blocklocal"
FILES = sorted(PACKAGE.rglob("*.py"))
HEADINGS = ("Args:", "Attributes:", "Returns:", "Yields:", "Raises:")
RAISED = re.compile(r"raise (InputError|unknown)\(")
CALLS = ("__init__", "__post_init__")

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def public(body: list[ast.stmt], above: str = "") -> Iterator[tuple[str, Definition]]:
    """Classes, functions and methods without an underscore, and what makes an object, by their full names."""
    for node in body:
        if isinstance(node, Definition) and (not node.name.startswith("_") or node.name in CALLS):
            yield f"{above}{node.name}", node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{above}{node.name}.")


def names(node: Definition) -> set[str]:
    """The arguments of a function; the fields of a class, and the arguments with which it is made."""
    if not isinstance(node, ast.ClassDef):
        given = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        return {argument.arg for argument in given} - {"self", "cls"}
    fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    return fields.union(*(names(n) for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"))


def running(text: str) -> list[str]:
    """The lines of a docstring outside its sections and its examples, which are indented."""
    return [line for line in text.splitlines() if line not in HEADINGS and not line.startswith(" ")]


def faults(text: str, known: set[str]) -> list[str]:
    """What a docstring says in running text that belongs into a section."""
    lines = text.splitlines()
    first = next((k for k, line in enumerate(lines) if line in HEADINGS), len(lines))
    found = [f"after the sections: {line}" for line in running("\n".join(lines[first:])) if line]
    body = "\n".join(running(text))
    listed = r"^`?[a-z_]+`?(, `?[a-z_]+`?)*: "  # as a section does it, for a name of any kind
    said = rf"[.;,(] +`?({'|'.join(sorted(known)) or '(?!)'})`?: "
    found += [match[0] for pattern in (listed, said) for match in re.finditer(pattern, body, re.MULTILINE)]
    told = r"(^|[.;,] +)([Rr]aises|[Rr]eturns)\b"
    return found + [match[0] for match in re.finditer(told, body, re.MULTILINE)]


@pytest.mark.parametrize(
    "text",
    [
        "Cut it.\n\nblocks: how many.",
        "Cut it.\n\n`blocks`, `at`: how many, or where.",
        "Cut it. blocks: how many.",
        "Cut it. Raises InputError for more than there are.",
        "Cut it.\n\nReturns the parts.",
        "Cut it; returns the parts.",
        "Cut it.\n\nRaises:\n    InputError: too many.\n\nWorks on a copy.",
    ],
)
def test_an_argument_result_or_error_in_running_text_is_found(text: str) -> None:
    assert faults(text, {"blocks", "at"})


@pytest.mark.parametrize(
    "text",
    [
        "Cut it: blocks are runs of layers.",
        "Cut it.\n\n    cut(blocks=4)\n\nArgs:\n    blocks: how many.\n\nRaises:\n    InputError: too many.",
    ],
)
def test_sections_examples_and_sentences_with_a_colon_are_no_faults(text: str) -> None:
    assert faults(text, {"blocks", "at"}) == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_docstrings_name_arguments_results_and_errors_in_sections_alone(file: Path) -> None:
    found = {
        name: wrong
        for name, node in public(ast.parse(file.read_text()).body)
        if (wrong := faults(ast.get_docstring(node) or "", names(node)))
    }
    assert found == {}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_a_dataclass_describes_its_fields_as_attributes(file: Path) -> None:
    made = [node for _, node in public(ast.parse(file.read_text()).body) if isinstance(node, ast.ClassDef)]
    records = [node for node in made if any("dataclass" in ast.unparse(each) for each in node.decorator_list)]
    assert [node.name for node in records if "Args:" in (ast.get_docstring(node) or "").splitlines()] == []


EXPORTED = [getattr(blocklocal, name) for name in blocklocal.__all__]
DEFINED = [thing for thing in EXPORTED if inspect.isclass(thing) or inspect.isfunction(thing)]
METHODS = [
    method
    for thing in DEFINED
    if inspect.isclass(thing)
    for name, method in vars(thing).items()
    if not name.startswith("_") and inspect.isfunction(method)
]


def definition(thing: type | Callable) -> Definition:
    node = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(node, Definition)
    return node


def undocumented(node: Definition) -> set[str]:
    """What a caller may give, without the fields of a class that have a docstring of their own below them."""
    explained = {
        field.target.id
        for field, below in zip(node.body, node.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr)
    }
    return names(node) - explained


def refuses(node: Definition) -> bool:
    """Whether a function, or what makes an object of a class, raises InputError in its own lines."""
    if isinstance(node, ast.ClassDef):
        return any(refuses(n) for n in node.body if isinstance(n, ast.FunctionDef) and n.name in CALLS)
    return RAISED.search(ast.unparse(node)) is not None


def test_every_exported_name_has_a_docstring() -> None:
    assert [name for name, thing in zip(blocklocal.__all__, EXPORTED, strict=True) if not inspect.getdoc(thing)] == []


def lists_arguments(thing: type | Callable) -> bool:
    """Itself, or by naming an exported class that has the same ones."""
    text = thing.__doc__ or ""
    if (elsewhere := re.search(r"^ *Arguments and errors as of `(\w+)`\.$", text, re.MULTILINE)) is not None:
        other = getattr(blocklocal, elsewhere[1])
        return lists_arguments(other) and names(definition(thing)) <= names(definition(other))
    return any(line.strip() in ("Args:", "Attributes:") for line in text.splitlines())


@pytest.mark.parametrize("thing", DEFINED, ids=lambda thing: thing.__name__)
def test_what_is_exported_lists_its_arguments(thing: type | Callable) -> None:
    assert lists_arguments(thing) or not undocumented(definition(thing))


@pytest.mark.parametrize("thing", [*DEFINED, *METHODS], ids=lambda thing: thing.__qualname__)
def test_what_is_exported_lists_the_errors_that_it_raises(thing: type | Callable) -> None:
    headed = any(line.strip() == "Raises:" for line in (thing.__doc__ or "").splitlines())
    assert headed or not refuses(definition(thing))
