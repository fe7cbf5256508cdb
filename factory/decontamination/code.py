"""What of Python code stays the same when it is re-indented, its identifiers renamed and its texts rewritten.

Code is read by `ast`, never run. A function's structure is the sequence of its syntax tree's nodes without docstrings,
annotations and the text of strings; names that the function or the code around it defines are numbered by their first use, the others (`len`,
`math`, attributes) stay.
"""

from __future__ import annotations

import ast
import re
import textwrap
import warnings
from collections.abc import Iterator
from functools import cached_property

from factory.records import content_hash

_FENCE = re.compile(
    r"^[ \t]*(?:```|~~~)[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)|\Z)", re.MULTILINE | re.DOTALL
)
_DEF = re.compile(r"^[ \t]*(?:async[ \t]+)?def[ \t]+\w+", re.MULTILINE)
_CALL = re.compile(r"(?<![\w.])[A-Za-z_][\w.]*\([^\n]*")  # begins where a word does: linear in the line's length
_LONGEST = 200_000  # characters of code that are read


class Function:
    """One function as a text gives it: `name`, `parameters` (names, `self` left out), `docstring` ("" where none)."""

    def __init__(self, node: ast.FunctionDef | ast.AsyncFunctionDef, beside: frozenset[str] = frozenset()) -> None:
        """`beside`: what the code around it defines."""
        self.name, self._node, self._beside = node.name, node, beside
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        self.parameters = tuple(argument.arg for argument in every if argument.arg not in ("self", "cls"))
        self.docstring = ast.get_docstring(node) or ""

    @cached_property
    def structure(self) -> tuple[str, ...]:
        """Node kinds, operators, numbers and numbered names of the parameters and the body; empty for a body of nothing."""
        body = [part for part in self._node.body if not _says_nothing(part)]
        if not body:
            return ()
        names = _Numbered(self._node, self._beside)
        return (f"p{len(self.parameters)}", *(token for part in body for token in _tokens(part, names)))


def functions(text: str) -> list[Function]:
    """Every function in a text, be it all code, code in fences or code between sentences; methods and inner ones too."""
    text = text[:_LONGEST]
    found: list[Function] = []
    for code in code_parts(text):
        tree = _parsed(code)
        trees = [tree] if tree is not None else [one for piece in _pieces(code) if (one := _parsed(piece)) is not None]
        for one in trees:
            nodes = [node for node in ast.walk(one) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
            beside = frozenset(node.name for node in nodes)
            found.extend(Function(node, beside) for node in nodes)
    return found


def code_parts(text: str) -> list[str]:
    """Fenced blocks of Python or of no stated language; the whole text where nothing is fenced."""
    blocks = [
        block
        for language, block in _FENCE.findall(text)
        if language.lower() in ("", "python", "py", "python3", "pycon")
    ]
    return blocks or [text]


def prose(text: str) -> str:
    """What a text says in words: docstrings and comments of code, and whatever is no code."""
    parts = [_FENCE.sub(" ", text)] if _FENCE.search(text) else []
    parts += [function.docstring for function in functions(text)]
    said = "\n".join(parts).strip() or text
    lines = [line for line in said.splitlines() if not re.match(r"\s*(>>>|assert\b)", line)]
    return "\n".join(lines).strip()


def examples(text: str) -> dict[str, bool]:
    """Calls with literal arguments and what they give, `f(1, 2) == 3` or `>>> f(1, 2)` above `3`, without the name.

    Their hashes, and whether they say something: `f(1) == 1` does not.
    """
    found: dict[str, bool] = {}
    lines = text[:_LONGEST].splitlines()
    for number, line in enumerate(lines):
        for match in _CALL.finditer(line.strip()):
            following = lines[number + 1].strip() if number + 1 < len(lines) else ""
            if example := _example(match[0], following):
                found.update([example])
    return found


def _example(call: str, following: str) -> tuple[str, bool] | None:
    """`f(...) == x`, `f(...) -> x` or `f(...)` with x on the next line, as a hash of the arguments and x."""
    for arrow in ("➞", "=>", "->", "==>", "# =>", "returns", "should return", "#"):
        call = call.replace(f" {arrow} ", " == ", 1)
    call = call.rstrip(" .,:;")
    node: ast.expr | None = _expression(call) or _expression(call.split("#")[0])
    if isinstance(node, ast.Tuple) and node.elts:  # assert f(1) == 2, "a message"
        node = node.elts[0]
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq | ast.Is):
        asked: ast.expr | None = node.left
        given: ast.expr | None = node.comparators[0]
    else:
        asked, given = node, _expression(following)
    if not isinstance(asked, ast.Call) or given is None or asked.keywords or not asked.args:
        return None
    try:
        arguments = [ast.literal_eval(argument) for argument in asked.args]
        result = ast.literal_eval(given)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None
    text = f"{arguments!r}{result!r}"
    return content_hash(text), len(re.findall(r"[\w.]+", text)) > 3 or len(text) > 16


def _expression(text: str) -> ast.expr | None:
    if len(text) > 2000:
        return None
    tree = _parsed(text, "eval")
    return tree.body if isinstance(tree, ast.Expression) else None


def _parsed(code: str, mode: str = "exec") -> ast.AST | None:
    """The syntax tree, None where there is none; `>>>` prompts are taken off."""
    if mode == "exec":
        if re.search(r"^[ \t]*>>> ?def ", code, re.MULTILINE):
            code = re.sub(r"^[ \t]*(>>>|\.\.\.) ?", "", code, flags=re.MULTILINE)
        code = textwrap.dedent(code.expandtabs(8)) if "\t" in code else textwrap.dedent(code)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a text's invalid escapes are its own affair
            return ast.parse(code, mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return None


def _pieces(code: str) -> Iterator[str]:
    """Each `def` with the lines that are indented below it."""
    lines = code.splitlines()
    for number, line in enumerate(lines):
        if not _DEF.match(line):
            continue
        indent = len(line) - len(line.lstrip())
        end = number + 1
        while end < len(lines) and (not lines[end].strip() or len(lines[end]) - len(lines[end].lstrip()) > indent):
            end += 1
        yield "\n".join(lines[number:end])


def _says_nothing(node: ast.stmt) -> bool:
    """A docstring, `pass`, `...` and an import."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    return isinstance(node, ast.Pass | ast.Import | ast.ImportFrom)


class _Numbered:
    """Names that a function binds, numbered as they come."""

    def __init__(self, node: ast.AST, beside: frozenset[str]) -> None:
        self._bound = set(beside)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
                self._bound.add(inner.id)
            elif isinstance(inner, ast.arg):
                self._bound.add(inner.arg)
            elif isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef):
                self._bound.add(inner.name)
        self._numbers: dict[str, str] = {}

    def __call__(self, name: str) -> str:
        return self._numbers.setdefault(name, f"v{len(self._numbers)}") if name in self._bound else name


def _tokens(node: ast.AST, names: _Numbered) -> Iterator[str]:
    if isinstance(node, ast.expr_context | ast.Load) or (isinstance(node, ast.stmt) and _says_nothing(node)):
        return
    if isinstance(node, ast.Name):
        yield names(node.id)
    elif isinstance(node, ast.arg):
        yield names(node.arg)
    elif isinstance(node, ast.Constant):
        yield "S" if isinstance(node.value, str | bytes) else repr(node.value)
    else:
        yield type(node).__name__
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "type_comment", "decorator_list", "type_params", "kind"):
                continue
            if field in ("attr", "arg") and isinstance(value, str):
                yield value
            elif field == "name" and isinstance(value, str):
                yield names(value)
            else:
                for part in value if isinstance(value, list) else [value]:
                    if isinstance(part, ast.AST):
                        yield from _tokens(part, names)
