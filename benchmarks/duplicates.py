"""Duplicates among a million: `python -m benchmarks.duplicates [semantic] [minhash] [real] [--vectors N] [--texts N]`.

`semantic`: vectors in clusters of very different sizes, with a spectrum that decays (a few directions carry most of the variance, as
with real embeddings). 2% are planted at a cosine of bound to bound + 0.02 from an earlier one, to be dropped; 2% at bound
- 0.02 to bound - 0.002, to be kept. Half of either lie in directions in which members of a cluster differ, half anywhere.
Everything that is dropped is checked in float64. The time of a product of all with all is measured on a piece and multiplied.

`real`: sentences of the standard library's docstrings, embedded (`--embedder`), 4% of them followed by a vector at bound to bound +
0.02 from them, half in directions in which two sentences differ: what the clusters find of what a comparison of all with all finds.

`minhash`: texts of 10 to 40 words by Zipf's law on a few openings. 2% are copies with words exchanged, inserted and dropped;
of those whose true Jaccard similarity reaches the bound, how many are found.
"""

from __future__ import annotations

import argparse
import ast
import random
import resource
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np

from benchmarks.novelty import english
from factory.duplicates import MinHashSettings, SemanticSettings, Vectors, minhash, semantic_vectors
from factory.duplicates.minhash import shingles
from factory.embedding import EmbeddingSettings, open_embedder

BLOCK = 20_000
DIMENSIONS = 384
PLANTED = 0.02


class Space:
    """Clustered vectors with a decaying spectrum."""

    def __init__(self, count: int, draw: np.random.Generator) -> None:
        self.draw = draw
        scale = (np.arange(DIMENSIONS) + 4.0) ** -0.5  # a power law
        self.scale = (scale / np.linalg.norm(scale)).astype(np.float32)
        self.common = unit(draw.normal(size=DIMENSIONS)).astype(np.float32) * 0.4  # all point somewhat the same way
        self.centres = draw.normal(size=(max(20, count // 700), DIMENSIONS)).astype(np.float32) * self.scale
        weights = (np.arange(len(self.centres)) + 20.0) ** -0.6  # some topics are much larger
        self.weights = weights / weights.sum()

    def block(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Vectors, and the centres they belong to."""
        which = self.draw.choice(len(self.centres), size, p=self.weights)
        noise = self.draw.normal(size=(size, DIMENSIONS)).astype(np.float32) * self.scale * 0.8
        return unit(self.common + self.centres[which] + noise), which

    def near(self, vectors: np.ndarray, cosine: np.ndarray) -> np.ndarray:
        """For each, one at that cosine: every other one in a direction of the data's own spectrum, else in any."""
        way = self.draw.normal(size=vectors.shape)
        way[::2] *= self.scale
        way -= np.einsum("nd,nd->n", way, vectors)[:, None] * vectors
        return np.asarray(cosine[:, None] * vectors + np.sqrt(1 - cosine[:, None] ** 2) * unit(way), np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def fill(vectors: Vectors, count: int, bound: float, draw: np.random.Generator) -> None:
    """`oN` originals, `pN` planted from the bound on, `bN` below it; names tell, the order is by chance within a block."""
    space, number = Space(count, draw), 0
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        few = int(size * PLANTED)
        block, _ = space.block(size)
        base = draw.permutation(size // 2)[: 2 * few]
        cosines = np.concatenate(
            [draw.uniform(bound + 1e-4, bound + 0.02, few), draw.uniform(bound - 0.02, bound - 0.002, few)]
        )
        places = size // 2 + draw.permutation(size - size // 2)[: 2 * few]
        block[places] = space.near(block[base].astype(np.float64), cosines)
        kinds = np.full(size, "o")
        kinds[places] = ["p"] * few + ["b"] * few
        vectors.extend([f"{kind}{number + place}" for place, kind in enumerate(kinds)], block)
        number += size


def semantic_figures(count: int, settings: SemanticSettings) -> None:
    with tempfile.TemporaryDirectory() as folder, closing(Vectors(Path(folder), DIMENSIONS, settings)) as vectors:
        fill(vectors, count, settings.bound, np.random.default_rng(1))
        print(f"{count:,} vectors of {DIMENSIONS} written; {peak()}", flush=True)
        began, cpu = time.perf_counter(), time.process_time()
        found = list(semantic_vectors(vectors, settings, Path(folder)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        dropped = {kind: sum(one.id[0] == kind for one in found) for kind in "opb"}
        wrong = 0
        for one in found:
            pair = vectors.rows.take(np.array([int(one.id[1:]), int(one.of[1:])])).astype(np.float64)
            wrong += float(pair[0] @ pair[1]) < settings.bound - 1e-5
        planted = sum(int(min(BLOCK, count - start) * PLANTED) for start in range(0, count, BLOCK))
        whole = brute_force(vectors, settings.bound)
        print(
            f"semantic, bound {settings.bound}: {took:.0f} s ({cpu:.0f} s of processor), {1e6 * took / count:.0f} us a vector; "
            f"planted at or above the bound {dropped['p']:,} of {planted:,} dropped ({dropped['p'] / planted:.2%}); "
            f"just below it {dropped['b']:,} of {planted:,}; others {dropped['o']:,}; dropped though below the bound: {wrong}; "
            f"all with all, extrapolated: {whole:.0f} s of processor; {peak()}",
            flush=True,
        )


def brute_force(vectors: Vectors, bound: float) -> float:
    """Seconds of the processor for the product of all with all, half of it, from a piece of it."""
    count = len(vectors.names)
    some = vectors.rows.slice(0, min(count, 4096)).astype(np.float32)
    others = vectors.rows.slice(0, min(count, 32768)).astype(np.float32)
    began = time.process_time()
    for start in range(0, len(others), 4096):
        (some @ others[start : start + 4096].T >= bound).any(1)
    return (time.process_time() - began) * count**2 / 2 / (len(some) * len(others))


def sentences(count: int) -> list[str]:
    """Distinct ones of some length, from the standard library's docstrings, in an order by chance."""
    root = Path(sysconfig.get_paths()["stdlib"])
    found = dict[str, None]()
    for file in sorted(root.rglob("*.py")):
        if "site-packages" in file.parts:
            continue
        try:
            nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in nodes:
            if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module) and (said := ast.get_docstring(node)):
                found.update(dict.fromkeys(part for part in " ".join(said.split()).split(". ") if len(part) > 25))
    ordered = sorted(found)
    random.Random(0).shuffle(ordered)
    return ordered[:count]


def real_figures(count: int, name: str, settings: SemanticSettings) -> None:
    embedder = open_embedder(EmbeddingSettings(model=name))
    texts, draw = sentences(count), np.random.default_rng(1)
    made = np.concatenate([embedder.encode(texts[start : start + 1000]) for start in range(0, len(texts), 1000)])
    few = len(made) // 25
    base = made[draw.permutation(len(made))[:few]].astype(np.float64)
    way = draw.normal(size=base.shape)
    way[::2] = (made[draw.integers(0, len(made), few)] - made[draw.integers(0, len(made), few)])[::2]
    way -= np.einsum("nd,nd->n", way, base)[:, None] * base
    cosine = draw.uniform(settings.bound, settings.bound + min(0.02, 1 - settings.bound), few)[:, None]
    every = np.concatenate([made, cosine * base + np.sqrt(1 - cosine**2) * unit(way)]).astype(np.float32)
    found = {}
    for whole in (0, len(every)):
        with tempfile.TemporaryDirectory() as folder:
            chosen = settings.model_copy(update={"whole": whole, "block": 8192})
            with closing(Vectors(Path(folder), embedder.dimensions, chosen)) as vectors:
                vectors.extend([f"{'p' if place >= len(made) else 'o'}{place}" for place in range(len(every))], every)
                found[whole] = {one.id for one in semantic_vectors(vectors, chosen, Path(folder))}
    by_clusters, by_all = found[0], found[len(every)]
    planted = sum(one[0] == "p" for one in by_clusters)
    products = np.sort((made[:2000] @ made[:2000].T)[np.triu_indices(min(2000, len(made)), 1)])
    print(
        f"real, {name}, bound {settings.bound}: {len(made):,} sentences (cosine of two: median {products[len(products) // 2]:.2f}, "
        f"one in a thousand above {products[-len(products) // 1000]:.2f}); all with all drops {len(by_all):,}, by clusters "
        f"{len(by_all & by_clusters):,} of them ({len(by_all & by_clusters) / len(by_all):.2%}) and {len(by_clusters - by_all)} others; "
        f"planted {planted:,} of {few:,} ({planted / few:.2%})",
        flush=True,
    )


def texts(count: int, draw: random.Random) -> Iterator[tuple[str, str]]:
    """`oN` or `pN.M` (made from M) and the text."""
    make, recent = english(draw), list[tuple[str, str]]()
    for number in range(count):
        if recent and draw.random() < PLANTED:
            source, text = draw.choice(recent)
            yield f"p{number}.{source}", edited(text, draw)
            continue
        text = make() + " " + make()
        if draw.random() < 0.01:
            recent = [*recent[-500:], (str(number), text)]
        yield f"o{number}", text


def edited(text: str, draw: random.Random) -> str:
    """One to three words exchanged, inserted or dropped."""
    words = text.split()
    for _ in range(draw.randint(1, 3)):
        place = draw.randrange(len(words))
        words[place : place + draw.randint(0, 1)] = draw.choice(([], ["another"], ["quite", "new"]))
    return " ".join(words)


def minhash_figures(count: int, settings: MinHashSettings) -> None:
    began, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = {one.id: one.similarity for one in minhash(texts(count, random.Random(1)), settings, Path(folder))}
    took, cpu = time.perf_counter() - began, time.process_time() - cpu
    at_peak = peak()
    sources = {name.partition(".")[2] for name, _ in texts(count, random.Random(1)) if name[0] == "p"}
    kept, should, got, unlike = dict[str, str](), 0, 0, 0
    for name, text in texts(count, random.Random(1)):
        if name[0] == "o":
            if name[1:] in sources:
                kept[name[1:]] = text
            continue
        one, other = (set(shingles(each, settings.ngram).tolist()) for each in (text, kept[name.partition(".")[2]]))
        similar = len(one & other) / len(one | other) >= settings.bound
        should += similar
        got += similar and name in found
        unlike += not similar and name in found and found[name] < settings.bound
    others = sum(name[0] == "o" for name in found)
    print(
        f"minhash, bound {settings.bound}, {count:,} texts: {took:.0f} s ({cpu:.0f} s of processor, making the texts included), "
        f"{1e6 * took / count:.0f} us a text; planted at or above the bound {got:,} of {should:,} dropped "
        f"({got / max(1, should):.2%}); of the others {others:,}; dropped though below the bound: {unlike}; {at_peak}",
        flush=True,
    )


def peak() -> str:
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="*", default=["semantic", "minhash"])
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--texts", type=int, default=1_000_000)
    parser.add_argument("--embedder", default="hashing")
    parser.add_argument("--bound", type=float, default=0.9)
    parser.add_argument("--recall", type=float, default=0.995)
    parser.add_argument("--precision", choices=("float16", "float32"), default="float32")
    chosen = parser.parse_args()
    if "semantic" in chosen.what:
        semantic_figures(
            chosen.vectors, SemanticSettings(bound=chosen.bound, recall=chosen.recall, precision=chosen.precision)
        )
    if "real" in chosen.what:
        real_figures(chosen.texts, chosen.embedder, SemanticSettings(bound=chosen.bound, recall=chosen.recall))
    if "minhash" in chosen.what:
        minhash_figures(chosen.texts, MinHashSettings())


if __name__ == "__main__":
    main()
