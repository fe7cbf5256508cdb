"""What a keep rule says about each score by itself: where it cuts, and what it would keep by that score alone."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from factory.selection import KeepRule

_SIGNS: dict[type[ast.cmpop], str] = {
    ast.GtE: "≥",
    ast.Gt: ">",
    ast.LtE: "≤",
    ast.Lt: "<",
    ast.Eq: "=",
    ast.NotEq: "≠",
}
_OPPOSITE = {"≥": "<", ">": "≤", "≤": ">", "<": "≥", "=": "≠", "≠": "="}
_MIRROR = {"≥": "≤", ">": "<", "≤": "≥", "<": ">", "=": "=", "≠": "≠"}

_STATISTIC = re.compile(r"q[1-9]\d?|max|min|mean")  # what a rule may compare a score with


@dataclass(frozen=True, slots=True)
class Cut:
    """`score sign value`; NaN where the value is not known. `needed`: no record is kept without it; else it is one way in
    among several (an `or`)."""

    sign: str
    value: float
    needed: bool = True
    name: str = ""  # of the value, where the rule has a name for it, as q75

    def __str__(self) -> str:
        shown = f"{self.value:,.0f}" if abs(self.value) >= 1000 else f"{self.value:.4g}"
        known = shown if math.isfinite(self.value) else ""
        return f"{self.sign} " + (f"{self.name} ({known})" if self.name and known else self.name or known)


def cuts(rule: str | None, statistics: Mapping[str, float] | None = None) -> dict[str, list[Cut]]:
    """Where a rule cuts each score, in its order: `a >= 0.6 and b == 1` gives {"a": [≥ 0.6], "b": [= 1]}.

    What `not` turns around is told turned around. A comparison of two scores, or of a sum of them, cuts none of them.
    `statistics` has the values of those that the rule names, as {"q75(reward)": 1.32} for `reward >= q75`.
    """
    found: dict[str, list[Cut]] = {}
    tree = _parsed(rule)
    for name, cut in _walk(tree, False, True, statistics or {}) if tree is not None else ():
        if cut not in found.setdefault(name, []):
            found[name].append(cut)
    return found


def alone(rule: str | None) -> dict[str, KeepRule]:
    """For each score what the rule says about it alone: clauses about other scores are left out."""
    tree = _parsed(rule)
    if tree is None:
        return {}
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    found = {name: _project(tree, name) for name in sorted(names)}
    rules = {}
    for name, part in found.items():
        if part is not None:
            try:
                rules[name] = KeepRule(ast.unparse(part), {name})
            except ValueError:  # the page is drawn whatever the manifest holds
                continue
    return rules


def _parsed(rule: str | None) -> ast.expr | None:
    try:
        return ast.parse(rule.strip(), mode="eval").body if rule else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _walk(node: ast.expr, turned: bool, needed: bool, known: Mapping[str, float]) -> Iterator[tuple[str, Cut]]:
    match node:
        case ast.BoolOp(op=op, values=parts):
            every = isinstance(op, ast.And) is not turned
            for part in parts:
                yield from _walk(part, turned, needed and every, known)
        case ast.UnaryOp(op=ast.Not(), operand=part):
            yield from _walk(part, not turned, needed, known)
        case ast.Name(id=name):
            yield name, Cut("=" if turned else "≠", 0.0, needed)
        case ast.Compare(left=left, ops=ops, comparators=others):
            sides, every = [left, *others], len(ops) == 1 or not turned
            for first, kind, second in zip(sides, ops, others, strict=False):
                sign = _SIGNS.get(type(kind))
                if sign is not None and (found := _cut(first, sign, second, known)) is not None:
                    name, shown, value, called = found
                    yield name, Cut(_OPPOSITE[shown] if turned else shown, value, needed and every, called)


def _cut(
    first: ast.expr, sign: str, second: ast.expr, known: Mapping[str, float]
) -> tuple[str, str, float, str] | None:
    """(score, sign, value, its name) of one comparison, the score first; None where it is not of a score with a number."""
    for score, other, shown in ((first, second, sign), (second, first, _MIRROR[sign])):
        if not isinstance(score, ast.Name) or (_STATISTIC.fullmatch(score.id) and isinstance(other, ast.Name)):
            continue
        if (value := _number(other)) is not None:
            return score.id, shown, value, ""
        if isinstance(other, ast.Name) and _STATISTIC.fullmatch(other.id):
            return score.id, shown, known.get(f"{other.id}({score.id})", math.nan), other.id
    return None


def _number(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=bool() | int() | float() as value):
            return float(value)
        case ast.UnaryOp(op=ast.USub(), operand=part):
            below = _number(part)
            return None if below is None else -below
        case _:
            return None


def _project(node: ast.expr, name: str) -> ast.expr | None:
    """What of a rule is about `name` alone; None where nothing is."""
    match node:
        case ast.BoolOp(op=op, values=parts):
            kept = [part for each in parts if (part := _project(each, name)) is not None]
            return ast.BoolOp(op=op, values=kept) if len(kept) > 1 else kept[0] if kept else None
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            part = _project(operand, name)
            return None if part is None else ast.UnaryOp(op=ast.Not(), operand=part)
        case _:
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            return node if names == {name} else None
