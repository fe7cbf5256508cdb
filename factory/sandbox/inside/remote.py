"""The candidate's end of the RPC: does what a request asks with the solution's own objects.

A request is one line of JSON, [id, operation, argument, ...], the arguments encoded as plain data; objects that are not
plain stay here and go by number (["o", number, type name, callable]). The answer is [id, line] with a line of `runner`.
"""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

from factory.sandbox.inside import runner
from factory.sandbox.inside.plain import NotPlain, decode, parse

OPERATIONS: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name)
    for name in [
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "add",
        "sub",
        "mul",
        "truediv",
        "floordiv",
        "mod",
        "pow",
        "and_",
        "or_",
        "xor",
        "neg",
        "pos",
        "invert",
        "lshift",
        "rshift",
        "matmul",
        "getitem",
        "setitem",
        "delitem",
        "contains",
        "iadd",
        "isub",
        "imul",
    ]
}
OPERATIONS |= {
    name: getattr(builtins, name)
    for name in [
        "len",
        "iter",
        "next",
        "str",
        "repr",
        "bool",
        "hash",
        "int",
        "float",
        "abs",
        "isinstance",
        "issubclass",
        "getattr",
        "setattr",
        "delattr",
        "hasattr",
        "format",
        "round",
        "reversed",
        "callable",
        "divmod",
    ]
}
_MAX_OBJECTS = 100_000


class Served:
    """The solution's names and the objects that the tester holds by number."""

    def __init__(self, namespace: dict[str, Any], entry: str | None, limit: int) -> None:
        self.namespace, self.limit = namespace, limit
        self.objects: list[Any] = []
        if entry and entry in namespace:
            namespace.setdefault("candidate", namespace[entry])

    def refer(self, value: Any) -> str:
        """What stands for an object on the other side."""
        if len(self.objects) >= _MAX_OBJECTS:
            raise NotPlain("too many objects", size=True)
        self.objects.append(value)
        classes = [base.__name__ for base in value.__mro__] if isinstance(value, type) else []
        listed = ",".join(runner.quote(name) for name in classes)
        return (
            f'["o",{len(self.objects) - 1},{runner.quote(type(value).__name__)},["l"{"," if listed else ""}{listed}]]'
        )

    def resolve(self, rest: list[Any]) -> Any:
        return self.objects[rest[0]]

    def answer(self, request: bytes) -> str:
        """The answer's line; a request that makes no sense is answered as an exception."""
        tree = parse(request)
        identity, operation, *arguments = tree
        line = runner._attempt(lambda: self.perform(operation, arguments), self.limit, self.refer)
        return f"[{runner.quote(identity)},{line}]"

    def perform(self, operation: str, arguments: list[Any]) -> Any:
        values = [decode(argument, self.resolve) for argument in arguments]
        if operation == "name":
            return self.namespace[values[0]]
        if operation == "names":
            return {name: self.namespace[name] for name in values if name in self.namespace}
        if operation == "call":
            function, positional, keywords = values
            return function(*positional, **keywords)
        return OPERATIONS[operation](*values)
