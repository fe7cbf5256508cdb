"""The step that drops rows which hold a problem of an evaluation set."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import orjson

from factory.decontamination import Contamination
from factory.export.duplicates import turns_of
from factory.export.pool import Pool

_AT_ONCE = 256  # rows whose embeddings are computed together


def contaminated(pool: Pool, contamination: Contamination) -> Iterator[tuple[int, str]]:
    """Rows of which any turn (an answer that was rejected, too) shows a problem, each with the problem and the evidence."""
    entries = pool.left(contents=True)
    while batch := list(itertools.islice(entries, _AT_ONCE)):
        texts = ["\n\n".join(turns_of(orjson.loads(data), "conversation")) for _, data in batch]
        for (item, _), hit in zip(batch, contamination.check_many(texts), strict=True):
            if hit is not None:
                yield item.n, f"decontamination: {hit.set} {hit.item}, by {hit.how}"
