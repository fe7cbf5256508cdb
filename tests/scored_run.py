"""A run whose records several scorers scored: groups of answers to one prompt, with known truths, panels and both orders."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from factory.journal import Fate, Journal
from factory.records import Message, Record, Score, content_hash
from tests.sample_run import HOSTILE, TOPICS, manifest

DESCRIPTION = {
    "settings": {"task": {"generator": "factory.generators.rejection_sampling.RejectionSampling"}},
    "model": {"name": "smollm2"},
}
KEEP = "execution == 1 and (reward >= 0.8 or judge >= 4)"
ERRORS = (
    "judge: there is no JSON in the answer",
    "judge: cut off at the token limit; raise max_tokens",
    "judge: the judge refused",
    "engine: connection reset (5 tries)",
)


def answers(seed: int, draw: random.Random, per_group: int = 4) -> list[Record]:
    """The answers to one prompt: latent quality, and what each scorer makes of it."""
    topic = TOPICS[seed % len(TOPICS)]
    qualities = [draw.gauss(0, 1) for _ in range(per_group)]
    ids = [content_hash("scored", seed, number) for number in range(per_group)]
    made = []
    for number, quality in enumerate(qualities):
        passed = quality + draw.gauss(0, 0.5) > 0
        told = min(5, max(1, round(3 + quality + draw.gauss(0, 0.9))))
        other = min(5, max(1, round(3 + quality + draw.gauss(0, 0.7))))
        reward = round(0.9 * quality + draw.gauss(0, 0.6) + 0.3, 4)
        scores = {
            "execution": Score(value=float(passed), detail={"status": "pass" if passed else "fail"}),
            "judge": Score(
                value=float(told),
                detail={"says": HOSTILE if seed % 9 == 0 else "Fine.", "panel": {"small": told, "large": other}},
            ),
            "reward": Score(value=reward, detail={"models": {"skywork": {"raw": reward * 4}}, "combine": "mean"}),
            "pairwise": _pairwise(number, qualities, ids, random.Random(seed)),
        }
        meta: dict[str, Any] = {"group": f"g{seed}", "sample": number, "topic": topic}
        if draw.random() < 0.06:
            del scores["judge"]
            meta["score_errors"] = {"judge": ERRORS[draw.randrange(4)]}
        kept = passed and (reward >= 0.8 or ("judge" in scores and told >= 4))
        turns = (Message(role="user", content=f"About {topic}, number {seed}."),
                 Message(role="assistant", content="word " * int(30 + 12 * max(quality, -2) + draw.randrange(40))))  # fmt: skip
        reason = "" if kept else "not (execution == 1)" if not passed else "not (reward >= 0.8 or judge >= 4)"
        made.append(Record(id=ids[number], task="rejection_sampling", messages=turns, meta=meta, scores=scores, kept=kept,
                           reason=reason))  # fmt: skip
    return made


def _pairwise(number: int, qualities: list[float], ids: list[str], draw: random.Random) -> Score:
    against, worth = {}, []
    said = {}
    for first in range(len(ids)):
        for second in range(first + 1, len(ids)):
            both = [qualities[first] - qualities[second] + draw.gauss(0.35 * sign, 0.8) for sign in (1, -1)]
            said[first, second] = ["tie" if abs(gap) < 0.1 else "first" if (gap > 0) is (place == 0) else "second"
                                   for place, gap in enumerate(both)]  # fmt: skip
    for other in range(len(ids)):
        if other == number:
            continue
        mine = said[number, other] if number < other else said[other, number][::-1]
        against[ids[other]] = {"said": mine}
        worth.append({("first", "second"): 1.0, ("second", "first"): 0.0}.get((mine[0], mine[1]), 0.5))
    return Score(value=sum(worth) / len(worth), detail={"against": against})


def scored(groups: int, per_group: int = 4, seed: int = 5) -> list[list[Record]]:
    """The records of each seed item, the same ones every time."""
    draw = random.Random(seed)
    return [answers(number, draw, per_group) for number in range(groups)]


def write_scored(folder: Path, items: list[list[Record]], **changes: Any) -> Path:
    """Journal and manifest in `folder`; each inner list is what one seed item gave."""
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "journal.db") as journal:
        config = journal.config_id("fixture", DESCRIPTION)
        for index, records in enumerate(items):
            fates = [
                Fate(index, sample, record, {"item": f"i{index}", "exchanges": []})
                for sample, record in enumerate(records)
            ]
            journal.add_fates(config, f"i{index}", fates, [None] * len(fates))
        journal.flush()
    flat = [record for records in items for record in records]
    content = manifest(flat, **({"run": folder.name, "keep": KEEP, "seeds": len(items)} | changes))
    (folder / "manifest.json").write_bytes(orjson.dumps(content))
    return folder
