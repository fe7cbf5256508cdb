"""What can be told of code and tests without running them."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from factory.sandbox import StdioTest

# Tests of languages other than Python: what goes in, and what must come out.
TEST_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "properties": {"stdin": {"type": "string"}, "stdout": {"type": "string"}},
        "required": ["stdin", "stdout"],
    },
}


def as_tests(tests: Sequence[Any], language: str) -> list[Any]:
    """A record's tests as the sandbox takes them: statements for Python, inputs and outputs for the others."""
    if language == "python":
        return [str(test) for test in tests]
    return [StdioTest(stdin=test["stdin"], expected_stdout=test["stdout"]) for test in tests]


def python_tests(text: str) -> list[str]:
    """The different `assert` statements in a text, in order; lines that do not parse are left out."""
    found: dict[str, None] = {}
    try:
        nodes = ast.parse(text).body
    except (SyntaxError, ValueError):
        nodes = [node for line in text.splitlines() for node in _parsed(line)]
    for node in nodes:
        members = node.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test") else [node]
        for member in members:
            if isinstance(member, ast.Assert) and any(isinstance(part, ast.Call) for part in ast.walk(member.test)):
                found[ast.unparse(member)] = None
    return list(found)


def _parsed(line: str) -> list[ast.stmt]:
    try:
        return ast.parse(line.strip()).body
    except (SyntaxError, ValueError):
        return []


def signature(code: str, language: str) -> str:
    """The definitions' heads, for whoever writes tests without seeing the bodies."""
    if language == "python":
        try:
            tree = ast.parse(code)
        except (SyntaxError, ValueError):
            return ""
        heads = []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                heads.append(ast.unparse(node).splitlines()[len(node.decorator_list)])
            elif isinstance(node, ast.ClassDef):
                heads.append(f"class {node.name}:")
                heads += [
                    "    " + ast.unparse(child).splitlines()[0]
                    for child in node.body
                    if isinstance(child, ast.FunctionDef)
                ]
        return "\n".join(heads)
    return "a program that reads standard input and writes standard output"


async def check_source(code: str, language: str, lint: Sequence[str], forbidden: Sequence[str]) -> str:
    """Why the code is not worth running ("parse: ...", "lint: ...", "import: ..."), or nothing."""
    if language != "python":
        return ""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"parse: {type(error).__name__}"
    if not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body):
        return "parse: defines no function"
    imported = {name.split(".")[0] for node in ast.walk(tree) for name in _imports(node)}
    if bad := sorted(imported & set(forbidden)):
        return f"import: {bad[0]} is not allowed"
    if bad := sorted(imported - set(sys.stdlib_module_names)):
        return f"import: {bad[0]} is not in the standard library"
    return await _ruff(code, lint) if lint else ""


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if node.level == 0 else ["."]
    return []


def linter_problem() -> str | None:
    """Why nothing can be linted here, with the remedy; None where it can."""
    import ruff

    try:
        ruff.find_ruff_bin()
    except FileNotFoundError:
        return "task.lint: the ruff program was not found; pip install ruff, or task.lint=[] to do without"
    return None


async def _ruff(code: str, rules: Sequence[str]) -> str:
    """The first of ruff's findings under these rules."""
    import ruff

    process = await asyncio.create_subprocess_exec(
        ruff.find_ruff_bin(),
        "check",
        "--isolated",
        "--no-cache",
        "--quiet",
        "--output-format=concise",
        f"--select={','.join(rules)}",
        "--stdin-filename=solution.py",
        "-",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(code.encode())
    if process.returncode == 0:
        return ""
    finding = re.search(r"solution\.py:\d+:\d+: (\S+) (.*)", output.decode())
    if finding is None:
        raise RuntimeError(f"ruff failed: {errors.decode()[:300] or output.decode()[:300]}")
    return f"lint: {finding.group(1).rstrip(':')}"


def test_share(attempt: Mapping[str, Any]) -> float:
    """Share of an attempt's tests that passed, 0 where it never ran."""
    verdict = attempt.get("verdict")
    return verdict["passed"] / verdict["total"] if verdict and verdict["total"] else 0.0
