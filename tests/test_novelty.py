"""Novelty: the index gives the verdict of a comparison with every text, whatever the texts are."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.generators.novelty import K1, B, Bm25Novelty, RougeNovelty, bigrams, lcs, rouge_l, words

# Few words, so that likeness is frequent; some texts long, some empty, some with one word many times.
WORDS = st.lists(st.sampled_from([*"abcdefgh", "the", "the", "Über", "x1"]), max_size=18).map(" ".join)
CHINESE = st.text(alphabet="天地人山水火风云abc 1，。", max_size=24)


def plain_lcs(one: list[str], other: list[str]) -> int:
    """The textbook's table."""
    row = [0] * (len(other) + 1)
    for a in one:
        before, row = row, [0]
        for place, b in enumerate(other):
            row.append(before[place] + 1 if a == b else max(row[-1], before[place + 1]))
    return row[-1]


def plain_rouge(one: str, other: str) -> float:
    """Precision, recall and their F-measure, as the metric is defined."""
    a, b = words(one), words(other)
    common = plain_lcs(a, b)
    return 2 * common / (len(a) + len(b)) if common else 0.0


def plain_bm25(query: str, texts: list[str], place: int) -> float:
    """The formula over the whole collection, without an index."""
    split = [Counter(bigrams(text)) for text in texts]
    average = sum(each.total() for each in split) / len(split)
    score = 0.0
    for term in bigrams(query):
        holding = sum(term in each for each in split)
        idf = math.log(1 + (len(split) - holding + 0.5) / (holding + 0.5))
        count = split[place][term]
        if count:
            score += idf * count * (K1 + 1) / (count + K1 * (1 - B + B * split[place].total() / average))
    return score


@given(st.lists(st.sampled_from("abcd"), max_size=90), st.lists(st.sampled_from("abcd"), max_size=90))
def test_the_subsequence_is_the_longest(one: list[str], other: list[str]) -> None:
    assert lcs(one, other) == plain_lcs(one, other)


@settings(max_examples=400)
@given(st.lists(WORDS, max_size=25), WORDS, st.sampled_from([0.0, 0.3, 0.5, 0.7, 0.9, 1.0]))
def test_rouge_verdicts_are_those_of_brute_force(pool: list[str], text: str, threshold: float) -> None:
    index = RougeNovelty(threshold)
    for each in pool:
        index.add(each)
    like = {place for place, each in enumerate(pool) if plain_rouge(text, each) > threshold}
    found = index.like(text)
    assert (found in like) if like else (found is None)


@settings(max_examples=400)
@given(st.lists(CHINESE, max_size=25), CHINESE, st.sampled_from([0.5, 2.0, 4.0, 8.0, 18.0]))
def test_bm25_verdicts_are_those_of_brute_force(pool: list[str], text: str, threshold: float) -> None:
    index = Bm25Novelty(threshold)
    for each in pool:
        index.add(each)
    scores = [plain_bm25(text, pool, place) for place in range(len(pool))]
    if any(abs(score - threshold) < 1e-9 for score in scores):
        return  # a tie is decided by the last bit
    like = {place for place, score in enumerate(scores) if score > threshold}
    found = index.like(text)
    assert (found in like) if like else (found is None)
    for place, score in enumerate(scores):
        assert index.score(bigrams(text), place) == pytest.approx(score)


def test_a_pool_of_thousands_and_near_copies() -> None:
    """Larger than hypothesis makes them, with texts that differ from one of the pool in some places only."""
    draw = random.Random(5)
    vocabulary = [*["write", "the", "a"] * 40, *(f"w{number}" for number in range(300))]
    pool = [" ".join(draw.choices(vocabulary, k=draw.randint(4, 20))) for _ in range(3000)]
    index = RougeNovelty(0.7)
    for each in pool:
        index.add(each)
    verdicts = Counter[bool]()
    for _ in range(120):
        tokens = draw.choice(pool).split()
        for place in draw.sample(range(len(tokens)), draw.randint(0, len(tokens))):
            tokens[place] = draw.choice(vocabulary)
        text = " ".join(tokens)
        like = any(rouge_l(words(text), words(each)) > 0.7 for each in pool)
        assert (index.like(text) is not None) == like
        verdicts[like] += 1
    assert min(verdicts.values()) > 20, verdicts


def test_the_threshold_itself_is_still_new() -> None:
    index = RougeNovelty(0.7)
    index.add("a b c d e f g h i j")
    assert plain_rouge("a b c d e f g x y z", "a b c d e f g h i j") == 0.7
    assert index.like("a b c d e f g x y z") is None
    assert index.like("a b c d e f g h y z") == 0


def test_chinese_is_compared_by_pairs_of_characters() -> None:
    assert bigrams("写一句Python 3诗。好") == ["写一", "一句", "python", "3", "诗", "好"]
    index = Bm25Novelty(18)
    for text in ("请写一首关于秋天的诗", "把这句话翻译成英文", "计算这个长方形的面积", "推荐三本适合孩子的书"):
        index.add(text)
    assert index.like("推荐三本适合孩子的书籍，谢谢推荐三本适合孩子的书") == 3
    assert index.like("怎样才能睡得更好") is None
