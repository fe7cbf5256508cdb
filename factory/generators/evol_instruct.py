"""Evol-Instruct (Xu et al. 2023, arXiv:2304.12244): an instruction is made harder, or another one is made beside it, round
by round; each is answered, and rounds that led nowhere are eliminated by the paper's four rules.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.evolution import (
    Answer,
    Eliminated,
    evolve,
    leaked,
    same_text,
    says_nothing,
    sorry_and_short,
)
from factory.generators.few_shot import load_data
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

Operation = Literal["constraint", "deepen", "concretise", "reasoning", "complicate", "breadth"]
EQUAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "equal": {"type": "boolean"}},
    "required": ["reason", "equal"],
    "additionalProperties": False,
}
_ONE_WORD = Sampling(temperature=0, max_tokens=4, stop=("\n",))
_SEEDS = "self_instruct/seeds_en.yaml"


class EvolSettings(GeneratorSettings):
    """`operations` are drawn from uniformly; `added_words` are how many a rewriting may add (low, high).

    `leaks` are words of the prompts that no instruction may hold; an answer that says sorry in fewer than `sorry_words`
    words eliminates its round.
    """

    rounds: int = Field(4, ge=1)
    operations: tuple[Operation, ...] = ("constraint", "deepen", "concretise", "reasoning", "complicate", "breadth")
    added_words: tuple[int, int] = (10, 20)
    sorry_words: int = Field(80, ge=0)
    leaks: tuple[str, ...] = ()
    judge_equal: bool = True
    evolve_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()


class EvolInstruct:
    """One seed is one lineage: its own instruction and `rounds` evolved ones, a record each."""

    Settings: ClassVar[type[GeneratorSettings]] = EvolSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: EvolSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.few_shot = settings, templates, prompt_form == "few_shot"
        folder = f"evol_instruct/{prompt_form}"
        self.templates: Sequence[str] = (f"{folder}/evolve.j2", f"{folder}/equal.j2", _SEEDS)
        if self.few_shot:
            self.templates = (*self.templates, f"{folder}/examples.yaml")

    def check(self, columns: set[str] | None) -> list[str]:
        low, high = self.settings.added_words
        problems = [problem for name in self.templates[:2] for problem in self._templates.check(name)]
        if not self.settings.operations:
            problems.append("task.operations=[]: name at least one, as task.operations=[constraint]")
        if not 0 <= low <= high:
            problems.append(f"task.added_words=[{low},{high}]: should be two numbers, the lower one first")
        if columns is not None and not columns & {"instruction", "item"}:
            problems.append(f"task={self.settings.name} needs seeds with a column `instruction`, or a list of texts")
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """The project's own seed tasks, without end: a second lineage of a seed draws other operations."""
        tasks = load_data(self._templates, _SEEDS)
        rows = [{"instruction": with_input(task)} for task in tasks]
        for epoch in range(2**31):
            yield from random.Random(f"{seed}/{epoch}").sample(rows, len(rows))

    def fingerprint(self, record: Record) -> str | None:
        """Two lineages of one seed share its first record, and may meet again."""
        return content_hash(re.findall(r"\w+", str(record.meta.get("instruction")).casefold()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = dict(item.row)
        start = str(row.get("instruction") or row.get("item") or "").strip()
        if not start:
            raise RecordError("source: the instruction is empty")
        step = _Steps(self, context)
        return await evolve(start, self.settings.rounds, context, rewrite=step.rewrite, answer=step.answer, seed=row)


def with_input(task: Mapping[str, Any]) -> str:
    """A seed task's instruction with the input of its first instance, as one text."""
    given = str(task["instances"][0].get("input") or "")
    return f"{task['instruction']}\n\n{given}" if given else str(task["instruction"])


class _Steps:
    """The steps of one lineage's rounds."""

    def __init__(self, generator: EvolInstruct, context: Context) -> None:
        self.generator, self.settings, self.context = generator, generator.settings, context

    async def rewrite(self, parent: str, number: int) -> tuple[str, str]:
        operation = self.context.rng.choice(self.settings.operations)
        instruction = await self._rewritten(parent, operation, number)
        reason = self._eliminated(parent, instruction)
        if not reason and self.settings.judge_equal and await self._equal(parent, instruction, number):
            reason = "equal to its parent, says the model"
        if reason:
            raise Eliminated(reason, operation, instruction)
        return operation, instruction

    async def _rewritten(self, parent: str, operation: str, number: int) -> str:
        context, settings, (name, *_) = self.context, self.settings, self.generator.templates
        low, high = settings.added_words
        if self.generator.few_shot:
            examples = load_data(context.templates, "evol_instruct/few_shot/examples.yaml")[operation]
            prompt = context.render(name, examples=examples, instruction=one_line(parent))
            answer = await context.ask(
                prompt=prompt, label="evolve", sample=number, sampling=settings.few_shot_sampling
            )
            text = answer.text.strip().split("\n")[0].strip()
            if text in {str(example["evolved"]) for example in examples}:
                raise Eliminated("repeats an example of the prompt", operation, text)
        else:
            question = context.render(name, instruction=parent, operation=operation, low=low, high=high)
            answer = await context.ask(chat(question), label="evolve", sample=number, sampling=settings.evolve_sampling)
            text = tagged(answer.text, "instruction")
        if answer.truncated or not text:
            raise Eliminated("cut off at the token limit" if answer.truncated else "no instruction", operation, text)
        return text

    def _eliminated(self, parent: str, instruction: str) -> str:
        if same_text(parent, instruction):
            return "equal to its parent"
        if says_nothing(instruction):
            return "only punctuation and stop words"
        if word := leaked(instruction, self.settings.leaks):
            return f"leaks the prompt's words ({word})"
        return ""

    async def _equal(self, parent: str, instruction: str, number: int) -> bool:
        context, name = self.context, self.generator.templates[1]
        if self.generator.few_shot:
            prompt = context.render(name, first=one_line(parent), second=one_line(instruction))
            answer = await context.ask(prompt=prompt, label="equal", sample=number, sampling=_ONE_WORD)
            said = answer.text.strip().casefold()
            if not said.startswith(("same", "different")):
                raise Eliminated("the comparison with its parent cannot be read", "", instruction)
            return said.startswith("same")
        question = context.render(name, first=parent, second=instruction)
        return bool((await context.ask_json(chat(question), EQUAL_SCHEMA, label="equal", sample=number))["equal"])

    async def answer(self, instruction: str, number: int) -> Answer:
        response = await self.context.ask(chat(instruction), label="answer", sample=number)
        text, messages = response.text.strip(), chat(instruction, response.text.strip())
        if response.truncated:
            return Answer(messages, reason="answer: cut off at the token limit")
        if says_nothing(text):
            return Answer(messages, reason="answer: empty, or only punctuation and stop words")
        if sorry_and_short(text, self.settings.sorry_words):
            return Answer(messages, reason="evolution: the answer is short and says sorry")
        return Answer(messages)


def one_line(text: str) -> str:
    """As a few-shot prompt shows it: examples are a line each."""
    return " ".join(text.split())


def tagged(text: str, name: str) -> str:
    """What stands between the tags, or nothing."""
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found.group(1).strip() if found else ""
