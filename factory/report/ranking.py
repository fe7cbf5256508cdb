"""Where the right order is known: how often each scorer orders two answers to one prompt rightly.

The truth about a group of answers (`meta.group`) is a verifier's score that differs inside it, or what people or the data
preferred (`meta.preferred`). Groups are counted, not listed: those of one (right, pairs) are alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.records import Record, Score
from factory.report.agreement import Estimate, ordered, share_of_groups

VERIFIERS = ("execution", "constraints", "answer", "fidelity")
PREFERRED = "preferred"
LENGTH = "length (baseline)"
FIRST, SECOND, BOTH = ("pairwise, better one first", "pairwise, better one second", "pairwise, both orders")
_ANSWERS = 64  # of a group that are compared: its pairs grow with the square
_SCORERS = 60  # told apart


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One scorer's share of pairs in the right order; `ties` is the share that it did not order, half right each."""

    truth: str
    scorer: str
    share: Estimate
    ties: float


@dataclass
class _Tally:
    groups: Counter[tuple[float, int]] = field(default_factory=Counter)
    ties: int = 0
    pairs: int = 0


class Ranking:
    """Fed with records in the order of the seeds: those of one group come from one seed item, or from items that follow one
    another (as where another run's records are scored)."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._seed: int | None = None
        self._open: dict[str, list[Record]] = {}

    def add(self, seed_index: int, record: Record) -> None:
        group = str(record.meta["group"]) if record.meta.get("group") is not None else None
        if seed_index != self._seed:
            self._close(but=group)
            self._seed = seed_index
        if group is not None and (record.scores or PREFERRED in record.meta):
            members = self._open.setdefault(group, [])
            if len(members) < _ANSWERS:
                members.append(record)

    def result(self) -> list[Accuracy]:
        """A row for each truth and scorer that has pairs, the most accurate first."""
        self._close()
        found = [
            Accuracy(truth, scorer, share_of_groups(tally.groups), tally.ties / tally.pairs)
            for (truth, scorer), tally in self._tallies.items()
            if tally.pairs
        ]
        order = (*VERIFIERS, PREFERRED)
        return sorted(found, key=lambda row: (order.index(row.truth), -row.share.value, row.scorer))

    def _close(self, but: str | None = None) -> None:
        going_on = {group: self._open.pop(group) for group in (but,) if group in self._open}
        for members in self._open.values():
            for name in (*VERIFIERS, PREFERRED):
                truth = [_truth(record, name) for record in members]
                if len({value for value in truth if value is not None}) > 1:
                    known = [(value, record) for value, record in zip(truth, members, strict=True) if value is not None]
                    self._compare(name, [value for value, _ in known], [record for _, record in known])
        self._open = going_on

    def _compare(self, name: str, truth: Sequence[float], members: Sequence[Record]) -> None:
        said = [
            {scorer: value for scorer, value in opinions(record) if name not in told_by(record.scores.get(scorer))}
            for record in members
        ]
        for scorer in dict.fromkeys(key for one in said for key in one):
            if scorer != name:
                self._count(name, scorer, *ordered(truth, [one.get(scorer) for one in said]))
        for scorer, (right, pairs, ties) in _head_to_head(truth, members).items():
            self._count(name, scorer, right, pairs, ties)

    def _count(self, truth: str, scorer: str, right: float, pairs: int, ties: int) -> None:
        if pairs and ((truth, scorer) in self._tallies or len(self._tallies) < _SCORERS):
            tally = self._tallies.setdefault((truth, scorer), _Tally())
            tally.groups[right, pairs] += 1
            tally.pairs += pairs
            tally.ties += ties


def _truth(record: Record, name: str) -> float | None:
    """What is known of an answer: a verifier's score, unless a model was asked after all; or the data's preference."""
    if name == PREFERRED:
        value = record.meta.get(PREFERRED)
        return float(value) if isinstance(value, bool | int | float) else None
    score = record.scores.get(name)
    return None if score is None or score.detail.get("by") == "judge" else score.value


def told_by(score: Score | None) -> frozenset[str]:
    """The verifiers that decided comparisons in a judge's place (`pairwise` asks nobody where one is known to be better).

    A score that holds a verifier's word agrees with it by construction, which is no evidence about the judge.
    """
    unasked = score.detail.get("unasked") if score is not None else None
    entries = unasked.values() if isinstance(unasked, Mapping) else ()
    return frozenset(str(one.get("by")) for one in entries if isinstance(one, Mapping)) & frozenset(VERIFIERS)


def opinions(record: Record) -> Iterator[tuple[str, float]]:
    """Every score of a record, those of a panel's judges and of an ensemble's reward models by themselves, and its length."""
    for name, score in record.scores.items():
        yield name, score.value
        for member, value in members(score.detail):
            yield f"{name}: {member}", value
    answers = [message.content for message in record.messages if message.role == "assistant"]
    if answers:
        yield LENGTH, float(len(answers[-1]))


def members(detail: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(endpoint, grade) of a panel, (model, reward) of an ensemble; nothing of a single one."""
    panel, models = detail.get("panel"), detail.get("models")
    if isinstance(panel, Mapping):
        yield from ((str(name), float(grade)) for name, grade in panel.items() if isinstance(grade, int | float))
    if isinstance(models, Mapping) and len(models) > 1:
        for name, said in models.items():
            if isinstance(said, Mapping) and isinstance(said.get("raw"), int | float):
                yield str(name), float(said["raw"])


def _head_to_head(truth: Sequence[float], records: Sequence[Record]) -> dict[str, tuple[float, int, int]]:
    """(right, pairs, ties) of the direct comparisons: with the better answer shown first, second, and both together.

    Both together is right where the two orders agree on the better one, and a tie where they do not agree.
    """
    known = {record.id: value for record, value in zip(records, truth, strict=True)}
    found = {name: [0.0, 0, 0] for name in (FIRST, SECOND, BOTH)}
    for first, second, said in comparisons(records):
        if second not in known or first not in known or known[first] == known[second]:
            continue
        better_first = known[first] > known[second]
        in_place = {FIRST: (said[0] if better_first else said[1], "first"),
                    SECOND: (said[1] if better_first else said[0], "second")}  # fmt: skip
        for name, (answer, right) in in_place.items():
            _note(found[name], "tie" if answer == "tie" else answer == right)
        sure = [answer == right for answer, right in in_place.values()]
        agree = said in (("first", "second"), ("second", "first"))
        _note(found[BOTH], all(sure) if agree else "tie")
    return {name: (right, int(pairs), int(ties)) for name, (right, pairs, ties) in found.items()}


def _note(entry: list[float], right: bool | str) -> None:
    entry[0] += 0.5 if right == "tie" else float(right)
    entry[1] += 1
    entry[2] += right == "tie"


def comparisons(records: Sequence[Record]) -> Iterator[tuple[str, str, tuple[str, str]]]:
    """Each comparison of `pairwise` once: (this, other, what was said with this first, and with the other first)."""
    seen = set[frozenset[str]]()
    for record in records:
        score = record.scores.get("pairwise")
        against = score.detail.get("against") if score is not None else None
        for other, entry in against.items() if isinstance(against, Mapping) else ():
            said = entry.get("said") if isinstance(entry, Mapping) else None
            pair = frozenset((record.id, str(other)))
            if isinstance(said, list | tuple) and len(said) == 2 and len(pair) == 2 and pair not in seen:
                seen.add(pair)
                yield record.id, str(other), (str(said[0]), str(said[1]))
