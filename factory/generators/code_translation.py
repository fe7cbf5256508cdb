"""Programming-language translation (Llama 3.1 report, section 4.3.1): a Python function into JavaScript, C++ or bash, accepted
if it compiles and passes the original's tests.

The tests are translated by rule, not by the model (`translated_tests`), so that they say of the translation what they say of
the original. A translation that fails is sent back with what happened, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from factory.engine.request import Sampling
from factory.errors import RecordError, UserError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.behaviour import entry_of, observed_tests, outputs_differ
from factory.generators.code_solver import FENCES
from factory.generators.few_shot import load_data
from factory.generators.functions import DATA, code_of, own_functions
from factory.generators.inputs import as_calls, drawn_inputs
from factory.generators.parsing import fenced_code
from factory.generators.together import together
from factory.generators.translated_tests import CannotSay, Case, cases_of, convention, program, said, sayable, signature
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sandbox import StdioTest, Verdict
from factory.sources import Item

FOLDER = "code_translation"
EXAMPLES = f"{FOLDER}/few_shot/examples.yaml"
Target = Literal["javascript", "cpp", "bash"]


class TranslationSettings(GeneratorSettings):
    """Each function is translated into each of `languages`. `least_tests` must have a form there; where the seed brings
    fewer, `inputs` are drawn by the annotations. `repairs` bounds the corrections."""

    languages: tuple[Target, ...] = ("javascript", "cpp", "bash")
    repairs: int = Field(1, ge=0)
    inputs: int = Field(12, ge=2)
    least_tests: int = Field(3, ge=2)
    few_shot_sampling: Sampling = Sampling()

    @field_validator("languages")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("needs one of javascript, cpp, bash at least")
        return value


class _Job:
    """One function on its way into one language: what it must look like there, and how it is tested."""

    def __init__(self, code: str, name: str, parameters: Sequence[str], cases: Sequence[Case], language: str) -> None:
        """Raises `CannotSay`."""
        self.code, self.name, self.cases, self.language = code, name, cases, language
        self.signature = signature(name, parameters, cases, language)
        self.convention = convention(parameters, cases, language)
        self.tests = [{"stdin": f"{n}\n", "stdout": said(case.result, language) + "\n"} for n, case in enumerate(cases)]

    def variables(self, *names: str) -> dict[str, Any]:
        return {name: getattr(self, name) for name in names}

    async def verdict(self, translation: str, context: Context) -> tuple[str, Verdict]:
        """(the whole program, what came of running it)."""
        whole = program(translation, self.name, self.cases, self.language)
        tests = [StdioTest(stdin=test["stdin"], expected_stdout=test["stdout"]) for test in self.tests]
        return whole, await context.sandbox.verify(whole, tests, language=self.language)


class CodeTranslation:
    """One function gives one record for each language."""

    Settings: ClassVar[type[GeneratorSettings]] = TranslationSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: TranslationSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        prompts = [f"{FOLDER}/few_shot/translate.j2", EXAMPLES]
        if prompt_form == "chat":
            prompts = [f"{FOLDER}/chat/translate.j2", f"{FOLDER}/chat/repair.j2"]
        self.templates: Sequence[str] = (*prompts, f"{FOLDER}/ask.j2", DATA)

    def check(self, columns: set[str] | None) -> list[str]:
        prompts = [name for name in self.templates if name.endswith(".j2")]
        problems = [problem for name in prompts for problem in self._templates.check(name)]
        if columns is not None and not columns & {"code", "solution"}:
            problems.append(
                "task=code_translation needs seeds with a column `code` (or `solution`) of Python: source.kind=functions "
                "source.path=FOLDER, or another run's code, as source.path=outputs/code"
            )
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return own_functions(self._templates, seed)

    def fingerprint(self, record: Record) -> str | None:
        return content_hash(record.meta["language"], "".join(str(record.meta["code"]).split()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        code, language = code_of(item.row)
        entry = entry_of(code) if language == "python" else None
        if entry is None:
            raise RecordError("source: no Python function")
        self._check_languages(context)
        cases = cases_of(await self._tests(code, item.row, context), entry.name)
        parameters = [parameter.arg for parameter in (*entry.args.posonlyargs, *entry.args.args)]
        made = (
            self._translated(code, entry.name, parameters, cases, target, number, item, context)
            for number, target in enumerate(self.settings.languages)
        )
        return await together(made)

    def _check_languages(self, context: Context) -> None:
        """Raises `UserError` before anything is asked where a language cannot be run here."""
        able = {language.name: language for language in context.sandbox.languages()}
        unable = [able[name] for name in self.settings.languages if not able[name].ok]
        if unable:
            raise UserError(*(f"task.languages: {language.name} {language.why}" for language in unable))

    async def _tests(self, code: str, row: Mapping[str, Any], context: Context) -> list[str]:
        """The seed's own tests, which the original must pass, and if they are few, its behaviour on drawn inputs."""
        settings, entry = self.settings, entry_of(code)
        assert entry is not None
        given = row.get("tests")
        tests = [str(test) for test in given] if isinstance(given, list) else []
        if tests and (await context.sandbox.verify(code, tests)).status != "pass":
            raise RecordError("source: the function does not pass its own tests")
        if len(cases_of(tests, entry.name)) < settings.least_tests:
            inputs = drawn_inputs(entry, context.rng, settings.inputs)
            tests += await observed_tests(code, as_calls(inputs), context) if inputs else []
        if len(cases_of(tests, entry.name)) < settings.least_tests or not outputs_differ(tests):
            raise RecordError("source: too few tests, and none could be made")
        return tests

    async def _translated(
        self,
        code: str,
        name: str,
        parameters: Sequence[str],
        cases: Sequence[Case],
        language: str,
        number: int,
        item: Item,
        context: Context,
    ) -> Record:
        meta: dict[str, Any] = {"language": language, "code": code, "seed": dict(item.row)}
        try:
            usable = sayable(cases, language)
            if len(usable) < self.settings.least_tests:
                raise RecordError(f"tests: {language} has no form for their values")
            job = _Job(code, name, parameters[: len(usable[0].arguments)], usable, language)
            translation, whole, verdict, attempts = await self._attempts(job, context)
        except CannotSay as error:
            return context.record((), meta, sample=number, reason=f"tests: {language} has no form for {error}")
        except RecordError as error:
            if not error.final:
                raise
            return context.record((), meta, sample=number, reason=str(error))
        meta |= {"translation": translation, "solution": whole, "tests": job.tests, "attempts": attempts}
        question = context.render(f"{FOLDER}/ask.j2", **job.variables("code", "language", "signature", "convention"))
        talk = chat(question, f"```{language}\n{translation}\n```")
        reason = "" if verdict.status == "pass" else f"{language}: {_why(verdict)}"
        return context.record(talk, meta, sample=number, reason=reason)

    async def _attempts(self, job: _Job, context: Context) -> tuple[str, str, Verdict, list[dict[str, Any]]]:
        """The last translation with its program and verdict, and every attempt."""
        translation = await self._first(job, context)
        attempts: list[dict[str, Any]] = []
        for turn in range(self.settings.repairs + 1):
            whole, verdict = await job.verdict(translation, context)
            attempts.append({"translation": translation, "status": verdict.status, "feedback": verdict.feedback})
            last = turn == self.settings.repairs or self.prompt_form == "few_shot"
            if verdict.status == "pass" or last:
                break
            question = context.render(
                f"{FOLDER}/chat/repair.j2",
                translation=translation,
                feedback=verdict.feedback,
                **job.variables("code", "language", "signature"),
            )
            answer = await context.ask(chat(question), label=f"repair {job.language}", sample=turn)
            if (corrected := fenced_code(answer.text, FENCES[job.language])) is None or answer.truncated:
                break
            translation = corrected
        return translation, whole, verdict, attempts

    async def _first(self, job: _Job, context: Context) -> str:
        label = f"translate {job.language}"
        if self.prompt_form == "few_shot":
            examples = [
                {"code": example["code"], "translation": example[job.language]}
                for example in load_data(self._templates, EXAMPLES)
            ]
            variables = job.variables("code", "language", "signature")
            prompt = context.render(f"{FOLDER}/few_shot/translate.j2", examples=examples, **variables)
            answer = await context.ask(prompt=prompt, label=label, sampling=self.settings.few_shot_sampling)
            body, _, _ = answer.text.partition("\n# ")
            return job.signature + body.rstrip()
        variables = job.variables("code", "language", "signature", "convention")
        answer = await context.ask(chat(context.render(f"{FOLDER}/chat/translate.j2", **variables)), label=label)
        found = fenced_code(answer.text, FENCES[job.language])
        if answer.truncated or not found:
            raise RecordError("parse: the answer is cut off" if answer.truncated else "parse: no code block")
        return found


def _why(verdict: Verdict) -> str:
    """The status, and whether it did not even compile."""
    from factory.sandbox.sandbox import NOT_COMPILED

    compiled = not any(outcome.error.startswith(NOT_COMPILED) for outcome in verdict.tests)
    return verdict.status if compiled else NOT_COMPILED
