"""Mutants of a solution: what good tests must notice (operators, constants, comparisons, bounds, conditions, returns).

After the selective operators of mutation testing (Offutt et al., "An experimental determination of sufficient mutant
operators", 1996), on Python's syntax tree.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass

from factory.sandbox.rewrite import parse

_SWAPS: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Add: (ast.Sub,),
    ast.Sub: (ast.Add,),
    ast.Mult: (ast.Add, ast.FloorDiv),
    ast.Div: (ast.Mult, ast.FloorDiv),
    ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.FloorDiv,),
    ast.Pow: (ast.Mult,),
    ast.BitAnd: (ast.BitOr,),
    ast.BitOr: (ast.BitAnd,),
    ast.BitXor: (ast.BitAnd,),
    ast.LShift: (ast.RShift,),
    ast.RShift: (ast.LShift,),
    ast.Lt: (ast.LtE, ast.Gt),
    ast.LtE: (ast.Lt, ast.GtE),
    ast.Gt: (ast.GtE, ast.Lt),
    ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.And: (ast.Or,),
    ast.Or: (ast.And,),
    ast.Break: (ast.Continue,),
    ast.Continue: (ast.Break,),
}


@dataclass(frozen=True)
class Mutant:
    """A changed solution and what was changed, as `line 3: x < y -> x <= y`."""

    code: str
    change: str


def mutants(code: str, *, limit: int = 32, seed: int = 0) -> list[Mutant]:
    """Up to `limit` different mutants, the choice fixed by `seed`; none when the source does not parse."""
    try:
        tree = parse(code)
        seen = {ast.unparse(tree)}
        found: dict[str, Mutant] = {}
        for number, _ in enumerate(_changes(tree)):
            twin = copy.deepcopy(tree)
            change = next(change for place, change in enumerate(_changes(twin)) if place == number)
            text = change()
            source = ast.unparse(ast.fix_missing_locations(twin))
            if source not in seen and source not in found:
                found[source] = Mutant(source, text)
            if len(found) >= 50 * limit:
                break
    except (SyntaxError, RecursionError):
        return []
    chosen = list(found.values())
    random.Random(seed).shuffle(chosen)
    return chosen[:limit]


def stub(code: str) -> str:
    """The solution with every function's body replaced by `return None`: tests must fail on it."""
    try:
        tree = parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name != "__init__":
                node.body = [ast.Return(ast.Constant(None))]
        return ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, RecursionError):
        return ""


class _Change:
    """One mutation of one node in place; called, it does it and says what it did."""

    def __init__(self, owner: ast.AST, field: str, index: int | None, new: ast.AST, shown: ast.AST) -> None:
        self.owner, self.field, self.index, self.new, self.shown = owner, field, index, new, shown

    def __call__(self) -> str:
        line, before = getattr(self.shown, "lineno", 0), _brief(self.shown)
        if self.index is None:
            setattr(self.owner, self.field, self.new)
        else:
            getattr(self.owner, self.field)[self.index] = self.new
        shown = self.shown if self.owner is self.shown else self.new
        return f"line {line}: {before} -> {_brief(shown)}"


def _brief(node: ast.AST) -> str:
    return ast.unparse(node).split("\n")[0][:80]


def _changes(tree: ast.AST) -> Iterator[_Change]:
    """Every mutation of the tree, in source order. Annotations, docstrings and decorators are left alone."""
    for owner, field, index, node in _places(tree):
        for new in _replacements(owner, field, node):
            shown = node if hasattr(node, "lineno") else owner
            yield _Change(owner, field, index, new, shown)


def _places(owner: ast.AST) -> Iterator[tuple[ast.AST, str, int | None, ast.AST]]:
    for field, value in ast.iter_fields(owner):
        if field in ("annotation", "returns", "decorator_list", "bases", "keywords") and not isinstance(
            owner, ast.Call
        ):
            continue
        items = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, node in items:
            if isinstance(node, ast.AST) and not _is_docstring(node):
                yield owner, field, index, node
                yield from _places(node)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _replacements(owner: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST]:
    for new in _SWAPS.get(type(node), ()):
        yield new()
    if isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Return) and node.value is not None and not _is_none(node.value):
        yield ast.copy_location(ast.Return(ast.Constant(None)), node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield node.operand
    if isinstance(owner, ast.If | ast.While | ast.IfExp) and field == "test" and isinstance(node, ast.expr):
        yield ast.copy_location(ast.UnaryOp(ast.Not(), node), node)
    if isinstance(owner, ast.Slice) and isinstance(node, ast.expr):
        yield ast.copy_location(ast.BinOp(node, ast.Add(), ast.Constant(1)), node)
    if (
        isinstance(owner, ast.Call)
        and isinstance(owner.func, ast.Name)
        and owner.func.id == "range"
        and field == "args"
    ):
        yield ast.copy_location(ast.BinOp(copy.deepcopy(node), ast.Sub(), ast.Constant(1)), node)  # type: ignore[arg-type]


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _constants(node: ast.Constant) -> Iterator[ast.Constant]:
    value = node.value
    if isinstance(value, bool):
        yield ast.copy_location(ast.Constant(not value), node)
    elif isinstance(value, int | float):
        yield ast.copy_location(ast.Constant(value + 1), node)
        yield ast.copy_location(ast.Constant(value - 1), node)
    elif isinstance(value, str):
        yield ast.copy_location(ast.Constant("" if value else "x"), node)
