"""Judges: rubrics by name, both forms, expected grades, panels; and whatever cannot be read is an error, never a grade."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.errors import ScorerError
from factory.scorers.grading import _json_places, read_lines
from factory.scorers.probabilities import expected_grade, grade_probabilities
from factory.scorers.rubric import Rubric, load_rubric
from tests.judges import grade, logprobs_of, reply_with
from tests.model_server import ModelServer, Reply, Script, last_text
from tests.runs import command, run, table, write_rows
from tests.test_endpoints import endpoint

RUBRICS = ("general", "code", "code_quality", "five", "fidelity", "self_curation")
PAIR = {"prompt": "What is 1 + 1?", "responses": ["two", "three"]}


def judged(folder: Path, script: Script, *words: str, rows: Any = 1) -> tuple[list[dict[str, Any]], ModelServer]:
    """The records of `task=score` with a judge: (rows, the server)."""
    made = (
        [{"prompt": "Hi", "response": f"answer {number}"} for number in range(rows)] if isinstance(rows, int) else rows
    )
    write_rows(folder, made)
    with ModelServer(script) as server:
        run(folder, server, "task=score", "scorers.judge.enabled=true", "engine.concurrency=1", *words)
    return table(folder), server


def score_of(row: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    return row["scores"]["judge"]["value"], json.loads(row["scores"]["judge"]["detail"])


def errors_of(row: dict[str, Any]) -> Any:
    return json.loads(row["meta"]).get("score_errors")


def manifest(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "run/manifest.json").read_text())
    return found


# ---- rubrics


@pytest.mark.parametrize("name", RUBRICS)
def test_every_rubric_is_asked_by_in_both_forms(name: str, tmp_path: Path) -> None:
    rubric = load_rubric(name)
    best = {criterion: entry.high for criterion, entry in rubric.criteria.items()}

    def script(body: dict[str, Any]) -> Reply:
        if "messages" in body:
            return grade("all is well", **best)
        lines = [f"{entry['label']}: {entry['high']}" for entry in rubric.told()]
        return Reply("\n".join([" all is well", *lines]))

    rows = [{"prompt": "Hi", "response": "Hello.", "document": "A greeting."}]
    for form in ("chat", "few_shot"):
        (tmp_path / form).mkdir()
        words = (f"scorers.judge.rubric={name}", f"model.prompt_form={form}")
        (row,), server = judged(tmp_path / form, script, *words, rows=rows)
        value, detail = score_of(row)
        assert (value, detail["grade"], detail["says"], detail["max"]) == (rubric.high,) * 2 + (
            "all is well",
            rubric.high,
        )
        asked = last_text(server.bodies[0])
        assert "Hello." in asked
        assert ("A greeting." in asked) == (name == "fidelity")
        for entry in rubric.told():
            assert " ".join(entry["text"].split())[:60] in " ".join(asked.split())
    order = list(server.bodies[0]) and list(rubric.answer_schema["properties"])
    assert order[0] == "reason", "the grade follows from the reason"
    assert rubric.examples, "a model that continues text needs some"


def test_the_published_scales() -> None:
    scales = {
        name: (load_rubric(name).low, load_rubric(name).high, len(load_rubric(name).criteria)) for name in RUBRICS
    }
    assert scales == {
        "general": (0, 3, 3), "code": (0, 2, 2), "code_quality": (0, 2, 2), "five": (1, 5, 1), "fidelity": (0, 1, 1),
        "self_curation": (1, 5, 1),
    }  # fmt: skip


def test_criteria_add_up_and_are_told_apart(tmp_path: Path) -> None:
    script = lambda body: grade(accuracy=1, instruction_following=0, tone=1)  # noqa: E731
    (row,), server = judged(tmp_path, script, "scorers.judge.rubric=general")
    value, detail = score_of(row)
    assert (value, detail["criteria"]) == (2, {"accuracy": 1, "instruction_following": 0, "tone": 1})
    asked = server.bodies[0]["response_format"]["json_schema"]["schema"]["properties"]
    assert list(asked) == ["reason", "accuracy", "instruction_following", "tone"]
    assert (server.bodies[0]["temperature"], server.bodies[0]["max_tokens"]) == (0, 512)


def test_a_rubric_of_ones_own_as_a_file_or_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts/judge").mkdir(parents=True)
    (tmp_path / "prompts/judge/short.yaml").write_text(
        "criteria: {brevity: {text: 'Is it short?', low: 1, high: 9}}\nmaterial: '{{ meta.goal | upper }}'\n"
    )
    (row,), server = judged(
        tmp_path, lambda body: grade(brevity=7), "scorers.judge.rubric=short", rows=[{**PAIR, "responses": ["a"], "goal": "ten words"}]
    )  # fmt: skip
    assert score_of(row)[0] == 7
    assert "TEN WORDS" in last_text(server.bodies[0])
    own = "scorers.judge.rubric={criteria: {kindness: {text: Is it kind?}}}"
    (row,), _ = judged(tmp_path, lambda body: grade(kindness=1), own, "out=run2", f"out={tmp_path}/run")
    assert score_of(row)[0] == 1


def test_material_that_a_record_lacks_is_its_error(tmp_path: Path) -> None:
    (row,), server = judged(tmp_path, lambda body: grade(faithful=1), "scorers.judge.rubric=fidelity")
    assert "is undefined" in errors_of(row)["judge"] or "has no attribute" in errors_of(row)["judge"]
    assert (server.count, row["scores"]["judge"]) == (0, None)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("rubric=generl", "scorers.judge.rubric=generl: no such rubric; did you mean general? (there is code, "),
        ("rubric=../judge/five", "scorers.judge.rubric=../judge/five: no such rubric"),
        ("rubric=pairwise", "criteria: "),
        ("rubric={criteria: {}}", "criteria: "),
        ("rubric={criteria: {reason: {text: x}}}", "criteria: a criterion is named 'reason'"),
        ("rubric={criteria: {a: {text: x, low: 3}}}", "criteria.a: low=3 must be below high=1"),
        (
            "rubric={criteria: {a: {text: x}}, examples: [{request: q, answer: r, reason: s, grades: {a: 2}}]}",
            "the example 'q'",
        ),
        ("panel=[a,a]", "names one twice"),
        ("quorum=2", "quorum=2 is more than the one that are asked"),
        ("expected=perhaps", "scorers.judge.expected=perhaps: should be 'auto' or should be true or false"),
        ("combine=vote", "scorers.judge.combine=vote: should be 'mean', 'median', 'majority' or 'min'"),
    ],
)
def test_a_mistake_is_told_before_anything_starts(word: str, told: str, tmp_path: Path) -> None:
    write_rows(tmp_path, [PAIR])
    status, said = command(
        tmp_path, "http://127.0.0.1:9/v1", "task=score", "scorers.judge.enabled=true", f"scorers.judge.{word}"
    )
    assert status == 2
    assert told in said, said
    assert "Traceback" not in said


def test_expected_grades_need_grades_of_one_digit(tmp_path: Path) -> None:
    write_rows(tmp_path, [PAIR])
    own = "scorers.judge.rubric={criteria: {a: {text: x, low: 1, high: 10}}}"
    words = ("task=score", "scorers.judge.enabled=true", own)
    status, said = command(tmp_path, "http://127.0.0.1:9/v1", *words, "scorers.judge.expected=true")
    assert (status, "single digits" in said) == (2, True), said
    (row,), server = judged(tmp_path, lambda body: grade(a=10), own, "scorers.judge.expected=auto")
    assert score_of(row)[0] == 10
    assert "logprobs" not in server.bodies[0]


# ---- what is no grade

# A refusal where JSON was asked for, as hosted servers send it.
APART = b'{"choices": [{"message": {"content": null, "refusal": "I\'m sorry, I can\'t assist with that."}}]}'


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply("I like it"), "there is no JSON in the answer"),
        (Reply(""), "there is no JSON in the answer"),
        (Reply("I'm sorry, but I cannot grade this."), "refused to judge"),
        (Reply("As an AI, I have no opinions."), "refused to judge"),
        (Reply(body=APART), "refused to judge"),
        (grade(score=5, finish="length"), "cut off at the token limit; raise max_tokens"),
        (
            Reply('{"reason": "I cannot say more than th', finish_reason="length"),
            "cut off at the token limit; raise max_tokens",
        ),
        (Reply("I'm sorry, but I can", finish_reason="length"), "cut off at the token limit; raise max_tokens"),
        (grade(score=9), "score: 9 is not one of [1, 2, 3, 4, 5]"),
        (Reply('{"score": 5}'), "the answer: 'reason' is a required property"),
        (Reply("no", status=400), "engine: HTTP 400: no"),
    ],
)
def test_what_a_judge_cannot_say_is_an_error_counted_apart(reply: Reply, why: str, tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return reply if "answer 1" in body["messages"][0]["content"] else grade(score=4)

    rows, _ = judged(tmp_path, script, rows=3)
    assert [row["scores"]["judge"] and score_of(row)[0] for row in rows] == [4, None, 4]
    assert [errors_of(row) for row in rows] == [None, {"judge": why}, None]
    assert manifest(tmp_path)["score_errors"] == {"judge": {why: 1}}
    assert manifest(tmp_path)["scores"]["judge"]["count"] == 2
    assert (
        why.replace("'", "&#x27;")[:20] in (tmp_path / "run/report.html").read_text()
        or why[:20] in (tmp_path / "run/report.html").read_text()
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (" It is good.", "no line 'Score: NUMBER' in the answer"),
        (" Good.\nScore: 9", "score: 9 is no grade of the rubric"),
        (" Good.\nScore: 4\nScore: 2", "more than one line 'Score: NUMBER' in the answer"),
        (" Good.\nScore: 4/5", "no line 'Score: NUMBER' in the answer"),
        (" I'm sorry, I can't do that.", "refused to judge"),
    ],
)
def test_a_continued_judgement_that_cannot_be_read_is_an_error(text: str, why: str, tmp_path: Path) -> None:
    (row,), server = judged(tmp_path, lambda body: Reply(text), "model.prompt_form=few_shot")
    assert errors_of(row) == {"judge": why}
    assert server.bodies[0]["stop"] == ["\n=====", "\nRequest:"]


def test_a_continued_judgement_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    cut = lambda body: Reply(" Good.\nScore: 4", finish_reason="length")  # noqa: E731
    (row,), _ = judged(tmp_path, cut, "model.prompt_form=few_shot")
    assert errors_of(row) == {"judge": "cut off at the token limit; raise max_tokens"}


def test_a_record_without_an_answer_is_not_asked_about(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"messages": [{"role": "user", "content": "Hi"}]}])
    with ModelServer() as server:
        run(tmp_path, server, "task=score", "scorers.judge.enabled=true")
    assert server.count == 0


TWO = Rubric.model_validate({"criteria": {"is_right": {"text": "x"}, "tone": {"text": "y", "low": 1, "high": 5}}})


@given(st.text(), st.integers(0, 1), st.integers(1, 5))
def test_what_was_written_in_lines_is_read_back(reason: str, right: int, tone: int) -> None:
    if re.search(r"^(Is right|Tone):", reason, re.MULTILINE) or "\r" in reason:
        return
    grades, says = read_lines(f"{reason}\nIs right: {right}\nTone: {tone}\n", TWO)
    assert (grades, says) == ({"is_right": right, "tone": tone}, reason.strip())


@given(
    st.lists(
        st.sampled_from(["Is right:", "Tone:", " 1", " 3", " 9", "\n", "Score: 4", " -1", "٣", "x"]), max_size=10
    ).map("".join)
)
def test_no_grade_is_made_up(text: str) -> None:
    try:
        grades, _ = read_lines(text, TWO)
    except ScorerError:
        return
    for name, label in (("is_right", "Is right"), ("tone", "Tone")):
        assert grades[name] in TWO.criteria[name].grades
        assert re.search(rf"^{label}: *{grades[name]} *$", text, re.MULTILINE)


# ---- how sure it was

SURE = [
    ('{"reason": "a', {}),
    (' score\\": 2', {}),
    ('", "score": ', {}),
    ("4", {"4": 0.5, "5": 0.3, " 2": 0.1, "x": 0.1}),
    ("}", {}),
]


def test_the_expected_grade_by_the_judges_token_probabilities(tmp_path: Path) -> None:
    for expected, value in (("false", 4), ("auto", (4 * 0.5 + 5 * 0.3 + 2 * 0.1) / 0.9), ("true", 3.7 / 0.9)):
        (tmp_path / expected).mkdir()
        (row,), server = judged(
            tmp_path / expected, lambda body: reply_with(SURE), f"scorers.judge.expected={expected}"
        )
        found, detail = score_of(row)
        assert found == pytest.approx(value)
        assert detail["grade"] == 4
        assert ("logprobs" in server.bodies[0]) == (expected != "false")
    assert server.bodies[0]["top_logprobs"] == 20
    assert detail["expected"] == pytest.approx(found)
    assert detail["probabilities"] == pytest.approx({"2": 0.1 / 0.9, "4": 0.5 / 0.9, "5": 0.3 / 0.9})
    assert detail["mass"] == pytest.approx(0.9)


def test_the_same_from_a_model_that_continues_text(tmp_path: Path) -> None:
    tokens = [
        (" Good", {}),
        (".\n", {}),
        ("Score", {}),
        (":", {}),
        (" 4", {" 4": 0.6, " 5": 0.2, "\n": 0.2}),
        ("\n", {}),
    ]
    words = ("model.prompt_form=few_shot", "scorers.judge.expected=true")
    (row,), server = judged(tmp_path, lambda body: reply_with(tokens, chat=False), *words)
    value, detail = score_of(row)
    assert value == pytest.approx((4 * 0.6 + 5 * 0.2) / 0.8)
    assert detail["says"] == "Good."
    assert server.bodies[0]["logprobs"] == 20


def test_probabilities_of_several_criteria_are_those_of_their_sum(tmp_path: Path) -> None:
    tokens = [('{"reason": "a", "bugs": ', {}), ("1", {"1": 0.75, "0": 0.25}), (', "intention": ', {}), ("0", {"0": 0.5, "1": 0.5}), ("}", {})]  # fmt: skip
    words = ("scorers.judge.rubric=code", "scorers.judge.expected=true")
    (row,), _ = judged(tmp_path, lambda body: reply_with(tokens), *words)
    value, detail = score_of(row)
    assert value == pytest.approx(1.25)
    assert detail["probabilities"] == pytest.approx({"0": 0.125, "1": 0.5, "2": 0.375})
    assert detail["grade"] == 1


def test_a_server_that_gives_none(tmp_path: Path) -> None:
    for expected in ("auto", "true"):
        (tmp_path / expected).mkdir()
        rows, _ = judged(tmp_path / expected, lambda body: grade(score=4), f"scorers.judge.expected={expected}", rows=2)
        if expected == "auto":
            assert [score_of(row)[0] for row in rows] == [4, 4]
            assert "expected" not in score_of(rows[0])[1]
        else:
            why = "the server gave no log-probabilities at the grade; expected=auto does without"
            assert [errors_of(row) for row in rows] == [{"judge": why}] * 2


def test_a_server_that_refuses_to_give_them_is_asked_without_once_it_said_so(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply("logprobs are not supported", status=400) if "logprobs" in body else grade(score=4)

    rows, server = judged(tmp_path, script, "scorers.judge.expected=auto", "in_flight=1", rows=3)
    assert [score_of(row)[0] for row in rows] == [4, 4, 4]
    assert server.count == 3 + 1
    (tmp_path / "true").mkdir()
    rows, server = judged(tmp_path / "true", script, "scorers.judge.expected=true", rows=1)
    assert "logprobs are not supported" in errors_of(rows[0])["judge"]


FIVE = {"score": range(1, 6)}
PLACES = _json_places(("score",))
shares = st.dictionaries(
    st.sampled_from(["1", "2", " 3", "4", "5", "5}", "7", "x", "", " "]), st.floats(1e-6, 1), max_size=6
)


@given(shares, st.sampled_from("12345"), st.floats(1e-6, 1), st.booleans())
def test_probabilities_are_of_allowed_grades_and_sum_to_one(
    others: dict[str, float], said: str, share: float, chat: bool
) -> None:
    whole = sum({**others, said: share}.values())
    drawn = {other: value / whole for other, value in {**others, said: share}.items()}
    tokens = [('{"reason": "a", "score": ', {}), (said, drawn), ("}", {}), ("<eos>", {})]
    found = grade_probabilities(logprobs_of(tokens, chat=chat), PLACES, {"score": int(said)}, FIVE)
    assert found is not None
    probabilities, mass = found
    assert set(probabilities) <= set(FIVE["score"])
    assert math.fsum(probabilities.values()) == pytest.approx(1)
    assert mass > 0
    assert 1 <= expected_grade(probabilities) <= 5
    only = [value for other, value in drawn.items() if other.strip(" }") in [*"12345"]]
    assert mass == pytest.approx(sum(only))


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=5) | st.sampled_from(['"score": 4', "4"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["content", "tokens", "token", "logprob", "top_logprobs", "token_logprobs", "x"]), inner, max_size=5),
    max_leaves=15,
)  # fmt: skip


@given(json_like, st.integers(1, 5))
def test_rubbish_in_place_of_probabilities_is_none(rubbish: Any, said: int) -> None:
    found = grade_probabilities(rubbish, PLACES, {"score": said}, FIVE)
    assert found is None or set(found[0]) <= set(FIVE["score"])


def test_a_grade_that_is_not_where_it_was_read_has_no_probabilities() -> None:
    tokens = [('{"reason": "a", "score": ', {}), ("4", {"4": 1.0}), ("}", {})]
    assert grade_probabilities(logprobs_of(tokens, chat=True), PLACES, {"score": 3}, FIVE) is None
    quoted = [('{"score": ', {}), ("4", {"4": 1.0}), (', "reason": "it says \\"score\\": 2"}', {})]
    found = grade_probabilities(logprobs_of(quoted, chat=True), PLACES, {"score": 4}, FIVE)
    assert found == ({4: 1.0}, 1.0), "where a server lets the reason come last, what it quotes is no grade"
    joined = [('{"reason": "a", "score": 4}', {"5": 0.5})]
    assert grade_probabilities(logprobs_of(joined, chat=True), PLACES, {"score": 4}, FIVE) is None


# ---- panels


@pytest.fixture
def panel(tmp_path: Path) -> Callable[..., tuple[list[dict[str, Any]], list[ModelServer]]]:
    def ask(
        *scripts: Script, words: tuple[str, ...] = (), rows: int = 1
    ) -> tuple[list[dict[str, Any]], list[ModelServer]]:
        servers = [ModelServer(script).__enter__() for script in scripts]
        names = "abc"[: len(servers)]
        chosen = [
            word
            for name, server in zip(names, servers, strict=True)
            for word in endpoint(name, server.url, "engine.backoff=0.01")
        ]
        try:
            found, own = judged(
                tmp_path,
                lambda body: Reply("nobody asks me"),
                *chosen,
                f"scorers.judge.panel=[{','.join(names)}]",
                *words,
                rows=rows,
            )
        finally:
            for server in servers:
                server.__exit__()
        assert own.count == 0
        return found, servers

    return ask


@pytest.mark.parametrize(("combine", "value"), [("mean", 3), ("median", 4), ("majority", 4), ("min", 1)])
def test_a_panel_is_combined_and_its_agreement_told(combine: str, value: float, panel: Any) -> None:
    scripts = [lambda body, given=given: grade(f"says {given}", score=given) for given in (4, 4, 1)]
    (row,), servers = panel(*scripts, words=(f"scorers.judge.combine={combine}",))
    found, detail = score_of(row)
    assert (found, detail["panel"], detail["grade"]) == (value, {"a": 4, "b": 4, "c": 1}, 4)
    assert detail["agreement"] == pytest.approx(1 / 3)
    assert detail["says"] == "a: says 4\nb: says 4\nc: says 1"
    assert [server.count for server in servers] == [1, 1, 1]


def test_judges_that_all_differ_have_the_lowest_grade_by_majority(panel: Any) -> None:
    scripts = [lambda body, given=given: grade(score=given) for given in (5, 2, 3)]
    (row,), _ = panel(*scripts, words=("scorers.judge.combine=majority",))
    assert score_of(row)[0] == 2
    assert score_of(row)[1]["agreement"] == 0


def test_by_default_every_member_must_answer(panel: Any, tmp_path: Path) -> None:
    scripts = [lambda body: grade(score=4), lambda body: Reply("I cannot grade that."), lambda body: grade(score=4)]
    (row,), _ = panel(*scripts)
    why = "2 of 3 judges answered, 3 must: b: judge: refused to judge"
    assert errors_of(row) == {"judge": why}
    assert manifest(tmp_path)["score_errors"] == {"judge": {why: 1}}


def test_a_quorum_does_without_some_and_counts_them(panel: Any, tmp_path: Path) -> None:
    scripts = [lambda body: grade(score=4), lambda body: Reply("rubbish"), lambda body: grade(score=2)]
    (row,), _ = panel(*scripts, words=("scorers.judge.quorum=2",))
    value, detail = score_of(row)
    assert (value, detail["panel"]) == (3, {"a": 4, "c": 2})
    assert detail["errors"] == {"b": "judge: there is no JSON in the answer"}
    assert manifest(tmp_path)["score_errors"] == {"judge (in part)": {"judge: there is no JSON in the answer": 1}}


def test_a_member_that_fails_in_passing_is_waited_for_in_another_run(panel: Any, tmp_path: Path) -> None:
    state = {"up": False}

    def flaky(body: dict[str, Any]) -> Reply:
        return grade(score=2) if state["up"] else Reply("overloaded", status=503)

    good = lambda body: grade(score=4)  # noqa: E731
    words = (
        "endpoints.b.engine.retries=0",
        "keep='judge > 0'",
        "endpoints.a.engine.identity=a",
        "endpoints.b.engine.identity=b",
    )
    rows, (first, _) = panel(good, flaky, words=words)
    assert (rows, first.count) == ([], 1)
    (lost,) = table(tmp_path, "rejected")
    assert lost["reason"] == "1 of 2 judges answered, 2 must: b: engine: HTTP 503: overloaded (1 tries)"
    state["up"] = True
    (row,), (first, second) = panel(good, flaky, words=words)
    assert (score_of(row)[0], first.count, second.count) == (3, 0, 1), "the first one's answer is in the journal"


def test_a_member_that_is_down(panel: Any, tmp_path: Path) -> None:
    good = lambda body: grade(score=4)  # noqa: E731
    down = endpoint("c", "http://127.0.0.1:9/v1", "engine.first_patience=0.1", "engine.backoff=0.01")
    words = (*down, "scorers.judge.panel=[a,b,c]", "scorers.judge.quorum=2")
    rows, _ = panel(good, good, words=words, rows=3)
    assert [score_of(row)[0] for row in rows] == [4, 4, 4]
    assert score_of(rows[0])[1]["errors"] == {"c": "its server is gone"}
    assert manifest(tmp_path)["score_errors"] == {"judge (in part)": {"its server is gone": 3}}


def test_where_nobody_may_be_missing_a_member_that_is_down_stops_the_run(tmp_path: Path) -> None:
    write_rows(tmp_path, [PAIR])
    with ModelServer(lambda body: grade(score=4)) as server:
        down = endpoint("c", "http://127.0.0.1:9/v1", "engine.first_patience=0.1", "engine.backoff=0.01")
        words = (
            "task=score",
            "scorers.judge.enabled=true",
            "scorers.judge.panel=[a,c]",
            *endpoint("a", server.url),
            *down,
        )
        status, said = command(tmp_path, server.url, *words)
    assert (status, "nothing answers at http://127.0.0.1:9/v1" in said) == (2, True), said


def test_members_are_asked_each_in_its_own_form_with_expected_grades(panel: Any) -> None:
    tokens = [(" Good", {}), ("\nScore:", {}), (" 2", {" 2": 0.5, " 4": 0.5})]
    scripts = [lambda body: reply_with(SURE), lambda body: reply_with(tokens, chat=False)]
    words = ("endpoints.b.model.prompt_form=few_shot", "scorers.judge.expected=true")
    (row,), _ = panel(*scripts, words=words)
    value, detail = score_of(row)
    assert value == pytest.approx((3.7 / 0.9 + 3) / 2)
    assert detail["expected"] == pytest.approx(value)
    assert detail["panel"] == {"a": 4, "b": 2}
