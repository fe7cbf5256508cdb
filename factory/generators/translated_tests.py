"""Tests of a Python function, put into another language by rule: `assert f(1, [2]) == 3` becomes a call in a program that runs
the case whose number it reads, and the output that it must print.

Values are written in one form on both sides: JSON without blanks, keys in order (bash: words, lists with blanks between).
What a language has no form for raises `CannotSay`, and that test is left out.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LARGEST = 2**53  # beyond it JavaScript has no exact whole numbers
_JAVASCRIPT = """
const __say = (v) => Array.isArray(v) ? '[' + v.map(__say).join(',') + ']'
  : v && typeof v === 'object' ? '{' + Object.keys(v).sort().map((k) => JSON.stringify(k) + ':' + __say(v[k])).join(',') + '}'
  : String(JSON.stringify(v));
"""
_CPP_HEAD = """#include <algorithm>
#include <charconv>
#include <cmath>
#include <iostream>
#include <map>
#include <numeric>
#include <set>
#include <sstream>
#include <string>
#include <type_traits>
#include <unordered_map>
#include <unordered_set>
#include <vector>
"""
_CPP_SAY = """
namespace factory_check {
inline void say(const std::string& text) {
  std::cout << '"';
  for (unsigned char c : text) {
    const char* hex = "0123456789abcdef";
    if (c == '"' || c == '\\\\') std::cout << '\\\\' << c;
    else if (c == '\\n') std::cout << "\\\\n";
    else if (c == '\\t') std::cout << "\\\\t";
    else if (c == '\\r') std::cout << "\\\\r";
    else if (c == '\\b') std::cout << "\\\\b";
    else if (c == '\\f') std::cout << "\\\\f";
    else if (c < 32) std::cout << "\\\\u00" << hex[c / 16] << hex[c % 16];
    else std::cout << c;
  }
  std::cout << '"';
}
inline void say(const char* text) { say(std::string(text)); }
inline void say(char c) { say(std::string(1, c)); }
inline void say(bool value) { std::cout << (value ? "true" : "false"); }
template <class T> std::enable_if_t<std::is_integral_v<T>> say(T value) { std::cout << value; }
template <class T> std::enable_if_t<std::is_floating_point_v<T>> say(T value) {
  char buffer[64];
  auto end = std::to_chars(buffer, buffer + 64, static_cast<double>(value));
  std::cout << std::string(buffer, end.ptr);
}
template <class T> void say(const std::vector<T>& values) {
  std::cout << '[';
  bool first = true;
  for (auto&& value : values) {
    if (!first) std::cout << ',';
    first = false;
    say(static_cast<T>(value));
  }
  std::cout << ']';
}
template <class V> void say(const std::map<std::string, V>& values) {
  std::cout << '{';
  bool first = true;
  for (auto&& [key, value] : values) {
    if (!first) std::cout << ',';
    first = false;
    say(key);
    std::cout << ':';
    say(value);
  }
  std::cout << '}';
}
}  // namespace factory_check
"""


class CannotSay(ValueError):
    """The language has no form for this value, or none that all of its kind share."""


@dataclass(frozen=True)
class Case:
    """One call and what it returns, as Python values."""

    arguments: tuple[Any, ...]
    result: Any


def cases_of(tests: Sequence[str], name: str) -> list[Case]:
    """The tests that call `name` with literals and compare with one; `assert f(x)` and `assert not f(x)` count, too."""
    found = []
    for test in tests:
        try:
            statement = ast.parse(test).body[0]
            if not isinstance(statement, ast.Assert):
                continue
            call, result = _sides(statement.test)
            if (
                isinstance(call, ast.Call)
                and isinstance(call.func, ast.Name)
                and call.func.id == name
                and not call.keywords
            ):
                found.append(Case(tuple(ast.literal_eval(argument) for argument in call.args), result))
        except (ValueError, TypeError, SyntaxError, IndexError, MemoryError, RecursionError):
            continue
    return found


def _sides(test: ast.expr) -> tuple[ast.expr, Any]:
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq | ast.Is):
        return test.left, ast.literal_eval(test.comparators[0])
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand, False
    return test, True


def said(value: Any, language: str) -> str:
    """What a right program prints for a result."""
    if language == "bash":
        return _bash_word(value, result=True)
    return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _plain(value: Any) -> Any:
    """A value as JSON has it in every language: tuples as lists, whole floats as whole numbers."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        if abs(value) > LARGEST:
            raise CannotSay("a whole number that large")
        return value
    if isinstance(value, float):
        if value.is_integer() and abs(value) < 1e15:
            return int(value)
        if not 1e-5 < abs(value) < 1e15:
            raise CannotSay("a number of that size")
        return value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise CannotSay(type(value).__name__)


def program(translation: str, name: str, cases: Sequence[Case], language: str) -> str:
    """A whole program: the translation, and what reads a number and runs that case. Raises `CannotSay`."""
    if language == "javascript":
        listed = ",\n".join(f"  () => {name}({', '.join(_javascript(a) for a in case.arguments)})" for case in cases)
        tail = f"const __cases = [\n{listed}\n];\nconst __n = Number(require('fs').readFileSync(0, 'utf8'));\n"
        return f"{translation}\n{_JAVASCRIPT}{tail}console.log(__say(__cases[__n]()));\n"
    if language == "cpp":
        types = cpp_types(cases)
        calls = [f"{name}({', '.join(map(_cpp, case.arguments, types[0]))})" for case in cases]
        switch = "".join(f"    case {n}: factory_check::say({call}); break;\n" for n, call in enumerate(calls))
        tail = f"int main() {{\n  int n = -1;\n  std::cin >> n;\n  switch (n) {{\n{switch}  }}\n  std::cout << std::endl;\n}}\n"
        return f"{_CPP_HEAD}\n{translation}\n{_CPP_SAY}\n{tail}"
    calls = [
        f"  {n}) {' '.join([name, *(_bash_quoted(a) for a in case.arguments)])} ;;" for n, case in enumerate(cases)
    ]
    return f'{translation}\n\nread -r __case\ncase "$__case" in\n' + "\n".join(calls) + "\nesac\n"


def sayable(cases: Sequence[Case], language: str) -> list[Case]:
    """The cases that the language has a form for, each by itself."""
    kept = []
    for case in cases:
        try:
            said(case.result, language)
            program("", "f", [case], language)
        except CannotSay:
            continue
        kept.append(case)
    return kept


def signature(name: str, parameters: Sequence[str], cases: Sequence[Case], language: str) -> str:
    """The head that a translation must have, up to its body's opening brace. Raises `CannotSay`."""
    if language == "javascript":
        return f"function {name}({', '.join(parameters)}) {{"
    if language == "cpp":
        types, result = cpp_types(cases)
        taken = [
            f"const {kind}& {p}" if "std::" in kind else f"{kind} {p}"
            for kind, p in zip(types, parameters, strict=True)
        ]
        return f"{result} {name}({', '.join(taken)}) {{"
    return f"{name}() {{"


def convention(parameters: Sequence[str], cases: Sequence[Case], language: str) -> str:
    """How arguments come and results go, where the head does not say it."""
    if language != "bash":
        return ""
    kinds = {bool: "true or false", int: "a whole number", str: "a text"}
    words = [
        f"${place} is `{name}`, {kinds.get(type(value), 'a list, its elements separated by blanks')}"
        for place, (name, value) in enumerate(zip(parameters, cases[0].arguments, strict=False), 1)
    ]
    result = kinds.get(type(cases[0].result), "the list's elements, separated by blanks")
    return f"{'; '.join(words)}. It prints the result: {result}."


# ---- values


def _javascript(value: Any) -> str:
    return json.dumps(_plain(value))


def cpp_types(cases: Sequence[Case]) -> tuple[list[str], str]:
    """(types of the parameters, type of the result), wide enough for every case."""
    if len({len(case.arguments) for case in cases}) != 1:
        raise CannotSay("calls with different numbers of arguments")
    columns = zip(*(case.arguments for case in cases), strict=True)
    return [_cpp_type(list(column)) for column in columns], _cpp_type([case.result for case in cases])


def _cpp_type(values: Sequence[Any]) -> str:
    kinds = {type(value) for value in values}
    if kinds == {bool}:
        return "bool"
    if kinds == {str}:
        return "std::string"
    if kinds == {int}:
        return "long long"
    if kinds and kinds <= {int, float}:
        return "double"
    if kinds and kinds <= {list, tuple}:
        items = [item for value in values for item in value]
        return f"std::vector<{_cpp_type(items) if items else 'long long'}>"
    if kinds == {dict}:
        items = [item for value in values for item in value.values()]
        return f"std::map<std::string, {_cpp_type(items) if items else 'long long'}>"
    raise CannotSay(" and ".join(sorted(kind.__name__ for kind in kinds)) or "nothing")


def _cpp(value: Any, kind: str) -> str:
    _plain(value)
    if kind == "bool":
        return "true" if value else "false"
    if kind == "std::string":
        data = "".join(
            chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}" for byte in value.encode()
        )
        return f'std::string("{data}", {len(value.encode())})'
    if kind == "long long":
        return f"{value}LL"
    if kind == "double":
        return repr(float(value))
    inner = kind[kind.index("<") + 1 : -1]
    if kind.startswith("std::vector"):
        return f"{kind}{{{', '.join(_cpp(item, inner) for item in value)}}}"
    inner = inner.removeprefix("std::string, ")
    pairs = ", ".join(f"{{{_cpp(key, 'std::string')}, {_cpp(item, inner)}}}" for key, item in value.items())
    return f"{kind}{{{pairs}}}"


def _bash_word(value: Any, *, result: bool = False) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        if abs(value) >= 2**63:
            raise CannotSay("a whole number that large")
        return str(value)
    if isinstance(value, str):
        if "\0" in value or (result and value != value.strip()):
            raise CannotSay("a text like that")
        return value
    if isinstance(value, list | tuple) and all(isinstance(item, bool | int | str) for item in value):
        words = [_bash_word(item) for item in value]
        if any(not word or any(map(str.isspace, word)) for word in words):
            raise CannotSay("a list of such texts")
        return " ".join(words)
    raise CannotSay(type(value).__name__)


def _bash_quoted(value: Any) -> str:
    return shlex.quote(_bash_word(value))
