"""Code as seeds: a source's own column, or the project's small functions with their tests."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from factory.errors import RecordError
from factory.generators.few_shot import load_data
from factory.prompts import Templates

DATA = "functions.yaml"


def code_of(row: Mapping[str, Any]) -> tuple[str, str]:
    """(code, language) of a row. Raises `RecordError` where it holds none."""
    code = str(row.get("code") or row.get("solution") or "").strip("\n")
    if not code.strip():
        raise RecordError("source: no code in code or solution")
    return code, str(row.get("language") or "python")


def given_tests(row: Mapping[str, Any]) -> list[str]:
    """The tests that come with a row's code; none where it has none, or something else."""
    tests = row.get("tests")
    return tests if isinstance(tests, list) and all(isinstance(test, str) for test in tests) else []


def own_functions(templates: Templates, seed: int, data: str = DATA) -> Iterator[Mapping[str, Any]]:
    """The project's functions, again and again, in a new order each time."""
    functions = [{"code": entry["code"].strip(), "tests": entry["tests"]} for entry in load_data(templates, data)]
    for epoch in range(2**31):
        yield from random.Random(f"{PurePath(data).stem}/{seed}/{epoch}").sample(functions, len(functions))
