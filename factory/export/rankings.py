"""Rankings: one row a prompt with its answers and what each is worth, for a reward model.

Rewards are of one scale in a row: the reward's where at least two answers have it, else the verifier's, else 1 for kept and
0 for lost. Ranks put the verifier's word first. Attributes are several grades for each answer, null where one is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from factory.export.answers import Answer, Group, groups
from factory.export.load import estimated_tokens
from factory.export.order import Reward
from factory.export.pairs import Found, made_of
from factory.export.pool import Item, Pool
from factory.export.settings import ExportSettings
from factory.records import content_hash

Worth = tuple[float, ...]


def rankings(pool: Pool, settings: ExportSettings, reward: Reward) -> Iterator[Found]:
    """The rankings as rows, and the records that are in none, each with the reason."""
    for group in groups(pool):
        yield from group.lost
        if settings.ranking.write == "attributes":
            chosen, why = _graded(group.answers, settings)
            content = _attributes(chosen, settings) if chosen else {}
        else:
            chosen, why, content = _ranked(group, settings, reward)
        if chosen:
            yield _row(chosen, content)
        used, gone = {answer.owner.n for answer in chosen}, {n for n, _ in group.lost}
        for n in sorted({answer.owner.n for answer in group.answers} - used - gone):
            yield (
                n,
                why.get(n, f"ranking: max_responses={settings.ranking.max_responses} others of its prompt were taken"),
            )


def _ranked(
    group: Group, settings: ExportSettings, reward: Reward
) -> tuple[list[Answer], dict[int, str], dict[str, Any]]:
    """The answers that are written, why others are not, and the columns that say what they are worth."""
    worth, source = _scale(group.answers, reward)
    if settings.ranking.write == "ranks" and source != "verifier":  # the verifier's word comes first
        worth = {place: (_or_zero(group.answers[place].verified), *value) for place, value in worth.items()}
    places = sorted(worth, key=lambda place: [-value for value in worth[place]])
    why = {answer.owner.n: "ranking: nothing says what it is worth" for answer in group.answers}
    why |= {group.answers[place].owner.n: "ranking: no other answer to its prompt" for place in places}
    if len(places) < 2 or not (prompt := _prompt(group.answers)):
        return [], why, {}
    clear = _apart(places, worth, settings.min_gap)
    for place in set(places) - set(clear):
        why[group.answers[place].owner.n] = f"ranking: no more than min_gap={settings.min_gap:g} below another answer"
    if len(clear) < 2 or worth[clear[0]] == worth[clear[-1]]:
        return (
            [],
            why | {group.answers[place].owner.n: "ranking: every answer is worth the same" for place in clear},
            {},
        )
    for place in clear:
        del why[group.answers[place].owner.n]
    clear = _spread(clear, settings.ranking.max_responses)
    if settings.ranking.write == "ranks":
        different = sorted({worth[place] for place in clear}, reverse=True)
        column: dict[str, list[float]] = {"ranks": [different.index(worth[place]) + 1 for place in clear]}
    else:
        column = {"rewards": [worth[place][0] for place in clear]}
    return [group.answers[place] for place in clear], why, {"prompt": prompt, "source": source, **column}


def _or_zero(value: float | None) -> float:
    return 0.0 if value is None else value


def _scale(answers: Sequence[Answer], reward: Reward) -> tuple[dict[int, Worth], str]:
    """What answers are worth, by their place, on one scale; and whose scale it is."""
    by_reward = _known(answer.reward for answer in answers)
    if len(by_reward) > 1:
        return by_reward, reward.source
    verified = _known(answer.verified for answer in answers)
    if len(set(verified.values())) > 1:
        return verified, "verifier"
    compared = _known(answer.pairwise for answer in answers)
    if len(compared) > 1:
        return compared, "judge"
    return _known(float(answer.kept) for answer in answers), "verifier"


def _known(values: Iterable[float | None]) -> dict[int, Worth]:
    return {place: (value,) for place, value in enumerate(values) if value is not None}


def _apart(places: Sequence[int], worth: Mapping[int, Worth], min_gap: float) -> list[int]:
    """From the best down, those more than `min_gap` below the one before; with min_gap=0 equals stay, as ties."""
    clear: list[int] = []
    for place in places:
        last = worth[clear[-1]] if clear else None
        if last is None or min_gap == 0 or last[:-1] != worth[place][:-1] or last[-1] - worth[place][-1] > min_gap:
            clear.append(place)
    return clear


def _spread(places: Sequence[int], most: int) -> list[int]:
    """`most` of them in even steps, the first and the last among them."""
    if len(places) <= most:
        return list(places)
    return [places[round(step * (len(places) - 1) / (most - 1))] for step in range(most)]


def _graded(answers: Sequence[Answer], settings: ExportSettings) -> tuple[list[Answer], dict[int, str]]:
    """The answers that have any attribute, in the order of their worth."""
    found = [answer for answer in answers if _grades(answer, settings)]
    why = {answer.owner.n: "ranking: has none of the attributes" for answer in answers}
    for answer in found:
        why.pop(answer.owner.n, None)
    return [found[place] for place in _spread(range(len(found)), settings.ranking.max_responses)], why


def _grades(answer: Answer, settings: ExportSettings) -> dict[str, float]:
    if settings.ranking.attributes is not None:
        return {name: answer.scores[name][0] for name in settings.ranking.attributes if name in answer.scores}
    return {name: value for grades in answer.attributes.values() for name, value in grades.items()}


def _attributes(chosen: Sequence[Answer], settings: ExportSettings) -> dict[str, Any]:
    source = "reward model" if settings.ranking.attributes is None else "scores"
    return {
        "prompt": _prompt(chosen),
        "source": source,
        "attributes": [_grades(answer, settings) for answer in chosen],
    }


def _prompt(answers: Sequence[Answer]) -> list[dict[str, str]]:
    """The prompt that the answers share; failed attempts bring none of their own."""
    return next((answer.prompt for answer in answers if answer.prompt), [])


def _row(chosen: Sequence[Answer], content: dict[str, Any]) -> tuple[Item, bytes]:
    best = next((answer for answer in chosen if answer.prompt), chosen[0])
    responses = [[{"role": "assistant", "content": answer.text}] for answer in chosen]
    row = {
        **content,
        "responses": responses,
        "response_ids": [answer.id or answer.owner.id for answer in chosen],
        "response_runs": [answer.owner.run for answer in chosen],
    }
    tokens = estimated_tokens(content["prompt"]) + sum(map(estimated_tokens, responses))
    identity = content_hash("ranking", content["prompt"], [answer.text for answer in chosen])
    return made_of(best, identity, tokens), orjson.dumps(row)
