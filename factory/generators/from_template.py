"""`FromTemplate`: whatever a Jinja template and a YAML file can say. One seed row is one prompt, one answer, one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from factory.engine.request import Response
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.parsing import ParseSettings, parse_answer
from factory.prompts import Templates
from factory.records import Message, Record
from factory.sources import Item

TOO_LONG = "answer: cut off at the token limit"


class TemplateSettings(GeneratorSettings):
    """`prompt` and `system` are Jinja texts over the row's columns; `template` names a file in `prompts/` instead.

    `user` and `assistant` are Jinja texts for the training messages, over the columns and `parsed`, the parts of the
    answer; by default the prompt as sent and the whole answer.
    """

    prompt: str | None = None
    template: str | None = None
    system: str | None = None
    parse: ParseSettings = ParseSettings()
    user: str | None = None
    assistant: str | None = None
    keep_truncated: bool = False


class FromTemplate:
    """Asks once for every row. Columns of the row are carried into `meta` as they are."""

    Settings: ClassVar[type[GeneratorSettings]] = TemplateSettings
    uses_sandbox = False
    carries_columns = True

    def __init__(self, settings: TemplateSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates = settings, templates
        texts = (settings.prompt, settings.system, settings.user, settings.assistant)
        included = {name for text in texts if text for name in templates.referenced(text)}
        self.templates: Sequence[str] = tuple(sorted(included | ({settings.template} if settings.template else set())))

    def check(self, columns: set[str] | None) -> list[str]:
        settings, problems = self.settings, []
        if settings.prompt is None and settings.template is None:
            problems.append("task.prompt: not given; give a text, or a file in prompts/ as task.template=mine/ask.j2")
        if settings.prompt is not None and settings.template is not None:
            problems.append(f"task.template={settings.template}: task.prompt is given, too; add task.prompt=null")
        if settings.template:
            problems += self._templates.check(settings.template, columns)
        for name in ("prompt", "system"):
            if text := getattr(settings, name):
                problems += self._templates.check_text(text, columns, f"task.{name}")
        for name in ("user", "assistant"):
            if text := getattr(settings, name):
                known = None if columns is None else columns | {"parsed", "prompt"}
                problems += self._templates.check_text(text, known, f"task.{name}")
        return problems

    def fingerprint(self, record: Record) -> str | None:
        return None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row, settings = item.row, self.settings
        prompt = (
            context.render(settings.template, **row)
            if settings.template
            else self._templates.render_text(settings.prompt or "", row)
        )
        if not prompt.strip():
            return [context.record((), row, reason="source: the prompt is empty")]
        system = self._templates.render_text(settings.system, row) if settings.system else ""
        question = chat(prompt, system=system)
        response = await context.ask(question, schema=settings.parse.json_schema)
        return [self._record(row, question, response, context)]

    def _record(
        self, row: Mapping[str, Any], question: Sequence[Message], response: Response, context: Context
    ) -> Record:
        settings, meta = self.settings, dict(row)
        answered = (*question, Message(role="assistant", content=response.text))
        if not response.text.strip():
            return context.record(answered, meta, reason="answer: empty")
        if response.truncated and not settings.keep_truncated:
            return context.record(answered, meta, reason=TOO_LONG)
        try:
            parsed = parse_answer(response.text, settings.parse)
        except RecordError as error:
            return context.record(answered, meta, reason=str(error))
        if settings.parse.kind != "text":
            meta["parsed"] = parsed
        variables = {**row, "parsed": parsed, "prompt": question[-1].content}
        user = self._templates.render_text(settings.user, variables) if settings.user else question[-1].content
        answer = self._templates.render_text(settings.assistant, variables) if settings.assistant else response.text
        return context.record((*question[:-1], *chat(user, answer)), meta)
