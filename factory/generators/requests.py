"""Plain requests for tasks that answer prompts: a source's own column, or the project's forms and things."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from factory.errors import RecordError
from factory.generators.few_shot import load_data
from factory.prompts import Templates

DATA = "requests.yaml"
COLUMNS = ("instruction", "prompt", "item")


def request_of(row: Mapping[str, Any]) -> str:
    """The request in a row. Raises `RecordError` where its column is empty or missing."""
    text = next((str(row[name]).strip() for name in COLUMNS if row.get(name)), "")
    if not text:
        raise RecordError(f"source: no request in {' or '.join(COLUMNS)}")
    return text


def check_columns(task: str, columns: set[str] | None, *others: str) -> list[str]:
    """`others` are columns that the task takes, too."""
    if columns is None or columns & {*COLUMNS, *others}:
        return []
    there = ", ".join(sorted(columns)) or "none"
    return [f"task={task} needs seeds with a column `instruction`, or a plain list of requests (there is {there})"]


def own_requests(templates: Templates, seed: int) -> Iterator[dict[str, str]]:
    """Every form with every thing, without end, in a new order each time."""
    data = load_data(templates, DATA)
    pairs = list(itertools.product(data["forms"], data["things"]))
    for epoch in range(2**31):
        for form, thing in random.Random(f"requests/{seed}/{epoch}").sample(pairs, len(pairs)):
            yield {"instruction": form.format(thing=thing), "thing": thing}


def follow_ups(templates: Templates) -> list[str]:
    return list(load_data(templates, DATA)["follow_up"])
