"""Splitting tests: calls and inputs for the sandbox, everything expected for the supervisor.

`assert f(args) == literal` becomes the call source `f(args)` and a condition over its result; so does any assert whose
other parts `evaluate` can compute. Everything else is kept whole, for the tester that calls the solution by RPC. Pure
functions of text: nothing is executed here.
"""

from __future__ import annotations

import ast
import builtins
import functools
from collections.abc import Sequence
from dataclasses import dataclass

from factory.sandbox import evaluate

MAX_SOURCE = 1 << 20
_BUILTINS = frozenset(dir(builtins))
_SETUP = (
    ast.Import,
    ast.ImportFrom,
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Assign,
    ast.AnnAssign,
    ast.Pass,
)
_FORBIDDEN = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Starred)
# These only gather what a call returns: sent along, they let a generator or an iterator be judged as data.
_GATHER = frozenset(["list", "tuple", "set", "frozenset", "dict", "sorted", "next", "sum"])


@dataclass(frozen=True)
class Names:
    """What a solution defines at its top level; `known` is False when its source does not parse."""

    functions: frozenset[str] = frozenset()
    others: frozenset[str] = frozenset()
    imported: frozenset[str] = frozenset()
    imports: tuple[str, ...] = ()
    known: bool = True

    @property
    def own(self) -> frozenset[str]:
        return self.functions | self.others


@dataclass(frozen=True)
class Condition:
    """What must hold of results, `_0`, `_1`, ...; what people are told of it is worked out when it first fails."""

    node: ast.expr

    @functools.cached_property
    def holes(self) -> Sequence[str]:
        return _holes(self.node)

    @functools.cached_property
    def computed(self) -> ast.expr | None:
        """Of an equality with what is known beforehand, the other side."""
        return self._sides[0]

    @functools.cached_property
    def expected(self) -> str:
        """The known side of an equality; of other conditions, the condition."""
        return ast.unparse(self._sides[1] or self.node)[:400]

    @functools.cached_property
    def _sides(self) -> tuple[ast.expr | None, ast.expr | None]:
        """(the side with results, the other one) of an equality that has one of each."""
        node = self.node
        if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            left, right = node.left, node.comparators[0]
            if bool(_holes(left)) != bool(_holes(right)):
                return (left, right) if _holes(left) else (right, left)
        return None, None


def _holes(node: ast.expr) -> Sequence[str]:
    found = (part.id for part in ast.walk(node) if isinstance(part, ast.Name) and part.id[1:].isdigit())
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Check:
    """A test that the supervisor decides: `calls` run inside, `conditions` hold over `_0`, `_1`, ..., their results."""

    test: str
    calls: tuple[str, ...]
    conditions: tuple[Condition, ...]


@dataclass(frozen=True)
class Free:
    """A test that runs as it is written. `setup` ones only define things: they are no test by themselves."""

    test: str
    setup: bool = False


@dataclass(frozen=True)
class Broken:
    """A test that is no Python."""

    test: str
    error: str


Parsed = Check | Free | Broken


def parse(source: str) -> ast.Module:
    """The source's tree. Raises SyntaxError for whatever cannot be parsed, too long and too deep included."""
    if len(source) > MAX_SOURCE:
        raise SyntaxError("the source is too long")
    try:
        return ast.parse(source)
    except (ValueError, RecursionError, MemoryError) as error:
        raise SyntaxError(str(error) or type(error).__name__) from None


def names(code: str, entry: str | None = None) -> Names:
    """The names that a solution binds at its top level, and its imports as source lines."""
    extra = frozenset([entry, "candidate"]) if entry else frozenset()
    try:
        tree = parse(code)
    except SyntaxError:
        return Names(functions=frozenset(name for name in extra if name), known=False)
    functions, others, imported, imports = set(), set(), set(), []
    for node in _top_level(tree.body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.ClassDef):
            others.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            imports.append(ast.unparse(node))
            imported |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        else:
            others |= {
                part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
    if entry and entry not in functions | others:
        functions.add(entry)
    if entry:
        (functions if entry in functions else others).add("candidate")
    return Names(frozenset(functions), frozenset(others), frozenset(imported - functions - others), tuple(imports))


def _top_level(body: Sequence[ast.stmt]) -> list[ast.stmt]:
    """Statements of the module itself, looking into `if` and `try` but not into functions."""
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, ast.If):
            found += _top_level([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            found += _top_level([*node.body, *node.orelse, *node.finalbody])
            found += _top_level([part for handler in node.handlers for part in handler.body])
        else:
            found.append(node)
    return found


def parse_tests(tests: Sequence[str], code: str, entry: str | None = None) -> list[Parsed]:
    """Each test in the form in which it can be judged, in order. Answers to one problem share the work."""
    return list(_parsed(tuple(tests), names(code, entry)))


@functools.lru_cache(maxsize=512)
def _parsed(tests: tuple[str, ...], known: Names) -> Sequence[Parsed]:
    parsed: list[Parsed] = []
    for test in tests:
        try:
            parsed.append(_one(test, parse(test), known))
        except SyntaxError as error:
            parsed.append(Broken(test, f"the test does not parse: {error}"))
        except RecursionError:
            parsed.append(Broken(test, "the test is nested too deeply"))
    return _settle(parsed)


def _settle(parsed: list[Parsed]) -> list[Parsed]:
    """Tests that define what builtins or the solution's names mean for later ones make those later ones run whole."""
    redefined: set[str] = set()
    settled: list[Parsed] = []
    for item in parsed:
        if isinstance(item, Free):
            redefined |= _bound(parse(item.test))
        elif isinstance(item, Check) and redefined and redefined & _used(parse(item.test)):
            item = Free(item.test)
        settled.append(item)
    return settled


def _bound(tree: ast.Module) -> set[str]:
    bound = set()
    for part in ast.walk(tree):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            bound.add(part.id)
        elif isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound.add(part.name)
        elif isinstance(part, ast.Import | ast.ImportFrom):
            bound |= {(alias.asname or alias.name).split(".")[0] for alias in part.names} - {"math"}
    return bound


def _used(tree: ast.Module) -> set[str]:
    return {part.id for part in ast.walk(tree) if isinstance(part, ast.Name)}


def _one(test: str, tree: ast.Module, known: Names) -> Parsed:
    if (equality := _equality(test, tree, known)) is not None:
        return equality
    if all(isinstance(node, _SETUP) or _is_docstring(node) for node in tree.body):
        kept = [node for node in tree.body if not _imports_own(node, known)]
        return Free(ast.unparse(ast.Module(kept, [])), setup=True)
    body = _inline([node for node in tree.body if not _imports_math(node) and not _imports_own(node, known)])
    splitter = _Splitter(known)
    conditions = []
    for node in body:
        if not isinstance(node, ast.Assert):
            return Free(test)
        condition = splitter.split(node.test)
        if condition is None:
            return Free(test)
        conditions.append(Condition(condition))
    return Check(test, tuple(splitter.calls), tuple(conditions)) if splitter.calls else Free(test)


def _equality(test: str, tree: ast.Module, known: Names) -> Check | None:
    """`assert f(literals) == literal`, which most tests are: what the general way would find, at a third of its cost."""
    match tree.body:
        case [
            ast.Assert(
                test=ast.Compare(left=ast.Call(func=ast.Name(id=name), keywords=[]) as call, ops=[ast.Eq()]) as node
            )
        ]:
            if name in known.functions and all(map(_is_literal, [*call.args, *node.comparators])):
                told = ast.Compare(ast.Name("_0", ast.Load()), node.ops, node.comparators)
                plain = test.isascii() and call.end_lineno == 1  # places count bytes, from the beginning of a line
                source = test[call.col_offset : call.end_col_offset] if plain else ast.unparse(call)
                return Check(test, (source,), (Condition(told),))
    return None


def _is_literal(node: ast.expr) -> bool:
    match node:
        case ast.Constant():
            return True
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return all(map(_is_literal, parts))
        case ast.Dict(keys=keys, values=values):
            return all(key is not None and _is_literal(key) for key in keys) and all(map(_is_literal, values))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant()):
            return True
    return False


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _imports_math(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import) and [(alias.name, alias.asname) for alias in node.names] == [("math", None)]


def _imports_own(node: ast.stmt, known: Names) -> bool:
    """`from solution import f`, whatever the module is called: the solution's names are there anyway."""
    return isinstance(node, ast.ImportFrom) and all(
        alias.name in known.own and not alias.asname for alias in node.names
    )


def _inline(body: list[ast.stmt]) -> list[ast.stmt]:
    """`result = f(3)` then one `assert result == 9`: the value goes where the name stands, if it stands there once."""
    while len(body) > 1 and isinstance(body[0], ast.Assign) and len(body[0].targets) == 1:
        target, following = body[0].targets[0], body[1]
        if not isinstance(target, ast.Name) or not isinstance(following, ast.Assert | ast.Assign):
            break
        uses = [
            part for node in body[1:] for part in ast.walk(node) if isinstance(part, ast.Name) and part.id == target.id
        ]
        inside = [part for part in ast.walk(following) if isinstance(part, ast.Name) and part.id == target.id]
        if len(uses) != 1 or len(inside) != 1 or not isinstance(inside[0].ctx, ast.Load) or _scoped(following):
            break
        body = [_Replace(target.id, body[0].value).visit(following), *body[2:]]
    return body


def _scoped(node: ast.stmt) -> bool:
    """Whether moving an expression into this statement could run it never, twice, or in another order."""
    several = (ast.Lambda, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.BoolOp, ast.IfExp)
    return any(isinstance(part, several) for part in ast.walk(node))


class _Replace(ast.NodeTransformer):
    def __init__(self, name: str, value: ast.expr) -> None:
        self.name, self.value = name, value

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.value if node.id == self.name else node


class _Splitter:
    """Replaces the solution's calls in an expression by `_0`, `_1`, ... and collects their sources."""

    def __init__(self, known: Names) -> None:
        self.known = known
        self.calls: list[str] = []
        self.shadowed = known.own | known.imported - {"math"}

    def split(self, node: ast.expr) -> ast.expr | None:
        """The condition, or None when this expression cannot be judged from plain results."""
        if any(isinstance(part, _FORBIDDEN) for part in ast.walk(node)):
            return None
        replaced = self._replace(node)
        if replaced is None or not evaluate.supported(
            replaced, {f"_{i}": 0 for i in range(len(self.calls))}, self.shadowed
        ):
            return None
        return replaced

    def _replace(self, node: ast.expr) -> ast.expr | None:
        if self._is_hole(node):
            if not self._closed(node):
                return None
            self.calls.append(ast.unparse(node))
            return ast.Name(f"_{len(self.calls) - 1}", ast.Load())
        changes: dict[str, object] = {}
        for field, value in ast.iter_fields(node):
            new = self._field(value)
            if new is None and value is not None:
                return None
            changes[field] = new
        return type(node)(**changes)  # type: ignore[arg-type]

    def _field(self, value: object) -> object:
        if isinstance(value, ast.expr):
            return self._replace(value)
        if isinstance(value, ast.keyword):
            inner = self._replace(value.value)
            return None if inner is None else ast.keyword(value.arg, inner)
        if isinstance(value, list):
            items = [self._field(item) for item in value]
            return (
                None if any(new is None and old is not None for new, old in zip(items, value, strict=True)) else items
            )
        return value

    def _is_hole(self, node: ast.expr) -> bool:
        """Whether the whole of this expression is the solution's to compute, with nothing expected in it."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _GATHER - self.shadowed:
            return len(node.args) == 1 and not node.keywords and self._is_hole(node.args[0])
        links: list[ast.expr] = []
        root = node
        while isinstance(root, ast.Call | ast.Attribute | ast.Subscript):
            links.append(root)
            root = root.func if isinstance(root, ast.Call) else root.value
        if not isinstance(root, ast.Name) or not self._owns(root.id):
            return False
        if root.id not in self.known.functions:
            return True
        # A method of, or an index into, a function's result may hold what is expected: the supervisor applies it.
        return all(isinstance(link, ast.Call) for link in links) and bool(links)

    def _owns(self, name: str) -> bool:
        if self.known.known:
            return name in self.known.own
        return name not in _BUILTINS and name != "math"

    def _closed(self, node: ast.expr) -> bool:
        """Whether all names in it have a meaning beside the solution."""
        bound = {
            part.id for part in ast.walk(node) if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load)
        }
        bound |= {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}
        free = _used(ast.Module([ast.Expr(node)], [])) - bound
        return not self.known.known or free <= self.known.own | self.known.imported | _BUILTINS
