"""From the records of one seed item to their fates: scorers in turn, each record until its fate is clear.

A score that could not be had is no score: it is noted in `meta.score_errors`, the other scorers are still asked, and the
keep rule decides from the scores that are there. A group scorer is given all records of the item that answer one prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from factory.errors import RecordError, ScorerError, boundary
from factory.generators.base import Context
from factory.generators.together import together
from factory.records import Record, Score
from factory.selection import KeepRule

SCORE_ERRORS = "score_errors"  # in a record's meta: what each scorer that gave no score said


class Scorer(Protocol):
    """Gives a record one or more named scores; raises where it cannot, which is never a zero.

    `names` are those of its scores, `templates` of the prompts it renders, `uses_sandbox` whether it runs code. The record
    carries the scores that it has so far. It may have `check(where) -> problems` of its settings, `identity` (JSON) of a
    model of its own, which is part of what decides a record's fate, and `ready(resources)`, a context manager whose value
    `context.opened(self)` gives. So may a group scorer.
    """

    names: Sequence[str]
    templates: Sequence[str]
    uses_sandbox: bool

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]: ...


@runtime_checkable
class GroupScorer(Protocol):
    """Scores answers to one prompt together: the item's records with one `meta.group` whose fate is not sealed yet.

    One entry for each record, in their order: its scores, or the error that this record alone met. What it raises is
    an error of them all.
    """

    names: Sequence[str]
    templates: Sequence[str]
    uses_sandbox: bool

    async def score_group(
        self, records: Sequence[Record], context: Context
    ) -> Sequence[Mapping[str, Score] | RecordError]: ...


@dataclass
class _Candidate:
    """A record while it is scored. `stopped` is an engine's failure, after which it is not scored any further."""

    record: Record
    scores: dict[str, Score] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    stopped: RecordError | None = None

    @property
    def scored(self) -> Record:
        """The record with the scores that it has so far."""
        return self.record.model_copy(update={"scores": dict(self.scores)}) if self.scores else self.record

    def note(self, scorer: str, error: RecordError) -> None:
        if error.final:
            self.errors[scorer] = str(error).removeprefix(f"{scorer}: ")
        else:
            self.stopped = error


class Scoring:
    """The scorers of a run and its keep rule."""

    def __init__(self, scorers: Mapping[str, Scorer | GroupScorer], rule: KeepRule) -> None:
        self.rule = rule
        # Scorers of single records that follow one another need not wait for the other records in between.
        self._stages = [
            (grouped, list(stage))
            for grouped, stage in itertools.groupby(
                scorers.items(), key=lambda entry: isinstance(entry[1], GroupScorer)
            )
        ]

    async def fates(self, records: Sequence[Record], context: Context) -> tuple[list[Record], bool]:
        """The records with their fates, and whether these are final (an engine's failure is not)."""
        candidates = [_Candidate(record) for record in records]
        for grouped, stage in self._stages:
            if grouped:
                for name, scorer in stage:
                    assert isinstance(scorer, GroupScorer)
                    await _all(self._compare(name, scorer, group, context) for group in self._groups(candidates))
            else:
                await _all(self._score(candidate, stage, context) for candidate in candidates)
        final = all(candidate.stopped is None for candidate in candidates)
        return [self._fate(candidate, context) for candidate in candidates], final

    def _open(self, candidate: _Candidate) -> bool:
        """Whether scoring it may still matter: it is neither lost already nor sealed by a score."""
        if candidate.record.reason or candidate.stopped is not None:
            return False
        return self.rule.decide(candidate.scores)[0] is not False

    async def _score(
        self, candidate: _Candidate, stage: Iterable[tuple[str, Scorer | GroupScorer]], context: Context
    ) -> None:
        for name, scorer in stage:
            if not self._open(candidate):
                return
            assert not isinstance(scorer, GroupScorer)
            try:
                async with boundary(ScorerError, name):
                    candidate.scores |= await scorer.score(candidate.scored, context)
            except RecordError as error:
                candidate.note(name, error)

    def _groups(self, candidates: Iterable[_Candidate]) -> list[list[_Candidate]]:
        """The open ones by `meta.group`, in order; one without a group stands alone."""
        groups: dict[Any, list[_Candidate]] = {}
        for number, candidate in enumerate(candidates):
            if self._open(candidate):
                group = candidate.record.meta.get("group")
                groups.setdefault(group if isinstance(group, str) else number, []).append(candidate)
        return list(groups.values())

    async def _compare(self, name: str, scorer: GroupScorer, group: Sequence[_Candidate], context: Context) -> None:
        try:
            async with boundary(ScorerError, name):
                found = await scorer.score_group([candidate.scored for candidate in group], context)
                if len(found) != len(group):
                    raise ScorerError(f"{name}: gave {len(found)} results for {len(group)} records")
                given = [entry if isinstance(entry, RecordError) else dict(entry) for entry in found]
        except RecordError as error:
            given = [error] * len(group)
        for candidate, entry in zip(group, given, strict=True):
            if isinstance(entry, RecordError):
                candidate.note(name, entry)
            else:
                candidate.scores |= entry

    def _fate(self, candidate: _Candidate, context: Context) -> Record:
        record, scores, meta = candidate.record, candidate.scores, dict(candidate.record.meta)
        if record.reason:
            return record
        meta.pop(SCORE_ERRORS, None)  # of another run, whose record this one was made from
        if candidate.errors:
            meta[SCORE_ERRORS] = candidate.errors
        kept, reason = self.rule.decide(scores)
        if candidate.stopped is not None:
            kept, reason = False, str(candidate.stopped)
        elif kept is None:
            kept, reason = False, self._undecided(candidate)
        elif kept:  # whatever a score may be blamed for, it was not
            scores = {name: score.model_copy(update={"reason": ""}) for name, score in scores.items()}
        update = {"scores": scores, "meta": meta, "kept": kept, "reason": reason, "usage": context.usage}
        return record.model_copy(update=update)

    def _undecided(self, candidate: _Candidate) -> str:
        """Why a record could not be decided: the first scorer whose score the rule asks for and that gave none."""
        missing = self.rule.names - candidate.scores.keys()
        for _, stage in self._stages:
            for name, scorer in stage:
                if name in candidate.errors and missing & set(scorer.names):
                    return f"{name}: {candidate.errors[name]}"
        there = ", ".join(candidate.scores) or "none"
        return f"keep: {self.rule.text!r} cannot be decided from the scores {there}"


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """All at once; one alone without a task of its own, which most items have."""
    todo = list(work)
    if len(todo) == 1:
        await todo[0]
    elif todo:
        await together(todo)
