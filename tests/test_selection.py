"""Keep rules: what they decide, when they leave it open, and what they say."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.records import Score
from factory.selection import Expression, KeepRule

NAMES = ("rules", "judge", "execution")

numbers = st.one_of(
    st.sampled_from(NAMES),
    st.integers(0, 5).map(str),
    st.sampled_from(("0.5", "1.0", "2.25")),
)
sums = st.recursive(
    numbers,
    lambda part: st.one_of(
        st.tuples(part, st.sampled_from("+-*"), part).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        part.map(lambda text: f"(-{text})"),
    ),
    max_leaves=4,
)
operators = st.sampled_from(("==", "!=", "<", "<=", ">", ">="))
comparisons = st.one_of(
    st.tuples(sums, operators, sums).map(" ".join),
    st.tuples(sums, operators, sums, operators, sums).map(" ".join),
    st.sampled_from(("True", "False")),
)
rules = st.recursive(
    comparisons.map(lambda text: f"({text})"),
    lambda part: st.one_of(
        st.lists(part, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})"),
        st.lists(part, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})"),
        part.map(lambda text: f"(not {text})"),
    ),
    max_leaves=6,
)
values = st.fixed_dictionaries({name: st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.0, 5.0)) for name in NAMES})


def scores(**given: float) -> dict[str, Score]:
    return {name: Score(value=value) for name, value in given.items()}


@given(rules, values)
def test_a_rule_means_what_python_means(text: str, given: Mapping[str, float]) -> None:
    expected = bool(eval(text, {}, dict(given)))
    kept, reason = KeepRule(text, set(NAMES)).decide(scores(**given))
    assert kept is expected
    assert bool(reason) is not kept


@given(rules, values, st.sets(st.sampled_from(NAMES)))
def test_what_is_decided_early_stays_decided(text: str, given: Mapping[str, float], there: set[str]) -> None:
    rule = KeepRule(text, set(NAMES))
    early, _ = rule.decide(scores(**{name: given[name] for name in there}))
    assert early in (None, rule.decide(scores(**given))[0])


STATISTICS = ("q1", "q75", "max", "min", "mean")
of_statistics = st.recursive(
    st.tuples(
        st.sampled_from(NAMES), operators, st.sampled_from(STATISTICS), st.booleans(), st.sampled_from(("", " - 1"))
    ).map(lambda t: f"({t[0]} {t[1]} {t[2]}{t[4]})" if t[3] else f"({t[2]}{t[4]} {t[1]} {t[0]})"),
    lambda part: st.one_of(
        st.lists(part, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})"),
        st.lists(part, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})"),
        part.map(lambda text: f"(not {text})"),
    ),
    max_leaves=4,
)


@given(of_statistics, values, st.integers(0, 4))
def test_a_statistic_is_that_of_the_score_it_is_compared_with(
    text: str, given: Mapping[str, float], shift: int
) -> None:
    """Every statistic of every score has a number of its own here, so that a mix-up shows."""
    numbers = {f"{name}({score})": float((7 * place + 3 * other + shift) % 6)
               for place, name in enumerate(STATISTICS) for other, score in enumerate(NAMES)}  # fmt: skip
    rule = KeepRule(text, set(NAMES), whole=True)
    plain = re.sub(
        r"\((\w+)( - 1)? ([=!<>]+) (\w+)( - 1)?\)",
        lambda m: (
            f"({m[1]} {m[3]} {numbers[f'{m[4]}({m[1]})']}{m[5] or ''})"
            if m[1] in NAMES
            else f"({numbers[f'{m[1]}({m[4]})']}{m[2] or ''} {m[3]} {m[4]})"
        ),
        text,
    )
    kept, reason = rule.decide_values({**given, **numbers}, {})
    assert kept is bool(eval(plain, {}, dict(given)))
    assert {statistic.key for statistic in rule.statistics} <= set(numbers)
    assert not any(key in reason for key in numbers), "told as it was written"
    without = rule.decide_values(given, {})[0]
    assert without in (None, kept)


def test_a_run_refuses_what_only_the_whole_set_can_tell() -> None:
    with pytest.raises(ValueError, match=r"q75 is a statistic of the whole run.*export run=NAME keep='judge >= q75'"):
        KeepRule("judge >= q75", {"judge"})
    assert KeepRule("max >= 2", {"max"}).decide(scores(max=3.0)) == (True, ""), "a score may be called so"


@given(sums, values, st.sets(st.sampled_from(NAMES)))
def test_an_expression_is_what_python_makes_of_it(text: str, given: Mapping[str, float], there: set[str]) -> None:
    expression = Expression(text, set(NAMES))
    assert expression.value(given) == pytest.approx(float(eval(text, {}, dict(given))))
    known = {name: given[name] for name in there}
    assert (expression.value(known) is None) == bool(expression.names - there)
    assert Expression(f"1 / ({text} - {text})", set(NAMES)).value(given) is None, "no such number"


@given(values)
def test_every_score_there_decides(given: Mapping[str, float]) -> None:
    rule = KeepRule("rules == 1 and (judge >= 4 or execution == 1)", set(NAMES))
    assert rule.decide(scores(**given))[0] is not None


def test_a_failed_clause_settles_it_without_the_rest() -> None:
    rule = KeepRule("rules == 1 and judge >= 4", {"rules", "judge"})
    assert rule.decide(scores(rules=0.0)) == (False, "not (rules == 1)")
    assert rule.decide(scores(rules=1.0)) == (None, "")


def test_the_scorers_own_reason_is_told() -> None:
    rule = KeepRule("rules == 1 and judge >= 4", {"rules", "judge"})
    assert rule.decide({"rules": Score(value=0, reason="refusal")}) == (False, "rules: refusal")


def test_an_empty_rule_keeps_everything() -> None:
    assert KeepRule("", set()).decide({}) == (True, "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("jugde >= 4", "no score is named 'jugde'; did you mean judge?"),
        ("judge >=", "is not an expression"),
        ("judge >= 4; rules", "is not an expression"),
        ("__import__('os')", "is not allowed"),
        ("judge.real", "is not allowed"),
        ("judge is 4", "is not allowed"),
        ("judge ** 9999 > 1", "is not allowed"),
        ("'a' == judge", "is not allowed"),
        ("(rules and judge) >= 4", "compare each score by itself"),
        ("-(rules or judge) < 0", "compare each score by itself"),
        ("(" * 5000 + "judge" + ")" * 5000, ""),
        ("judge\0", ""),
        ("judge > 1" + "0" * 400, ""),
    ],
)
def test_a_wrong_rule_is_refused_with_the_remedy(text: str, told: str) -> None:
    with pytest.raises(ValueError) as caught:
        KeepRule(text, {"judge", "rules"})
    assert told in str(caught.value)
