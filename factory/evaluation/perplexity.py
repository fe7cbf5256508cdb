"""Perplexity and bits per byte of texts, from the log-probabilities that the server gives for a prompt's own tokens.

A text of plain words is scored whole. Of a conversation (a column of messages), where the tokenizer has a chat template,
only what the assistant says is scored, the end of its turn among it; the rest is context. Texts longer than `window`
tokens are cut into windows that overlap by `window - stride`: each token is scored once, with at least that many tokens
before it (fewer only at the beginning). The first token of a text has nothing before it and is not scored, unless the
tokenizer puts a beginning-of-text token in front.

Perplexity depends on the tokenizer; bits per byte (UTF-8) does not, and compares models.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import math
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary, named_items
from factory.generators.base import Context
from factory.likelihood import SCORING, Span, Windows, cut, encode, load_tokenizer, render_conversation, token_losses
from factory.prompts import Templates
from factory.records import Record
from factory.settings import Endpoint, OpenAIEngine
from factory.sources import Item, Source


class PerplexitySettings(SuiteSettings, Windows):
    """`text` is Jinja over a row's columns; a row with `messages` (a column's name) is a conversation instead."""

    text: str
    messages: str = "messages"
    tokenizer: str | None = None
    window: int = Field(1024, ge=2)
    stride: int = Field(512, ge=1)


class Perplexity:
    """One item a text or conversation, one request a window."""

    Settings: ClassVar[type[SuiteSettings]] = PerplexitySettings
    uses_sandbox, needs_source = False, True
    roles: Sequence[Role] = ("model",)
    templates: Sequence[str] = ()

    def __init__(
        self, settings: PerplexitySettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings, self.source, self.endpoint, self._templates = settings, source, endpoint, templates
        self.tokenizer: Any = None

    def check(self) -> list[str]:
        settings, endpoint, problems = self.settings, self.endpoint, []
        if importlib.util.find_spec("transformers") is None:
            problems.append(
                'suite=perplexity: transformers is not installed: pip install "synthesis-factory[evaluate]"'
            )
        if settings.tokenizer is None and isinstance(endpoint.engine, OpenAIEngine):
            problems.append(
                "suite.tokenizer is not set: with engine=openai name the model's tokenizer, as a folder, a hub id or "
                "package:NAME"
            )
        if endpoint.model.context is not None and settings.window >= endpoint.model.context:
            problems.append(f"suite.window={settings.window}: must be below model.context={endpoint.model.context}")
        try:
            columns = self.source.columns()
        except (ConfigError, OSError, ValueError):  # what is wrong with the source is told as the source's
            columns = None
        if columns is None or settings.messages not in columns:
            problems += self._templates.check_text(settings.text, columns, "suite.text")
        return problems

    @contextlib.asynccontextmanager
    async def ready(self, folder: Path, say: Callable[[str], None]) -> AsyncIterator[object]:
        name = self.settings.tokenizer or self.endpoint.model.path
        self.tokenizer = await asyncio.to_thread(load_tokenizer, name, "suite.tokenizer")
        yield self.tokenizer

    def sampling(self, role: Role) -> Sampling:
        return SCORING

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        return named_items(self.source)

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        text, spans = self._text(item.row)
        ids, offsets = encode(self.tokenizer, text, special=spans is None)
        scored = [place for place in range(1, len(ids)) if _inside(offsets[place], spans)]
        if not scored:
            raise RecordError("text: holds no token that could be scored")
        settings = self.settings
        losses = await token_losses(context, ids, settings.window, settings.stride, label=role)
        meta = {
            "item": item.digest,
            "nats": math.fsum(losses[place] for place in scored),
            "tokens": len(scored),
            "bytes": _bytes(text, [offsets[place] for place in scored], spans),
            "windows": len(list(cut(len(ids), settings.window, settings.stride))),
            "conversation": spans is not None,
        }
        return context.record((), meta)

    def _text(self, row: Mapping[str, Any]) -> tuple[str, list[Span] | None]:
        """The text to be scored and, for a conversation, the assistant's parts of it."""
        turns = row.get(self.settings.messages)
        if turns is None:
            return self._templates.render_text(self.settings.text, row), None
        if self.tokenizer.chat_template is None:
            return "\n\n".join(str(turn["content"]) for turn in turns), None
        return render_conversation(self.tokenizer, turns)

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("model", ()) if not record.reason]
        items = [
            ItemResult(
                record.meta["item"],
                {
                    "perplexity": (record.meta["nats"], float(record.meta["tokens"])),
                    "bits_per_byte": (record.meta["nats"] / math.log(2), float(record.meta["bytes"])),
                },
                detail={key: record.meta[key] for key in ("tokens", "bytes", "windows", "conversation")},
            )
            for record in records
        ]
        talks = sum(record.meta["conversation"] for record in records)
        settings = self.settings
        notes = [
            f"{talks} conversations, of which the assistant's tokens and ends of turn were scored, and "
            f"{len(records) - talks} texts, scored whole but for a first token with nothing before it.",
            f"Windows of {settings.window} tokens; each token was scored once, with {settings.window - settings.stride} "
            "tokens or more before it where the text has them.",
            "Token-weighted: exp of the total loss over the total tokens. Bits per byte: of UTF-8, independent of the "
            "tokenizer; an end of turn costs bits and has no bytes.",
        ]
        measures = [
            Measure("perplexity", "log", higher_is_better=False, share=False),
            Measure("bits_per_byte", higher_is_better=False, share=False),
        ]
        return Summary(items, measures, notes)


def _inside(offset: tuple[int, int], spans: Sequence[Span] | None) -> bool:
    start, end = offset
    return end > start and (spans is None or any(first <= start < last for first, _, last in spans))


def _bytes(text: str, offsets: Sequence[tuple[int, int]], spans: Sequence[Span] | None) -> int:
    """UTF-8 bytes that the tokens cover, each once (tokens may share a character), ends of turn left out."""
    size, seen = 0, 0
    for start, end in offsets:
        if spans is not None:
            end = min(end, next(words for first, words, last in spans if first <= start < last))
        size += len(text[max(start, seen) : end].encode())
        seen = max(seen, end)
    return size
