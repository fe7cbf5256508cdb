"""Keep rules: a boolean expression over named scores, such as `execution == 1 and test_strength >= 0.6`.

Evaluated with three values: a score that is not there yet leaves its comparison open, so that a record whose fate is
already sealed is not scored any further.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence

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


class Seen:
    """Fingerprints met so far, as short hashes. One may be several keys (`joined`): a record that shares any is known."""

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._keys = set(keys)

    def copy(self) -> Seen:
        return Seen(self._keys)

    def knows(self, fingerprint: str | None) -> bool:
        return fingerprint is not None and any(hash(key) in self._keys for key in fingerprint.split(_JOINT))

    def new(self, fingerprint: str | None) -> bool:
        """Whether nothing of it was met before; it was then. None is always new."""
        if self.knows(fingerprint):
            return False
        if fingerprint is not None:
            self._keys.update(map(hash, fingerprint.split(_JOINT)))
        return True

    @staticmethod
    def joined(fingerprint: str | Sequence[str] | None) -> str | None:
        """What a generator gives, as the journal keeps it."""
        return fingerprint if fingerprint is None or isinstance(fingerprint, str) else _JOINT.join(fingerprint)


class KeepRule:
    """One parsed rule; `names` are those of the scores that it asks for. An empty text keeps everything."""

    def __init__(self, text: str, names: set[str]) -> None:
        """Raises `ValueError`, saying what is wrong and which names there are."""
        self.text = text.strip() or "True"
        try:
            self._tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{text!r} is not an expression: {error.msg}") from error
        except (MemoryError, RecursionError) as error:
            raise ValueError("is nested too deep") from error
        self._check(self._tree, names)
        self.names = {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}

    def _check(self, node: ast.expr, names: set[str], number: bool = False) -> None:
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
            self._check(part, names, number)

    def decide(self, scores: Mapping[str, Score]) -> tuple[bool | None, str]:
        """(kept, reason): kept is None while scores that decide it are missing; the reason names the failed clause."""
        try:
            kept = _truth(self._tree, scores)
        except ZeroDivisionError:
            return False, "keep: division by zero"
        return kept, "" if kept or kept is None else _blame(self._tree, scores)


def _truth(node: ast.expr, scores: Mapping[str, Score]) -> bool | None:
    match node:
        case ast.BoolOp(op=op, values=values):
            found = [_truth(value, scores) for value in values]
            decisive = isinstance(op, ast.Or)
            return decisive if decisive in found else None if None in found else not decisive
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            value = _truth(operand, scores)
            return None if value is None else not value
        case ast.Compare(left=left, ops=ops, comparators=others):
            numbers = [_number(part, scores) for part in (left, *others)]
            if any(number is None for number in numbers):
                return None
            pairs = zip(ops, numbers, numbers[1:], strict=False)
            return all(_COMPARE[type(op)](a, b) for op, a, b in pairs)  # type: ignore[arg-type]
        case _:
            number = _number(node, scores)
            return None if number is None else bool(number)


def _number(node: ast.expr, scores: Mapping[str, Score]) -> float | None:
    match node:
        case ast.Constant(value=value):
            return float(value)  # type: ignore[arg-type]
        case ast.Name(id=name):
            return scores[name].value if name in scores else None
        case ast.UnaryOp(operand=operand):
            value = _number(operand, scores)
            return None if value is None else -value
        case ast.BinOp(left=left, op=op, right=right):
            a, b = _number(left, scores), _number(right, scores)
            return None if a is None or b is None else _ARITHMETIC[type(op)](a, b)
        case _:
            truth = _truth(node, scores)
            return None if truth is None else float(truth)


def _blame(node: ast.expr, scores: Mapping[str, Score]) -> str:
    """The clause that failed: "name: the scorer's reason" where it gave one, else the clause itself."""
    if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.And):
        for value in node.values:
            if _truth(value, scores) is False:
                return _blame(value, scores)
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id in scores and scores[part.id].reason:
            return f"{part.id}: {scores[part.id].reason}"
    return f"not ({ast.unparse(node)})"
