"""`task=code_translation`: the original's tests, put into another language by rule, decide."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import ConfigError, UserError
from factory.generators.code_translation import EXAMPLES
from factory.generators.few_shot import load_data
from factory.generators.translated_tests import CannotSay, Case, cases_of, program, said, sayable, signature
from factory.prompts import Templates
from factory.sandbox import SandboxConfig, StdioTest, Verdict, open_sandbox
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest

TASK = "code_translation"
CODE = "def spread(numbers: list[int]) -> int:\n    return max(numbers) - min(numbers) if numbers else 0"
TESTS = [
    "assert spread([3, 9]) == 6",
    "assert spread([]) == 0",
    "assert spread([-5]) == 0",
    "assert spread([-5, 5]) == 10",
]
RIGHT = {
    "javascript": "function spread(numbers) {\n  return numbers.length ? Math.max(...numbers) - Math.min(...numbers) : 0;\n}",
    "cpp": "long long spread(const std::vector<long long>& numbers) {\n  if (numbers.empty()) return 0;\n"
    "  return *std::max_element(numbers.begin(), numbers.end()) - *std::min_element(numbers.begin(), numbers.end());\n}",
    "bash": 'spread() {\n  local low="" high="" n\n  for n in $1; do\n    [ -z "$low" ] || [ "$n" -lt "$low" ] && low=$n\n'
    '    [ -z "$high" ] || [ "$n" -gt "$high" ] && high=$n\n  done\n  echo $(( ${high:-0} - ${low:-0} ))\n}',
}
WRONG = {
    "javascript": "function spread(numbers) {\n  return Math.max(...numbers) - Math.min(...numbers);\n}",
    "cpp": "long long spread(const std::vector<long long>& numbers) { return numbers.front() }",
    "bash": "spread() {\n  echo 6\n}",
}
SLOW = ("sandbox.wall=20", "sandbox.cpu=20", "sandbox.memory_mb=1024")


@pytest.fixture
def programs() -> None:
    """Programs in other languages can be run here; where they cannot, the skip says why."""

    async def unable() -> list[str]:
        async with open_sandbox() as sandbox:
            return [f"{one.name} {one.why}" for one in sandbox.languages() if one.name in RIGHT and not one.ok]

    if found := asyncio.run(unable()):
        pytest.skip("; ".join(found))


def test_a_machine_that_cannot_run_a_language_says_so_before_asking(tmp_path: Path) -> None:
    words = (*seeds(tmp_path, {"code": CODE, "tests": TESTS}), "sandbox.backend=landlock", "task.languages=[bash]")
    with ModelServer() as server, pytest.raises(UserError, match=r"task.languages: bash needs processes of its own"):
        run_task(tmp_path, server, TASK, *words)
    assert server.count == 0


def language_of(text: str) -> str:
    return next(name for name in RIGHT if f"```{name}\n" in text)


def seeds(folder: Path, *rows: dict[str, Any]) -> tuple[str, ...]:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return (f"source.path={folder}/rows.jsonl", "n=null", "model.prompt_form=chat", *SLOW)


def fenced(code: dict[str, str], language: str) -> Reply:
    return Reply(f"```{language}\n{code[language]}\n```")


@pytest.mark.usefixtures("programs")
def test_right_translations_pass_the_originals_tests(tmp_path: Path) -> None:
    with ModelServer(lambda body: fenced(RIGHT, language_of(last_text(body)))) as server:
        assert run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE, "tests": TESTS})) == 0
        assert server.count == 3
        asked = {language_of(last_text(body)): last_text(body) for body in server.bodies}
    assert "long long spread(const std::vector<long long>& numbers) {" in asked["cpp"]
    assert "function spread(numbers) {" in asked["javascript"]
    assert (
        "$1 is `numbers`, a list, its elements separated by blanks. It prints the result: a whole number."
        in asked["bash"]
    )
    found = fates(tmp_path, TASK)
    assert [record.meta["language"] for record in found] == ["javascript", "cpp", "bash"]
    for record in found:
        assert record.kept, (record.meta["language"], record.reason, record.meta.get("attempts"))
        assert record.scores["execution"].detail["total"] == 4
        assert record.meta["tests"][0] == {"stdin": "0\n", "stdout": "6\n"}
        assert record.messages[1].content == f"```{record.meta['language']}\n{RIGHT[record.meta['language']]}\n```"
        assert CODE in record.messages[0].content


@pytest.mark.usefixtures("programs")
def test_wrong_ones_are_told_what_happened_and_corrected(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        text = last_text(body)
        return fenced(RIGHT if "What happened when it was run" in text else WRONG, language_of(text))

    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE, "tests": TESTS}))
        feedback = {
            language_of(last_text(body)): last_text(body)
            for body in server.bodies
            if "What happened" in last_text(body)
        }
    assert all(record.kept for record in fates(tmp_path, TASK))
    assert [attempt["status"] for attempt in fates(tmp_path, TASK)[0].meta["attempts"]] == ["wrong", "pass"]
    assert (
        "expected '0\\n'" in feedback["javascript"]
        or "-Infinity" in feedback["javascript"]
        or "null" in feedback["javascript"]
    )
    assert "does not compile" in feedback["cpp"]


@pytest.mark.usefixtures("programs")
def test_what_stays_wrong_is_lost_by_language_and_status(tmp_path: Path) -> None:
    with ModelServer(lambda body: fenced(WRONG, language_of(last_text(body)))) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": CODE, "tests": TESTS}))
        assert server.count == 6
    reasons = manifest(tmp_path, TASK)["reasons"]
    assert reasons == {"javascript: wrong": 1, "cpp: does not compile": 1, "bash: wrong": 1}


@pytest.mark.usefixtures("programs")
def test_tests_are_made_where_a_seed_has_none(tmp_path: Path) -> None:
    with ModelServer(lambda body: fenced(RIGHT, "javascript")) as server:
        words = seeds(tmp_path, {"code": CODE}, {"code": CODE.replace("list[int]", "list")}, {"code": "x = 1"},
                      {"code": CODE, "tests": ["assert spread([1]) == 7"]}, {"code": "fn x() {}", "language": "rust"})  # fmt: skip
        run_task(tmp_path, server, TASK, *words, "task.languages=[javascript]")
    assert manifest(tmp_path, TASK)["kept"] == 1
    assert len(fates(tmp_path, TASK)[0].meta["tests"]) >= 3
    assert manifest(tmp_path, TASK)["reasons"] == {
        "source: too few tests, and none could be made": 1, "source: no Python function": 2,
        "source: the function does not pass its own tests": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("programs")
def test_what_a_language_has_no_form_for_is_left_out(tmp_path: Path) -> None:
    code = "def pair(x: int) -> dict:\n    return {'x': [x, None]}"
    tests = [f"assert pair({n}) == {{'x': [{n}, None]}}" for n in range(3)]
    answer = "```javascript\nfunction pair(x) { return {x: [x, null]}; }\n```"
    with ModelServer(lambda body: Reply(answer)) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, {"code": code, "tests": tests}))
        assert server.count == 1
    assert [record.kept for record in fates(tmp_path, TASK)] == [True, False, False]
    assert manifest(tmp_path, TASK)["reasons"] == {
        "tests: cpp has no form for their values": 1, "tests: bash has no form for their values": 1,
    }  # fmt: skip


@pytest.mark.usefixtures("programs")
def test_a_small_model_continues_examples(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        assert body["prompt"].endswith(f"# Python\n{CODE}\n\n# javascript\nfunction spread(numbers) {{")
        return Reply("\n" + RIGHT["javascript"].split("\n", 1)[1] + "\n")

    with ModelServer(script) as server:
        words = seeds(tmp_path, {"code": CODE, "tests": TESTS})
        run_task(tmp_path, server, TASK, *words, "model.prompt_form=few_shot", "task.languages=[javascript]")
    (record,) = fates(tmp_path, TASK)
    assert record.kept, record.reason


@pytest.mark.usefixtures("programs")
def test_another_runs_code_is_a_seed(tmp_path: Path) -> None:
    """Records of task=code hold solution and tests under the names that are looked for."""
    row = {"solution": CODE, "tests": TESTS, "language": "python", "problem": "Find the spread."}
    with ModelServer(lambda body: fenced(RIGHT, "javascript")) as server:
        run_task(tmp_path, server, TASK, *seeds(tmp_path, row), "task.languages=[javascript]")
    assert manifest(tmp_path, TASK)["kept"] == 1


def test_what_is_wrong_is_told_beforehand(tmp_path: Path) -> None:
    for words, told in (
        (("task.languages=[rust]",), "javascript"),
        (("task.languages=[]",), "needs one of"),
        (("source.items=[{text: a}]",), "column `code`"),
    ):
        with ModelServer() as server, pytest.raises(ConfigError, match=told):
            run_task(tmp_path, server, TASK, *words)


# ---- translated tests


async def run_program(code: str, name: str, cases: list[Case], language: str) -> Verdict:
    tests = [
        StdioTest(stdin=f"{n}\n", expected_stdout=said(case.result, language) + "\n") for n, case in enumerate(cases)
    ]
    async with open_sandbox(SandboxConfig(wall=30, cpu=30, memory_mb=1024)) as sandbox:
        return await sandbox.verify(program(code, name, cases, language), tests, language=language)


@pytest.mark.usefixtures("programs")
def test_every_example_passes_the_tests_of_its_original() -> None:
    for example in load_data(Templates(), EXAMPLES):
        name = example["code"].split("def ")[1].split("(")[0]
        cases = cases_of(example["tests"], name)
        assert len(cases) == 3
        for language in RIGHT:
            verdict = asyncio.run(run_program(example[language], name, cases, language))
            assert verdict.status == "pass", (language, name, verdict.feedback)
            parameters = [example["code"].split("(")[1].split(":")[0]]
            assert example[language].startswith(signature(name, parameters, cases, language))


VALUES = [0, -7, 2**40, True, False, "", 'a "b" \\ \n\t\x01 ü 日本 ?? $x `y` \'z\'', "  two  ", [1, 2], [], ["a", "b c"], [[1], [2, 3]],
          (1, 2), 2.5, 2.0, 0.1, {"b": 1, "a": 2}, {}, [True, False]]  # fmt: skip


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize("language", list(RIGHT))
def test_values_arrive_as_they_are_and_come_back_as_they_are(language: str) -> None:
    """A function that returns its argument, for every value that the language has a form for."""
    same = {"javascript": "function same(x) { return x; }", "cpp": "template <class T> T same(T x) { return x; }",
            "bash": 'same() { printf "%s\\n" "$1"; }'}  # fmt: skip
    kinds: dict[str, list[Case]] = {}
    for value in VALUES:
        for case in sayable([Case((value,), value)], language):
            kinds.setdefault(
                repr(type(value)) + repr([type(item) for item in value] if isinstance(value, list) else ""), []
            ).append(case)
    assert len(kinds) >= {"javascript": 9, "cpp": 9, "bash": 4}[language]
    for cases in kinds.values():
        verdict = asyncio.run(run_program(same[language], "same", cases, language))
        assert verdict.status == "pass", (cases, verdict.feedback)


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=2),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=6))  # fmt: skip
def test_any_value_is_said_or_refused(value: Any) -> None:
    for language in RIGHT:
        for case in sayable([Case((value,), value)], language):
            assert said(case.result, language) is not None


def test_reading_tests() -> None:
    tests = ["assert f(1, [2]) == 3", "assert f(x) == 3", "assert not f('a')", "assert f('b')", "assert g(1) == 2", "f(1)",
             "assert f(1, k=2) == 3", "assert f(1) < 3", "assert f(2) is None", "assert f(", "import os"]  # fmt: skip
    assert cases_of(tests, "f") == [Case((1, [2]), 3), Case(("a",), False), Case(("b",), True), Case((2,), None)]
    with pytest.raises(CannotSay):
        program("", "f", [Case((1,), 2), Case((1, 2), 3)], "cpp")
