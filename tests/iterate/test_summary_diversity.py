"""How varied a round's data are: each number against one that is reckoned from the records in the plainest way."""

from __future__ import annotations

import re
import statistics
import zlib
from collections import Counter
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import factory.iterate.diversity as diversity
from factory.iterate.diversity import BUDGETS, _Grams, measure, round_diversity
from factory.records import Record
from tests.iterate.sample_rounds import round_records, write_generated


def answers(records: list[Record], *, kept: bool = False) -> list[str]:
    return [record.messages[-1].content for record in records if record.kept or not kept]


@pytest.fixture
def records(tmp_path: Path) -> list[Record]:
    made = round_records(200, 0, 1, "some more words, 计算 it")
    short = made[0].model_copy(
        update={"messages": made[0].messages[:1], "id": "x", "kept": False, "reason": "answer: empty"}
    )
    made.append(short)
    write_generated(tmp_path / "generate", made, 0.0, 100.0, "one")
    return made


def test_every_number_is_that_of_the_records(tmp_path: Path, records: list[Record]) -> None:
    found = measure(tmp_path / "generate")
    kept = [record for record in records if record.kept]
    whole = [record for record in records if len(record.messages) == 2]
    assert (found["records"], found["kept"]) == (201, len(kept))
    assert found["kept_share"] == len(kept) / 201
    for name, chosen in (("all", whole), ("kept", kept)):
        by_prompt: dict[str, list[str]] = {}
        for record in chosen:
            by_prompt.setdefault(record.messages[0].content, []).append(record.messages[1].content)
        assert found["prompts"][name] == len(by_prompt)
        assert found["answers_per_prompt"][name] == pytest.approx(len(chosen) / len(by_prompt))
        assert found["distinct_per_prompt"][name] == pytest.approx(
            statistics.fmean(len(set(said)) for said in by_prompt.values())
        )
        assert found["length"][name] == pytest.approx(
            statistics.fmean(len(record.messages[1].content) for record in chosen)
        )
    for score in ("answer", "reward"):
        assert found["scores"][score]["records"] == 201
        assert found["scores"][score]["all"] == pytest.approx(
            statistics.fmean(record.scores[score].value for record in records)
        )
        assert found["scores"][score]["kept"] == pytest.approx(
            statistics.fmean(record.scores[score].value for record in kept)
        )
    text = "".join(f"{said}\n" for said in answers(whole, kept=True)).encode()
    assert found["compression_ratio"] == pytest.approx(len(text) / len(zlib.compress(text, 9)), rel=0.01)


_TEXTS = st.lists(st.text(alphabet="ab c,计", max_size=30), min_size=1, max_size=12)


@given(_TEXTS)
def test_distinct_n_is_that_of_counted_n_grams(texts: list[str]) -> None:
    grams = _Grams()
    for text in texts:
        grams.add(text)
    words = [re.findall(r"计|[abc]+|,", text) for text in texts]
    assert grams.words == sum(map(len, words))
    before = diversity.BUDGETS
    try:
        diversity.BUDGETS = (max(grams.words, 1),)
        found = grams.found().get(str(grams.words), {})
    finally:
        diversity.BUDGETS = before
    for n in (1, 2, 3):
        counted = Counter(tuple(one[k : k + n]) for one in words for k in range(len(one) - n + 1))
        if counted:
            assert found[str(n)] == pytest.approx(len(counted) / counted.total())
        else:
            assert str(n) not in found


def test_rounds_are_compared_at_the_same_number_of_words() -> None:
    grams = _Grams()
    for number in range(400):
        grams.add(f"answer {number} is {number % 7}")
    found = grams.found()
    assert list(found) == [str(budget) for budget in BUDGETS if budget <= 1600]
    first = [word for number in range(25) for word in f"answer {number} is {number % 7}".split()]
    assert found["100"]["1"] == len(set(first)) / 100


def test_what_was_measured_is_kept_while_the_manifest_is_the_same(tmp_path: Path, records: list[Record]) -> None:
    folder, cache = tmp_path / "generate", tmp_path / "diversity.json"
    found = round_diversity(folder, cache)
    assert found is not None and orjson.loads(cache.read_bytes()) == found
    cache.write_bytes(orjson.dumps({**found, "kept": -1}))
    assert (round_diversity(folder, cache) or {})["kept"] == -1, "not reckoned again"
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_bytes(orjson.dumps({**manifest, "seconds": 4.0}))
    assert (round_diversity(folder, cache) or {})["kept"] == found["kept"], "the run has gone on"


def test_a_round_without_records_yet(tmp_path: Path) -> None:
    assert round_diversity(tmp_path / "generate", tmp_path / "diversity.json") is None
    assert not (tmp_path / "diversity.json").exists()


def test_a_round_that_kept_nothing(tmp_path: Path) -> None:
    made = [record.model_copy(update={"kept": False, "reason": "no"}) for record in round_records(8, 0, 1)]
    write_generated(tmp_path / "generate", made, 0.0, 10.0, "none")
    found = measure(tmp_path / "generate")
    assert (found["kept"], found["compression_ratio"], found["length"]["kept"], found["distinct"]) == (
        0,
        None,
        None,
        {},
    )
    assert found["prompts"] == {"all": 2, "kept": 0}
