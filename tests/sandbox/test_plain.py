"""Plain data: the round trip, and hostile text."""

from __future__ import annotations

import contextlib
import json
import math
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from factory.sandbox.inside.plain import NotPlain, encode, loads
from factory.sandbox.results import death, read_results
from tests.sandbox.test_rewrite import values

LIMITS = {"wall": 1.0, "cpu": 1, "memory": 1 << 20, "output": 1 << 20}


def _same(left: Any, right: Any) -> bool:
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        if math.isnan(left):
            return math.isnan(right)
        return math.copysign(1, left) == math.copysign(1, right) and left == right
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_same, left, right))
    return bool(left == right)


@settings(max_examples=300, deadline=None)
@given(values | st.floats() | st.integers().map(lambda n: n << 200) | st.complex_numbers(allow_nan=False))
def test_round_trip_keeps_value_and_type(value: Any) -> None:
    assert _same(loads(encode(value, 1 << 20)), value)


hostile = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(list("ltszdrifbacDFqovnxe")),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=12,
)


@settings(max_examples=500, deadline=None)
@given(hostile.map(json.dumps) | st.text(max_size=30))
@example('["F",1,0]')
@example('["r",1,2,0]')
@example('["s",["l"]]')
@example('["i","' + "f" * 10_000_000 + '"]')
@example("[" * 100_000)
@example('["D","' + "9" * 1_000_000 + '"]')
@example("9" * 10_000)
@example('["f","0x1p99999"]')
@example("NaN")
@example('"\\ud800"')
def test_reading_is_total(text: str) -> None:
    with contextlib.suppress(NotPlain):
        loads(text)
    load, results = read_results(text, 2)
    assert len(results) == 2
    assert load.kind


@settings(max_examples=200, deadline=None)
@given(st.lists(hostile.map(json.dumps) | st.text(max_size=10), max_size=6).map("\n".join), st.integers(0, 3))
def test_a_whole_report_is_read_whatever_it_says(text: str, calls: int) -> None:
    load, results = read_results(text, calls)
    assert len(results) == calls
    for result in [load, *results]:
        assert result.kind
        assert result.kind == "value" or result.status != "pass"


@given(st.integers(-64, 255), st.sampled_from(["", "timeout", "output", "memory", "protocol"]), st.text(max_size=20))
def test_no_death_is_a_pass(status: int, reason: str, stderr: str) -> None:
    assert death({"reason": reason, "status": status, "cpu": 0.5, "stderr": stderr}, LIMITS)[0] != "pass"


def test_keys_that_collide_do_not_take_the_supervisors_time() -> None:
    prime = (1 << 61) - 1
    text = json.dumps(["s", *(["i", f"{prime * n:x}"] for n in range(1, 40_000))])
    began = time.monotonic()
    with pytest.raises(NotPlain):
        loads(text)
    assert time.monotonic() - began < 2
    assert loads(encode(set(range(50_000)), 1 << 20)) == set(range(50_000))


def test_size_and_depth_are_capped() -> None:
    nested: list[Any] = []
    for _ in range(100):
        nested = [nested]
    for value in ("x" * 1000, list(range(1000)), nested, 1 << 2_000_000):
        with pytest.raises(NotPlain) as caught:
            encode(value, 500)
        assert caught.value.size
