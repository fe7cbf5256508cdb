"""The parts of a data set: prompts held out, shares of each part, and the budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from factory.errors import UserError
from factory.export.load import Run
from factory.export.pool import BEST_FIRST, Pool
from factory.export.settings import ExportSettings
from factory.tokens import Tokens

_WHOLE = "all"  # the one part where no weights part them
_NONE = "none"  # the part of a row that does not say


def hold_out(pool: Pool, share: float, seed: int) -> None:
    """Mark every row of about `share` of the prompts as held out.

    A prompt's side is decided by its hash and the seed alone, so that it stays there when a run grows. At least one prompt
    is on each side, whatever the hashes say. Raises `UserError` where there are fewer than two.
    """
    pool.db.execute("CREATE TABLE prompts (prompt BLOB PRIMARY KEY, number REAL) WITHOUT ROWID")
    there = pool.db.execute("SELECT DISTINCT prompt FROM items WHERE step IS NULL AND unit=?", (pool.unit,))
    pool.db.executemany("INSERT INTO prompts VALUES (?,?)", ((prompt, _number(prompt, seed)) for (prompt,) in there))
    prompts = pool.one("SELECT count(*) FROM prompts")
    if prompts < 2:
        raise UserError(f"held_out={share:g}: {prompts} prompt is left, and two are needed to hold one out")
    chosen = pool.one("SELECT count(*) FROM prompts WHERE number < ?", share)
    chosen = min(max(chosen, 1), prompts - 1)
    pool.db.execute(
        "UPDATE items SET held_out=1 WHERE step IS NULL AND unit=? AND prompt IN "
        "(SELECT prompt FROM prompts ORDER BY number, prompt LIMIT ?)",
        (pool.unit, chosen),
    )
    held = pool.one("SELECT count(*) FROM items WHERE step IS NULL AND held_out AND unit=?", pool.unit)
    pool.db.execute("DROP TABLE prompts")
    pool.step("held_out", (), held_out=held, prompts=prompts, held_out_prompts=chosen)


def _number(prompt: bytes, seed: int) -> float:
    """From 0 to 1."""
    digest = hashlib.blake2b(prompt, digest_size=8, key=str(seed).encode()[:64]).digest()
    return (int.from_bytes(digest, "big") >> 11) / float(1 << 53)


def counted(pool: Pool, tokens: Tokens) -> Iterator[tuple[int, int]]:
    """(n, tokens) of every row that is left, its messages one by one, without what a chat template puts around them."""
    for item, data in pool.left(contents=True):
        content = orjson.loads(data)
        turns = [*content.get("messages", ()), *content.get("prompt", ())]
        turns += [*content.get("chosen", ()), *content.get("rejected", ())]
        turns += [turn for response in content.get("responses", ()) for turn in response]
        yield item.n, sum(tokens.count(turn["content"]) for turn in turns)


@dataclass
class Part:
    """One part: `size` is what it has and `wanted` what it should give, in rows or in tokens."""

    rows: int
    size: int
    wanted: float = 0.0
    taken: int = 0
    written: int = 0


def parts_of(pool: Pool, settings: ExportSettings, runs: Sequence[Run], where: str) -> dict[str, Part]:
    """The parts among the items, by name."""
    size = "tokens" if settings.tokens is not None else "1"
    found: dict[str, Part] = {}
    query = f"SELECT run, part, count(*), sum({size}) FROM items WHERE {where} GROUP BY run, part"
    for run, part, rows, total in pool.db.execute(query):
        entry = found.setdefault(_name(run, part, settings, runs), Part(0, 0))
        entry.rows += rows
        entry.size += total
    return dict(sorted(found.items()))


def _name(run: int, part: str | None, settings: ExportSettings, runs: Sequence[Run]) -> str:
    if not settings.mixture.weights:
        return _WHOLE
    return runs[run].name if settings.mixture.by == "run" else part if part is not None else _NONE


def mix(pool: Pool, settings: ExportSettings, runs: Sequence[Run]) -> dict[str, Any] | None:
    """Leave each part of the training rows its share, the best rows first, repeated where the part is too small.

    Returns what was wanted and what came of it, None where nothing was asked for. Raises `UserError` where a part that
    should have a share has no rows and nothing else says how many there should be.
    """
    weights = settings.mixture.weights or {_WHOLE: 1.0}
    budget = settings.rows if settings.rows is not None else settings.tokens
    if budget is None and not settings.mixture.weights:
        return None
    there = parts_of(pool, settings, runs, f"step IS NULL AND unit='{pool.unit}' AND NOT held_out")
    parts = {name: there.get(name, Part(0, 0)) for name, weight in sorted(weights.items()) if weight > 0}
    _want(parts, weights, budget, settings)
    pool.db.execute("CREATE TABLE mixing (n INTEGER PRIMARY KEY, copies INTEGER, why TEXT)")
    pool.db.executemany("INSERT INTO mixing VALUES (?,?,?)", _copies(pool, parts, settings, runs))
    pool.fill("copies", pool.db.execute("SELECT n, copies FROM mixing WHERE copies > 0"))
    facts = _facts(parts, there, settings, budget)
    repeated = pool.one("SELECT ifnull(sum(copies - 1), 0) FROM mixing WHERE copies > 1")
    losses = pool.db.execute("SELECT n, why FROM mixing WHERE copies = 0")
    pool.step("mixture" if settings.mixture.weights else "budget", losses, repeated=repeated)
    return facts


def _want(
    parts: Mapping[str, Part], weights: Mapping[str, float], budget: int | None, settings: ExportSettings
) -> None:
    """What each part should give: the budget by the weights, or the most that all of them can give."""
    total = sum(weights[name] for name in parts)
    shares = {name: weights[name] / total for name in parts}
    if budget is None:
        if empty := [name for name, part in parts.items() if not part.size]:
            raise UserError(
                f"mixture.weights: no rows are left of {settings.mixture.by}={', '.join(empty)}; leave it out, or loosen "
                "what selects"
            )
        repeats = settings.mixture.max_repeats
        whole = min(part.size * repeats / shares[name] for name, part in parts.items())
    else:
        whole = budget
    for name, part in parts.items():
        part.wanted = whole * shares[name]
    if settings.tokens is None:
        _round(parts, math.floor(whole + 1e-9))


def _round(parts: Mapping[str, Part], whole: int) -> None:
    """Whole rows that sum to `whole`: each part's share rounded down, the largest rests rounded up."""
    rests = sorted(parts, key=lambda name: (math.floor(parts[name].wanted + 1e-9) - parts[name].wanted, name))
    short = whole - sum(math.floor(part.wanted + 1e-9) for part in parts.values())
    for place, name in enumerate(rests):
        parts[name].wanted = math.floor(parts[name].wanted + 1e-9) + (place < short)


def _copies(
    pool: Pool, parts: Mapping[str, Part], settings: ExportSettings, runs: Sequence[Run]
) -> Iterator[tuple[int, int, str | None]]:
    """(n, copies, why there is none) of every row for training, the best of each part first."""
    full = {name: int(min(settings.mixture.max_repeats, part.wanted // part.size)) if part.size else 0
            for name, part in parts.items()}  # fmt: skip
    rest = {name: part.wanted - full[name] * part.size for name, part in parts.items()}
    capped = {name for name in parts if full[name] >= settings.mixture.max_repeats}
    for item, _ in pool.left(BEST_FIRST, "NOT held_out"):
        name = _name(item.run, item.part, settings, runs)
        part = parts.get(name)
        if part is None:
            yield item.n, 0, f"mixture: no weight for {settings.mixture.by}={name}"
            continue
        size = item.tokens if settings.tokens is not None else 1
        copies = full[name]
        if name not in capped and size <= rest[name]:
            rest[name] -= size
            copies += 1
        part.taken += copies * size
        part.written += copies
        yield item.n, copies, None if copies else _beyond(name, settings)


def _beyond(name: str, settings: ExportSettings) -> str:
    if settings.mixture.weights:
        return f"mixture: beyond the share of {settings.mixture.by}={name}"
    kind, budget = ("rows", settings.rows) if settings.rows is not None else ("tokens", settings.tokens)
    return f"budget: beyond {kind}={budget}"


def _facts(
    parts: Mapping[str, Part], there: Mapping[str, Part], settings: ExportSettings, budget: int | None
) -> dict[str, Any]:
    unit = "tokens" if settings.tokens is not None else "rows"
    whole = sum(part.taken for part in parts.values())
    told = {
        name: {
            "available": part.size,
            "wanted": round(part.wanted),
            "taken": part.taken,
            "rows": part.written,
            "share": round(part.taken / whole, 6) if whole else 0.0,
            # Within a row of what was wanted, or short because its rows may not be repeated more often.
            "short": part.wanted > part.size * settings.mixture.max_repeats,
        }
        for name, part in parts.items()
    }
    return {"by": settings.mixture.by, "unit": unit, "budget": budget, "parts": told,
            "without_weight": {name: part.rows for name, part in there.items() if name not in parts}}  # fmt: skip
