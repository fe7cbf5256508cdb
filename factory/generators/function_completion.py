"""Function completion: a function's head and docstring, K answers, verified against what the function itself does.

The functions are those of a folder of Python files (source.kind=functions), rows with `code`, the project's own, or composed
of small steps (`factory.generators.composed`). Each is run in the sandbox on inputs of its docstring's examples and on drawn
ones; what it answers becomes the tests, and an answer of the model must pass all of them. So the problems are as wide as the code that they come from, and nothing that a model
says decides whether an answer is right. Rejection sampling with execution feedback: Llama 3.1 report, section 4.3.1; the
form of the problem: Chen et al. 2021, arXiv:2107.03374.
"""

from __future__ import annotations

import ast
import copy
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from pydantic import Field

from factory.decontamination.behaviour import CONTAMINATED, Behaviours
from factory.decontamination.sets import EvaluationSet, read_items
from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.behaviour import entry_of, likeliest_calls, observed_tests, outputs_differ, telling
from factory.generators.composed import FILE, composed_functions, load_grammar
from factory.generators.few_shot import load_data
from factory.generators.from_template import TOO_LONG
from factory.generators.functions import code_of, given_tests, own_functions
from factory.generators.inputs import as_calls, drawn_inputs, example_calls, guesses
from factory.generators.parsing import fenced_code
from factory.generators.together import together
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

FOLDER = "function_completion"
ASK = f"{FOLDER}/ask.j2"
RAW = f"{FOLDER}/few_shot/complete.j2"
EXAMPLES = f"{FOLDER}/few_shot/examples.yaml"
DATA = "exercises.yaml"
WORDINGS = 4  # of the request, in the template
TRIED = 4  # calls of the original for each that becomes a test
MOST_SHOWN = 90  # characters of an example in a docstring


class CompletionSettings(GeneratorSettings):
    """`answers` to each function. At most `inputs` calls become tests, and at least `least_tests` must. `most_lines` of the original
    bound how hard a problem is. `docstring`: whether an answer may repeat it. `examples` of the results, at most, are shown in a
    docstring that has none. Of the task's own seeds `composed` are, of at most `steps` steps, and of these `joined` bring several
    chains together. What does the same as a problem of the sets of `avoid` is not asked."""

    answers: int = Field(8, ge=1)
    inputs: int = Field(32, ge=2)
    least_tests: int = Field(3, ge=2)
    most_lines: int = Field(25, ge=2)
    docstring: bool = True
    examples: int = Field(2, ge=0)
    composed: float = Field(0.5, ge=0, le=1)
    steps: int = Field(3, ge=1)
    joined: float = Field(0.0, ge=0, le=1)
    avoid: tuple[EvaluationSet, ...] = ()
    few_shot_sampling: Sampling = Sampling()


class Problem(NamedTuple):
    """A function to be completed: `text` is its head and docstring behind the `imports` it needs; `lines` of its body."""

    text: str
    imports: Sequence[str]
    entry: ast.FunctionDef
    lines: int


class FunctionCompletion:
    """One function gives `answers` records that share `meta.group`, for best-of-n and pairs in export."""

    Settings: ClassVar[type[GeneratorSettings]] = CompletionSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: CompletionSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        raw = (RAW, EXAMPLES) if prompt_form == "few_shot" else ()
        self.templates: Sequence[str] = (ASK, *raw, DATA, FILE)
        self._avoided: Behaviours | None = None

    def check(self, columns: set[str] | None) -> list[str]:
        problems = [
            problem for name in self.templates if name.endswith(".j2") for problem in self._templates.check(name)
        ]
        try:
            load_grammar(self._templates)
        except ConfigError as error:
            problems += error.problems
        try:
            sets = enumerate(self.settings.avoid)
            self._avoided = Behaviours(item for number, chosen in sets for item in read_items(str(number), chosen))
        except ConfigError as error:
            problems += [problem.replace("decontamination.sets.", "task.avoid.", 1) for problem in error.problems]
        if columns is not None and not columns & {"code", "solution"}:
            problems.append(
                f"task={self.settings.name} needs seeds with a column `code`: source.kind=functions source.path=FOLDER "
                "takes the functions of a folder of Python files"
            )
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """The project's exercises, again and again, in a new order each time, and among them composed ones."""
        settings, rng = self.settings, random.Random(f"composed or not/{seed}")
        written = own_functions(self._templates, seed, DATA)
        composed = composed_functions(load_grammar(self._templates), seed, settings.steps, settings.joined)
        while True:
            yield next(composed if rng.random() < settings.composed else written)

    def examples(self) -> Sequence[Sequence[Message]]:
        """What the model is shown, as conversations like those of the records."""
        found = []
        for number, shot in enumerate(load_data(self._templates, EXAMPLES)):
            problem = problem_of(shot["code"])
            assert problem is not None, "a test keeps that true"
            variables = {"problem": problem.text, "name": problem.entry.name, "wording": number % WORDINGS}
            found.append(chat(self._templates.render(ASK, variables), self._answer(shot["code"].strip())))
        return found

    def fingerprint(self, record: Record) -> str | None:
        """The same code for the same function counts once."""
        return content_hash(record.meta["group"], "".join(str(record.meta.get("solution", record.id)).split()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings, row = self.settings, item.row
        code, language = code_of(row)
        if language != "python":
            raise RecordError("source: functions of Python only")
        problem = problem_of(code)
        if problem is None:
            raise RecordError("source: no plain function with a docstring and a result")
        if problem.lines > settings.most_lines:
            raise RecordError("source: the function is too long")
        tests, by = await self._tests(code, problem, row, context)
        if self._avoided is not None and (name := await self._avoided.same(code, context)):
            raise RecordError(f"{CONTAMINATED}: does what {name} asks for")
        code = with_examples(code, tests, context.rng.randint(0, settings.examples), context.rng)
        problem = problem_of(code) or problem
        meta = {
            "group": content_hash(problem.text),
            "language": "python",
            "stub": problem.text,
            "code": code,
            "tests": tests,
            "tests_by": by,
            "seed": {name: row[name] for name in ("path", "name", "line") if name in row},
        }
        wording = context.rng.randrange(WORDINGS)
        question = chat(context.render(ASK, problem=problem.text, name=problem.entry.name, wording=wording))
        answers = (self._sampled(question, problem, meta, number, context) for number in range(settings.answers))
        return await together(answers)

    async def _tests(
        self, code: str, problem: Problem, row: Mapping[str, Any], context: Context
    ) -> tuple[list[str], str]:
        """(tests, where their inputs come from). Raises `RecordError` where they would not tell right from wrong."""
        settings = self.settings
        examples = example_calls(problem.entry)
        annotated = copy.copy(problem.entry)
        if signature := entry_of(f"{row.get('signature')} pass"):
            annotated.args = signature.args
        drawn, by = drawn_inputs(annotated, context.rng, TRIED * settings.inputs), "annotations"
        calls = as_calls(drawn) if drawn else []
        if drawn is None:
            combinations = guesses(problem.entry, context.rng, settings.inputs)
            calls, by = await likeliest_calls(code, combinations, context), "trial"
        tests = await observed_tests(code, list(dict.fromkeys([*examples, *calls])), context)
        shown = [
            test
            for test in tests
            if any(test.startswith(f"assert {problem.entry.name}({call}) ==") for call in examples)
        ]
        rest = telling([test for test in tests if test not in shown], settings.inputs)
        tests = [*shown, *rest]
        if given := given_tests(row):
            tests, by = list(dict.fromkeys([*given, *tests])), f"source and {by}"
        if len(tests) < settings.least_tests:
            raise RecordError("tests: too few inputs that give a result")
        if not outputs_differ(tests):
            raise RecordError("tests: all expect the same value")
        return tests, by

    async def _sampled(
        self, question: tuple[Message, ...], problem: Problem, meta: Mapping[str, Any], number: int, context: Context
    ) -> Record:
        """Answer `number`; what is no code for the function is lost, with its reason."""
        meta = {**meta, "sample": number}
        try:
            solution = await self._solution(question, problem, number, context)
        except RecordError as error:
            if not error.final:
                raise
            return context.record(question, meta, sample=number, reason=str(error))
        answer = self._answer(solution)
        return context.record((*question, *chat(("assistant", answer))), {**meta, "solution": solution}, sample=number)

    async def _solution(self, question: tuple[Message, ...], problem: Problem, number: int, context: Context) -> str:
        """The whole function, with the imports that its problem shows. Raises `RecordError`."""
        if self.prompt_form == "few_shot":
            prompt = context.render(RAW, examples=load_data(self._templates, EXAMPLES), problem=problem.text)
            answer = await context.ask(
                prompt=prompt, label="answer", sample=number, sampling=self.settings.few_shot_sampling
            )
            code = problem.text + _body(answer.text)
        else:
            answer = await context.ask(question, label="answer", sample=number)
            block = fenced_code(answer.text, ("python", "py", "python3"))
            if block is None:
                raise RecordError(TOO_LONG if answer.truncated else "parse: no code block")
            complete = all(line in block for line in problem.imports)
            code = block if complete else "\n".join([*problem.imports, "", "", block])
        body = next((node.body for node in _functions(code) if node.name == problem.entry.name), None)
        if body is None:
            raise RecordError(TOO_LONG if answer.truncated else "parse: does not define the function")
        if all(isinstance(node, ast.Pass | ast.Expr) for node in body):
            raise RecordError("answer: an empty function")
        return code

    def _answer(self, solution: str) -> str:
        return f"```python\n{solution if self.settings.docstring else without_docstring(solution)}\n```"


def problem_of(code: str) -> Problem | None:
    """The problem that a documented function sets; None where it has no docstring, no parameter or no result, is decorated, or
    shares its module with more than imports."""
    entry = entry_of(code)
    if entry is None or entry.decorator_list or not (ast.get_docstring(entry) or "").strip() or len(entry.body) < 2:
        return None
    others = [node for node in ast.parse(code).body if node.lineno != entry.lineno]
    imports = [ast.unparse(node) for node in others if isinstance(node, ast.Import | ast.ImportFrom)]
    results = [node for node in ast.walk(entry) if isinstance(node, ast.Return) and node.value is not None]
    documented = entry.body[0].end_lineno
    if not documented or documented == entry.lineno:  # all on one line
        return None
    if len(imports) != len(others) or not results or not (entry.args.posonlyargs or entry.args.args):
        return None
    lines = code.splitlines()
    return Problem("\n".join(lines[:documented]), imports, entry, len(lines) - documented)


def with_examples(code: str, tests: Sequence[str], count: int, rng: random.Random) -> str:
    """The code with `count` of its results in the docstring of its last function, where that shows none and is plain text."""
    entry = entry_of(code)
    lines = code.splitlines()
    if entry is None or not (text := ast.get_docstring(entry)) or f"{entry.name}(" in text:
        return code
    first, last = entry.body[0].lineno - 1, entry.body[0].end_lineno or 0
    told = [test.removeprefix("assert ").rsplit(" == ", 1) for test in tests]
    told = [
        call
        for call in told
        if len(call) == 2 and len(call[0]) + len(call[1]) < MOST_SHOWN and "\\" not in "".join(call)
    ]
    if not count or not told or "\\" in text or '"""' in "".join(map("".join, told)) + text:
        return code
    longest = sorted(told, key=lambda call: -len(call[0]))[: max(2 * count, len(told) // 2)]
    shown = rng.sample(longest, min(count, len(longest)))
    style = rng.choice((">>> {}\n{}", ">>> {}\n{}", "{} == {}", "For example, {} returns {}."))
    examples = "\n".join(style.format(*call) for call in shown)
    indent = lines[first][: len(lines[first]) - len(lines[first].lstrip())]
    opening = '"""\n' if lines[first].strip() == '"""' else '"""'
    doc = f'{opening}{text}\n\n{examples}\n"""'.splitlines()
    return "\n".join([*lines[:first], *((indent + line).rstrip() for line in doc), *lines[last:]])


def without_docstring(code: str) -> str:
    """The code without the docstring of its last function."""
    entry = entry_of(code)
    if entry is None or ast.get_docstring(entry) is None or len(entry.body) < 2:
        return code
    lines = code.splitlines()
    return "\n".join([*lines[: entry.body[0].lineno - 1], *lines[entry.body[0].end_lineno or 0 :]])


def _functions(code: str) -> list[ast.FunctionDef]:
    try:
        return [node for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []


def _body(text: str) -> str:
    """The continuation up to where the function ends: the first line that is not indented."""
    lines = text.splitlines()
    end = next((n for n, line in enumerate(lines) if n and line.strip() and not line[0].isspace()), len(lines))
    return "\n".join(lines[:end]).rstrip()
