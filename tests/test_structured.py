"""JSON out of answers: read, repaired, checked, asked for again; never made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from factory.engine.structured import NotJson, parse_json
from factory.errors import RecordError
from factory.generators.parsing import ParseSettings, fenced_code, parse_answer
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import kept, reasons, run, run_once, table, write_rows

GRADE = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "score": {"type": "integer", "enum": [1, 2, 3, 4, 5]}},
    "required": ["reason", "score"],
    "additionalProperties": False,
}
GOOD = '{"reason": "right", "score": 4}'
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        f"  {GOOD}\n",
        f"Here is my grade:\n```json\n{GOOD}\n```\nI hope it helps.",
        f"```\n{GOOD}",
        f"I think this is it: {GOOD} Good luck!",
        f"As [1] says, the answer is right. {GOOD}",
        "{'reason': 'right', 'score': 4}",
        '{"reason": "right", "score": 4,}',
        '{reason: "right", score: 4',
    ],
)
def test_a_grade_is_found(text: str) -> None:
    assert parse_json(text, GRADE) == {"reason": "right", "score": 4}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("I would give it a 4.", "there is no JSON"),
        ("", "there is no JSON"),
        ("4", "the answer: 4 is not of type 'object'"),
        ('{"score": 4}', "'reason' is a required property"),
        ('{"reason": "right", "score": 9}', "score: 9 is not one of"),
        ('{"reason": "right", "score": true}', "score: "),
        ('{"reason": "right", "score": "4"}', "score: '4' is not of type 'integer'"),
        ('{"reason": "right", "score": 4, "other": 1}', "Additional properties"),
        ("[" * 100_000, "nested too deep"),
    ],
)
def test_rubbish_is_never_a_grade(text: str, told: str) -> None:
    with pytest.raises(NotJson) as caught:
        parse_json(text, GRADE)
    assert told in str(caught.value)


@given(values)
def test_json_comes_back_as_it_was(value: Any) -> None:
    assert parse_json(orjson.dumps(value).decode(), {}) == value


PARSERS = (
    ParseSettings(),
    ParseSettings(kind="blocks", names=("answer", "a.b(")),
    ParseSettings.model_validate({"kind": "json", "schema": GRADE}),
    ParseSettings(kind="regex", pattern=r"#### (?P<number>-?\d+)"),
)
pieces = st.sampled_from(
    ("<answer>", "</answer>", "<a.b(>", "</a.b(>", "```", "```json\n", "\n", "{", "}", "[", "]", '"', ":", ",", "\\")
    + ("#### 12", "null", "4", "\x00", "reason", "score", GOOD)
)


@given(st.one_of(st.text(), st.lists(pieces, max_size=12).map("".join)), st.sampled_from(PARSERS))
@example("[" * 3000, PARSERS[2])
def test_a_parser_gives_parts_or_a_reason(text: str, settings: ParseSettings) -> None:
    try:
        parts = parse_answer(text, settings)
    except RecordError:
        return
    assert parts.get("text", text) is not None
    if settings.kind == "json":
        assert parts["score"] in (1, 2, 3, 4, 5)


@given(st.text(alphabet="`ab \n~", max_size=60))
def test_fenced_code_is_total(text: str) -> None:
    code = fenced_code(text, ("a",))
    assert code is None or code in text


def test_the_fence_of_the_language_wanted_is_taken() -> None:
    text = "```bash\nls\n```\n\n```python\nprint(1)\n```\n"
    assert fenced_code(text, ("python", "py")) == "print(1)"
    assert fenced_code("```\nx = 1\n```", ("python",)) == "x = 1"
    assert fenced_code("no code") is None


# ---- through a run: the answer, then a judge


def judged(*grades: Reply, refuses: bool = False) -> Any:
    """A script: an answer to questions, the grades in turn to the judge."""
    left = list(grades)

    def script(body: dict[str, Any]) -> Reply:
        if "response_format" in body and refuses:
            return Reply("response_format is unknown here", status=400)
        if last_text(body).startswith("question"):
            return Reply("an answer")
        return left.pop(0) if len(left) > 1 else left[0]

    return script


JUDGE = "scorers.judge.enabled=true"


def test_a_judge_grades_through_the_servers_schema(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    outcome, server = run_once(tmp_path, judged(Reply('{"reason": "fine", "score": 5}')), JUDGE)
    (row,) = table(tmp_path)
    assert row["scores"]["judge"]["value"] == 5
    assert "fine" in row["scores"]["judge"]["detail"]
    assert server.bodies[1]["response_format"]["json_schema"]["strict"] is True
    assert "question number 0" in last_text(server.bodies[1])
    assert outcome.status == 0


def test_a_judge_without_schema_mode_is_asked_in_words(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    grade = Reply('Sure! ```json\n{"reason": "fine", "score": 4}\n```')
    _, server = run_once(tmp_path, judged(grade, refuses=True), JUDGE, "engine.concurrency=1")
    assert [row["scores"]["judge"]["value"] for row in table(tmp_path)] == [4, 4, 4]
    assert server.count == 3 + 3 + 1, "one refusal, then everybody knows"


def test_a_judge_is_asked_again_with_what_was_wrong(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    _, server = run_once(
        tmp_path, judged(Reply("five stars"), Reply('{"reason": "x", "score": 7}'), Reply(GOOD)), JUDGE
    )
    assert len(kept(tmp_path)) == 1
    assert server.count == 1 + 3
    assert "7 is not one of" in last_text(server.bodies[3])
    assert [message["role"] for message in server.bodies[3]["messages"]] == ["user", *["assistant", "user"] * 2]


def test_a_judges_rubbish_is_an_error_and_never_a_score(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    outcome, server = run_once(tmp_path, judged(Reply("I like it")), JUDGE)
    assert kept(tmp_path) == []
    assert reasons(tmp_path) == {"judge: there is no JSON in the answer": 1}
    assert "judge" not in outcome.manifest["scores"]
    assert server.count == 1 + 3


def test_a_grade_that_was_cut_off_is_no_grade(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    _, server = run_once(tmp_path, judged(Reply('{"reason": "it is", "score": 5', finish_reason="length")), JUDGE)
    assert kept(tmp_path) == []
    assert "cut off" in next(iter(reasons(tmp_path)))
    assert server.count == 2, "it would be cut off again"


def test_a_low_grade_is_a_loss_with_its_score(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    run_once(tmp_path, judged(Reply('{"reason": "wrong", "score": 2}')), JUDGE)
    (row,) = table(tmp_path, "rejected")
    assert row["scores"]["judge"]["value"] == 2
    assert row["reason"] == "not (judge >= 4)"


def test_answers_by_schema_are_taken_apart(tmp_path: Path) -> None:
    write_rows(tmp_path, 2)
    schema = "{type: object, properties: {city: {type: string}}, required: [city]}"

    def script(body: dict[str, Any]) -> Reply:
        return Reply('{"city": "Oslo"}' if "number 0" in last_text(body) else "Oslo")

    with ModelServer(script) as server:
        run(tmp_path, server, f"task.parse={{kind: json, schema: {schema}}}", "task.assistant='{{ parsed.city }}!'")
    assert [answer for _, answer in kept(tmp_path)] == ["Oslo!"]
    assert server.bodies[0]["response_format"]["json_schema"]["schema"]["required"] == ["city"]
    assert reasons(tmp_path) == {"parse: there is no JSON in the answer": 1}
