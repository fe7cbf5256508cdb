"""Evaluating the supervisor's half of a test: a small, bounded part of Python over plain data.

The test and the data are both untrusted, so only what is listed here is ever executed, and nothing that could grow
beyond the sizes that came in. What is outside is `Unsupported`, which `supported` finds out beforehand.
"""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MAX_ITEMS, MAX_BITS = 1_000_000, 1 << 16

_BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.BitAnd: operator.and_,
    ast.BitOr: operator.or_,
    ast.BitXor: operator.xor,
}
_UNARY: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.Not: operator.not_,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Invert: operator.invert,
}
_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_TYPES = {
    kind.__name__: kind
    for kind in (int, float, bool, str, bytes, list, tuple, dict, set, frozenset, complex, bytearray, range, object)
}
# name: (function, the most arguments, keywords). Conversions of types are calls of `_TYPES`.
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int, tuple[str, ...]]] = {
    "len": (len, 1, ()),
    "abs": (abs, 1, ()),
    "sum": (sum, 1, ()),
    "min": (min, 9, ()),
    "max": (max, 9, ()),
    "sorted": (sorted, 1, ("reverse",)),
    "round": (round, 2, ()),
    "any": (any, 1, ()),
    "all": (all, 1, ()),
    "isinstance": (isinstance, 2, ()),
    "type": (type, 1, ()),
    "repr": (repr, 1, ()),
    "reversed": (lambda items: iter(list(reversed(items))), 1, ()),
    "divmod": (divmod, 2, ()),
    "ord": (ord, 1, ()),
    "chr": (chr, 1, ()),
}
_MATH = {
    name: getattr(math, name)
    for name in [
        "isclose",
        "sqrt",
        "floor",
        "ceil",
        "fabs",
        "isnan",
        "isinf",
        "isfinite",
        "sin",
        "cos",
        "tan",
        "asin",
        "acos",
        "atan",
        "atan2",
        "exp",
        "log",
        "log2",
        "log10",
        "hypot",
        "degrees",
        "radians",
        "trunc",
        "pi",
        "e",
        "tau",
        "inf",
        "nan",
    ]
}
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        [
            "lower",
            "upper",
            "strip",
            "lstrip",
            "rstrip",
            "split",
            "splitlines",
            "startswith",
            "endswith",
            "find",
            "rfind",
            "index",
            "count",
            "isdigit",
            "isalpha",
            "isalnum",
            "islower",
            "isupper",
            "isspace",
            "isnumeric",
            "title",
            "capitalize",
            "swapcase",
            "casefold",
        ]
    ),
    bytes: frozenset(["startswith", "endswith", "find", "count"]),
    list: frozenset(["count", "index", "copy"]),
    tuple: frozenset(["count", "index"]),
    dict: frozenset(["keys", "values", "items", "get", "copy"]),
    set: frozenset(["issubset", "issuperset", "union", "intersection", "difference", "isdisjoint"]),
    frozenset: frozenset(["issubset", "issuperset", "union", "intersection", "difference", "isdisjoint"]),
    float: frozenset(["is_integer"]),
    int: frozenset(["bit_length"]),
}
METHODS = frozenset().union(*_METHODS.values())
_SINGLETONS = (None, True, False)


class TooMuch(Exception):
    """The test asks for more than the supervisor is ready to compute."""


class Unsupported(Exception):
    """The expression is outside this part of Python."""


def supported(node: ast.expr, holes: Mapping[str, Any], shadowed: frozenset[str]) -> bool:
    """Whether `evaluate` can run the expression; names in `holes` are data, `shadowed` ones mean something else."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            known = part.id in _TYPES or part.id in _FUNCTIONS or part.id == "math"
            if part.id not in holes and (not known or part.id in shadowed):
                return False
        elif isinstance(part, ast.Call):
            if not _callable(part):
                return False
        elif isinstance(part, ast.Compare):
            if not _comparable(part):
                return False
        elif isinstance(part, ast.Attribute):
            if part.attr not in METHODS and not (_is_math(part) and part.attr in _MATH):
                return False
        elif isinstance(part, ast.Dict):
            if None in part.keys:
                return False
        elif not isinstance(part, _PARTS):
            return False
    return True


_PARTS = (
    ast.Constant, ast.Tuple, ast.List, ast.Set, ast.UnaryOp, ast.BinOp, ast.BoolOp, ast.IfExp, ast.Subscript,
    ast.Slice, ast.Load, ast.keyword, ast.boolop, ast.cmpop, *_BINARY, *_UNARY,
)  # fmt: skip


def _is_math(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "math"


def _callable(call: ast.Call) -> bool:
    names = [keyword.arg for keyword in call.keywords]
    if isinstance(call.func, ast.Name):
        if call.func.id in _FUNCTIONS:
            _, most, keywords = _FUNCTIONS[call.func.id]
            return 1 <= len(call.args) <= most and all(name in keywords for name in names)
        return call.func.id in _TYPES and len(call.args) <= 2 and not names and call.func.id != "range"
    if _is_math(call.func):
        return all(name in ("rel_tol", "abs_tol") for name in names)
    return isinstance(call.func, ast.Attribute) and not names


def _comparable(node: ast.Compare) -> bool:
    """Identity only makes sense with None, booleans and types once data has travelled."""
    sides = [node.left, *node.comparators]
    for left, operation, right in zip(sides, node.ops, sides[1:], strict=False):
        if isinstance(operation, ast.Is | ast.IsNot) and not any(map(_has_identity, (left, right))):
            return False
    return True


def _has_identity(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return any(node.value is single for single in _SINGLETONS)
    return isinstance(node, ast.Name) and node.id in _TYPES


def evaluate(node: ast.expr, hole: Callable[[str], Any]) -> Any:
    """The expression's value, as Python would have it. `hole` gives the value of a name that stands for a call.

    Raises what Python raises, `TooMuch`, `Unsupported`, or what `hole` raises.
    """
    return _Evaluator(hole).value(node)


class _Evaluator:
    def __init__(self, hole: Callable[[str], Any]) -> None:
        self.hole = hole

    def value(self, node: ast.expr) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise Unsupported(type(node).__name__)
        return method(node)

    def _constant(self, node: ast.Constant) -> Any:
        return node.value

    def _name(self, node: ast.Name) -> Any:
        return _TYPES[node.id] if node.id in _TYPES else self.hole(node.id)

    def _tuple(self, node: ast.Tuple) -> Any:
        return tuple(map(self.value, node.elts))

    def _list(self, node: ast.List) -> Any:
        return list(map(self.value, node.elts))

    def _set(self, node: ast.Set) -> Any:
        return set(map(self.value, node.elts))

    def _dict(self, node: ast.Dict) -> Any:
        return {self.value(key): self.value(item) for key, item in zip(node.keys, node.values, strict=True) if key}

    def _unaryop(self, node: ast.UnaryOp) -> Any:
        return _UNARY[type(node.op)](self.value(node.operand))

    def _binop(self, node: ast.BinOp) -> Any:
        left, right = self.value(node.left), self.value(node.right)
        _bounded(node.op, left, right)
        return _BINARY[type(node.op)](left, right)

    def _boolop(self, node: ast.BoolOp) -> Any:
        result: Any = None
        for part in node.values:
            result = self.value(part)
            if bool(result) == isinstance(node.op, ast.Or):
                break
        return result

    def _ifexp(self, node: ast.IfExp) -> Any:
        return self.value(node.body if self.value(node.test) else node.orelse)

    def _compare(self, node: ast.Compare) -> Any:
        left: Any = self.value(node.left)
        result: Any = True
        for operation, side in zip(node.ops, node.comparators, strict=True):
            right = self.value(side)
            result = _COMPARE[type(operation)](left, right)
            if not result:
                break
            left = right
        return result

    def _subscript(self, node: ast.Subscript) -> Any:
        return self.value(node.value)[self.value(node.slice)]

    def _slice(self, node: ast.Slice) -> Any:
        return slice(*(None if part is None else self.value(part) for part in (node.lower, node.upper, node.step)))

    def _attribute(self, node: ast.Attribute) -> Any:
        if _is_math(node) and node.attr in _MATH:
            return _MATH[node.attr]
        raise Unsupported("attribute")

    def _call(self, node: ast.Call) -> Any:
        arguments = [self.value(argument) for argument in node.args]
        keywords = {str(keyword.arg): self.value(keyword.value) for keyword in node.keywords}
        for argument in arguments:
            _few(argument)
        if isinstance(node.func, ast.Name):
            name = node.func.id
            if name == "round" and len(arguments) == 2 and isinstance(arguments[1], int) and abs(arguments[1]) > 400:
                raise TooMuch("round")
            if name in ("bytes", "bytearray") and any(isinstance(argument, int) for argument in arguments):
                raise TooMuch(name)
            return (_TYPES[name] if name in _TYPES else _FUNCTIONS[name][0])(*arguments, **keywords)
        assert isinstance(node.func, ast.Attribute)
        if _is_math(node.func):
            return _MATH[node.func.attr](*arguments, **keywords)
        owner = self.value(node.func.value)
        if node.func.attr not in _METHODS.get(type(owner), ()):
            raise AttributeError(f"{type(owner).__name__!r} object has no attribute {node.func.attr!r} here")
        return getattr(owner, node.func.attr)(*arguments)


def _few(value: Any) -> None:
    if isinstance(value, range) and len(value) > MAX_ITEMS:
        raise TooMuch("a range that long")


def _bounded(operation: ast.operator, left: Any, right: Any) -> None:
    """Refuse what would make much out of little: powers, and multiplied or formatted strings."""
    if isinstance(operation, ast.Mod) and isinstance(left, str | bytes | bytearray):
        raise TooMuch("formatting")
    integers = isinstance(left, int) and isinstance(right, int)
    if isinstance(operation, ast.Pow) and integers and right > 0 and left.bit_length() * right > MAX_BITS:
        raise TooMuch("a power that big")
    if isinstance(operation, ast.Mult):
        for items, times in ((left, right), (right, left)):
            if hasattr(items, "__len__") and isinstance(times, int) and len(items) * times > MAX_ITEMS:
                raise TooMuch("a product that long")
    if (
        integers
        and not isinstance(operation, ast.Add | ast.Sub)
        and max(left.bit_length(), right.bit_length()) > MAX_BITS
    ):
        raise TooMuch("integers that big")


def show(value: Any, limit: int = 400) -> str:
    """A capped representation; integers too long for decimal digits are described."""
    try:
        text = (
            repr(value)
            if not isinstance(value, int) or value.bit_length() < 10_000
            else f"<{value.bit_length()}-bit int>"
        )
    except (ValueError, RecursionError):
        text = f"<{type(value).__name__} with a very large integer>"
    return text if len(text) <= limit else f"{text[: limit // 2]} ... {text[-limit // 3 :]}"
