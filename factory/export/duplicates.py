"""The steps that look for rows that are there twice."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import orjson

from factory.export.pool import BEST_FIRST, Pool


def exact(pool: Pool) -> Iterator[tuple[int, str]]:
    """All but the best of the rows with the same text."""
    for item, data in pool.left(BEST_FIRST, contents=True):
        if not pool.new(b"exact" + hashlib.blake2b(orjson.dumps(_turns(orjson.loads(data))), digest_size=16).digest()):
            yield item.n, "exact: the same text as another row"


def _turns(content: dict[str, object]) -> list[object]:
    return [content.get(name) for name in ("messages", "prompt", "chosen", "rejected", "responses")]
