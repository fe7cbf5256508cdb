"""Answers to one prompt as a group (`meta.group`): the best of n, and pairs of a better and a worse one.

A reward is the value of the score that the export names, or without one 1 for a kept record and 0 for one that was scored
and lost. Candidates lie in a temporary table, so memory does not grow with the run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

import orjson

from factory.journal import Fate
from factory.outputs import plain_turns
from factory.records import Record, content_hash
from factory.settings import ExportSettings

# Who decided, by the score that was the reward; anything else is a check in code.
_SOURCES = {"judge": "judge", "reward": "reward model"}


def reward_of(record: Record, settings: ExportSettings) -> float | None:
    """None where the record was not scored that far: such an answer is no evidence."""
    if settings.reward is not None:
        return record.scores[settings.reward].value if settings.reward in record.scores else None
    return float(record.kept) if record.scores else None


def best_of_groups(fates: Iterable[Fate], settings: ExportSettings) -> Iterator[Fate]:
    """Of the kept answers to each prompt the `per_group` ones with the highest reward; records without a group pass."""
    with sqlite3.connect("") as store:
        store.execute("CREATE TABLE kept (grp TEXT, id TEXT, reward REAL, seed INT, sample INT, record BLOB)")
        for fate in fates:
            record = fate.record
            if not record.kept or "group" not in record.meta:
                yield fate
                continue
            reward = reward_of(record, settings)
            row = (record.meta["group"], record.id, reward, fate.seed_index, fate.sample, record.model_dump_json())
            store.execute("INSERT INTO kept VALUES (?,?,?,?,?,?)", row)
        ranked = store.execute(
            "SELECT seed, sample, record FROM (SELECT *, ROW_NUMBER() OVER "
            "(PARTITION BY grp ORDER BY reward DESC NULLS LAST, id) AS place FROM kept) WHERE place <= ?",
            (settings.per_group,),
        )
        for seed, sample, data in ranked:
            yield Fate(seed, sample, Record.model_validate_json(data), {}, True)
    store.close()


class GroupPairs:
    """Pairs of answers to one prompt: a kept one, and others whose reward is more than `min_gap` below its own."""

    def __init__(self, settings: ExportSettings) -> None:
        self.settings = settings
        self._store = sqlite3.connect("")
        self._store.execute("CREATE TABLE answers (grp TEXT, id TEXT, prompt BLOB, answer TEXT, reward REAL, kept INT)")

    def add(self, record: Record) -> None:
        reward = reward_of(record, self.settings)
        if "group" not in record.meta or reward is None or record.messages[-1:] == ():
            return
        prompt = orjson.dumps(plain_turns(record.messages[:-1]))
        row = (record.meta["group"], record.id, prompt, record.messages[-1].content, reward, record.kept)
        self._store.execute("INSERT INTO answers VALUES (?,?,?,?,?,?)", row)

    def rows(self) -> Iterator[dict[str, Any]]:
        """For each group its best kept answer against the worst others, `max_pairs` of them."""
        self._store.execute("CREATE INDEX by_group ON answers (grp, reward)")
        best = self._store.execute(
            "SELECT grp, id, prompt, answer, reward FROM (SELECT *, ROW_NUMBER() OVER "
            "(PARTITION BY grp ORDER BY reward DESC, id) AS place FROM answers WHERE kept) WHERE place = 1"
        )
        for group, identity, prompt, answer, reward in best.fetchall():
            worse = self._store.execute(
                "SELECT answer, MIN(reward) AS least FROM answers WHERE grp=? AND answer<>? AND prompt=? AND ?-reward>? "
                "GROUP BY answer ORDER BY least, answer LIMIT ?",
                (group, answer, prompt, reward, self.settings.min_gap, self.settings.max_pairs),
            )
            for other, least in worse.fetchall():
                yield {
                    "id": content_hash(identity, other),
                    "prompt": orjson.loads(prompt),
                    "chosen": [{"role": "assistant", "content": answer}],
                    "rejected": [{"role": "assistant", "content": other}],
                    "chosen_reward": reward,
                    "rejected_reward": least,
                    "source": _SOURCES.get(self.settings.reward or "", "verifier"),
                }
        self._store.close()
