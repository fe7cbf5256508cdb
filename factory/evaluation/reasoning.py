"""Reasoning: tasks that reasoning-gym generates and scores exactly, from seeds that no training set uses.

Two measures: `pass`, the share of answers that the data set scores 1, and `score`, the mean of its own score, partial
credit included; with several samples of each question also pass@k. All are given for each data set as well. The answer is
the last <answer>...</answer>; without one it is wrong.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from factory.engine.request import Sampling
from factory.evaluation.statistics import pass_at_k
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary
from factory.generators.base import Context, chat
from factory.prompts import Templates
from factory.reasoning import Entry, Scorer, Split, Tasks, check_tasks, final_answer, generate, seed_of
from factory.records import Message, Record, content_hash
from factory.settings import Endpoint
from factory.sources import Item, Source


class ReasoningSettings(SuiteSettings):
    """`tasks` are the data sets; `shots` solved items of the same data set, drawn from the training split, come first.

    `samples` answers to each question; pass@k for each of `k`.
    """

    tasks: tuple[Tasks, ...]
    split: Split = "eval"
    shots: int = Field(0, ge=0, le=20)
    samples: int = Field(1, ge=1)
    k: tuple[int, ...] = ()
    template: str


class Reasoning:
    """One item a generated question."""

    Settings: ClassVar[type[SuiteSettings]] = ReasoningSettings
    uses_sandbox, needs_source = False, False
    roles: Sequence[Role] = ("model",)

    def __init__(
        self, settings: ReasoningSettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings, self.seed = settings, seed
        self.templates = (settings.template,)
        self.scorer = Scorer()

    def check(self) -> list[str]:
        settings = self.settings
        problems = check_tasks(settings.tasks, settings.split, self.seed, "suite.tasks")
        problems += [
            f"suite.k={k}: needs 1 to suite.samples={settings.samples} samples of each question"
            for k in settings.k
            if not 1 <= k <= settings.samples
        ]
        if settings.split == "train":
            problems.append("suite.split=train: is what models are trained on; use eval or hard")
        if not problems:
            problems += [
                f"suite.shots={settings.shots}: {task.dataset} gives no answers to show; use suite.shots=0"
                for task in settings.tasks
                if any(shot.answer is None for shot in self._shots[task.dataset])
            ]
        return problems

    def ready(self, folder: Path, say: Callable[[str], None]) -> AbstractAsyncContextManager[object]:
        return self.scorer

    def sampling(self, role: Role) -> Sampling:
        return self.settings.sampling

    @functools.cached_property
    def _shots(self) -> dict[str, list[Entry]]:
        """The first items of each data set's training split."""
        wanted = self.settings.shots
        if not wanted:
            return {task.dataset: [] for task in self.settings.tasks}
        some = [task.model_copy(update={"size": wanted}) for task in self.settings.tasks]
        return {task.dataset: found for task, found in zip(some, generate(some, "train", 0), strict=True)}

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        settings, index = self.settings, 0
        made = generate(settings.tasks, settings.split, self.seed)
        for sample in range(settings.samples):  # outermost, so that more samples only add to what is there
            for task, entries in zip(settings.tasks, made, strict=True):
                shots = [(shot.question, shot.answer) for shot in self._shots[task.dataset]]
                for entry in entries:
                    row = {"task": task, "place": entry.place, "question": entry.question, "shots": shots}
                    # Of the question's text, too: another release of the library may draw another one.
                    named = (task.dataset, seed_of(settings.split, self.seed), entry.place, entry.question, shots)
                    yield Item(index, content_hash(*named, *([sample] if sample else [])), row.copy)
                    index += 1

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        row, settings = item.row, self.settings
        turns = []
        for question, answer in row["shots"]:
            turns += [context.render(settings.template, question=question), f"<answer>{answer}</answer>"]
        asked = chat(*turns, context.render(settings.template, question=row["question"]))
        response = await context.ask(asked, label=role)
        found = final_answer(response.text)
        task: Tasks = row["task"]
        if found is None:
            score, why = 0.0, "no <answer>"
        else:
            score, why = await self.scorer.score(task, settings.split, self.seed, row["place"], found)
        meta = {
            "item": f"{task.dataset}/{content_hash(row['question'])[:12]}/{row['place']}",
            "dataset": task.dataset,
            "answer": found,
            "score": score,
            "why": why,
            "truncated": response.truncated,
        }
        return context.record((*asked, Message(role="assistant", content=response.text)), meta)

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("model", ()) if not record.reason]
        answers: dict[str, list[Record]] = {}
        for record in records:
            answers.setdefault(record.meta["item"], []).append(record)
        items = [self._item(name, found) for name, found in answers.items()]
        silent = sum(record.meta["answer"] is None for record in records)
        start = seed_of(self.settings.split, self.seed)
        notes = [
            f"Items are drawn by the states from {start:,} on (split {self.settings.split}); training draws below "
            f"{seed_of('eval', 0):,}.",
            f"The answer is the last <answer>...</answer>; {silent} of {len(records)} had none and count as wrong.",
            "pass is the share that the data set scores 1; score is the mean of the data set's own score.",
        ]
        measures = [Measure("pass"), Measure("score"), *(Measure(f"pass@{k}") for k in self.settings.k)]
        return Summary(items, measures, notes)

    def _item(self, name: str, records: Sequence[Record]) -> ItemResult:
        """A question's worth: totals over its samples, and pass@k once it has k of them."""
        samples, right = len(records), sum(record.meta["score"] == 1 for record in records)
        values = {
            "pass": (right / samples, 1.0),
            "score": (sum(record.meta["score"] for record in records) / samples, 1.0),
            **{f"pass@{k}": (pass_at_k(samples, right, k), 1.0) for k in self.settings.k if k <= samples},
        }
        first = records[0].meta
        detail = {"answer": first["answer"], "why": first["why"], "samples": samples, "right": right}
        return ItemResult(name, values, first["dataset"], detail)
