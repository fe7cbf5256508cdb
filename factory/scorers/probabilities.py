"""From a server's log-probabilities to those of the grades: where in the answer the grade stands, and what else might have.

The expected grade (the sum of grade x probability) tells answers apart that get the same grade (Liu et al. 2023, G-Eval, section 2).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# A token that says one grade and nothing else, whatever of JSON's own signs hangs on it.
_GRADE = re.compile(r'[\s":]*(\d)[\s,}\]"]*')
Token = tuple[str, list[tuple[str, float]]]  # its text, and what might have stood there, with log-probabilities


def grade_probabilities(
    logprobs: Any, places: Mapping[str, re.Pattern[str]], grades: Mapping[str, int], allowed: Mapping[str, range]
) -> tuple[dict[int, float], float] | None:
    """(probability of each total grade, mass): None where the server gave none, or none at the grades' tokens.

    `places` finds each criterion's grade in the answer (its first group; the last match counts), `grades` is what was read there.
    Probabilities are among the allowed grades; `mass` is the least share that these had among all tokens. The criteria's
    grades are taken as independent, each given what was written before it.
    """
    tokens = _tokens(logprobs)
    text = "".join(token for token, _ in tokens)
    total, mass = {0: 1.0}, 1.0
    for name, pattern in places.items():
        found = list(pattern.finditer(text))
        if not found or int(found[-1].group(1)) != grades[name]:
            return None
        shares = _shares(tokens, found[-1].start(1), grades[name], allowed[name])
        if shares is None:
            return None
        sum_of_shares = math.fsum(shares.values())
        mass = min(mass, sum_of_shares)
        total = _added(total, {grade: share / sum_of_shares for grade, share in shares.items()})
    return total, mass


def expected_grade(probabilities: Mapping[int, float]) -> float:
    return math.fsum(grade * share for grade, share in probabilities.items())


def _shares(tokens: Sequence[Token], place: int, grade: int, allowed: range) -> dict[int, float] | None:
    """Probability mass of each allowed grade at the token that covers `place` of the text, if that token is the grade."""
    ends = itertools.accumulate(len(token) for token, _ in tokens)
    said, others = next(token for token, end in zip(tokens, ends, strict=True) if end > place)
    if _grade(said) != grade:
        return None
    shares: dict[int, float] = {}
    for other, logprob in others:
        value = _grade(other)
        if value is not None and value in allowed:
            shares[value] = shares.get(value, 0.0) + math.exp(min(logprob, 0.0))
    return shares if math.fsum(shares.values()) > 0 else None


def _grade(token: str) -> int | None:
    found = _GRADE.fullmatch(token)
    return int(found.group(1)) if found else None


def _added(first: Mapping[int, float], second: Mapping[int, float]) -> dict[int, float]:
    """The distribution of the sum of two independent grades."""
    found: dict[int, float] = {}
    for (a, p), (b, q) in itertools.product(first.items(), second.items()):
        found[a + b] = found.get(a + b, 0.0) + p * q
    return dict(sorted(found.items()))


def _tokens(logprobs: Any) -> list[Token]:
    """The answer's tokens out of either form of the protocol: chat's `content`, or the completions' lists."""
    try:
        if isinstance(logprobs, Mapping) and isinstance(logprobs.get("content"), list):
            return [_chat_token(entry) for entry in logprobs["content"]]
        if isinstance(logprobs, Mapping) and isinstance(logprobs.get("tokens"), list):
            return list(_plain_tokens(logprobs))
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    return []


def _chat_token(entry: Mapping[str, Any]) -> Token:
    others = {str(other["token"]): float(other["logprob"]) for other in entry.get("top_logprobs") or ()}
    others.setdefault(str(entry["token"]), float(entry["logprob"]))
    return str(entry["token"]), [pair for pair in others.items() if not math.isnan(pair[1])]


def _plain_tokens(logprobs: Mapping[str, Any]) -> Iterator[Token]:
    tops = logprobs.get("top_logprobs") or [None] * len(logprobs["tokens"])
    for token, logprob, top in zip(logprobs["tokens"], logprobs["token_logprobs"], tops, strict=True):
        others = {str(other): float(value) for other, value in (top or {}).items()}
        others.setdefault(str(token), float(logprob))
        yield str(token), [pair for pair in others.items() if not math.isnan(pair[1])]
