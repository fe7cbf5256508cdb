"""How likely a model finds a text: the log-probabilities that a server gives for a prompt's own tokens, and which of them are whose.

The text is sent as token ids, so that the server scores just the tokens that were counted here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pydantic import Field, model_validator

from factory.engine.client import RequestError
from factory.engine.request import Sampling
from factory.errors import RecordError, UserError
from factory.generators.base import Context
from factory.generators.together import together
from factory.records import Frozen


class NoLogprobs(RecordError):
    """The server does not score prompts, neither this one nor any other."""


class Windows(Frozen):
    """Longer texts are scored in windows of `window` tokens that move on by `stride`."""

    window: int = Field(4096, ge=2)
    stride: int = Field(2048, ge=1)

    @model_validator(mode="after")
    def _overlapping(self) -> Self:
        if self.stride >= self.window:
            raise ValueError(f"stride={self.stride} must be below window={self.window}: windows overlap")
        return self


# vLLM's own parameter: of each of the prompt's tokens its log-probability, and of no other token.
SCORING = Sampling(temperature=0.0, max_tokens=1, extra={"prompt_logprobs": 0})
Span = tuple[int, int, int]  # characters: start, end of the words, end of the turn


def load_tokenizer(name: str, key: str) -> Any:
    """A fast tokenizer by folder, hub id, `.gguf` or `package:NAME`. Raises `UserError`, naming `key`, where there is none."""
    from factory.engine.models import resolve_model

    path = resolve_model(name).path
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {name}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
    if not tokenizer.is_fast:
        raise UserError(f"{key}: {name}: has no fast tokenizer, which is needed to know what each token covers")
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


async def token_losses(
    context: Context,
    ids: Sequence[int],
    window: int,
    stride: int,
    *,
    label: str,
    first: int = 0,
    endpoint: str | None = None,
) -> list[float]:
    """-log p of each token from number `first` on, in nats; of those before it, and of a first token with nothing before
    it, NaN. One request a window, all at once. Raises `NoLogprobs` where the server gives none."""
    windows = [place for place in cut(len(ids), window, stride) if place[1] > first]
    try:
        answers = await together(
            context.ask(prompt=tuple(ids[start:end]), label=label, sampling=SCORING, endpoint=endpoint)
            for start, end, _ in windows
        )
    except RequestError as error:
        if "prompt_logprobs" in str(error):  # the server says that it does not know the parameter
            raise NoLogprobs(str(error)) from error
        raise
    losses = [math.nan] * len(ids)
    for (start, end, own), answer in zip(windows, answers, strict=True):
        found = prompt_losses(answer.logprobs, ids[start:end])
        for place in range(max(own, start + 1, first), end):
            losses[place] = found[place - start]
    return losses


def prompt_losses(logprobs: Any, ids: Sequence[int]) -> list[float]:
    """-log p of each token of a prompt, in nats; the first one's is NaN. Raises `RecordError` where they do not fit."""
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise NoLogprobs("engine: the server gave no log-probabilities of the prompt (vLLM does, by prompt_logprobs)")
    losses = [math.nan]
    for entry, token in zip(logprobs[1:], ids[1:], strict=True):
        try:
            losses.append(-float(entry[str(token)]["logprob"]))
        except (TypeError, KeyError, ValueError) as error:
            raise RecordError("engine: the server scored other tokens than it was sent") from error
    return losses
