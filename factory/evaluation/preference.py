"""Preference: which of two answers a judge likes better, asked in both orders.

The model's answers are set against those of a `baseline` model, or against reference answers in the source. A win counts
only where both orders agree on it; everything else is a tie. What a judge does to the order alone is reported beside it.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary, named_items, together
from factory.generators.base import Context, chat
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.scorers.comparison import Verdict, compare, worth
from factory.settings import Endpoint
from factory.sources import Item, Source

_MEASURES = (
    Measure("win_rate"),
    Measure("wins"),
    Measure("losses", higher_is_better=False),
    Measure("ties"),
    Measure("position_bias", higher_is_better=False),
    Measure("length", share=False),
    Measure("other_length", share=False),
)


class PreferenceSettings(SuiteSettings):
    """`prompt`, `system` and `reference` are Jinja texts over a row's columns; `template` is the judge's question."""

    prompt: str
    system: str | None = None
    reference: str | None = None
    template: str
    criteria: str
    judge_sampling: Sampling = Sampling()


class Preference:
    """One item a prompt; the judge's items are the prompts that both sides answered."""

    Settings: ClassVar[type[SuiteSettings]] = PreferenceSettings
    uses_sandbox, needs_source = False, True

    def __init__(
        self, settings: PreferenceSettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings, self.source, self._templates = settings, source, templates
        self.templates: Sequence[str] = (settings.template,)
        self.roles: Sequence[Role] = (
            ("model", "judge") if settings.reference is not None else ("model", "baseline", "judge")
        )

    def check(self) -> list[str]:
        try:
            columns = self.source.columns()
        except (ConfigError, OSError, ValueError):  # what is wrong with the source is told as the source's
            columns = None
        problems = []
        for name in ("prompt", "system", "reference"):
            if text := getattr(self.settings, name):
                problems += self._templates.check_text(text, columns, f"suite.{name}")
        return problems + self._templates.check(self.settings.template, {"question", "first", "second", "criteria"})

    def ready(self, folder: Path, say: Callable[[str], None]) -> AbstractAsyncContextManager[object]:
        return contextlib.nullcontext()

    def sampling(self, role: Role) -> Sampling:
        return self.settings.judge_sampling if role == "judge" else self.settings.sampling

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        if role != "judge":
            yield from named_items(self.source)
            return
        other = {record.meta["item"]: record for record in done.get("baseline", ()) if not record.reason}
        index = 0
        for record in done.get("model", ()):
            rival = other.get(record.meta.get("item"))
            if record.reason or (rival is None and "baseline" in self.roles):
                continue
            row = {
                "item": record.meta["item"],
                "question": record.meta["question"],
                "answer": record.messages[-1].content,
                "other": rival.messages[-1].content if rival else record.meta["reference"],
            }
            yield Item(index, content_hash(row), row.copy)
            index += 1

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        if role == "judge":
            return await self._judge(item.row, context)
        settings, row = self.settings, item.row
        question = self._templates.render_text(settings.prompt, row)
        if not question.strip():
            raise RecordError("source: the prompt is empty")
        meta = {"item": item.digest, "question": question}
        if settings.reference is not None:
            meta["reference"] = self._templates.render_text(settings.reference, row)
        system = self._templates.render_text(settings.system, row) if settings.system else ""
        asked = chat(question, system=system)
        response = await context.ask(asked, label=role)
        return context.record((*asked, Message(role="assistant", content=response.text)), meta)

    async def _judge(self, row: Mapping[str, Any], context: Context) -> Record:
        """Both orders; the same two texts are a tie without asking."""
        pair = (row["answer"], row["other"])
        meta = {"item": row["item"], "length": len(pair[0]), "other_length": len(pair[1])}
        if pair[0] == pair[1]:
            return context.record((), {**meta, "said": ["tie", "tie"], "reasons": ["the same text", "the same text"]})
        said = await together(
            self._ask(row["question"], first, second, context) for first, second in (pair, pair[::-1])
        )
        meta |= {"said": [one.better for one in said], "reasons": [one.reason for one in said]}
        return context.record((), meta)

    async def _ask(self, question: str, first: str, second: str, context: Context) -> Verdict:
        settings = self.settings
        return await compare(context, question, first, second, criteria=settings.criteria, template=settings.template)

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("judge", ()) if not record.reason]
        items = [_worth(record.meta) for record in records]
        said = Counter(tuple(record.meta["said"]) for record in records)
        first, second = said[("first", "first")], said[("second", "second")]
        against = "the reference answers" if self.settings.reference is not None else "the baseline model"
        notes = [
            f"Against {against}. The judge saw each pair in both orders; a win or a loss counts where both agree, all else "
            "is a tie. win_rate counts a tie as half a win.",
            f"position_bias is the share of pairs in which the judge chose the same place both times: {first} the first, "
            f"{second} the second.",
            "length and other_length are characters of the model's and of the other answers.",
        ]
        return Summary(items, list(_MEASURES), notes)


def _worth(meta: Mapping[str, Any]) -> ItemResult:
    said = tuple(meta["said"])
    win, loss = worth(said) == 1, worth(said) == 0
    values = {
        "win_rate": worth(said),
        "wins": float(win),
        "losses": float(loss),
        "ties": float(not win and not loss),
        "position_bias": float(said in (("first", "first"), ("second", "second"))),
        "length": float(meta["length"]),
        "other_length": float(meta["other_length"]),
    }
    return ItemResult(meta["item"], {name: (value, 1.0) for name, value in values.items()}, detail={"said": list(said)})
