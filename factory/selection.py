"""Keep rules: a boolean expression over named scores, such as `execution == 1 and (reward >= q75 or judge == max)`.

Evaluated with three values: a score that is not there yet leaves its comparison open, so that a record whose fate is
already sealed is not scored any further. A statistic (`q1` to `q99`, `min`, `max`, `mean`) is that of whatever stands on
the other side of its comparison, over all records that have it: only `export` knows them all.
"""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from factory.errors import near
from factory.records import Score

_JOINT = "\x1f"  # between the keys of one fingerprint
_COMPARE: dict[type[ast.cmpop], Callable[[float, float], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_STATISTIC = re.compile(r"q[1-9]\d?|max|min|mean")


class Seen:
    """Fingerprints met so far, as short hashes. One may be several keys (`joined`): a record that shares any is known."""

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._keys = set(keys)

    def copy(self) -> Seen:
        return Seen(self._keys)

    def knows(self, fingerprint: str | None) -> bool:
        return any(hash(key) in self._keys for key in self.keys_of(fingerprint))

    def new(self, fingerprint: str | None) -> bool:
        """Whether nothing of it was met before; it was then. None is always new."""
        if self.knows(fingerprint):
            return False
        self._keys.update(map(hash, self.keys_of(fingerprint)))
        return True

    @staticmethod
    def keys_of(fingerprint: str | None) -> Sequence[str]:
        """The keys of what `joined` made."""
        return () if fingerprint is None else fingerprint.split(_JOINT)

    @staticmethod
    def joined(fingerprint: str | Sequence[str] | None) -> str | None:
        """What a generator gives, as the journal keeps it."""
        return fingerprint if fingerprint is None or isinstance(fingerprint, str) else _JOINT.join(fingerprint)


class Statistic(NamedTuple):
    """`name` (`q75`, `max`, ...) of the values of the expression `of`; `key` stands for it in a rule."""

    name: str
    of: str

    @property
    def key(self) -> str:
        return f"{self.name}({self.of})"


class Expression:
    """A number made of named scores, such as `reward * difficulty`."""

    def __init__(self, text: str, names: set[str]) -> None:
        """Raises `ValueError`, saying what is wrong and which names there are."""
        self.text = text.strip()
        self._tree = _parsed(self.text)
        if isinstance(self._tree, ast.Compare | ast.BoolOp) or _is_not(self._tree):
            raise ValueError(f"{text!r} is a condition; a number is wanted, as reward * difficulty")
        _check(self._tree, names, number=True)
        self.names = _names(self._tree)

    def value(self, values: Mapping[str, float]) -> float | None:
        """None where a score is missing, or where there is no such number (a division by zero, an overflow)."""
        try:
            number = _number(self._tree, values)
        except (ZeroDivisionError, OverflowError):
            return None
        return number if number is not None and math.isfinite(number) else None


class KeepRule:
    """One parsed rule; `names` are those of the scores that it asks for. An empty text keeps everything."""

    def __init__(self, text: str, names: set[str], *, whole: bool = False) -> None:
        """`whole`: every record is known, so that statistics can be had.

        Raises `ValueError`, saying what is wrong and which names there are.
        """
        self.text = text.strip() or "True"
        tree = _parsed(self.text)
        if not whole and (early := sorted(name for name in _names(tree) - names if _STATISTIC.fullmatch(name))):
            raise ValueError(
                f"{early[0]} is a statistic of the whole run, and records are decided here one by one: leave it to the "
                f"export, as export run=NAME keep='{self.text}'"
            )
        resolve = _Resolve(names)
        self._tree = resolve.visit(tree)
        self.statistics: frozenset[Statistic] = frozenset(resolve.found)
        keys = {statistic.key for statistic in resolve.found}
        _check(self._tree, names | keys)
        self.names = _names(tree) & names

    def decide(self, scores: Mapping[str, Score]) -> tuple[bool | None, str]:
        """(kept, reason): kept is None while scores that decide it are missing; the reason names the failed clause."""
        values = {name: score.value for name, score in scores.items()}
        return self.decide_values(values, {name: score.reason for name, score in scores.items()})

    def decide_values(self, values: Mapping[str, float], reasons: Mapping[str, str]) -> tuple[bool | None, str]:
        """The same from plain numbers, those of the statistics among them, each under its key."""
        try:
            kept = _truth(self._tree, values)
        except ZeroDivisionError:
            return False, "keep: division by zero"
        if kept or kept is None:
            return kept, ""
        reason = _blame(self._tree, values, reasons)
        for statistic in self.statistics:
            reason = reason.replace(statistic.key, statistic.name)
        return kept, reason


def _parsed(text: str) -> ast.expr:
    try:
        return ast.parse(text, mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"{text!r} is not an expression: {error.msg}") from error
    except (MemoryError, RecursionError) as error:
        raise ValueError("is nested too deep") from error


def _names(tree: ast.expr) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


class _Resolve(ast.NodeTransformer):
    """Gives every statistic of a comparison the key of what it is the statistic of."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.found: set[Statistic] = set()

    def _of(self, side: ast.expr) -> set[str]:
        """The statistics in one side of a comparison. A score of that name comes first."""
        return {name for name in _names(side) - self.names if _STATISTIC.fullmatch(name)}

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        sides = [node.left, *node.comparators]
        made: list[ast.expr] = []
        for place, side in enumerate(sides):
            if not (wanted := self._of(side)):
                made.append(side)
                continue
            others = {ast.unparse(other) for other in (*sides[max(0, place - 1) : place], *sides[place + 1 : place + 2])
                      if _names(other) and not self._of(other)}  # fmt: skip
            if len(others) != 1 or _names(side) - wanted:
                raise ValueError(
                    f"{ast.unparse(node)!r}: {min(wanted)} is the statistic of what is compared with it: write one "
                    f"score on the other side, as reward >= {min(wanted)}"
                )
            (other,) = others
            self.found |= {Statistic(name, other) for name in wanted}
            made.append(_renamed(side, {name: Statistic(name, other).key for name in wanted}))
        return ast.Compare(made[0], node.ops, made[1:])

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id not in self.names and _STATISTIC.fullmatch(node.id):
            raise ValueError(f"{node.id} must be compared with a score, as reward >= {node.id}")
        return node


def _renamed(tree: ast.expr, names: Mapping[str, str]) -> ast.expr:
    """A copy in which names are called differently."""

    class Rename(ast.NodeTransformer):
        def visit_Name(self, node: ast.Name) -> ast.Name:
            return ast.Name(names.get(node.id, node.id), node.ctx)

    return Rename().visit(_parsed(ast.unparse(tree)))  # type: ignore[no-any-return]


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _check(node: ast.expr, names: set[str], number: bool = False) -> None:
    """`number`: where a number is wanted, as "(a and b) >= 3" reads, but does not mean, both."""
    match node:
        case ast.BoolOp() if number:
            raise ValueError(f"{ast.unparse(node)!r} is no number: compare each score by itself")
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=part):
            parts = [part]
        case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
            parts = [left, *others]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            parts = [left, right]
        case ast.Constant(value=bool() | int() | float() as value):
            if abs(value) > 1e300:
                raise ValueError(f"{ast.unparse(node)[:20]}... is too large")
            parts = []
        case ast.Name(id=name):
            if name not in names:
                there = ", ".join(sorted(names)) or "none"
                raise ValueError(f"no score is named {name!r}{near(name, names)} (there is {there})")
            parts = []
        case _:
            raise ValueError(f"{ast.unparse(node)!r} is not allowed: use names, numbers, comparisons, and, or, not")
    number = isinstance(node, ast.Compare | ast.BinOp) or (
        isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)
    )
    for part in parts:
        _check(part, names, number)


def _truth(node: ast.expr, values: Mapping[str, float]) -> bool | None:
    match node:
        case ast.BoolOp(op=op, values=parts):
            found = [_truth(part, values) for part in parts]
            decisive = isinstance(op, ast.Or)
            return decisive if decisive in found else None if None in found else not decisive
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = _truth(operand, values)
            return None if value is None else not value
        case ast.Compare(left=left, ops=ops, comparators=others):
            numbers = [_number(part, values) for part in (left, *others)]
            if any(number is None for number in numbers):
                return None
            pairs = zip(ops, numbers, numbers[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)  # type: ignore[arg-type]
        case _:
            number = _number(node, values)
            return None if number is None else bool(number)


def _number(node: ast.expr, values: Mapping[str, float]) -> float | None:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return values.get(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            value = _number(operand, values)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(left, values), _number(right, values)
            return None if a is None or b is None else _ARITHMETIC[type(op)](a, b)
        case _:
            truth = _truth(node, values)
            return None if truth is None else float(truth)


def _blame(node: ast.expr, values: Mapping[str, float], reasons: Mapping[str, str]) -> str:
    """The clause that failed: "name: the scorer's reason" where it gave one, else the clause itself."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for part in node.values:
            if _truth(part, values) is False:
                return _blame(part, values, reasons)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name) and reasons.get(inner.id):
            return f"{inner.id}: {reasons[inner.id]}"
    return f"not ({ast.unparse(node)})"
