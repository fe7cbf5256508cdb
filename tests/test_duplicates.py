"""Duplicates are dropped greedily in the caller's order, whatever lies between the vectors and the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from factory.duplicates import (
    Duplicate,
    ExactSettings,
    MinHashSettings,
    SemanticSettings,
    Vectors,
    exact,
    minhash,
    semantic,
    semantic_vectors,
)
from factory.duplicates.minhash import rows_per_band, shingles
from factory.embedding import EmbeddingSettings, open_embedder

ROOT = Path(__file__).parent.parent
quick = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
few_words = st.lists(st.sampled_from(["the", "cat", "sat", "on", "a", "mat", "and", "saw", "rats"]), max_size=9).map(
    " ".join
)


def named(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    return ((f"id{place}", text) for place, text in enumerate(texts))


def by_meaning(vectors: np.ndarray, scratch: Path, **chosen: object) -> list[Duplicate]:
    options = SemanticSettings.model_validate(chosen)
    with closing(Vectors(scratch, vectors.shape[1], options)) as stored:
        for start in range(0, len(vectors), 100):
            block = vectors[start : start + 100]
            stored.extend([f"id{start + place}" for place in range(len(block))], block)
        return list(semantic_vectors(stored, options, scratch))


def greedy(count: int, similar: Callable[[int, int], float], bound: float) -> set[str]:
    """What is dropped, by the definition."""
    kept: list[int] = []
    for place in range(count):
        if all(similar(place, other) < bound for other in kept):
            kept.append(place)
    return {f"id{place}" for place in range(count)} - {f"id{place}" for place in kept}


def unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def groups(count: int, seed: int, noise: float = 0.35, size: int = 32) -> np.ndarray:
    """Vectors around some centres, many pairs of which are close."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(max(2, count // 12), size))
    return unit(centres[draw.integers(0, len(centres), count)] + noise * draw.normal(size=(count, size)))


# --- the same text


@pytest.mark.parametrize(
    ("ignore", "gone"),
    [("text", {"id1", "id2", "id4", "id5"}), ("space", {"id2", "id5"}), ("none", {"id5"})],
)
def test_what_is_the_same_text(ignore: str, gone: set[str], tmp_path: Path) -> None:
    texts = [
        "Say it.\n\nNow.",
        "say  it. now.",
        "Say it.  \nNow.",
        "Say it! Now.",
        "  Say it.\nNow.",
        "Say it.\n\nNow.",
    ]
    found = list(exact(named(texts), ExactSettings.model_validate({"ignore": ignore}), tmp_path))
    assert {one.id for one in found} == gone
    assert {one.of for one in found} == {"id0"}


@quick
@given(st.lists(st.text(max_size=5), max_size=30))
def test_of_equal_texts_the_first_one_stays(tmp_path: Path, texts: list[str]) -> None:
    found = list(exact(named(texts), ExactSettings(ignore="none"), tmp_path))
    expected = [
        Duplicate(f"id{place}", f"id{texts.index(text)}", 1.0)
        for place, text in enumerate(texts)
        if texts.index(text) < place
    ]
    assert found == expected


# --- nearly the same words


def jaccard(one: str, other: str, ngram: int) -> float:
    a, b = (set(shingles(text, ngram).tolist()) for text in (one, other))
    return len(a & b) / len(a | b)


@quick
@given(st.lists(few_words, max_size=25), st.integers(1, 3), st.sampled_from([0.5, 0.7, 0.9]))
def test_minhash_is_the_greedy_choice_by_jaccard(tmp_path: Path, texts: list[str], ngram: int, bound: float) -> None:
    """With 256 permutations nothing is missed among so few."""
    chosen = MinHashSettings(bound=bound, ngram=ngram, permutations=256)
    found = list(minhash(named(texts), chosen, tmp_path))
    assert {one.id for one in found} == greedy(len(texts), lambda a, b: jaccard(texts[a], texts[b], ngram), bound)
    for one in found:
        place, of = int(one.id[2:]), int(one.of[2:])
        assert of < place, "the better one stays"
        assert one.similarity == pytest.approx(jaccard(texts[place], texts[of], ngram))
    assert [int(one.id[2:]) for one in found] == sorted(int(one.id[2:]) for one in found)


def test_bands_find_what_is_at_the_bound() -> None:
    for bound in (0.5, 0.7, 0.8, 0.9, 0.95):
        rows = rows_per_band(128, bound)
        assert 1 - (1 - bound**rows) ** (128 // rows) >= 0.999
        more = rows + 1
        assert 1 - (1 - bound**more) ** (128 // more) < 0.999 or 128 // more == 128 // rows


def test_minhash_over_many_batches(tmp_path: Path) -> None:
    words = [f"word{number}" for number in range(500)]
    draw = np.random.default_rng(0)
    texts = [" ".join(draw.choice(words, 30)) for _ in range(5000)]
    texts += [text + " and more" for text in texts[::50]]
    found = list(minhash(named(texts), MinHashSettings(), tmp_path))
    assert [(one.id, one.of) for one in found] == [(f"id{5000 + place}", f"id{50 * place}") for place in range(100)]


def test_a_thousand_copies_are_no_harder(tmp_path: Path) -> None:
    texts = ["to be or not to be that is the question"] * 20000
    began = time.process_time()
    found = list(minhash(named(texts), MinHashSettings(), tmp_path))
    assert len(found) == 19999
    assert {one.of for one in found} == {"id0"}
    assert time.process_time() - began < 60, "20,000 x 20,000 comparisons would take hours"


# --- nearly the same meaning


@quick
@given(st.integers(0, 300), st.integers(0, 10**6), st.sampled_from([0.6, 0.8, 0.9]))
def test_meaning_is_the_greedy_choice_by_cosine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, seed: int, bound: float
) -> None:
    # Pieces of 8 and blocks of 64, so that 300 vectors go every way that a million go.
    monkeypatch.setattr(sys.modules["factory.duplicates.semantic"], "_LEAF", 8)
    vectors = groups(count, seed) if count else np.empty((0, 32), np.float32)
    products = vectors @ vectors.T
    assume(not np.any(np.abs(products - bound) < 2e-6))  # the bound gives way by 1e-6, for rounding
    found = by_meaning(vectors, tmp_path, bound=bound, block=64)
    assert {one.id for one in found} == greedy(count, lambda a, b: float(products[a, b]), bound)
    for one in found:
        place, of = int(one.id[2:]), int(one.of[2:])
        assert of < place
        assert one.similarity == pytest.approx(products[place, of], abs=1e-5)
        assert one.similarity >= bound - 1e-5


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """8,000 in clusters; each of the last 600 lies at 0.905 from one of the first."""
    vectors = groups(8000, 1, noise=0.75, size=64)
    draw = np.random.default_rng(2)
    base = vectors[:600]
    way = draw.normal(size=base.shape)
    way -= np.einsum("nd,nd->n", way, base)[:, None] * base
    vectors[-600:] = unit(0.905 * base + np.sqrt(1 - 0.905**2) * unit(way))
    return vectors


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_clusters_find_what_a_comparison_of_all_finds(many: np.ndarray, tmp_path: Path, precision: str) -> None:
    chosen = {"block": 2048, "whole": 1000, "precision": precision}
    found = {one.id: one for one in by_meaning(many, tmp_path, **chosen)}
    whole = {one.id for one in by_meaning(many, tmp_path, whole=10**6)}
    assert len(whole) >= 600
    assert len(whole & set(found)) >= 0.99 * len(whole)
    assert found == {one.id: one for one in by_meaning(many, tmp_path, **chosen)}, "the same again"
    for one in list(found.values())[:200]:
        assert many[int(one.id[2:])] @ many[int(one.of[2:])] > 0.8999
    assert not {one.of for one in found.values()} & set(found), "what something is like stays itself"


def test_clusters_save_most_of_the_work(many: np.ndarray, tmp_path: Path) -> None:
    from factory.duplicates.clusters import find_clusters

    clusters = find_clusters([many[:2000], many[2000:4000]], 180, 0).measured(many[:4000], 0.9, 0.995, 0)
    _, cluster, row = clusters.assign(many)
    assert len(row) < 0.2 * len(many) * len(clusters.centroids)
    assert np.array_equal(np.sort(cluster), cluster)
    assert set(row.tolist()) == set(range(len(many))), "everything is compared somewhere"


def test_the_order_decides_who_stays(tmp_path: Path) -> None:
    """b is between a and c, which are not alike."""
    turn = np.deg2rad([0, 20, 40])
    a, b, c = np.stack([np.cos(turn), np.sin(turn)], 1).astype(np.float32)
    assert [one[:2] for one in by_meaning(np.stack([b, a, c]), tmp_path)] == [("id1", "id0"), ("id2", "id0")]
    assert [one[:2] for one in by_meaning(np.stack([a, b, c]), tmp_path)] == [("id1", "id0")], "c stays: b does not"


def test_texts_by_an_embedder(tmp_path: Path) -> None:
    texts = ["Name three red fruits.", "Why is the sky blue?", "Name three red fruits!", "Why, is the sky blue?"]
    found = list(semantic(named(texts), open_embedder(EmbeddingSettings()), SemanticSettings(), tmp_path))
    assert [one[:2] for one in found] == [("id2", "id0"), ("id3", "id1")]


def test_copies_are_found_at_a_bound_of_one(tmp_path: Path) -> None:
    vectors = groups(50, 3)
    for precision in ("float16", "float32"):
        found = by_meaning(np.concatenate([vectors, vectors]), tmp_path, bound=1.0, precision=precision)
        assert [one[:2] for one in found] == [(f"id{50 + place}", f"id{place}") for place in range(50)]


# --- what is left on disk and in memory

RUN = """
import resource, sys
from pathlib import Path
import numpy as np
from contextlib import closing
from factory.duplicates import *
scratch, count, what = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def texts():
    draw = np.random.default_rng(0)
    for number in range(count):
        yield f"record-{number}", " ".join(map(str, draw.integers(0, 5000, 12)))
        if what == "killed" and number == count // 2:
            print("ready", flush=True)
            import time
            time.sleep(60)
if what == "semantic":
    chosen = SemanticSettings(block=2048, whole=4096, clusters=64, bound=0.95)
    with closing(Vectors(scratch, 128, chosen)) as vectors:
        draw = np.random.default_rng(0)
        for start in range(0, count, 1000):
            block = draw.normal(size=(1000, 256)).astype(np.float32)
            vectors.extend([f"record-{start + place}" for place in range(1000)], block / np.linalg.norm(block, axis=1, keepdims=True))
        found = sum(1 for _ in semantic_vectors(vectors, chosen, scratch))
else:
    kinds = {"exact": lambda: exact(texts(), ExactSettings(), scratch), "minhash": lambda: minhash(texts(), MinHashSettings(), scratch)}
    found = sum(1 for _ in kinds["minhash" if what == "killed" else what]())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def started(scratch: Path, count: int, what: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(scratch), str(count), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize(
    ("what", "small", "large"), [("exact", 2000, 40000), ("minhash", 2000, 20000), ("semantic", 10000, 40000)]
)
def test_memory_does_not_grow_with_the_records(tmp_path: Path, what: str, small: int, large: int) -> None:
    used = []
    for count in (small, large):
        process = started(tmp_path, count, what)
        used.append(int(process.communicate(timeout=200)[0]))
        assert process.returncode == 0
    # 30,000 vectors more are 30 MB as float32 alone; bookkeeping and the allocator's whims are a little.
    assert used[1] - used[0] < 20, f"{used} MB for {small} and {large}"
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_leaves_nothing_behind(tmp_path: Path) -> None:
    process = started(tmp_path, 20000, "killed")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    assert list(tmp_path.iterdir()) == []
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert list(tmp_path.iterdir()) == []


def test_a_caller_that_stops_half_way_leaves_nothing_open(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        rows = minhash(named(["a b c d e f"] * 50), MinHashSettings(), tmp_path)
        assert next(rows).id == "id1"
        rows.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) <= before
