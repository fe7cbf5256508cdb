"""Which records the report shows, and what it shows of each."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from factory.journal import Fate

_TEXT, _RECORD = 12_000, 60_000  # characters of one text, and of one record, that are embedded
_KEYS = 400  # reasons told apart; later ones are one group


class Reservoir:
    """At most `limit` records of a stream, shared evenly among groups; the same records on every run.

    Within a group the records with the lowest hashes stay, so that neither their order nor who finished first matters.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.size, self._made = limit, 0, 0
        self._groups: dict[str, list[tuple[int, int, Any]]] = {}  # heaps, the highest hash on top (negated)
        self._bound: dict[str, int] = {}  # the lowest hash that a group has let go

    def add(self, group: str, name: str, make: Callable[[], Any]) -> None:
        """Offer a record; `make` is called only if it is taken (and may still be let go later)."""
        if group not in self._groups and len(self._groups) >= _KEYS:
            group = ""
        mark = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
        if self.limit <= 0 or mark >= self._bound.get(group, 1 << 64):
            return
        heap = self._groups.setdefault(group, [])
        self.size, self._made = self.size + 1, self._made + 1
        heapq.heappush(heap, (-mark, self._made, make()))
        # One more a group than is wanted, so that who gets the last places is decided at the end and by name.
        while self.size > self.limit + len(self._groups):
            self._shrink(group)

    def _shrink(self, favourite: str) -> None:
        most = max(map(len, self._groups.values()))
        largest = (group for group, heap in self._groups.items() if len(heap) == most)
        victim = favourite if len(self._groups[favourite]) == most else min(largest)
        self._bound[victim] = -heapq.heappop(self._groups[victim])[0]
        self.size -= 1

    def chosen(self, limit: int) -> list[Any]:
        """At most `limit` records: the first of every group, then the second of every group, and so on."""
        ranked = [
            (rank, group, item)
            for group, heap in self._groups.items()
            for rank, (_, _, item) in enumerate(sorted(heap, key=lambda entry: -entry[0]))
        ]
        ranked.sort(key=lambda entry: entry[:2])
        return [item for _, _, item in ranked[: max(limit, 0)]]


class Samples:
    """Kept and rejected records, half and half where there are enough of both."""

    def __init__(self, limit: int) -> None:
        self.limit, self._kept, self._lost = max(limit, 0), Reservoir(limit), Reservoir(limit)

    def add(self, fate: Fate) -> None:
        record = fate.record
        pool = self._kept if record.kept else self._lost
        pool.add(record.reason, f"{record.id}/{fate.seed_index}/{fate.sample}", lambda: view(fate))

    def chosen(self) -> list[dict[str, Any]]:
        half = self.limit // 2
        kept = self._kept.chosen(max(half, self.limit - self._lost.size))
        lost = self._lost.chosen(self.limit - len(kept))
        return sorted(kept + lost, key=lambda item: (item["place"], item["id"]))


class Clipper:
    """Cuts long texts, and says how much was cut."""

    def __init__(self) -> None:
        self.left = _RECORD

    def __call__(self, value: Any) -> Any:
        """The value with every text in it cut to what fits."""
        if isinstance(value, str):
            if len(value) <= _TEXT < self.left:  # the common case, by far
                self.left -= len(value)
                return value
            room = max(min(_TEXT, self.left), 200)
            self.left -= min(len(value), room)
            if len(value) <= room:
                return value
            return value[:room] + f"\n… [{len(value) - room:,} more characters: see explain]"
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Mapping):
            return {self(str(key)): self(item) for key, item in list(value.items())[:100]}
        if isinstance(value, Sequence):
            return [self(item) for item in value[:100]]
        return self(str(value))


def group_of(reason: str) -> str:
    """The part of a reason that names who said it: "execution" of "execution: timeout"."""
    head, colon, _ = reason.partition(":")
    return (head if colon else reason).strip()[:80] or "no reason given"


def facets(meta: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The short values of a record's metadata; those of its seed row where the record has no own."""
    seed = meta.get("seed")
    rows = (meta, seed if isinstance(seed, Mapping) else {})
    for number, row in enumerate(rows):
        for key, value in row.items():
            if isinstance(value, str | bool | int) and (not number or key not in meta) and len(str(value)) <= 80:
                yield key, str(value)


def view(fate: Fate) -> dict[str, Any]:
    """What the page's browser shows of a record, as JSON; its texts are cut where they are long."""
    record, clip = fate.record, Clipper()
    meta = dict(record.meta)
    turns = [{"role": message.role, "content": clip(message.content)} for message in record.messages[:100]]
    solution = meta.pop("solution", None)
    said = any(isinstance(solution, str) and solution.strip() in message.content for message in record.messages)
    if isinstance(meta.get("problem"), str) and any(
        meta["problem"].strip() in turn.content for turn in record.messages
    ):
        del meta["problem"]
    tests, attempts = meta.pop("tests", None), meta.pop("attempts", None)
    return {
        "id": record.id,
        "place": [fate.seed_index, fate.sample],
        "kept": record.kept,
        "reason": clip(record.reason),
        "group": "" if record.kept else group_of(record.reason),
        "topic": clip(str(meta.get("topic") or dict(facets(meta)).get("topic", ""))),
        "language": str(meta.get("language", ""))[:40],
        "turns": turns,
        "solution": None if said else clip(solution),
        "tests": clip(tests) if isinstance(tests, list) else [],
        "attempts": [_attempt(item, solution, clip) for item in attempts[:20]] if isinstance(attempts, list) else [],
        "scores": {
            clip(name): [score.value, clip(score.reason), clip(score.detail)]
            for name, score in list(record.scores.items())[:40]
        },
        "usage": [
            record.usage.requests,
            record.usage.prompt_tokens,
            record.usage.completion_tokens,
            record.usage.seconds,
        ],
        "parents": list(record.parents[:20]),
        "meta": clip(meta),
    }


def _attempt(attempt: Any, solution: Any, clip: Clipper) -> dict[str, Any]:
    """One attempt; its code is left out where it is the solution itself, which is shown already."""
    if not isinstance(attempt, Mapping):
        return {"verdict": clip(str(attempt))}
    shown = {key: clip(attempt[key]) for key in ("verdict", "feedback", "tests") if attempt.get(key)}
    if attempt.get("code") and attempt["code"] == solution:
        return shown | {"final": True}
    return shown | {"code": clip(attempt.get("code"))}
