"""What a run's report says of its scorers, as a browser shows it and as a program reads it: counted again, one by one."""

from __future__ import annotations

import html
import itertools
import re
from collections import Counter
from pathlib import Path

import orjson
import pytest

from factory.records import Record, Score, content_hash
from factory.report import write_report
from factory.report.charts import cut_places
from factory.report.compared import compare
from factory.report.measures import Histogram
from factory.report.ranking import BOTH, FIRST, LENGTH, SECOND
from factory.report.rules import Cut, alone, cuts
from factory.report.scatter import axis
from factory.report.scoring import Scoring, error_kind
from tests.scored_run import KEEP, scored, write_scored
from tests.test_report import browse, measured
from tests.test_training_report import text_of

BAD = '"><script>document.title="PWNED"</script><img src=x onerror="document.title=1">'


def section(page: str, name: str) -> str:
    return page[page.index(f'<section id="{name}"') :].partition("</section>")[0]


def tips(part: str) -> list[str]:
    return [html.unescape(tip) for tip in re.findall(r'data-tip="([^"]*)"', part)]


@pytest.fixture(scope="module")
def items() -> list[list[Record]]:
    return scored(120)


@pytest.fixture(scope="module")
def run(items: list[list[Record]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_scored(tmp_path_factory.mktemp("runs") / "scored", items)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def numbers(run: Path) -> dict[str, list[dict[str, object]]]:
    return orjson.loads((run / "agreement.json").read_bytes())  # type: ignore[no-any-return]


def test_the_page_opens_in_silence_with_every_section(run: Path) -> None:
    page, console = browse(run / "report.html")
    assert console == []
    for title in ("Which scorer is right", "Do the scorers agree", "How judges behave"):
        assert f">{title}</h2>" in page
    assert page.count("<script") == 2, "the judges' hostile words are in the records, as text"


def better(items: list[list[Record]], scorer: str) -> tuple[float, int, int]:
    """(right, pairs, groups) by the definition: both scores there, execution differs, ties half."""
    right, pairs, groups = 0.0, 0, 0
    for records in items:
        before = pairs
        for good, bad in itertools.permutations(records, 2):
            truth = good.scores["execution"].value > bad.scores["execution"].value
            if truth and scorer in good.scores and scorer in bad.scores:
                a, b = good.scores[scorer].value, bad.scores[scorer].value
                right, pairs = right + (1 if a > b else 0.5 if a == b else 0), pairs + 1
        groups += pairs > before
    return right, pairs, groups


@pytest.mark.parametrize("scorer", ["reward", "judge", "pairwise"])
def test_ranking_accuracy_is_counted_pair_by_pair(
    run: Path, items: list[list[Record]], numbers: dict[str, list[dict[str, object]]], scorer: str
) -> None:
    right, pairs, groups = better(items, scorer)
    row = next(row for row in numbers["ranking"] if row["scorer"] == scorer)
    assert (row["truth"], row["pairs"], row["groups"]) == ("execution", pairs, groups)
    assert row["accuracy"] == pytest.approx(right / pairs)
    assert row["low"] < row["accuracy"] < row["high"]  # type: ignore[operator]
    told = text_of(section((run / "report.html").read_text(), "right"))
    assert re.search(rf" {scorer} {100 * right / pairs:.1f}".removesuffix(".0") + rf" %.*? {pairs} {groups} ", told)


def test_the_order_of_the_answers_shows_in_the_direct_comparisons(
    items: list[list[Record]], numbers: dict[str, list[dict[str, object]]]
) -> None:
    """The fixture's judge leans to the first place: right more often where the better answer stands there."""
    accuracy = {row["scorer"]: row["accuracy"] for row in numbers["ranking"]}
    assert accuracy[FIRST] > accuracy[SECOND] + 0.05  # type: ignore[operator]
    first = pairs = 0.0
    for records in items:
        for good, bad in itertools.permutations(records, 2):
            if good.scores["execution"].value > bad.scores["execution"].value:
                said = good.scores["pairwise"].detail["against"][bad.id]["said"][0]
                first, pairs = first + {"first": 1.0, "tie": 0.5, "second": 0.0}[said], pairs + 1
    assert accuracy[FIRST] == pytest.approx(first / pairs)
    assert {BOTH, LENGTH, "judge: large", "judge: small"} <= set(accuracy)
    assert "reward: skywork" not in accuracy, "one model alone is the reward itself"


def test_position_bias_counts_each_comparison_once(run: Path, items: list[list[Record]]) -> None:
    said = Counter(
        tuple(entry["said"])
        for records in items
        for record in records
        for other, entry in record.scores["pairwise"].detail["against"].items()
        if record.id < other
    )
    found = orjson.loads((run / "agreement.json").read_bytes())["pairwise"]
    assert found["comparisons"] == said.total() == 120 * 6
    assert found["first_both_times"] + found["second_both_times"] == said["first", "first"] + said["second", "second"]
    assert found["first_both_times"] == said["first", "first"], "a turned pair says it of the same place"
    biased = said["first", "first"] + said["second", "second"]
    assert found["position_bias"] == pytest.approx(biased / said.total())
    assert found["low"] < found["position_bias"] < found["high"]
    assert f"position bias {100 * biased / 720:.1f}".removesuffix(".0") in text_of(
        section((run / "report.html").read_text(), "judging")
    )


def test_correlations_and_areas_are_those_of_scipy(
    items: list[list[Record]], numbers: dict[str, list[dict[str, object]]]
) -> None:
    stats, metrics = pytest.importorskip("scipy.stats"), pytest.importorskip("sklearn.metrics")
    flat = [record.scores for records in items for record in records]
    assert len(numbers["spearman"]) == 6
    for row in numbers["spearman"]:
        both = [
            (one[row["first"]].value, one[row["second"]].value)
            for one in flat
            if {row["first"], row["second"]} <= one.keys()
        ]  # type: ignore[index]
        assert row["value"] == pytest.approx(stats.spearmanr(*zip(*both, strict=True)).statistic)
        assert row["records"] == len(both)
    for row in numbers["auc"]:
        both = [(one["execution"].value, one[row["scorer"]].value) for one in flat if row["scorer"] in one]  # type: ignore[index]
        assert row["value"] == pytest.approx(metrics.roc_auc_score(*zip(*both, strict=True)))


def test_kappa_is_of_what_each_score_alone_would_keep(
    items: list[list[Record]], numbers: dict[str, list[dict[str, object]]]
) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    alone_ = {"execution": lambda v: v == 1, "reward": lambda v: v >= 0.8, "judge": lambda v: v >= 4}
    assert {(row["first"], row["second"]) for row in numbers["kappa"]} == {
        ("reward", "judge"), ("reward", "execution"), ("judge", "execution")}  # fmt: skip
    for row in numbers["kappa"]:
        first, second = str(row["first"]), str(row["second"])
        both = [(alone_[first](one.scores[first].value), alone_[second](one.scores[second].value))
                for records in items for one in records if {first, second} <= one.scores.keys()]  # fmt: skip
        assert row["value"] == pytest.approx(metrics.cohen_kappa_score(*zip(*both, strict=True)))
        assert row["both"] == sum(a and b for a, b in both)
        assert row["only_first"] == sum(a and not b for a, b in both)


def test_errors_are_told_by_kind(run: Path, items: list[list[Record]]) -> None:
    kinds = Counter(
        error_kind(record.meta["score_errors"]["judge"])
        for records in items
        for record in records
        if "score_errors" in record.meta
    )
    assert set(kinds) == {"rubbish", "token limit", "refusal", "engine"}
    assert orjson.loads((run / "agreement.json").read_bytes())["errors"] == {"judge": dict(kinds)}
    text = text_of(section((run / "report.html").read_text(), "judging"))
    scored_ = sum("judge" in record.scores for records in items for record in records)
    assert f"judge {scored_} {kinds.total()} " in text


@pytest.mark.parametrize(("reason", "kind"), [
    ("judge: cut off at the token limit; raise max_tokens", "token limit"),
    ("judge: there is no JSON in the answer", "rubbish"),
    ("judge: score: 7 is not one of [1, 2, 3]", "rubbish"),
    ("judge: 'score' is a required property", "rubbish"),
    ("judge: refused to judge", "refusal"),
    ("more than one line 'Better: first, second or tie' in the answer", "rubbish"),
    ("accuracy: 9 is no grade of the rubric", "rubbish"),
    ("engine: Connection refused (5 tries)", "engine"),
    ("engine: connection reset by peer (5 tries)", "engine"),
    ("ValueError: seven is no colour", "other"),
])  # fmt: skip
def test_what_went_wrong_is_read_from_the_reason(reason: str, kind: str) -> None:
    assert error_kind(reason) == kind


def test_a_disk_for_every_place_holds_all_records(run: Path, items: list[list[Record]]) -> None:
    part = section((run / "report.html").read_text(), "scores")
    figure = part[part.index("reward (across) and judge (up)") :].partition("</figure>")[0]
    found = [re.search(r"judge (\d): (\d+) kept, (\d+) rejected", tip) for tip in tips(figure)]
    kept, lost = Counter[str](), Counter[str]()
    for one in found:
        assert one
        kept[one[1]] += int(one[2])
        lost[one[1]] += int(one[3])
    flat = [record for records in items for record in records if "judge" in record.scores]
    assert kept == Counter(f"{record.scores['judge'].value:.0f}" for record in flat if record.kept) + Counter()
    assert sum(lost.values()) == sum(not record.kept for record in flat)


# ---- rules


def test_every_way_to_cut_is_read() -> None:
    assert cuts("not (-0.5 < reward <= 2 or judge)") == {
        "reward": [Cut("≤", -0.5, False), Cut(">", 2.0, False)],
        "judge": [Cut("=", 0.0)],
    }
    assert cuts("2 <= judge and judge <= 4")["judge"] == [Cut("≥", 2.0), Cut("≤", 4.0)]
    assert cuts("execution == 1 and (reward >= q75 or max == judge)", {"q75(reward)": 1.25}) == {
        "execution": [Cut("=", 1.0)], "reward": [Cut("≥", 1.25, False, "q75")], "judge": [Cut("=", pytest.approx(float("nan"), nan_ok=True), False, "max")],
    }  # fmt: skip
    assert cuts("reward + judge > 3 and reward >= judge") == {}
    assert [str(cut) for cut in cuts("reward >= q75 and a > 1", {"q75(reward)": 1.25})["reward"]] == ["≥ q75 (1.25)"]


def test_a_rule_is_taken_apart_by_score() -> None:
    rules = alone("execution == 1 and (reward >= 0.8 or not judge < 4) and reward < judge")
    assert {name: rule.text for name, rule in rules.items()} == {
        "execution": "execution == 1", "reward": "reward >= 0.8", "judge": "not judge < 4"}  # fmt: skip
    assert alone("not python ((") == alone(None) == {}


def test_lines_stand_where_the_rule_parts_the_bars() -> None:
    grades = [(float(grade), float(grade), 1, 1) for grade in (1, 2, 3, 5)]
    places = {sign: cut_places(grades, Cut(sign, 3.0)) for sign in ("≥", ">", "<", "≤", "=")}
    assert places == {"≥": [2.0], ">": [3.0], "<": [2.0], "≤": [3.0], "=": [2.0, 3.0]}
    assert cut_places(grades, Cut("=", 5.0)) == [3.0], "the last bar: one line before it"
    assert cut_places(grades, Cut("=", 4.0)) == cut_places(grades, Cut("≥", float("nan"))) == []
    assert cut_places([(0.0, 1.0, 1, 1), (1.0, 2.0, 1, 1)], Cut("≥", 0.5)) == [0.5]


def test_measurements_of_a_few_records_keep_their_distances() -> None:
    """Ten lengths are no grades: drawn side by side at even steps they would hide how far apart they are."""
    lengths, grades = axis([-105.0, -75, -10, 100, 110, 230]), axis([1.0, 2, 3, 5] * 6)
    assert not lengths.values and lengths.place(230.0) - lengths.place(110.0) > 3 * (
        lengths.place(110.0) - lengths.place(100.0)
    )
    assert grades.values == [1.0, 2.0, 3.0, 5.0] and [grades.place(grade) for grade in grades.values] == [0, 1, 2, 3]
    measured, graded = Histogram(), Histogram()
    for value in (0.786, 1.72, 2.31):
        measured.add(value, True)
    for value in [0.25, 0.5, 1.0] * 6:
        graded.add(value, True)
    assert not measured.discrete and graded.discrete
    assert sum(kept for *_, kept, _ in measured.bars()) == 3


# ---- little data, odd data


def bare(scores: dict[str, float], kept: bool = True, **more: object) -> Record:
    return Record(id=content_hash(scores, more), task="t", kept=kept, reason="" if kept else "x",
                  scores={name: Score(value=value) for name, value in scores.items()}, **more)  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize(("name", "items"), [
    ("none", []),
    ("one scorer", [[bare({"judge": 1.0 + n % 5})] for n in range(30)]),
    ("all equal", [[bare({"judge": 3, "reward": 0.5}, meta={"n": n})] for n in range(30)]),
    ("two records", [[bare({"judge": 3, "reward": 0.5})], [bare({"judge": 4, "reward": 0.25}, kept=False)]]),
    ("no score", [[bare({})]]),
])  # fmt: skip
def test_little_is_said_of_little(tmp_path: Path, name: str, items: list[list[Record]]) -> None:
    page, console = browse(write_report(write_scored(tmp_path / "run", items, keep="judge >= 3")))
    assert console == []
    assert "nan" not in text_of(page).lower().split()
    assert ('id="right"' in page) is False
    assert ('id="agreement"' in page) is (name == "two records")
    if name == "two records":
        assert "−1.00" in section(page, "agreement") and "–" in section(page, "agreement"), (
            "a value without an interval"
        )


def test_preferences_of_the_data_are_a_truth_too(tmp_path: Path) -> None:
    items = [
        [
            bare({"judge": 2.0 + good + (n % 5 == 0) * 2 * (1 - good)}, meta={"group": str(n), "preferred": bool(good)})
            for good in (0, 1)
        ]
        for n in range(20)
    ]  # the worse one gets the higher grade in a fifth of them
    run = write_scored(tmp_path / "run", items)
    page = write_report(run).read_text()
    row = next(
        row for row in orjson.loads((run / "agreement.json").read_bytes())["ranking"] if row["scorer"] == "judge"
    )
    assert (row["truth"], row["accuracy"], row["pairs"], row["groups"]) == ("preferred", 0.8, 20, 20)
    assert "By the data's own preference" in text_of(page).replace("’", "'")


def test_a_models_opinion_is_no_truth() -> None:
    """`fidelity` may be a judge's grade where there was nothing to run."""
    scoring = Scoring()
    for n in range(8):
        for value in (0.0, 1.0):
            judged = Score(value=value, detail={"by": "judge"})
            scoring.add(
                n,
                Record(
                    id=f"{n}{value}",
                    task="t",
                    meta={"group": f"g{n}"},
                    scores={"fidelity": judged, "reward": Score(value=value)},
                ),
            )
    assert compare(scoring, None).ranking == []


def test_records_of_a_group_may_come_from_rows_that_follow_one_another() -> None:
    """Another run's records, scored again: each is a seed item of its own."""
    together, apart = Scoring(), Scoring()
    for n, records in enumerate(scored(30)):
        for m, record in enumerate(records):
            together.add(n, record)
            apart.add(4 * n + m, record)
    first, second = compare(together, KEEP), compare(apart, KEEP)
    assert [(row.scorer, row.share) for row in first.ranking] == [(row.scorer, row.share) for row in second.ranking]
    assert [one.groups for one in second.correlations.values()] == [one.groups for one in first.correlations.values()]


def test_a_judge_is_not_praised_for_a_verifiers_word() -> None:
    """Where a verifier tells two answers apart, `pairwise` asks nobody: agreeing with the verifier is then no merit."""
    for by, rows in (("execution", []), ("the same text", [("execution", "pairwise")])):
        scoring = Scoring()
        for n in range(12):
            ids = [f"{n}-{good}" for good in (0, 1)]
            for good in (0, 1):
                detail = {"against": {}, "unasked": {ids[1 - good]: {"by": by, "worth": float(good)}}}
                scores = {"execution": Score(value=good), "pairwise": Score(value=good, detail=detail)}
                scoring.add(n, Record(id=ids[good], task="t", meta={"group": f"g{n}"}, scores=scores))
        found = compare(scoring, "execution == 1 and pairwise > 0.5")
        assert [(row.truth, row.scorer) for row in found.ranking] == rows
        assert list(found.verified) == rows
        assert len(found.correlations) == len(found.decisions) == len(rows)


def test_a_panels_missing_votes_are_told_apart(tmp_path: Path) -> None:
    detail = {"panel": {"a": 3, "b": 4}, "errors": {"c": "judge: cut off at the token limit; raise max_tokens"}}
    made = [
        [Record(id=str(n), task="t", kept=True, scores={"judge": Score(value=3 + n % 2, detail=detail)})]
        for n in range(9)
    ]
    run = write_scored(tmp_path / "run", made, keep="judge >= 3")
    page = write_report(run).read_text()
    assert orjson.loads((run / "agreement.json").read_bytes())["errors"] == {"judge (in part)": {"token limit": 9}}
    assert "judge (in part) – 9 – 9" in text_of(section(page, "judging"))


def test_hostile_names_of_scores_stay_text(tmp_path: Path) -> None:
    made = [
        [Record(id=content_hash(n, m), task="t", kept=bool(m), reason="" if m else "x",
                meta={"group": BAD, "preferred": bool(m), "score_errors": {BAD: BAD}},
                scores={BAD: Score(value=n % 7 + m, detail={"panel": {BAD: n % 3, "b": n % 4}}), "judge": Score(value=n % 5 + m)})
         for m in range(2)]
        for n in range(12)
    ]  # fmt: skip
    run = write_scored(tmp_path / "run", made, keep="judge > 2", score_errors={BAD: {BAD: 3}})
    page, console = browse(write_report(run))
    assert console == []
    assert page.count("<script") == 2 and "<img" not in page and "<title>run · run report</title>" in page


def test_memory_and_pages_do_not_grow_with_the_run(tmp_path: Path) -> None:
    small = write_scored(tmp_path / "small", scored(400))
    large = write_scored(tmp_path / "large", scored(2_500))
    assert measured(large)[1] < measured(small)[1] + 45
    found = orjson.loads((large / "agreement.json").read_bytes())
    assert (found["records"], found["sampled"]) == (10_000, 2_000)
    assert sum(row["pairs"] for row in found["ranking"] if row["scorer"] == "reward") > 6_000, "groups are all counted"
    page = (large / "report.html").read_text()
    assert "Measured on 2,000 of 10,000 scored records, a sample of whole seed items." in text_of(page)
    assert len(page.partition('<section id="records"')[0]) < 150_000


def test_the_sample_is_of_whole_seed_items_and_always_the_same(items: list[list[Record]]) -> None:
    def rows(count: int) -> list[tuple[int, dict[str, float]]]:
        scoring = Scoring()
        scoring.table.most = count
        for index, records in enumerate(items):
            for record in records:
                scoring.add(index, record)
        return [(row.group, dict(row.values)) for row in scoring.table.rows()]

    found = rows(100)
    assert found == rows(100) and len(found) <= 100
    assert set(Counter(group for group, _ in found).values()) == {4}
    assert [row for row in rows(200) if row in found] == found


def test_the_fixtures_rule_is_the_one_that_decided(items: list[list[Record]]) -> None:
    from factory.selection import KeepRule

    rule = KeepRule(KEEP, {"execution", "reward", "judge"})
    for records in items:
        for record in records:
            assert record.kept is bool(rule.decide(record.scores)[0]), record.scores
