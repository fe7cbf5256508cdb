"""How numbers, models and comparisons of `results.json` are called, in its sentences and in the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.iterate.compared import gain_of

Row = Mapping[str, Any]
TRAINED_ON = {
    "unfiltered": "SFT on the unfiltered samples",
    "seeds": "SFT on the solved examples alone",
    "pairs": "DPO on the same pairs with other options",
}


def rows_of(results: Mapping[str, Any], suite: str, group: str = "") -> list[Row]:
    return [row for row in results["measures"] if row["suite"] == suite and row["group"] == group]


def headline(results: Mapping[str, Any], suite: str) -> Row | None:
    """The measure that stands for a suite: pass@1, else its first."""
    rows = rows_of(results, suite)
    return next((row for row in rows if row["measure"] == "pass@1"), rows[0] if rows else None)


def over_start(row: Row) -> dict[str, Any] | None:
    """The gain of the last round over the base line."""
    return gain_of(row, {"of": "start", "name": row["base"]}, {"of": "round", "round": row["last_round"]})


def size(value: float, share: bool) -> str:
    """Without its sign: 23.1 points, or 0.42."""
    return f"{100 * abs(value):.1f} points" if share else f"{abs(value):.3g}"


def signed(value: float, share: bool) -> str:
    """+23.1 points, or −0.42."""
    return f"{_number(value, share, '+')}{' points' if share else ''}"


def interval(gain: Mapping[str, Any], share: bool, sign: int = 1) -> str:
    """95 % interval 20.9 to 25.3; with `sign` -1 that of the difference turned round."""
    if gain["low"] is None or gain["high"] is None:
        return "no interval"
    low, high = sorted((sign * gain["low"], sign * gain["high"]))
    return f"95 % interval {_number(low, share)} to {_number(high, share)}"


def ends(gain: Mapping[str, Any], share: bool) -> str:
    """+20.9 to +25.3: the interval in a table."""
    if gain["low"] is None or gain["high"] is None:
        return "–"
    return f"{_number(gain['low'], share, '+')} to {_number(gain['high'], share, '+')}"


def _number(value: float, share: bool, sign: str = "") -> str:
    """No sign before what is rounded to nothing, and a proper minus before the rest."""
    text = f"{100 * value:{sign}.1f}" if share else f"{value:{sign}.3g}"
    return text.replace("-", "\N{MINUS SIGN}") if float(text) else text.lstrip("+-")


def part(value: float, digits: int = 1) -> str:
    """A share: 87.9 %."""
    return f"{100 * value:.{digits}f} %"


def amount(value: float, share: bool) -> str:
    return part(value) if share else f"{value:.4g}"


def asked(results: Mapping[str, Any], name: str) -> str:
    """The start as one suite asks it."""
    suite = next((suite for suite in results["suites"] if suite["name"] == name), None)
    count = ((suite or {}).get("settings") or {}).get("shots")
    if isinstance(count, int) and count > 0:
        return f"the starting model asked with {some(count, 'solved example')}"
    other = suite is not None and suite["when"] == "start"
    return f"the starting model asked as in {name}" if other else "the starting model"


def trained_on(results: Mapping[str, Any], name: str) -> str:
    """A control's data, and whether its optimiser took as many steps as the round's."""
    control = results["controls"].get(name, {})
    data = TRAINED_ON.get(control.get("data"), "trained otherwise")
    own, of = control.get("steps") or {}, control.get("round_steps") or {}
    if not own:
        return data
    if own == of:
        return f"{data}, for as many steps"
    return f"{data}, for {sum(own.values()):,} steps where the rounds took {sum(of.values()):,}"


def goes_on(results: Mapping[str, Any], round_: int) -> str:
    """ "goes on from round 2 with dpo"; nothing for a round that trains a base model."""
    trained = next((one for one in results["trained"] if one["round"] == round_), None)
    if trained is None or "round" not in trained["from"]:
        return ""
    return f"goes on from round {trained['from']['round']} with {', '.join(trained['stages'])}"


def some(count: int, what: str) -> str:
    """1 seed, 2,000 items."""
    return f"{count:,} {what}{'s' if count != 1 else ''}"
