"""The steps that look for rows that are there twice: the best of the like ones stays.

The same text is looked for in whole rows. Nearness (of words, of meaning) is looked for in what `duplicates.of` says, and
rows in which that is the same share its fate: pairs of one prompt stay or go together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson

from factory.duplicates import Duplicate, exact, minhash, semantic
from factory.embedding import Embedder
from factory.export.pool import BEST_FIRST, Pool
from factory.export.settings import ExportSettings

SHOWN = 2000  # of each kind, in duplicates.jsonl
_WHYS = {
    "exact": "exact: the same text as another row",
    "minhash": "minhash: nearly the same words as a better row",
    "semantic": "semantic: nearly the same meaning as a better row",
}
Rows = Iterator[tuple[str, str]]


def drop_duplicates(pool: Pool, settings: ExportSettings, embedder: Embedder | None, scratch: Path) -> None:
    """The steps that are enabled, in order; `scratch` is a folder for what they keep on disk."""
    asked = settings.duplicates
    if asked.exact.enabled:
        pool.step("exact", _lost(pool, "exact", exact(_wholes(pool), asked.exact, scratch)))
    if asked.minhash.enabled:
        pool.step("minhash", _near(pool, "minhash", settings, lambda rows: minhash(rows, asked.minhash, scratch)),
                  bound=asked.minhash.bound)  # fmt: skip
    if asked.semantic.enabled:
        assert embedder is not None
        pool.step("semantic", _near(pool, "semantic", settings, lambda rows: semantic(rows, embedder, asked.semantic, scratch)),
                  bound=asked.semantic.bound, embedding=embedder.identity)  # fmt: skip


def write_duplicates(pool: Pool, path: Path) -> None:
    """`duplicates.jsonl`: id, the one that stays, similarity and kind; of each kind some that their ids alone choose."""
    with path.open("wb") as file:
        for kind in _WHYS:
            found = pool.db.execute(
                "SELECT a.id, b.id, similarity FROM twins JOIN items a USING (n) JOIN items b ON b.n=twin WHERE kind=? "
                "ORDER BY a.id, b.id LIMIT ?",
                (kind, SHOWN),
            )
            for identity, kept, similarity in found:
                row = {"id": identity, "kept": kept, "similarity": round(similarity, 6), "kind": kind}
                file.write(orjson.dumps(row) + b"\n")


def _lost(pool: Pool, kind: str, found: Iterable[Duplicate]) -> Iterator[tuple[int, str]]:
    for duplicate in found:
        n = int(duplicate.id)
        pool.db.execute("INSERT INTO twins VALUES (?,?,?,?)", (n, int(duplicate.of), duplicate.similarity, kind))
        yield n, _WHYS[kind]


def _near(
    pool: Pool, kind: str, settings: ExportSettings, look: Callable[[Rows], Iterable[Duplicate]]
) -> Iterator[tuple[int, str]]:
    of = settings.duplicates.of or ("conversation" if settings.format == "sft" else "prompt")
    pool.db.execute("DELETE FROM alike")
    pool.db.execute("DELETE FROM texts")
    for n, why in _lost(pool, kind, look(_texts(pool, of))):
        yield n, why
        twin = pool.db.execute("SELECT twin, similarity FROM twins WHERE n=?", (n,)).fetchone()
        for (other,) in pool.db.execute("SELECT n FROM alike WHERE first=?", (n,)).fetchall():
            pool.db.execute("INSERT INTO twins VALUES (?,?,?,?)", (other, *twin, kind))
            yield other, why


def _wholes(pool: Pool) -> Rows:
    for item, data in pool.left(BEST_FIRST, contents=True):
        yield str(item.n), "\x1e".join(turns_of(orjson.loads(data), "conversation", roles=True))


def _texts(pool: Pool, of: str) -> Rows:
    """Each text once, the best row's number with it; whose text was there already is noted in `alike`."""
    for item, data in pool.left(BEST_FIRST, contents=True):
        text = "\n\n".join(turns_of(orjson.loads(data), of))
        key = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        if pool.db.execute("INSERT OR IGNORE INTO texts VALUES (?,?)", (key, item.n)).rowcount:
            yield str(item.n), text
        else:
            pool.db.execute("INSERT INTO alike SELECT ?, n FROM texts WHERE key=?", (item.n, key))


def turns_of(content: dict[str, Any], of: str, roles: bool = False) -> list[str]:
    """The texts of a row: of its prompt, of its answers (the last turn, or what was chosen, or all responses), or of all."""
    if "messages" in content:
        messages = content["messages"]
        prompt, answers = messages[:-1], messages[-1:]
    else:
        prompt = content["prompt"]
        answers = [
            *content.get("chosen", ()),
            *(turn for response in content.get("responses", ()) for turn in response),
        ]
        if of == "conversation":
            answers += content.get("rejected", ())
    turns = {"prompt": prompt, "answer": answers, "conversation": [*prompt, *answers]}[of]
    return [f"{turn['role']}\x1f{turn['content']}" if roles else turn["content"] for turn in turns]
