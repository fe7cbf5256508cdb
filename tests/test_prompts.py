"""Templates: each renders with what it is given, the user's own come first, and none reaches beyond its variables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest

from factory.errors import GeneratorError
from factory.generators.few_shot import load_data
from factory.prompts import Templates, search_path

ROOT = Path(__file__).parent.parent
TEMPLATES = sorted(str(path.relative_to(ROOT / "prompts")) for path in (ROOT / "prompts").rglob("*.j2"))
EXAMPLE = {"problem": "Write a function that doubles.", "solution": "def double(x):\n    return 2 * x", "cases": "x",
           "tests": ["assert double(2) == 4"], "signature": "double(x)", "text": "An example."}  # fmt: skip
CRITERIA = [{"name": "kindness", "label": "Kindness", "text": "Is it kind?", "low": 1, "high": 5}]
# What each template is given, by whoever renders it (factory/generators, factory/scorers, factory/evaluation).
GIVEN: dict[str, dict[str, Any]] = {
    "code/chat/problem_snippet.j2": {"snippet": "x = 1", "language": "python", "level": "beginner"},
    "code/chat/problem_topic.j2": {"topic": "sorting", "language": "python", "level": "beginner"},
    "code/chat/solution.j2": {"problem": "Double x.", "language": "python"},
    "code/chat/tests.j2": {"problem": "Double x.", "signature": "def double(x): ...", "language": "python"},
    "code/chat/repair.j2": {"problem": "Double x.", "code": "def double(x): ...", "failing": ["assert double(1) == 2"],
                            "feedback": "it returned None", "language": "python"},
    "dialogue/chat/user_turn.j2": {"conversation": [{"role": "user", "content": "Hi"}], "person": "a cook", "style": "Short."},
    "dialogue/few_shot/user_turn.j2": {"conversation": [{"role": "user", "content": "Hi"}], "person": "a cook"},
    "oss_instruct/chat/attempt.j2": {"snippet": "x = 1", "language": "python"},
    "oss_instruct/few_shot/attempt.j2": {"snippet": "x = 1", "examples": [{**EXAMPLE, "snippet": "y = 2"}]},
    "backtranslation/chat/describe.j2": {"code": "x = 1", "language": "python", "style": "document"},
    "backtranslation/chat/regenerate.j2": {"description": "Doubles.", "language": "python", "signature": "def f(x):"},
    "backtranslation/chat/inputs.j2": {"code": "def f(x): ...", "name": "f", "count": 8},
    "backtranslation/fidelity.j2": {"original": "a", "regenerated": "b", "description": "c", "language": "python", "low": 1, "high": 5},
    "backtranslation/ask.j2": {"direction": "implement", "style": "document", "code": "x", "description": "Doubles.",
                               "signature": "def f(x):", "language": "python"},
    "backtranslation/few_shot/describe.j2": {"examples": [{**EXAMPLE, "code": "y", "description": "d"}], "code": "x = 1"},
    "backtranslation/few_shot/regenerate.j2": {"examples": [{**EXAMPLE, "code": "y", "description": "d"}], "description": "Doubles.",
                                               "signature": "def f(x):"},
    "instruction_backtranslation/chat/instruction.j2": {"text": "Herons wait."},
    "instruction_backtranslation/few_shot/instruction.j2": {"text": "Herons wait."},
    "long_context/ask.j2": {"kind": "qa", "document": "A text.", "question": "Why?"},
    "long_context/repository.j2": {"files": [{"path": "a.py", "text": "x = 1"}], "removed": "b.py"},
    "long_context/repository_answer.j2": {"removed": "b.py", "dependents": ["a.py"], "text": "y = 2"},
    "long_context/chat/question.j2": {"text": "A text.", "whole": False},
    "long_context/chat/summary.j2": {"text": "A text.", "number": 1, "count": 3},
    "long_context/chat/merge.j2": {"summaries": ["One.", "Two."]},
    "long_context/few_shot/question.j2": {"text": "A text."},
    "long_context/few_shot/summary.j2": {"text": "A text."},
    "code_translation/chat/translate.j2": {"code": "x", "language": "bash", "signature": "f() {", "convention": "$1 is `x`."},
    "code_translation/chat/repair.j2": {"code": "x", "language": "cpp", "translation": "y", "feedback": "wrong", "signature": "int f() {"},
    "code_translation/ask.j2": {"code": "x", "language": "bash", "signature": "f() {", "convention": "$1 is `x`."},
    "code_translation/few_shot/translate.j2": {"examples": [{**EXAMPLE, "code": "x", "translation": "y"}], "language": "bash",
                                               "code": "z", "signature": "f() {"},
    "instructions_with_constraints/single.j2": {"request": "Describe rain.", "constraints": ["No comma."], "listed": True},
    "instructions_with_constraints/all_turns.j2": {"request": "Describe rain.", "constraints": ["No comma."]},
    "instructions_with_constraints/revision.j2": {"constraints": ["No comma.", "No digit."]},
    "function_completion/ask.j2": {"problem": "def double(x):", "name": "double", "wording": 1},
    "function_completion/few_shot/complete.j2": {"examples": [{"code": "def half(x):"}], "problem": "def double(x):"},
    "evaluate/humaneval.j2": {"problem": "def double(x):", "name": "double"},
    "evaluate/reasoning.j2": {"question": "What is 2 + 2?"},
    "reasoning/ask.j2": {"question": "What is 1 + 1?"},
    "judge/chat/pairwise.j2": {"question": "Hi", "first": "Hello.", "second": "What?", "criteria": "- Is it kind?"},
    "judge/chat/rubric.j2": {"conversation": [{"role": "user", "content": "Hi"}], "criteria": CRITERIA, "material": "A text."},
    "judge/few_shot/rubric.j2": {"criteria": CRITERIA, "examples": [{"request": "Hi", "answer": "Hello.", "reason": "So.",
                                 "grades": {"kindness": 3}}], "request": "Hi", "answer": "What?", "material": "A text."},
    "judge/few_shot/pairwise.j2": {"criteria": "- Is it kind?", "examples": [{"question": "Hi", "first": "Hello.",
                                   "second": "What?", "reason": "So.", "better": "first"}],
                                   "question": "Hi", "first": "Hello.", "second": "What?"},
}  # fmt: skip
IN_ONE_BRANCH = {("backtranslation/ask.j2", "code"), ("backtranslation/ask.j2", "style")}
UNUSED = {"code/chat/problem_snippet.j2": {"level"}}
_LIST, _TOPIC = {"there": ["one", "two"]}, {"topic": "tennis"}
_INSTRUCTION = {"instruction": "Name three rivers."}
GIVEN |= {
    **{f"{task}/chat/evolve.j2": {**_INSTRUCTION, "operation": "constraint", "low": 10, "high": 20}
       for task in ("evol_instruct", "evol_code")},
    **{f"{task}/few_shot/evolve.j2": {**_INSTRUCTION, "examples": [{"original": "Sing.", "evolved": "Sing low."}]}
       for task in ("evol_instruct", "evol_code")},
    **{f"evol_instruct/{form}/equal.j2": {"first": "Sing.", "second": "Sing low."} for form in ("chat", "few_shot")},
    **{f"self_instruct/{form}/{language}/{name}.j2": given_
       for language in ("en", "zh")
       for form, name, given_ in (
           ("chat", "instructions", {"examples": ["Sing."], "asked": 8}),
           ("chat", "classification", _INSTRUCTION),
           ("chat", "output_first", {**_INSTRUCTION, "most": 5}),
           ("chat", "input_first", {**_INSTRUCTION, "most": 5}),
           ("few_shot", "instructions", {"examples": ["Sing."]}),
           *(("few_shot", name, _INSTRUCTION) for name in ("classification", "output_first", "input_first")),
       )},
    **{f"difficulty/{form}/judge.j2": {**_INSTRUCTION, "levels": {"easy": "one step", "hard": "many"}} for form in ("chat", "few_shot")},
    **{f"tags/{form}/tag.j2": {**_INSTRUCTION, "least": 1, "most": 5} for form in ("chat", "few_shot")},
    **{f"topic/{form}/choose.j2": {**_INSTRUCTION, "within": "Sport", "choices": {"Tennis": ["How do I serve?"]}}
       for form in ("chat", "few_shot")},
    "topic_tree/chat/topics.j2": {"subject": "maths", "level": "beginner", "path": ["algebra"], "count": 8, **_LIST},
    "topic_tree/chat/open_qa.j2": {"area": "Sport", **_TOPIC, "count": 4},
    "topic_tree/chat/writing.j2": {"area": "Sport", **_TOPIC, "text_type": "letter", "count": 4},
    "topic_tree/chat/closed_qa.j2": {"text": "The mill is old.", "count": 4},
    "topic_tree/chat/maths.j2": {**_TOPIC, "level": "beginner", "count": 4},
    "topic_tree/chat/coding.j2": {**_TOPIC, "level": "beginner", "count": 4},
    "topic_tree/chat/revise.j2": {"prompt": "How old is it?", "kind": "closed_qa", "text": "The mill is old."},
    "topic_tree/closed_qa.j2": {"instruction": "How old is it?", "text": "The mill is old."},
    **{f"topic_tree/few_shot/{kind}.j2": {**_TOPIC, **_LIST} for kind in ("topics", "open_qa", "maths", "coding")},
    "topic_tree/few_shot/writing.j2": {**_TOPIC, "text_type": "letter", **_LIST},
    "topic_tree/few_shot/closed_qa.j2": {"text": "The mill is old.", **_LIST},
    "topic_tree/few_shot/revise.j2": {"prompt": "How old is it?"},
}  # fmt: skip


def given(name: str) -> dict[str, Any]:
    if name.startswith("code/few_shot/"):
        return few_shot(name)
    return GIVEN[name]


def few_shot(name: str) -> dict[str, Any]:
    """The few-shot templates are given examples of the generator's own kind: any name is there, as text."""
    source = (ROOT / "prompts" / name).read_text()
    import jinja2.meta

    wanted = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(source))
    return {key: [EXAMPLE] if key.endswith("s") else f"the {key}" for key in wanted}


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_renders_with_what_it_is_given(name: str) -> None:
    templates, variables = Templates(), given(name)
    assert templates.check(name, set(variables)) == []
    text = templates.render(name, variables)
    assert text.strip()
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name in GIVEN])
def test_every_variable_is_wanted_and_none_is_optional(name: str) -> None:
    """One taken away is told before the run, and is an error in it; never an empty place in a prompt."""
    for missing in GIVEN[name]:
        rest = {key: value for key, value in GIVEN[name].items() if key != missing}
        problems = Templates().check(name, set(rest))
        if f"{missing}" in UNUSED.get(name, ()):
            assert problems == []
            continue
        assert len(problems) == 1
        assert f"{{{{ {missing} }}}}" in problems[0]
        if missing == "language" or (name, missing) in IN_ONE_BRANCH:
            continue  # asked for in one branch only
        with pytest.raises(GeneratorError, match=missing):
            Templates().render(name, rest)


def test_the_users_templates_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    packaged = Templates().digest(["code/chat/solution.j2"])
    Path("prompts/code/chat").mkdir(parents=True)
    Path("prompts/code/chat/solution.j2").write_text("My own: {{ problem }}")
    assert search_path("prompts")[0] == tmp_path / "prompts"
    templates = Templates()
    assert templates.render("code/chat/solution.j2", {"problem": "double"}) == "My own: double"
    assert templates.digest(["code/chat/solution.j2"]) != packaged
    assert "sorting" in templates.render("code/chat/problem_topic.j2", GIVEN["code/chat/problem_topic.j2"])


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ row.__init__.__globals__ }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self.__init__.__globals__ }}",
        "{{ '{0.__class__}'.format(1) }}{{ ''.__class__() }}",
        "{{ row|attr('__class__') }}",
        "{{ joiner.__init__.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
        "{% set n = namespace() %}{{ n.__class__.__init__.__globals__ }}",
        "{{ row.clear() }}",
        "{{ rows.append(1) }}",
    ],
)
def test_a_template_reaches_nothing_of_the_interpreter(text: str) -> None:
    variables: dict[str, Any] = {"row": {"a": 1}, "rows": [1]}
    with pytest.raises((GeneratorError, jinja2.TemplateError)):
        Templates().render_text(text, variables)
    assert variables == {"row": {"a": 1}, "rows": [1]}


@pytest.mark.parametrize("text", ["{{ [1, 2, 3]|random }}", "{{ lipsum() }}"])
def test_a_template_has_no_chance_in_it(text: str) -> None:
    """The same row must give the same prompt on every run, or a resumed run pays again."""
    assert Templates().check_text(text, set()) != []


def test_a_variable_may_be_optional_where_the_template_says_so() -> None:
    check = Templates().check_text
    assert check("{{ hint | default('none') }}{% if tone is defined %}{{ tone }}{% endif %}", {"question"}) == []
    assert check("{{ hint }}", {"hint_text"}) == [
        "template uses {{ hint }}, which is not given; did you mean hint_text? (there is hint_text)"
    ]
    assert check("{% for x in range(3) %}{{ loop.index }}{{ x }}{% endfor %}", set()) == []


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ask.j2").write_text(
        "{% include 'mine/head.j2' %}\n{{ question }}{% import 'mine/macros.j2' as m %}"
    )
    (tmp_path / "mine/head.j2").write_text("Answer shortly. {% include 'mine/tail.j2' %}")
    (tmp_path / "mine/tail.j2").write_text("Please.")
    (tmp_path / "mine/macros.j2").write_text("{% macro bold(x) %}**{{ x }}**{% endmacro %}")
    return tmp_path


@pytest.mark.parametrize("name", ["ask", "head", "tail", "macros"])
def test_the_digest_covers_what_is_included(mine: Path, name: str) -> None:
    before = Templates([mine]).digest(["mine/ask.j2"])
    file = mine / f"mine/{name}.j2"
    file.write_text(file.read_text() + " ")
    assert Templates([mine]).digest(["mine/ask.j2"]) != before


def test_the_digest_ignores_order_and_place(mine: Path, tmp_path: Path) -> None:
    one = Templates([mine]).digest(["mine/ask.j2", "mine/tail.j2"])
    assert Templates([tmp_path / "none", mine]).digest(["mine/tail.j2", "mine/ask.j2"]) == one


def test_an_include_is_checked_before_the_run(mine: Path) -> None:
    (mine / "mine/tail.j2").unlink()
    assert "mine/tail.j2" in Templates([mine]).check("mine/ask.j2", {"question"})[0]
    (mine / "mine/head.j2").write_text("{% include 'mine/ask.j2' %}")
    assert Templates([mine]).check("mine/ask.j2", {"question"}) == [], "a circle ends"
    (mine / "mine/head.j2").write_text("{% include name %}")
    assert "computed name" in Templates([mine]).check("mine/ask.j2", {"question"})[0]
    (mine / "mine/head.j2").write_bytes(b"\xff\xfe")
    assert "is no text" in Templates([mine]).check("mine/ask.j2", {"question"})[0]


def test_what_goes_wrong_while_rendering_is_the_records_own() -> None:
    with pytest.raises(GeneratorError, match=r"hint.*given: question"):
        Templates().render_text("{{ hint }}", {"question": 1})


def test_examples_in_a_file_stay_what_they_were_when_a_run_began(tmp_path: Path) -> None:
    file = tmp_path / "examples.yaml"
    file.write_text("[one]")
    templates = Templates([tmp_path])
    assert load_data(templates, file.name) == ["one"]
    file.write_text("[two]")
    assert load_data(templates, file.name) == ["one"]
    assert load_data(Templates([tmp_path]), file.name) == ["two"]
