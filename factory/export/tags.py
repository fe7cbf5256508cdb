"""Tags under few names over all the records, before anything is counted by them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from factory.embedding import Embedder
from factory.export.pool import Pool
from factory.export.settings import TagStep
from factory.tags import normalise_data_set, renamed


def normalise(pool: Pool, embedder: Embedder | None, settings: TagStep) -> dict[str, Any]:
    """Rename every record's tags and count them anew in its score; returns what each step left.

    In memory is what grows with the number of different tags.
    """

    def read() -> Iterator[list[str]]:
        for _, data in pool.left(contents=True):
            yield orjson.loads(data).get("tags") or []

    mapping, report = normalise_data_set(read, embedder, settings)

    def changed() -> Iterator[tuple[int, bytes, bytes]]:
        for item, data in pool.left(contents=True):
            content = orjson.loads(data)
            if content.get("tags") is None:
                continue
            content["tags"] = renamed(content["tags"], mapping)
            scored = item.scored()
            scored["tags"] = (float(len(content["tags"])), scored["tags"][1])
            yield item.n, orjson.dumps(content), orjson.dumps(scored)

    pool.rewrite(changed())
    return report.as_json()
