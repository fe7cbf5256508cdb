"""`FromTemplate`: whatever a Jinja template and a YAML file can say. One seed row is one conversation and one record."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, field_validator

from factory.engine.request import Response, Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.parsing import ParseSettings, parse_answer
from factory.prompts import Templates
from factory.records import Frozen, Message, Record
from factory.sources import Item

TOO_LONG = "answer: cut off at the token limit"


class Turn(Frozen):
    """A further turn: `prompt` is a Jinja text over the columns, `parsed` (of the first answer) and `turns`, the parts of the
    turns before it by their names. With `sampling` it is drawn in a way of its own."""

    name: str = Field(pattern=r"^[A-Za-z_]\w*$")
    prompt: str
    parse: ParseSettings = ParseSettings()
    sampling: Sampling | None = None


class TemplateSettings(GeneratorSettings):
    """`prompt` and `system` are Jinja texts over the row's columns; `template` names a file in `prompts/` instead.

    `vary` adds variables to the row: one value of each is drawn for every row; without a source every combination is a
    seed. `turns` follow the first answer. `user` and `assistant` are Jinja texts for the training messages, over the
    columns, `prompt`, `parsed` and `turns`; by default the conversation as it was held.
    """

    prompt: str | None = None
    template: str | None = None
    system: str | None = None
    vary: Mapping[str, tuple[Any, ...]] = Field(default_factory=dict)
    parse: ParseSettings = ParseSettings()
    turns: tuple[Turn, ...] = ()
    user: str | None = None
    assistant: str | None = None
    keep_truncated: bool = False

    @field_validator("vary")
    @classmethod
    def _some(cls, value: Mapping[str, tuple[Any, ...]]) -> Mapping[str, tuple[Any, ...]]:
        if empty := [name for name, values in value.items() if not values]:
            raise ValueError(f"{empty[0]} has no values")
        return value

    @field_validator("turns")
    @classmethod
    def _different(cls, value: tuple[Turn, ...]) -> tuple[Turn, ...]:
        names = [turn.name for turn in value]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two turns are named {twice[0]}")
        return value


class FromTemplate:
    """Asks once for every row, and once more for each of `turns`. Columns are carried into `meta` as they are."""

    Settings: ClassVar[type[GeneratorSettings]] = TemplateSettings
    uses_sandbox = False
    carries_columns = True

    def __init__(self, settings: TemplateSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        texts = (
            settings.prompt,
            settings.system,
            settings.user,
            settings.assistant,
            *(t.prompt for t in settings.turns),
        )
        included = {name for text in texts if text for name in templates.referenced(text)}
        self.templates: Sequence[str] = tuple(sorted(included | ({settings.template} if settings.template else set())))
        if settings.vary:
            self.seeds = self._combinations  # else it has none of its own, and needs a source

    def _combinations(self, seed: int) -> Iterator[Mapping[str, Any]]:
        """Every combination of `vary`, in a new order each time, without end."""
        names, values = list(self.settings.vary), list(self.settings.vary.values())
        sizes = [len(options) for options in values]
        places = list(itertools.product(*(range(size) for size in sizes)))
        for epoch in range(2**31):
            for chosen in random.Random(f"vary/{seed}/{epoch}").sample(places, len(places)):
                yield {
                    name: values[place][index] for place, (name, index) in enumerate(zip(names, chosen, strict=True))
                }

    def check(self, columns: set[str] | None) -> list[str]:
        settings, problems = self.settings, []
        columns = None if columns is None else columns | set(settings.vary)
        if settings.prompt is None and settings.template is None:
            problems.append("task.prompt: not given; give a text, or a file in prompts/ as task.template=mine/ask.j2")
        if settings.prompt is not None and settings.template is not None:
            problems.append(f"task.template={settings.template}: task.prompt is given, too; add task.prompt=null")
        if settings.template:
            problems += self._templates.check(settings.template, columns)
        for name in ("prompt", "system"):
            if text := getattr(settings, name):
                problems += self._templates.check_text(text, columns, f"task.{name}")
        known = None if columns is None else columns | {"parsed", "prompt", "turns"}
        for turn in settings.turns:
            problems += self._templates.check_text(turn.prompt, known, f"task.turns.{turn.name}")
        for name in ("user", "assistant"):
            if text := getattr(settings, name):
                problems += self._templates.check_text(text, known, f"task.{name}")
        return problems

    def fingerprint(self, record: Record) -> str | None:
        return None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings = self.settings
        drawn = {name: context.rng.choice(values) for name, values in settings.vary.items()}
        row = {**drawn, **item.row}  # a column of that name, or a combination, is there already
        prompt = (
            context.render(settings.template, **row)
            if settings.template
            else self._templates.render_text(settings.prompt or "", row)
        )
        if not prompt.strip():
            return [context.record((), row, reason="source: the prompt is empty")]
        system = self._templates.render_text(settings.system, row) if settings.system else ""
        talk: tuple[Message, ...] = chat(prompt, system=system)
        response = await context.ask(talk, schema=settings.parse.json_schema)
        talk = (*talk, Message(role="assistant", content=response.text))
        said: dict[str, Any] = {"prompt": prompt, "parsed": {}, "turns": {}}
        try:
            said["parsed"] = self._parts(response, settings.parse)
            for turn in settings.turns:
                talk = await self._turn(turn, talk, row, said, context)
        except _Lost as lost:
            return [context.record(lost.talk or talk, self._meta(row, said), reason=str(lost))]
        return [self._record(row, talk, said, context)]

    async def _turn(
        self, turn: Turn, talk: tuple[Message, ...], row: Mapping[str, Any], said: dict[str, Any], context: Context
    ) -> tuple[Message, ...]:
        """The conversation with one more question and answer, whose parts go to `said`."""
        question = self._templates.render_text(turn.prompt, {**row, **said})
        talk = (*talk, *chat(question))
        response = await context.ask(talk, label=turn.name, schema=turn.parse.json_schema, sampling=turn.sampling)
        talk = (*talk, Message(role="assistant", content=response.text))
        try:
            parts = self._parts(response, turn.parse)
        except _Lost as lost:
            raise _Lost(f"{turn.name}: {lost}", talk) from lost
        said["turns"] = {**said["turns"], turn.name: parts}
        return talk

    def _parts(self, response: Response, parse: ParseSettings) -> dict[str, Any]:
        if not response.text.strip():
            raise _Lost("answer: empty")
        if response.truncated and not self.settings.keep_truncated:
            raise _Lost(TOO_LONG)
        try:
            return parse_answer(response.text, parse)
        except RecordError as error:
            raise _Lost(str(error)) from error

    def _meta(self, row: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
        meta = dict(row)
        if self.settings.parse.kind != "text" and said["parsed"]:
            meta["parsed"] = said["parsed"]
        if said["turns"]:
            meta["turns"] = said["turns"]
        return meta

    def _record(
        self, row: Mapping[str, Any], talk: tuple[Message, ...], said: Mapping[str, Any], context: Context
    ) -> Record:
        settings, variables = self.settings, {**row, **said}
        if settings.user is None and settings.assistant is None:
            return context.record(talk, self._meta(row, said))
        asked = next(turn.content for turn in talk if turn.role == "user")
        user = self._templates.render_text(settings.user, variables) if settings.user else asked
        answer = talk[-1].content
        if settings.assistant:
            answer = self._templates.render_text(settings.assistant, variables)
        system = [turn for turn in talk if turn.role == "system"]
        return context.record((*system, *chat(user, answer)), self._meta(row, said))


class _Lost(Exception):
    """This record is lost, with what was said so far."""

    def __init__(self, reason: str, talk: tuple[Message, ...] = ()) -> None:
        super().__init__(reason)
        self.talk = talk
