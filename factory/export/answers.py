"""Answers to one prompt, side by side: what pairs and rankings are made of.

Answers are comparable where their prompts are the same, of whatever run and model. Code is comparable by its problem, and
brings what was tried before it was right.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from factory.export.order import Reward
from factory.export.pool import Item, Pool, Scores
from factory.export.settings import Decider, PairSettings

AT_ONCE = 256  # answers to one prompt that are compared: the best and the worst; bounds memory
Turns = list[dict[str, str]]


@dataclass(slots=True)
class Answer:
    """One answer. `owner` is the item it came with, `id` its record, "" for an attempt that failed on the way to one."""

    owner: Item
    id: str
    text: str
    prompt: Turns
    kept: bool
    verified: float | None
    reward: float | None = None
    pairwise: float | None = None
    scores: Scores = field(default_factory=dict)
    against: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def same(self) -> str:
        """Equal for answers that only their spaces tell apart."""
        return " ".join(self.text.split())

    @property
    def rank(self) -> tuple[Any, ...]:
        """Sorts the best first."""
        worth = [-value if value is not None else float("inf") for value in (self.verified, self.reward, self.pairwise)]
        return (not self.kept, *worth, self.id, self.text)


@dataclass(frozen=True)
class Group:
    """Answers that may be compared, the best first; `lost` are items with nothing to compare, with the reason."""

    answers: Sequence[Answer]
    lost: Sequence[tuple[int, str]]


_BEST_FIRST = "kept DESC, verified DESC NULLS LAST, reward DESC NULLS LAST, id, run, n"


def largest_group(pool: Pool) -> int:
    """How many records answer one prompt at most."""
    found: int | None = pool.one(
        "SELECT max(size) FROM (SELECT count(*) AS size FROM items WHERE step IS NULL AND unit=? GROUP BY rival)",
        pool.unit,
    )
    return found or 0


def crowded(pool: Pool) -> Iterator[tuple[int, str]]:
    """Of prompts with too many answers those that are neither among the best nor among the worst."""
    half = AT_ONCE // 2
    ranked = pool.db.execute(
        f"SELECT n FROM (SELECT n, ROW_NUMBER() OVER (PARTITION BY rival ORDER BY {_BEST_FIRST}) AS place, COUNT(*) OVER "
        "(PARTITION BY rival) AS size FROM items WHERE step IS NULL AND unit=?) WHERE place > ? AND place <= size - ?",
        (pool.unit, half, half),
    )
    for (n,) in ranked:
        yield n, f"crowded: neither among the best nor the worst {half} answers to its prompt"


def groups(pool: Pool) -> Iterator[Group]:
    """Every prompt's answers, each text once."""
    entries = pool.left(f"rival, {_BEST_FIRST}", contents=True)
    for _, members in itertools.groupby(entries, key=lambda entry: entry[0].rival):
        answers = [answer for item, data in members for answer in _answers(item, data)]
        yield _distinct(sorted(answers, key=lambda answer: answer.rank))


def _answers(item: Item, data: bytes) -> Iterator[Answer]:
    content = orjson.loads(data)
    messages: Turns = content["messages"]
    code = "failed" in content
    scores = item.scored()
    if messages and messages[-1]["role"] == "assistant" and (item.kept or not code):
        verified = 1.0 if item.verified is None and code else item.verified
        pairwise = scores["pairwise"][0] if "pairwise" in scores else None
        yield Answer(item, item.id, messages[-1]["content"], messages[:-1], item.kept, verified, item.reward, pairwise,
                     scores, content.get("against", {}), content.get("attributes", {}))  # fmt: skip
    for text, share in content.get("failed", ()):
        yield Answer(item, "", text, [], False, share)


def _distinct(answers: Sequence[Answer]) -> Group:
    """Each text once, under the first that gave it."""
    seen: dict[str, Answer] = {}
    lost: list[tuple[int, str]] = []
    for answer in answers:
        if seen.setdefault(answer.same, answer) is not answer and answer.id:
            lost.append((answer.owner.n, "pairs: the same text as another answer to its prompt"))
    return Group(list(seen.values()), lost)


@dataclass(frozen=True)
class Verdict:
    """The first answer is better than the second by this much, and who said so."""

    by: Decider
    source: str
    rewards: tuple[float, float]

    @property
    def gap(self) -> float:
        return self.rewards[0] - self.rewards[1]


def compare(one: Answer, other: Answer, settings: PairSettings, reward: Reward, min_gap: float) -> Verdict | str:
    """Whether the kept answer `one` is better than `other`, by the first who can tell; else why it is in no pair.

    A decider tells where its rewards are more than `min_gap` apart, in either direction.
    """
    why = "pairs: nothing tells it from the best answer"
    for by in settings.decide:
        rewards = _rewards(by, one, other, settings.decide)
        if rewards is None:
            continue
        source = reward.source if by == "reward" else "judge" if by == "pairwise" else "verifier"
        verdict = Verdict(by, source, rewards)
        if verdict.gap > min_gap:
            return verdict
        if -verdict.gap > min_gap:
            return "pairs: better than the kept answer by its reward"
        why = (
            f"pairs: no more than min_gap={min_gap:g} apart"
            if verdict.gap
            else "pairs: worth the same as the best answer"
        )
    return why


def _rewards(by: Decider, one: Answer, other: Answer, decide: Sequence[Decider]) -> tuple[float, float] | None:
    """What `by` has to say of both, or None."""
    if by == "verifier":
        return _both(one.verified, other.verified)
    if by == "reward":
        return _both(one.reward, other.reward)
    if by == "pairwise":
        return _consistent(one, other)
    # The keep rule has the last word only where no reward does.
    rewarded = "reward" in decide and _both(one.reward, other.reward) is not None
    if not rewarded and one.kept and not other.kept:
        return 1.0, 0.0
    return None


def _both(one: float | None, other: float | None) -> tuple[float, float] | None:
    return None if one is None or other is None else (one, other)


def _consistent(one: Answer, other: Answer) -> tuple[float, float] | None:
    """1 and 0 where the judge said the same in both orders: `said` is of (this, other), then of (other, this)."""
    said = _said(one, other)
    if said is None:
        swapped = _said(other, one)
        said = {"first": "second", "second": "first"}.get(swapped or "") if swapped else None
    return {"first": (1.0, 0.0), "second": (0.0, 1.0)}.get(said or "")


def _said(one: Answer, other: Answer) -> str | None:
    entry = one.against.get(other.id) if other.id else None
    said = entry.get("said") if isinstance(entry, Mapping) else None
    if not isinstance(said, list) or len(said) != 2:
        return None
    return {("first", "second"): "first", ("second", "first"): "second"}.get((said[0], said[1]))
