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

from pydantic import Field, model_validator

from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError, UserError
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary, named_items, together
from factory.generators.base import Context
from factory.prompts import Templates
from factory.records import Record
from factory.settings import Endpoint, OpenAIEngine
from factory.sources import Item, Source

_ASK = Sampling(temperature=0.0, max_tokens=1, extra={"prompt_logprobs": 0})
Span = tuple[int, int, int]  # characters: start, end of the words, end of the turn


class PerplexitySettings(SuiteSettings):
    """`text` is Jinja over a row's columns; a row with `messages` (a column's name) is a conversation instead."""

    text: str
    messages: str = "messages"
    tokenizer: str | None = None
    window: int = Field(1024, ge=2)
    stride: int = Field(512, ge=1)

    @model_validator(mode="after")
    def _overlapping(self) -> PerplexitySettings:
        if self.stride >= self.window:
            raise ValueError(f"stride={self.stride} must be below window={self.window}: windows overlap")
        return self


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
        self.tokenizer = await asyncio.to_thread(load_tokenizer, name)
        yield self.tokenizer

    def sampling(self, role: Role) -> Sampling:
        return _ASK

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        return named_items(self.source)

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        text, spans = self._text(item.row)
        ids, offsets = encode(self.tokenizer, text, special=spans is None)
        scored = [place for place in range(1, len(ids)) if _inside(offsets[place], spans)]
        if not scored:
            raise RecordError("text: holds no token that could be scored")
        losses: dict[int, float] = {}
        windows = list(cut(len(ids), self.settings.window, self.settings.stride))
        answers = await together(context.ask(prompt=tuple(ids[start:end]), label=role) for start, end, _ in windows)
        for (start, end, first), answer in zip(windows, answers, strict=True):
            found = prompt_losses(answer.logprobs, ids[start:end])
            losses |= {place: found[place - start] for place in range(max(first, start + 1), end)}
        meta = {
            "item": item.digest,
            "nats": math.fsum(losses[place] for place in scored),
            "tokens": len(scored),
            "bytes": _bytes(text, [offsets[place] for place in scored], spans),
            "windows": len(windows),
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


def load_tokenizer(name: str) -> Any:
    """A fast tokenizer by folder, hub id, `.gguf` or `package:NAME`. Raises `UserError` where there is none."""
    from factory.engine.models import resolve_model

    path = resolve_model(name).path
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"suite.tokenizer: {name}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"suite.tokenizer: {name}: has no fast tokenizer, which is needed to know what each token covers"
        )
    return tokenizer


def encode(tokenizer: Any, text: str, *, special: bool) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids and the characters that each covers, (start, end); special tokens of the tokenizer's own cover none."""
    coded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True, verbose=False)
    return list(coded["input_ids"]), [tuple(pair) for pair in coded["offset_mapping"]]


def render_conversation(tokenizer: Any, turns: Sequence[Mapping[str, str]]) -> tuple[str, list[Span]]:
    """A conversation through the chat template, and what the assistant says in it.

    Raises `RecordError` where the template does not let the turns follow one another, or nobody answers.
    """
    try:
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        spans = []
        for place, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = tokenizer.apply_chat_template(messages[:place], tokenize=False, add_generation_prompt=True)
            after = tokenizer.apply_chat_template(messages[: place + 1], tokenize=False)
            if not (whole.startswith(before) and whole.startswith(after.rstrip())):
                raise RecordError("messages: the chat template rewrites earlier turns")
            end, words = len(after.rstrip()), len(before) + len(message["content"].strip())
            spans.append((len(before), words if message["content"].strip() in whole[len(before) : end] else end, end))
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"messages: {type(error).__name__}: {error}") from error
    except Exception as error:  # Jinja's, from the template: "roles must alternate" and the like
        if isinstance(error, RecordError):
            raise
        raise RecordError(f"messages: the chat template refuses them: {error}") from error
    if not spans:
        raise RecordError("messages: the assistant says nothing in them")
    return whole, spans


def cut(tokens: int, window: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over `tokens` tokens: (start, end, first token that this window scores)."""
    end = min(window, tokens)
    yield 0, end, 0
    while end < tokens:
        first, end = end, min(end + stride, tokens)
        yield max(0, end - window), end, first


def prompt_losses(logprobs: Any, ids: Sequence[int]) -> list[float]:
    """-log p of each token of a prompt, in nats; the first one's is NaN. Raises `RecordError` where they do not fit."""
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise RecordError("engine: the server gave no log-probabilities of the prompt (vLLM does, by prompt_logprobs)")
    losses = [math.nan]
    for entry, token in zip(logprobs[1:], ids[1:], strict=True):
        try:
            losses.append(-float(entry[str(token)]["logprob"]))
        except (TypeError, KeyError, ValueError) as error:
            raise RecordError("engine: the server scored other tokens than it was sent") from error
    return losses


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
