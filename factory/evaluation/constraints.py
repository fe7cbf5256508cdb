"""Constraints: does the model do what it was told, where code can tell? In the manner of IFEval (Zhou et al. 2023).

The prompts are rows of a source: `prompt` with `constraints` ({"id": ..., "kwargs": {...}}), or IFEval's own columns `prompt`,
`instruction_id_list` and `kwargs`. Without a source they are drawn, from requests that no training task uses. IFEval's
four numbers: the share of prompts of which every constraint is kept, and of constraints that are kept, each strictly and
loosely (an introduction, a last line and asterisks forgiven).
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic import Field

from factory.constraints import Constraint, check, describe, parse, sample
from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary, named_items
from factory.generators.base import Context, chat
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.settings import Endpoint
from factory.sources import Item, Source

REQUESTS = "evaluate/requests.yaml"
_MEASURES = tuple(Measure(f"{what}_{how}") for how in ("strict", "loose") for what in ("prompt", "instruction"))


class ConstraintsSettings(SuiteSettings):
    """Without a source, `size` prompts are drawn with `least` to `most` constraints each."""

    size: int = Field(200, ge=1)
    least: int = Field(1, ge=1)
    most: int = Field(3, ge=1)


class Constraints:
    """One item a prompt."""

    Settings: ClassVar[type[SuiteSettings]] = ConstraintsSettings
    uses_sandbox = False
    roles: Sequence[Role] = ("model",)
    templates: Sequence[str] = (REQUESTS,)

    def __init__(
        self, settings: ConstraintsSettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings, self.source, self.seed, self._templates = settings, source, seed, templates
        self.needs_source = source.settings.path is not None or bool(source.settings.items)

    def check(self) -> list[str]:
        settings = self.settings
        if settings.least > settings.most:
            return [f"suite.least={settings.least} is above suite.most={settings.most}"]
        return []

    def ready(self, folder: Path, say: Callable[[str], None]) -> AbstractAsyncContextManager[object]:
        return contextlib.nullcontext()

    def sampling(self, role: Role) -> Sampling:
        return self.settings.sampling

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        return named_items(self.source) if self.needs_source else self._drawn()

    def _drawn(self) -> Iterator[Item]:
        text = self._templates.environment.loader.get_source(self._templates.environment, REQUESTS)[0]  # type: ignore[union-attr]
        requests = yaml.safe_load(text)
        for index in range(self.settings.size):
            rng = random.Random(f"evaluate/constraints/{self.seed}/{index}")
            request = requests[index % len(requests)]
            count = rng.randint(self.settings.least, self.settings.most)
            constraints = sample(rng, count, request=request)
            prompt = " ".join([request, *(describe(constraint, rng) for constraint in constraints)])
            row = {"prompt": prompt, "constraints": [constraint.model_dump() for constraint in constraints]}
            yield Item(index, content_hash(index, row), row.copy)

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        prompt, constraints = read_row(item.row)
        asked = chat(prompt)
        response = await context.ask(asked, label=role)
        strict, loose = check(response.text, constraints), check(response.text, constraints, loose=True)
        meta = {
            "item": item.digest,
            "kinds": [constraint.id for constraint in constraints],
            "strict": [verdict.kept for verdict in strict],
            "loose": [verdict.kept for verdict in loose],
            "why": {verdict.id: verdict.why for verdict in strict if not verdict.kept},
        }
        return context.record((*asked, Message(role="assistant", content=response.text)), meta)

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("model", ()) if not record.reason]
        items = [_worth(record.meta) for record in records]
        asked: Counter[str] = Counter()
        kept: Counter[str] = Counter()
        for record in records:
            asked.update(record.meta["kinds"])
            kept.update(kind for kind, well in zip(record.meta["kinds"], record.meta["strict"], strict=True) if well)
        source = f"the rows of {self.source.settings.path}" if self.needs_source else "prompts drawn for this suite"
        by_kind = ", ".join(f"{kind} {kept[kind]} of {count}" for kind, count in sorted(asked.items()))
        notes = [
            f"Over {source}. prompt_*: every constraint of a prompt is kept; instruction_*: each constraint by itself.",
            "strict: as the answer stands; loose: also without its first line, its last line or its asterisks.",
            f"Kept strictly, by type: {by_kind or 'none yet'}.",
        ]
        return Summary(items, list(_MEASURES), notes)


def read_row(row: Mapping[str, Any]) -> tuple[str, list[Constraint]]:
    """Prompt and constraints of a row, ours or IFEval's. Raises `RecordError` where they cannot be read."""
    prompt = row.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise RecordError("source: a row has no prompt")
    given = row.get("constraints")
    if given is None:
        names, kwargs = row.get("instruction_id_list"), row.get("kwargs")
        if not isinstance(names, list) or not isinstance(kwargs, list) or len(names) != len(kwargs):
            raise RecordError("source: a row needs constraints, or instruction_id_list and kwargs of one length")
        given = [{"id": name, "kwargs": dict(one or {})} for name, one in zip(names, kwargs, strict=True)]
    try:
        found = parse(given)
    except (ValueError, TypeError) as error:
        raise RecordError(f"source: {error}") from error
    if not found:
        raise RecordError("source: a row has no constraints")
    return prompt, found


def _worth(meta: Mapping[str, Any]) -> ItemResult:
    values = {}
    for how in ("strict", "loose"):
        kept = meta[how]
        values[f"prompt_{how}"] = (float(all(kept)), 1.0)
        values[f"instruction_{how}"] = (float(sum(kept)), float(len(kept)))
    return ItemResult(meta["item"], values, detail={"kinds": meta["kinds"], "why": meta["why"]})
