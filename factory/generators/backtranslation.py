"""Code backtranslation (Llama 3.1 report, section 4.3.1): code -> a description of it -> code again from that alone.

A description from which the code could be written again is a good one. Fidelity is decided by execution where that is
possible: the two pieces of code are called with the same inputs, and must answer the same. Where it is not, the model
compares them. The `fidelity` scorer does both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from factory.engine.request import Sampling
from factory.engine.structured import NotJson, parse_json
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.behaviour import INPUTS_SCHEMA, entry_of, head, observed_tests, outputs_differ
from factory.generators.few_shot import load_data
from factory.generators.functions import DATA, code_of, given_tests, own_functions
from factory.generators.inputs import as_calls, drawn_inputs
from factory.generators.parsing import fenced_code
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

FOLDER = "backtranslation"
HIDDEN = "solve"  # what the function is called where its name would tell what the description must
EXAMPLES = f"{FOLDER}/few_shot/examples.yaml"
Style = Literal["document", "explain"]
Direction = Literal["describe", "implement"]


class BacktranslationSettings(GeneratorSettings):
    """`styles` of description are drawn from; `directions` are the training records: code to description, and back.
    `inputs` are drawn or asked for to compare behaviour, and at least `least_inputs` must give results."""

    styles: tuple[Style, ...] = ("document", "explain")
    directions: tuple[Direction, ...] = ("describe",)
    inputs: int = Field(16, ge=2)
    least_inputs: int = Field(3, ge=2)
    least_chars: int = Field(20, ge=1)
    regenerate_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()

    @field_validator("styles", "directions")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("needs one entry at least")
        return value


class Backtranslation:
    """One piece of code gives one record for each of `directions`."""

    Settings: ClassVar[type[GeneratorSettings]] = BacktranslationSettings
    uses_sandbox = True
    carries_columns = False

    def __init__(self, settings: BacktranslationSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        self._prompts = [f"{FOLDER}/{prompt_form}/{name}.j2" for name in ("describe", "regenerate")]
        own = [EXAMPLES] if prompt_form == "few_shot" else [f"{FOLDER}/chat/inputs.j2"]
        self.templates: Sequence[str] = (*self._prompts, f"{FOLDER}/ask.j2", *own, DATA)

    def check(self, columns: set[str] | None) -> list[str]:
        prompts = [name for name in self.templates if name.endswith(".j2")]
        problems = [problem for name in prompts for problem in self._templates.check(name)]
        if columns is not None and not columns & {"code", "solution"}:
            problems.append(
                "task=backtranslation needs seeds with a column `code` (or `solution`): source.kind=functions "
                "source.path=FOLDER takes the functions of a folder of Python files"
            )
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return own_functions(self._templates, seed)

    def fingerprint(self, record: Record) -> str | None:
        return content_hash(record.meta["direction"], "".join(str(record.meta["code"]).split()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings, row = self.settings, item.row
        code, language = code_of(row)
        if self.prompt_form == "few_shot" and language != "python":
            raise RecordError("source: the few-shot prompts are for python")
        style = context.rng.choice(settings.styles)
        description = await self._describe(code, language, style, context)
        told = (head(code) if language == "python" else "") or code.strip().splitlines()[0]
        again = await self._regenerate(description, code, told, language, context)
        tests, by = await self._tests(code, language, row, context)
        meta = {
            "language": language,
            "code": code,
            "style": style,
            "description": description,
            "signature": told,
            "solution": again,
            "tests": tests,
            "tests_by": by,
            "seed": dict(row),
        }
        return [
            context.record(self._talk(meta, direction, context), {**meta, "direction": direction}, sample=number)
            for number, direction in enumerate(settings.directions)
        ]

    def _talk(self, meta: Mapping[str, Any], direction: str, context: Context) -> tuple[Message, ...]:
        names = ("code", "description", "signature", "language", "style")
        variables = {name: meta[name] for name in names}
        question = context.render(f"{FOLDER}/ask.j2", direction=direction, **variables)
        answer = meta["description"] if direction == "describe" else f"```{meta['language']}\n{meta['code']}\n```"
        return chat(question, answer)

    async def _describe(self, code: str, language: str, style: str, context: Context) -> str:
        if self.prompt_form == "few_shot":
            examples = load_data(self._templates, EXAMPLES)
            prompt = context.render(self._prompts[0], examples=examples, code=code)
            answer = await context.ask(prompt=prompt, label="describe", sampling=self.settings.few_shot_sampling)
            said, _, _ = answer.text.partition("\n# ")
            text = f"The function {said.strip()}"
        else:
            question = context.render(self._prompts[0], code=code, language=language, style=style)
            answer = await context.ask(chat(question), label="describe")
            text = answer.text.strip()
        if answer.truncated:
            raise RecordError("description: cut off at the token limit")
        if len(text) < self.settings.least_chars:
            raise RecordError("description: too short")
        if "```" in text or copies(text, code):
            raise RecordError("description: holds the code")
        return text

    async def _regenerate(self, description: str, code: str, told: str, language: str, context: Context) -> str:
        """Code from the description and its head alone; of a Python function not even the name is told."""
        entry = entry_of(code) if language == "python" else None
        if entry is None:
            return await self._from_description(description, told, language, context)
        again = await self._from_description(description, head(code, HIDDEN), language, context)
        # A description may have named the function all the same.
        own = re.search(rf"^def {re.escape(entry.name)}\b", again, re.MULTILINE)
        return again if own or entry.name == HIDDEN else f"{again}\n\n\n{entry.name} = {HIDDEN}"

    async def _from_description(self, description: str, told: str, language: str, context: Context) -> str:
        settings = self.settings
        if self.prompt_form == "few_shot":
            examples = load_data(self._templates, EXAMPLES)
            prompt = context.render(self._prompts[1], examples=examples, description=description, signature=told)
            answer = await context.ask(prompt=prompt, label="regenerate", sampling=settings.few_shot_sampling)
            body, _, _ = answer.text.partition("\n# ")
            return told + body.rstrip()
        question = context.render(self._prompts[1], description=description, signature=told, language=language)
        answer = await context.ask(chat(question), label="regenerate", sampling=settings.regenerate_sampling)
        found = fenced_code(answer.text, (language,)) or fenced_code(answer.text)
        if answer.truncated or not found:
            raise RecordError(
                "regenerate: cut off at the token limit" if answer.truncated else "regenerate: no code block"
            )
        return found

    async def _tests(self, code: str, language: str, row: Mapping[str, Any], context: Context) -> tuple[list[str], str]:
        """(tests of the original's behaviour, where their inputs come from); none where it cannot be run for that."""
        entry = entry_of(code) if language == "python" else None
        if entry is None:
            return [], ""
        inputs, by = drawn_inputs(entry, context.rng, self.settings.inputs), "annotations"
        if inputs is None and self.prompt_form == "chat":
            question = context.render(
                f"{FOLDER}/chat/inputs.j2", code=code, name=entry.name, count=self.settings.inputs
            )
            answer = await context.ask(chat(question), label="inputs")
            try:
                inputs, by = parse_json(answer.text, INPUTS_SCHEMA), "model"
            except NotJson:
                inputs = None  # then the judge compares
        tests = await observed_tests(code, as_calls(inputs), context) if inputs else []
        if given := given_tests(row):
            tests, by = list(dict.fromkeys([*given, *tests])), f"source and {by}" if tests else "source"
        enough = len(tests) >= self.settings.least_inputs and outputs_differ(tests)
        return (tests, by) if enough else ([], "")


def copies(text: str, code: str) -> bool:
    """Whether a description quotes lines of the code: more than one in three that say something."""
    flat = "".join(text.split())
    lines = {"".join(line.split()) for line in code.splitlines()}
    telling = [line for line in lines if len(line) > 15]
    return bool(telling) and sum(line in flat for line in telling) > len(telling) / 3
