"""Small mistakes put into a module, one at a time: what a good test should notice.

A mutant is named by the function it is in and by what is written there before and after, not by its line, so that
its name outlives edits elsewhere.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
}
DROPPED = ("detach", "clone", "contiguous")  # calls of a method without arguments that keep data apart


@dataclass(frozen=True)
class Mutant:
    """A module with one mistake in it.

    name: "where: before -> after". source: the whole module. function: the outermost function (or method) in whose body
    the mistake is, by its dotted name; "" for what runs when the module is imported. line: where that function begins.
    """

    name: str
    source: str
    function: str = ""
    line: int = 0


def mutants(source: str) -> Iterator[Mutant]:
    """Every mutant of a module, in the order of its text."""
    tree, seen = ast.parse(source), Counter[str]()
    for where, owner, parent, field, index in _places(tree, "module", _Owner()):
        node = _get(parent, field, index)
        for changed in _changes(node, parent):
            name = f"{where}: {_text(node)} -> {_text(changed)}"
            seen[name] += 1
            _put(parent, field, index, changed)
            name = name if seen[name] == 1 else f"{name} #{seen[name]}"
            yield Mutant(name, ast.unparse(tree), owner.function, owner.line)
            _put(parent, field, index, node)


@dataclass(frozen=True)
class _Owner:
    """The outermost function around a place, and its first line as Python counts it: that of its decorators."""

    function: str = ""
    line: int = 0

    def inside(self, node: ast.AST, field: str, where: str) -> _Owner:
        """Of what is in this field of a node. A default (`args`) is no part of the body: it is made before any call."""
        if self.function or not isinstance(node, ast.FunctionDef) or field != "body":
            return self
        return _Owner(where, min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]))


def _places(node: ast.AST, where: str, owner: _Owner) -> Iterator[tuple[str, _Owner, ast.AST, str, int | None]]:
    """(function, its owner, parent, field, index) of all that can be changed; no annotations, messages or imports."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        where = node.name if where == "module" else f"{where}.{node.name}"
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_params") or isinstance(node, ast.JoinedStr):
            continue
        within = owner.inside(node, field, where)
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(child, ast.AST) or _is_left_out(child):
                continue
            yield where, within, node, field, index
            if not isinstance(child, ast.Raise):  # a raise is dropped as a whole; what it says is no behaviour
                yield from _places(child, where, within)


def _is_left_out(node: ast.AST) -> bool:
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    typing = isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return docstring or typing or isinstance(node, ast.Import | ast.ImportFrom | ast.Assert)


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    if _is_dropped(node):
        yield ast.Pass()
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARED:
        yield ast.Compare(node.left, [COMPARED[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    if isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        yield ast.BinOp(node.left, COMPUTED[type(node.op)](), node.right)
    if isinstance(parent, ast.If | ast.IfExp | ast.While) and node is parent.test and not isinstance(node, ast.Compare):
        yield ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield ast.Constant(not node.value if isinstance(node.value, bool) else node.value + 1)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not (node.args or node.keywords):
        yield from [node.func.value] if node.func.attr in DROPPED else []


def _is_dropped(node: ast.AST) -> bool:
    """Whether it is a statement that can be left out: one whose absence is no missing name."""
    if isinstance(node, ast.Assign):
        return all(isinstance(target, ast.Attribute | ast.Subscript) for target in node.targets)
    return isinstance(node, ast.Expr | ast.AugAssign | ast.Raise)


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 90 else f"{text[:87]}..."


def _get(parent: ast.AST, field: str, index: int | None) -> ast.AST:
    value = getattr(parent, field)
    return value if index is None else value[index]


def _put(parent: ast.AST, field: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[index] = node
