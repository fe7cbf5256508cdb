"""Answers to one prompt, compared two by two in both orders; a win counts where both orders agree.

A verifier comes first: where one tells two answers apart, no judge is asked about them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field, field_validator

from factory.errors import RecordError, ScorerError
from factory.generators.base import Context
from factory.generators.together import together
from factory.records import Record, Score, content_hash
from factory.scorers.comparison import CHAT, FEW_SHOT, compare, load_pair_rubric, worth
from factory.scorers.grading import plain_request
from factory.scorers.panel import JudgeAsked, agreement, most_frequent, poll
from factory.scorers.rubric import rubric_file

# Scores that are facts rather than opinions, where the run has them.
VERIFIERS = ("execution", "constraints", "answer", "fidelity")


class PairwiseSettings(JudgeAsked):
    """`rubric` is the name of a file in `prompts/judge/`, or a mapping of its form (`criteria`, a text, and `examples`).

    Each answer is compared with `comparisons` others of its group, drawn; with all of them where these are no more. Without
    `skip_verified`, a judge is asked about answers that a verifier's score tells apart, too.
    """

    rubric: str | Mapping[str, Any] = "pairwise"
    comparisons: int = Field(3, ge=1)
    skip_verified: bool = True

    @field_validator("rubric")
    @classmethod
    def _is_rubric(cls, value: str | Mapping[str, Any]) -> str | Mapping[str, Any]:
        load_pair_rubric(value)
        return value


@dataclass
class _Tally:
    """One record's comparisons: what each was worth, as the score's detail tells them."""

    worths: list[float] = field(default_factory=list)
    against: dict[str, dict[str, Any]] = field(default_factory=dict)
    unasked: dict[str, dict[str, Any]] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def score(self) -> Score:
        parts = {"against": self.against, "unasked": self.unasked, "errors": self.errors}
        detail = {name: part for name, part in parts.items() if part or name == "against"}
        return Score(value=sum(self.worths) / len(self.worths), detail=detail)


@dataclass(frozen=True)
class _Asked:
    """A comparison that judges decided: what they said of (one, other) and of (other, one)."""

    said: tuple[str, str]
    panel: Mapping[str | None, tuple[str, str]]
    reasons: tuple[str, str]
    errors: Mapping[str, str]

    def told(self, *, swapped: bool, several: bool) -> dict[str, Any]:
        """As the detail of the first record has it, or (swapped) of the other one."""
        turn = slice(None, None, -1 if swapped else 1)
        told: dict[str, Any] = {"said": list(self.said[turn]), "reasons": list(self.reasons[turn])}
        if several:
            told["panel"] = {name: list(said[turn]) for name, said in self.panel.items()}
            told["agreement"] = agreement(self.panel)
        return told


class Pairwise:
    """One score, `pairwise`: the share of its comparisons that the answer won, ties and inconsistent ones as halves."""

    uses_sandbox = False
    Settings = PairwiseSettings
    names = ("pairwise",)

    def __init__(self, settings: PairwiseSettings) -> None:
        self.settings, self.rubric = settings, load_pair_rubric(settings.rubric)
        named = (rubric_file(settings.rubric),) if isinstance(settings.rubric, str) else ()
        self.templates = (CHAT, FEW_SHOT, *named)

    async def score_group(
        self, records: Sequence[Record], context: Context
    ) -> Sequence[Mapping[str, Score] | RecordError]:
        tallies = [_Tally() for _ in records]
        pairs = list(drawn_pairs([record.id for record in records], self.settings.comparisons))
        await together(
            self._decide(records[one], records[other], tallies[one], tallies[other], context) for one, other in pairs
        )
        return [self._result(tally) for tally in tallies]

    def _result(self, tally: _Tally) -> Mapping[str, Score] | RecordError:
        if tally.worths:
            return {"pairwise": tally.score()}
        if tally.errors:
            return ScorerError(f"pairwise: {next(iter(tally.errors.values()))}")
        return ScorerError("pairwise: there is no other answer to the same prompt to compare it with")

    async def _decide(self, one: Record, other: Record, mine: _Tally, yours: _Tally, context: Context) -> None:
        """Compare two records and note it with both."""
        known = self._known(one, other)
        if known is not None:
            by, value = known
            for tally, rival, share in ((mine, other, value), (yours, one, 1 - value)):
                tally.worths.append(share)
                tally.unasked[rival.id] = {"by": by, "worth": share}
            return
        try:
            asked = await self._ask(one, other, context)
        except RecordError as error:
            if not error.final:
                raise  # the engine failed: the group is compared again when the run goes on
            reason = str(error).removeprefix("pairwise: ")
            mine.errors[other.id] = yours.errors[one.id] = reason
            return
        several = bool(self.settings.panel)
        for tally, rival, swapped in ((mine, other, False), (yours, one, True)):
            told = asked.told(swapped=swapped, several=several)
            tally.against[rival.id] = told
            tally.worths.append(worth(told["said"]))
            tally.errors |= {f"{rival.id}@{name}": why for name, why in asked.errors.items()}

    def _known(self, one: Record, other: Record) -> tuple[str, float] | None:
        """(who decided, what it is worth to the first) where no judge need be asked."""
        texts = [record.messages[-1].content if record.messages else "" for record in (one, other)]
        if texts[0] == texts[1]:
            return "the same text", 0.5
        if self.settings.skip_verified:
            for name in VERIFIERS:
                if name in one.scores and name in other.scores:
                    first, second = one.scores[name].value, other.scores[name].value
                    if first != second:
                        return name, float(first > second)
        return None

    async def _ask(self, one: Record, other: Record, context: Context) -> _Asked:
        """Both orders, of every judge. Raises `RecordError`."""
        for record in (one, other):
            if not record.messages or record.messages[-1].role != "assistant":
                raise ScorerError("the record does not end with an answer")
        question = plain_request(one.messages[:-1])
        answers = (one.messages[-1].content, other.messages[-1].content)

        async def judge(endpoint: str | None) -> tuple[tuple[str, str], tuple[str, str]]:
            verdicts = await together(
                compare(
                    context,
                    question,
                    first,
                    second,
                    criteria=self.rubric.criteria,
                    examples=self.rubric.examples,
                    label="pairwise",
                    sampling=self.settings.sampling,
                    endpoint=endpoint,
                )
                for first, second in (answers, answers[::-1])
            )
            said, reasons = zip(*((verdict.better, verdict.reason) for verdict in verdicts), strict=True)
            return (said[0], said[1]), (reasons[0], reasons[1])

        votes, errors = await poll(self.settings, judge)
        panel = {name: said for name, (said, _) in votes.items()}
        first_reasons = next(iter(votes.values()))[1]
        said = [_majority([vote[order] for vote in panel.values()]) for order in (0, 1)]
        return _Asked((said[0], said[1]), panel, first_reasons, errors)


def _majority(said: Sequence[str]) -> str:
    """What more than half said; else a tie."""
    most = most_frequent(said)
    return most if 2 * said.count(most) > len(said) else "tie"


def drawn_pairs(ids: Sequence[str], comparisons: int) -> Iterator[tuple[int, int]]:
    """Places of the records to compare: all pairs where each has no more than `comparisons` others, else so that each is in
    `comparisons` pairs (one of them in one more, where that does not come out even).

    They are drawn by the ids alone: put into a ring by chance, each is compared with its nearest neighbours.
    """
    count = len(ids)
    if count - 1 <= comparisons:
        yield from itertools.combinations(range(count), 2)
        return
    ring = sorted(range(count), key=lambda place: ids[place])
    random.Random(content_hash(*sorted(ids))).shuffle(ring)
    for distance in range(1, comparisons // 2 + 1):
        for place in range(count):
            yield ring[place], ring[(place + distance) % count]
    if comparisons % 2:
        # What is left over: pairs across the ring, the last one alone taken a second time where the count is odd.
        yield from _across(ring)


def _across(ring: Sequence[int]) -> Iterator[tuple[int, int]]:
    half = len(ring) // 2
    for place in range(half):
        yield ring[place], ring[place + half]
    if len(ring) % 2:
        yield ring[-1], ring[half - 1]
