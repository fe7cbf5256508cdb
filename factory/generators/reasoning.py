"""Reasoning: K answers to each of the questions that reasoning-gym draws, exactly checkable, from seeds of training's own.

As rejection sampling on verified answers (Llama 3.1, section 4.3.3; Qwen2, section 4.1: rejection sampling for maths). A
model that does not know the form of an answer yet is shown solved questions first (`shots`); the records are without them,
so that training teaches what the examples did.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field

from factory.errors import ConfigError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.rejection_sampling import sampled
from factory.generators.together import together
from factory.prompts import Templates
from factory.reasoning import Entry, Tasks, check_tasks, generate
from factory.records import Message, Record, content_hash
from factory.sources import Item

BLOCKS = 64  # of the training split that one run's seed owns; block 0 of the split is for solved examples
SEEDS = 511  # the split has 32,768 blocks


class ReasoningSettings(GeneratorSettings):
    """`tasks` are reasoning-gym's data sets, `size` of each is drawn at a time, so that sizes are shares.

    `answers` to each question; `shots` solved ones are shown before it. `template` is rendered with `question`.
    """

    tasks: tuple[Tasks, ...]
    answers: int = Field(8, ge=1)
    shots: int = Field(0, ge=0, le=20)
    template: str = "reasoning/ask.j2"


class Reasoning:
    """One seed, a question, gives `answers` records that share `meta.group`; `meta.reasoning` is what checks them."""

    Settings: ClassVar[type[GeneratorSettings]] = ReasoningSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: ReasoningSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        self.templates: Sequence[str] = (settings.template,)
        self._shots: dict[str, list[Entry]] = {}

    def check(self, columns: set[str] | None) -> list[str]:
        settings = self.settings
        problems = check_tasks(settings.tasks, "train", 0, "task.tasks")
        if columns is not None and not {"dataset", "block", "place", "question"} <= columns:
            problems.append(f"source: task={settings.name} draws its questions itself; leave the source out")
        if not problems and settings.shots:
            some = [task.model_copy(update={"size": settings.shots}) for task in settings.tasks]
            self._shots = {task.dataset: found for task, found in zip(some, generate(some, "train", 0), strict=True)}
            problems += [
                f"task.shots={settings.shots}: {name} gives no answers to show; use task.shots=0"
                for name, found in self._shots.items()
                if any(shot.answer is None for shot in found)
            ]
        return problems

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """Questions from the blocks that `seed` owns, the data sets mixed; no two seeds share an item."""
        if seed >= SEEDS:
            raise ConfigError(f"seed={seed}: task={self.settings.name} has questions for the seeds 0 to {SEEDS - 1}")
        for block in range(1 + seed * BLOCKS, 1 + (seed + 1) * BLOCKS):
            made = generate(self.settings.tasks, "train", block)
            rows = [
                {"dataset": task.dataset, "block": block, "place": entry.place, "question": entry.question}
                for task, entries in zip(self.settings.tasks, made, strict=True)
                for entry in entries
            ]
            random.Random(f"reasoning/{block}").shuffle(rows)
            yield from rows

    def examples(self) -> Sequence[Sequence[Message]]:
        """The solved questions that are shown, as conversations like those of the records."""
        return [
            chat(
                self._templates.render(self.settings.template, {"question": shot.question}),
                f"<answer>{shot.answer}</answer>",
            )
            for shots in self._shots.values()
            for shot in shots
        ]

    def fingerprint(self, record: Record) -> str | None:
        """The same answer to the same question counts once."""
        return content_hash(record.meta["group"], record.messages[-1].content)

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row, settings = item.row, self.settings
        question = chat(context.render(settings.template, question=row["question"]))
        shown: list[str] = []
        for shot in self._shots.get(row["dataset"], ()):
            shown += [context.render(settings.template, question=shot.question), f"<answer>{shot.answer}</answer>"]
        task = next(task for task in settings.tasks if task.dataset == row["dataset"])
        meta = {
            "group": content_hash(row["dataset"], row["question"]),
            "topic": row["dataset"],
            "question": row["question"],
            "reasoning": {"task": task.model_dump(mode="json"), "block": row["block"], "place": row["place"]},
        }
        asked = (*chat(*shown), *question)
        return await together(sampled(asked, question, meta, number, context) for number in range(settings.answers))
