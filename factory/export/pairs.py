"""Preference pairs: a kept answer and a worse one to the same prompt, decided by whoever can tell."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from factory.export.answers import Answer, Verdict, compare, groups
from factory.export.load import estimated_tokens
from factory.export.order import Reward
from factory.export.pool import ROW, Item, Pool
from factory.export.settings import ExportSettings
from factory.records import content_hash

Found = tuple[Item, bytes] | tuple[int, str]
Pair = tuple[Answer, Answer, Verdict]


def pairs(pool: Pool, settings: ExportSettings, reward: Reward) -> Iterator[Found]:
    """The pairs as rows, and the records that are in none, each with the reason."""
    for group in groups(pool):
        yield from group.lost
        chosen, why = _pairs(group.answers, settings, reward)
        for pair in chosen:
            yield _row(*pair, settings)
        used = {answer.owner.n for one, other, _ in chosen for answer in (one, other)}
        gone = {n for n, _ in group.lost}
        for n in sorted({answer.owner.n for answer in group.answers} - used - gone):
            yield n, why[n]


def _pairs(answers: Sequence[Answer], settings: ExportSettings, reward: Reward) -> tuple[list[Pair], dict[int, str]]:
    """Up to `max_pairs` pairs of the best kept answer that is better than any other, the surest and widest first."""
    why: dict[int, str] = {}
    kept = [answer for answer in answers if answer.kept]
    if len(answers) == 1 or not kept:
        told = "pairs: no other answer to its prompt" if kept else "pairs: no kept answer to its prompt"
        return [], {answer.owner.n: told for answer in answers}
    for one in kept:
        found: list[Pair] = []
        for other in answers:
            if other is one:
                continue
            verdict = _compared(one, other, settings, reward)
            if isinstance(verdict, Verdict):
                found.append((one, other, verdict))
                why.setdefault(other.owner.n, f"pairs: max_pairs={settings.max_pairs} others of its prompt were taken")
            else:
                why.setdefault(other.owner.n, verdict)
        if found:
            first = settings.pairs.decide.index
            found.sort(key=lambda pair: (first(pair[2].by), -pair[2].gap, pair[1].id, pair[1].text))
            why.setdefault(one.owner.n, "pairs: no worse answer to its prompt")
            return found[: settings.max_pairs], _whole(why, answers)
        why.setdefault(one.owner.n, "pairs: no worse answer to its prompt")
    return [], _whole(why, answers)


def _whole(why: dict[int, str], answers: Sequence[Answer]) -> dict[int, str]:
    return {answer.owner.n: why.get(answer.owner.n, "pairs: a better answer was chosen") for answer in answers}


def _compared(one: Answer, other: Answer, settings: ExportSettings, reward: Reward) -> Verdict | str:
    if other.prompt and other.prompt != one.prompt:
        return "pairs: asked with another prompt"
    verdict = compare(one, other, settings.pairs, reward, settings.min_gap)
    if isinstance(verdict, str):
        return verdict
    most = settings.pairs.max_length_ratio
    short, long = sorted((len(one.text), len(other.text)))
    if most is not None and long > most * short:
        return f"pairs: lengths differ by more than max_length_ratio={most:g}"
    if level_of(verdict.gap, settings.pairs.levels) < settings.pairs.min_level:
        return f"pairs: below min_level={settings.pairs.min_level}"
    return verdict


def level_of(gap: float, levels: Sequence[float]) -> int:
    """How many of the ascending gaps this one reaches."""
    return bisect_right(levels, gap)


def _row(one: Answer, other: Answer, verdict: Verdict, settings: ExportSettings) -> tuple[Item, bytes]:
    chosen = [{"role": "assistant", "content": one.text}]
    rejected = [{"role": "assistant", "content": other.text}]
    content: dict[str, Any] = {
        "prompt": one.prompt,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_reward": verdict.rewards[0],
        "rejected_reward": verdict.rewards[1],
        "source": verdict.source,
        "chosen_id": one.id,
        "rejected_id": other.id or other.owner.id,
        "rejected_run": other.owner.run,
        "chosen_scores": {name: value for name, (value, _) in one.scores.items()} or None,
        "rejected_scores": {name: value for name, (value, _) in other.scores.items()} or None,
    }
    if settings.pairs.levels:
        content["level"] = level_of(verdict.gap, settings.pairs.levels)
    return made_of(
        one, content_hash(one.id, other.text), estimated_tokens([*one.prompt, *chosen, *rejected])
    ), orjson.dumps(content)


def made_of(answer: Answer, identity: str, tokens: int) -> Item:
    """The item of a row that this answer is the best of."""
    owner = answer.owner
    return Item(n=0, unit=ROW, id=identity, run=owner.run, task=owner.task, prompt=owner.prompt, kept=True,
                scores=owner.scores, part=owner.part, tokens=tokens, place=owner.place)  # fmt: skip
