"""`task=respond`: rows in, answers out, every other column carried through."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet

from benchmarks.pipeline import Run, measure
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import ROOT, command, kept, reasons, run, run_once, table, words, write_rows


def test_a_command_from_rows_to_a_data_set(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"instruction": f"question {n}", "level": n, "tags": ["x", n]} for n in range(10)])
    with ModelServer(lambda body: Reply(f"answer to {last_text(body)}")) as server:
        status, said = command(tmp_path, server.url)
    assert status == 0, said
    run_folder = tmp_path / "run"
    for name in ("config.yaml", "journal.db", "README.md", "report.html", "manifest.json"):
        assert (run_folder / name).stat().st_size > 0
    rows = table(tmp_path)
    assert [row["level"] for row in rows] == list(range(10))
    assert json.loads(rows[3]["tags"]) == ["x", 3]
    assert rows[3]["messages"] == [
        {"role": "user", "content": "question 3"},
        {"role": "assistant", "content": "answer to question 3"},
    ]
    assert rows[3]["usage"]["requests"] == 1
    manifest = json.loads((run_folder / "manifest.json").read_text())
    assert (manifest["kept"], manifest["requests"], manifest["finished"]) == (10, 10, True)
    assert "key" not in (run_folder / "config.yaml").read_text().replace("api_key_env", "")


def test_prompts_are_jinja_over_the_columns(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"q": "why", "context": "sky", "template": "t"}])
    with ModelServer(lambda body: Reply("blue")) as server:
        run(
            tmp_path, server, "task.prompt='{{ context | upper }}: {{ q }}?'", "task.system='Be brief, {{ template }}.'",
            "task.user='{{ q }}'", "task.assistant='{{ parsed.text }}!'",
        )  # fmt: skip
    sent = server.bodies[0]["messages"]
    assert sent == [{"role": "system", "content": "Be brief, t."}, {"role": "user", "content": "SKY: why?"}]
    (row,) = table(tmp_path)
    assert [message["content"] for message in row["messages"]] == ["Be brief, t.", "why", "blue!"]


def test_a_column_may_have_any_name(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "ask.j2").write_text("{{ template }} {{ self_ }}")
    write_rows(tmp_path, [{"template": "a", "self": "b", "self_": "c", "name": "d"}])
    run_once(tmp_path, lambda body: Reply(last_text(body)), "task.template=ask.j2", "task.prompt=null")
    assert [answer for _, answer in kept(tmp_path)] == ["a c"]


def test_a_row_without_its_column_is_lost_alone(tmp_path: Path) -> None:
    write_rows(tmp_path, [{"instruction": "one"}, {"other": "two"}, {"instruction": " "}, {"instruction": None}])
    (tmp_path / "rows.jsonl").open("a").write("no json\n")
    _, server = run_once(tmp_path, lambda body: Reply("x"))
    lost = reasons(tmp_path)
    assert len(kept(tmp_path)) == 1
    assert server.count == 1
    assert lost["source: the prompt is empty"] == 1
    assert lost["template: a value that it prints is null (given: instruction)"] == 1, "and never the word None"
    assert any("'instruction' is undefined (given: other)" in reason for reason in lost)
    assert any("row 5, is not JSON" in reason for reason in lost)


def test_blocks_and_patterns_take_answers_apart(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    answers = ("<think>a</think><say>one</say>", "<say>two</say>", "nothing")

    def script(body: dict[str, Any]) -> Reply:
        return Reply(answers[int(last_text(body)[-1])])

    with ModelServer(script) as server:
        run(tmp_path, server, "task.parse={kind: blocks, names: [say]}", "task.assistant='{{ parsed.say }}'")
        assert [answer for _, answer in kept(tmp_path)] == ["one", "two"]
        assert reasons(tmp_path) == {"parse: no <say> block": 1}
        run(tmp_path, server, "task.parse={kind: regex, pattern: '<say>(?P<word>t.*?)<'}")
    assert len(kept(tmp_path)) == 1
    assert json.loads(table(tmp_path)[0]["parsed"])["word"] == "two"


def test_awkward_texts_come_through_whole(tmp_path: Path) -> None:
    texts = ["a\x00b", "\u2028 and \u2029", "😀" * 3, "\r\n\ttab", '"quotes" \\ and \\u0041', "</script>", "\ufeffmark"]
    write_rows(tmp_path, [{"instruction": text, "extra": text} for text in texts])
    run_once(tmp_path, lambda body: Reply(last_text(body)))
    assert [answer for _, answer in kept(tmp_path)] == texts
    assert [row["extra"] for row in table(tmp_path)] == texts


def test_columns_keep_their_types_and_mixed_ones_become_json(tmp_path: Path) -> None:
    write_rows(
        tmp_path,
        [
            {"instruction": "a", "i": 1, "f": 1, "b": True, "s": "x", "mixed": 1, "some": None, "id": "mine"},
            {"instruction": "b", "i": 2, "f": 2.5, "b": False, "s": "y", "mixed": "two", "late": 3, "id": "own"},
        ],
    )
    run_once(tmp_path, lambda body: Reply("x"))
    schema = pyarrow.parquet.read_schema(tmp_path / "run" / "data" / "part-00000.parquet")
    types = {name: str(schema.field(name).type) for name in ("i", "f", "b", "s", "mixed", "late")}
    assert types == {"i": "int64", "f": "double", "b": "bool", "s": "string", "mixed": "string", "late": "int64"}
    rows = table(tmp_path)
    assert [row["late"] for row in rows] == [None, 3]
    assert [row["mixed"] for row in rows] == ["1", '"two"']
    assert rows[0]["id"] != "mine", "the record's own"
    assert json.loads(rows[0]["meta"])["id"] == "mine"


def test_rules_say_which_one_was_broken(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    answers = ("I'm sorry, but I cannot do that.", "ab " * 400, "A fine answer.")
    run_once(tmp_path, lambda body: Reply(answers[int(last_text(body)[-1])]))
    assert reasons(tmp_path) == {"rules: refusal": 1, "rules: repetitive": 1}
    assert [answer for _, answer in kept(tmp_path)] == ["A fine answer."]


def test_a_base_model_is_asked_in_plain_text(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    _, server = run_once(tmp_path, lambda body: Reply("so it goes"), "model.chat=false", "task.system=Continue")
    assert server.bodies[0]["prompt"] == "Continue\n\nquestion number 0\n\n"
    assert [answer for _, answer in kept(tmp_path)] == ["so it goes"]


def measured(rows: int) -> Run:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_rows(folder, rows)
        served = [sys.executable, "-m", "tests.model_server", "--forget"]
        server = subprocess.Popen(served, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
            return measure([sys.executable, "-m", "factory", "generate", *words(folder, url)], folder)
        finally:
            server.kill()
            server.wait()


def test_memory_does_not_grow_with_the_run() -> None:
    few, many = measured(2_000), measured(20_000)
    assert (few.status, many.status) == (0, 0)
    assert many.peak < few.peak + 30, f"{few.peak:.0f} MB for 2,000 rows, {many.peak:.0f} MB for 20,000"


def test_variables_vary_by_the_yaml_alone(tmp_path: Path) -> None:
    """Without a source every combination is a seed; with one, each row draws."""
    from tests.factory_run import run_task
    from tests.records import fates

    vary = "task.vary={thing: [snow, ink], tone: [solemn, merry, dry]}"
    ask = "task.prompt='{{ thing }} in a {{ tone }} tone'"
    with ModelServer() as server:
        assert run_task(tmp_path, server, "respond", vary, ask, "n=12", "attempts=12", "in_flight=1") == 0
        asked = [last_text(body) for body in server.bodies]
    assert len(set(asked[:6])) == 6 and sorted(asked[:6]) == sorted(asked[6:])
    assert asked[:6] != asked[6:]
    rows = fates(tmp_path, "respond")
    assert {(row.meta["thing"], row.meta["tone"]) for row in rows} == {
        (t, o) for t in ("snow", "ink") for o in ("solemn", "merry", "dry")
    }
    write_rows(tmp_path, [{"thing": f"thing {number}"} for number in range(12)])
    _, server = run_once(tmp_path, lambda body: Reply("x"), vary, ask)
    sent = {last_text(body) for body in server.bodies}
    assert len(sent) == 12, "the row's own value stays"
    assert {text.split(" in a ")[1] for text in sent} == {"solemn tone", "merry tone", "dry tone"}


def turning(body: dict[str, Any]) -> Reply:
    """Answers each of three turns, the second with blocks."""
    turn = sum(message["role"] == "user" for message in body["messages"])
    return Reply(["<say>one</say>", "<grade>5</grade> good", "the end"][turn - 1])


TURNS = ("task.parse={kind: blocks, names: [say]}",
         "task.turns=[{name: check, prompt: 'Grade {{ parsed.say }}.', parse: {kind: blocks, names: [grade]}, sampling: {temperature: 0}},"
         " {name: last, prompt: 'After {{ turns.check.grade }}?'}]")  # fmt: skip


def test_turns_follow_the_first_answer(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    _, server = run_once(tmp_path, turning, *TURNS, "task.system=Be kind.")
    (row,) = table(tmp_path)
    assert [message["content"] for message in row["messages"]] == [
        "Be kind.", "question number 0", "<say>one</say>", "Grade one.", "<grade>5</grade> good", "After 5?", "the end",
    ]  # fmt: skip
    assert [body.get("temperature") for body in server.bodies] == [0.7, 0, 0.7]
    assert json.loads(row["meta"])["turns"]["check"] == {"text": "<grade>5</grade> good", "grade": "5"}


def test_the_training_text_may_be_put_together_from_all_turns(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    words = (
        "task.user='{{ instruction }}?'",
        "task.assistant='{{ parsed.say }}, {{ turns.check.grade }}, {{ turns.last.text }}'",
    )
    run_once(tmp_path, turning, *TURNS, *words)
    assert [message["content"] for message in table(tmp_path)[0]["messages"]] == [
        "question number 0?",
        "one, 5, the end",
    ]


def test_a_turn_that_fails_names_itself(tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    run_once(tmp_path, lambda body: Reply("<say>one</say>"), *TURNS)
    assert reasons(tmp_path) == {"check: parse: no <grade> block": 1}
    (row,) = table(tmp_path, "rejected")
    assert [message["content"] for message in row["messages"]][-2:] == ["Grade one.", "<say>one</say>"]


def test_turns_and_variables_that_cannot_be_are_told(tmp_path: Path) -> None:
    import pytest

    from factory.errors import ConfigError

    write_rows(tmp_path, 1)
    for wrong, told in (
        (("task.turns=[{name: a, prompt: '{{ nothing }}'}]",), "task.turns.a uses {{ nothing }}"),
        (("task.turns=[{name: a, prompt: x}, {name: a, prompt: y}]",), "two turns are named a"),
        (("task.turns=[{name: 'a b', prompt: x}]",), "task.turns.0.name"),
        (("task.vary={tone: []}",), "tone has no values"),
    ):
        with pytest.raises(ConfigError) as caught:
            run(tmp_path, "http://127.0.0.1:9/v1", *wrong)
        assert told in str(caught.value)
