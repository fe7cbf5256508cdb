"""Tags of a whole data set under few names: spelling, rareness, meaning, association."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.tags import TagSettings, associated, normalise_data_set, normalise_tags, renamed, singular, spelling

ALL = TagSettings(min_count=1)


class Angles:
    """Names as directions in the plane, in degrees; what it does not know is far from everything."""

    identity, dimensions = "angles", 64

    def __init__(self, **degrees: float) -> None:
        self.degrees, self.asked = degrees, 0

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        self.asked = max(self.asked, len(texts))
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for place, text in enumerate(texts):
            angle = self.degrees.get(text.replace(" ", "_"))
            if angle is None:
                vectors[place, 2 + sum(text.encode()) % 62] = 1
            else:
                vectors[place, :2] = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        return vectors


@pytest.mark.parametrize(
    ("tag", "name"),
    [
        ("Creative Writing", "creative writing"),
        ("creative-writing", "creative writing"),
        ("creative_writing.", "creative writing"),
        ("  Math   Problems! ", "math problem"),
        ("queries", "query"),
        ("classes", "class"),
        ("boxes", "box"),
        ("ties", "tie"),
        ("politics", "politics"),
        ("analysis", "analysis"),
        ("news", "news"),
        ("virus", "virus"),
        ("CSS", "css"),
        ("C++", "c++"),
        ("C#", "c#"),
        (".NET", ".net"),
        ("node.js", "node.js"),
        ("q&a", "q and a"),
        ("A/B testing", "a b testing"),
        ("数学", "数学"),
        ("ＡＢＣ", "abc"),
        ("!?", ""),
        ("x" * 81, ""),
    ],
)
def test_spelling(tag: str, name: str) -> None:
    assert spelling(tag) == name


def test_letters_of_every_script_stay_whole() -> None:
    assert spelling("हिन्दी भाषा") == "हिन्दी भाषा"


@given(st.text(max_size=100))
def test_spelling_leaves_single_blanks(tag: str) -> None:
    name = spelling(tag)
    assert name == " ".join(name.split())
    assert len(name) <= 80


@given(st.text(st.characters(codec="ascii"), max_size=100))
def test_spelling_settles(tag: str) -> None:
    """What was spelt once is spelt the same again, but for a plural of a plural."""
    name = spelling(tag)
    if name == " ".join(map(singular, name.split())):
        assert spelling(name) == name


def test_variants_are_one_and_rare_ones_are_dropped() -> None:
    counts = {"Math Problem": 3, "math problems": 4, "maths-quiz": 1, "!": 50}
    mapping = normalise_tags(counts, None, TagSettings(min_count=7))
    assert mapping == {"Math Problem": "math problem", "math problems": "math problem", "maths-quiz": None, "!": None}


def test_near_ones_take_the_most_frequent_name() -> None:
    embedder = Angles(coding=0, programming=10, poetry=90, software_development=17)
    counts = {"coding": 5, "programming": 9, "poetry": 3, "software development": 1}
    assert normalise_tags(counts, embedder, ALL) == {
        "coding": "programming",
        "programming": "programming",
        "software development": "programming",
        "poetry": "poetry",
    }
    # 10 degrees are a cosine distance of 0.015, 17 of 0.044.
    mapping = normalise_tags(counts, embedder, TagSettings(min_count=1, eps=0.01))
    assert mapping["software development"] == "programming" and mapping["coding"] == "coding"
    assert set(normalise_tags(counts, embedder, TagSettings(min_count=1, eps=0)).values()) == set(counts)


def test_many_tags_are_embedded_in_blocks() -> None:
    embedder = Angles()
    normalise_tags({f"tag {number}": 1 for number in range(5000)}, embedder, TagSettings(min_count=1, eps=1e-6))
    assert embedder.asked == 2048


@given(
    st.dictionaries(st.sampled_from([f"t{n}" for n in range(30)] + ["T1", "t1s", "t-2"]), st.integers(1, 50)),
    st.randoms(),
)
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_tags_does_not_matter(counts: dict[str, int], random: object) -> None:
    embedder = Angles(**{f"t{n}": 7.0 * n for n in range(30)})
    mixed = list(counts.items())
    random.shuffle(mixed)  # type: ignore[attr-defined]
    mapping = normalise_tags(counts, embedder, TagSettings(min_count=5))
    assert mapping == normalise_tags(dict(mixed), embedder, TagSettings(min_count=5))
    assert set(mapping) == set(counts)
    names = {name for name in mapping.values() if name is not None}
    assert all(mapping.get(name, name) in (name, None) for name in names), (
        "a name that stands for others stands for itself"
    )


# ---- associations


def together(rows: Sequence[Sequence[str]], support: int, confidence: float) -> dict[str, str]:
    return associated(lambda: rows, TagSettings(min_support=support, confidence=confidence))


def test_tags_that_always_occur_together_become_one() -> None:
    rows = [["maths", "equation"]] * 40 + [["maths"]] * 3 + [["poetry"]] * 40
    assert together(rows, 40, 0.9) == {"equation": "maths"}
    assert together(rows, 40, 0.99) == {}, "maths occurs without equation"
    assert together(rows, 41, 0.9) == {}, "too few of them"
    chain = [["a", "b", "c"]] * 10
    assert together(chain, 10, 1.0) == {"b": "a", "c": "a"}


@given(
    st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=60),
    st.integers(1, 6),
    st.sampled_from([0.6, 0.75, 0.9, 1.0]),
)
@settings(deadline=None)
def test_associations_are_those_of_counting_every_pair(rows: list[list[str]], support: int, confidence: float) -> None:
    counts = Counter(tag for row in rows for tag in set(row))
    pairs = Counter(pair for row in rows for pair in combinations(sorted(set(row)), 2))
    parent = {tag: tag for tag in counts}

    def root(tag: str) -> str:
        return tag if parent[tag] == tag else root(parent[tag])

    for (a, b), both in pairs.items():
        if both >= support and both >= confidence * counts[a] - 1e-9 and both >= confidence * counts[b] - 1e-9:
            parent[root(a)] = root(b)
    wanted = {}
    for tag in counts:
        group = [other for other in counts if root(other) == root(tag)]
        stands = min(group, key=lambda name: (-counts[name], len(name), name))
        if stands != tag:
            wanted[tag] = stands
    assert together(rows, support, confidence) == wanted


# ---- a data set


def test_a_data_set_is_read_three_times_and_reported() -> None:
    passes = 0
    rows = [["Loops", "Python"], ["loop", "python 3"], ["Poems"], ["rare"], ["loops", "Python"]] * 10

    def read() -> Iterator[list[str]]:
        nonlocal passes
        passes += 1
        yield from rows

    bounds = TagSettings(min_count=10, min_support=30, confidence=0.9)
    mapping, report = normalise_data_set(read, Angles(python=0, python_3=5, poem=90), bounds)
    # Each time that a loop occurs, Python does: the shorter name stands for both.
    assert {mapping[tag] for tag in ("Loops", "loop", "loops", "Python", "python 3")} == {"loop"}
    assert mapping["Poems"] == "poem"
    assert passes == 3
    assert renamed(["Python", "Poems", "Loops", "unheard of"], mapping) == ["loop", "poem"]
    assert (report.written, report.spelt, report.frequent, report.distinct, report.associated) == (7, 5, 5, 4, 3)
    assert report.merged[0] == ("loop", ["Loops", "Python", "loops", "python 3"])
    assert report.as_json()["merged"]["poem"] == ["Poems"]
