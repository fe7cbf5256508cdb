"""Self-Instruct (Wang et al. 2023, arXiv:2212.10560): instructions from a growing pool that begins with tasks written by people.

One item is one request for further instructions, after examples from the people's tasks and from the pool. Those that pass
the filters and are new to the pool join it, in the order of the items (`factory.generators.pool`); each is then said to be a
classification or not and given instances: labels first for a classification, inputs first for the others. Every instance is
a record, and so is every instruction that was dropped, with its reason.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field

from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.instances import InstanceWriter, listing
from factory.generators.instruction_filters import FilterSettings, sound_instances, unfit
from factory.generators.novelty import Bm25Novelty, Novelty, RougeNovelty
from factory.generators.pool import GrowingPool
from factory.generators.seed_tasks import SeedTask, conversation, load_seed_tasks
from factory.prompts import Templates
from factory.records import Frozen, Record
from factory.sources import Item

# Records of the n-th instruction of an answer have the samples from n times this.
SAMPLES = 100


class NoveltySettings(Frozen):
    """An instruction is dropped where its likeness to one of the pool is above `threshold`."""

    measure: Literal["rouge_l", "bm25"]
    threshold: float = Field(ge=0)

    def index(self) -> Novelty:
        return RougeNovelty(self.threshold) if self.measure == "rouge_l" else Bm25Novelty(self.threshold)


class SelfInstructSettings(GeneratorSettings):
    """`human` and `pooled` are how many examples of each kind an instruction prompt shows (people's ones fill up while the
    pool has too few), `asked` how many it asks for. `lag`: a draw does not see what the last so many items gave."""

    language: Literal["en", "zh"]
    seed_tasks: str
    human: int = Field(6, ge=1)
    pooled: int = Field(2, ge=0)
    asked: int = Field(8, ge=1, lt=SAMPLES)
    max_instances: int = Field(5, ge=1, lt=SAMPLES)
    lag: int = Field(64, ge=0)
    filters: FilterSettings = FilterSettings()
    novelty: NoveltySettings
    instruction_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()


class SelfInstruct:
    """Items are numbers: what each asks with is drawn. See `factory.generators.pool` for how runs stay the same."""

    Settings: ClassVar[type[GeneratorSettings]] = SelfInstructSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: SelfInstructSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.few_shot = settings, templates, prompt_form == "few_shot"
        folder = f"self_instruct/{prompt_form}/{settings.language}"
        self.template = f"{folder}/instructions.j2"
        self.writer = InstanceWriter(folder, self.few_shot, settings.max_instances, settings.few_shot_sampling)
        self.templates: Sequence[str] = (self.template, *self.writer.templates, settings.seed_tasks)
        self.novelty = settings.novelty.index()
        self.pool = GrowingPool(settings.lag, self.novelty.add)
        self.people: Sequence[SeedTask] = ()

    def check(self, columns: set[str] | None) -> list[str]:
        problems = [problem for name in self.templates[:-1] for problem in self._templates.check(name)]
        try:
            self._load()
        except ConfigError as error:
            problems += error.problems
        if columns is not None and "draw" not in columns:
            problems.append(
                "source: task=self_instruct grows from seed tasks, not from rows; put your tasks into "
                "prompts/mine/seeds.yaml and give task.seed_tasks=mine/seeds.yaml"
            )
        return problems

    def _load(self) -> None:
        """The people's tasks, which new instructions are compared with, too."""
        if not self.people:
            self.people = load_seed_tasks(self._templates, self.settings.seed_tasks)
            for task in self.people:
                self.novelty.add(task.instruction)

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        yield from ({"draw": number} for number in range(2**31))

    def fingerprint(self, record: Record) -> str | None:
        return None  # the pool holds no instruction twice, and an instruction no instance

    def remember(self, item: Item, records: Sequence[Record]) -> None:
        """What a finished item gave to the pool: of each new instruction, its first record."""
        given: dict[str, str] = {}
        for record in records:
            if record.meta.get("novel"):
                given.setdefault(str(record.meta["instruction"]), record.id)
        self.pool.settle(item.index, list(given.items()))

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        with self.pool.turn(item.index):
            shown = await self._demonstrations(item, context)
            texts = await self._ask(shown, context)
            await self.pool.reach(item.index)
            # No await from here to `settle`: the pool is this item's own.
            dropped = {}
            for number, text in enumerate(texts):
                reason = self._dropped(text)
                if reason:
                    dropped[number] = reason
                else:
                    first = context.record((), sample=SAMPLES * number).id
                    self.pool.give(item.index, (text, first))
            self.pool.settle(item.index)
            parents = [identity for _, identity in shown if identity]
            records = []
            for number, text in enumerate(texts):
                if reason := dropped.get(number, ""):
                    meta = {"instruction": text, "novel": False}
                    records.append(context.record((), meta, sample=SAMPLES * number, reason=reason, parents=parents))
                else:
                    records += await self._instances(number, text, parents, context)
            return records

    def _dropped(self, text: str) -> str:
        if reason := unfit(text, self.settings.filters):
            return f"instruction: {reason}"
        if (place := self.novelty.like(text)) is not None:
            whose = "a seed task" if place < len(self.people) else "an earlier one"
            return f"novelty: too like {whose}"
        return ""

    # ---- instructions

    async def _demonstrations(self, item: Item, context: Context) -> list[tuple[str, str]]:
        """(text, id of its record or "" for a person's task) of the examples, in the order in which they are shown."""
        settings, pool = self.settings, self.pool
        chance = random.Random(context.rng.random())  # used by a draw, or by none: later chance stays the same

        async def choose() -> list[tuple[str, str]]:
            await pool.reach(pool.before(item.index))
            places = range(pool.seen(item.index))
            pooled = [pool.entries[place] for place in chance.sample(places, min(settings.pooled, len(places)))]
            wanted = min(settings.human + settings.pooled - len(pooled), len(self.people))
            shown = pooled + [(task.instruction, "") for task in chance.sample(self.people, wanted)]
            return chance.sample(shown, len(shown))

        drawn = await context.draw("demonstrations", [settings.human, settings.pooled, settings.seed_tasks], choose)
        return [(text, identity) for text, identity in drawn]

    async def _ask(self, shown: Sequence[tuple[str, str]], context: Context) -> list[str]:
        settings, examples = self.settings, [_one_line(text) for text, _ in shown]
        if self.few_shot:
            prompt = context.render(self.template, examples=examples)
            sampling = settings.few_shot_sampling.over(settings.instruction_sampling)
            response = await context.ask(prompt=prompt, label="instructions", sampling=sampling)
            found = listed(f"{len(examples) + 1}.{response.text}")
            found = found[:-1] if response.truncated else found  # the last one may lack its end
        else:
            question = context.render(self.template, examples=examples, asked=settings.asked)
            schema = listing("tasks", {"type": "string"}, 1, settings.asked)
            sampling = settings.instruction_sampling
            answer = await context.ask_json(chat(question), schema, label="instructions", sampling=sampling)
            found = answer["tasks"]
        texts = [text.strip() for text in found if text.strip()][: settings.asked]
        if not texts:
            raise RecordError("instructions: none could be read")
        return texts

    # ---- instances

    async def _instances(self, number: int, text: str, parents: Sequence[str], context: Context) -> list[Record]:
        """A record for each instance of a new instruction, or one that says why there is none."""
        meta: dict[str, Any] = {"instruction": text, "novel": True}
        first = SAMPLES * number
        try:
            meta["classification"] = await self.writer.is_classification(text, number, context)
            written = await self.writer.write(text, meta["classification"], number, context)
        except RecordError as error:
            if not error.final:
                raise
            return [context.record((), meta, sample=first, reason=str(error), parents=parents)]
        kept, reason = sound_instances(written, self.settings.max_instances)
        if not kept:
            return [context.record((), meta, sample=first, reason=f"instances: {reason}", parents=parents)]
        return [
            context.record(
                chat(conversation(text, each.input), each.output),
                {**meta, "input": each.input, "output": each.output},
                sample=first + place,
                parents=parents,
            )
            for place, each in enumerate(kept)
        ]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def listed(text: str) -> list[str]:
    """The entries of a numbered list: "9. one" and so on, a line each, until the numbers end."""
    found: list[str] = []
    for line in text.split("\n"):
        entry = re.match(r"\s*\d+\s*[.)、．]\s*(.*)", line)
        if entry is None:
            break
        found.append(entry.group(1).strip())
    return found
