"""Perplexity of an answer given its prompt, and instruction-following difficulty: how much the prompt helps.

IFD (Li et al. 2023, "From Quantity to Quality", section 2.2) divides what the answer costs with the instruction by what it costs
without. Near 1 the instruction hardly helps, which makes the pair hard to learn from what is known; above 1 it misleads.
The paper's score is the mean loss, the later Superfiltering (Li et al. 2024, section 2) takes perplexities; `ratio` says which.

Both need a server that gives the log-probabilities of a prompt's own tokens, as vLLM does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from factory.errors import ConfigError, ScorerError, UserError
from factory.generators.base import Context
from factory.likelihood import NoLogprobs, Windows, encode, load_tokenizer, render_conversation, token_losses
from factory.records import Message, Record, Score


class PerplexitySettings(Windows):
    """`tokenizer` is the asked model's (null: found at the model's path). Longer conversations are scored in windows."""

    endpoint: str | None = None
    tokenizer: str | None = None
    ifd: bool = True  # costs a second request
    ratio: Literal["perplexity", "loss"] = "perplexity"


class Perplexity:
    """Two scores, over the words of the last answer: `perplexity`, and `ifd` where it is asked for.

    Without the instruction the same tokens are scored, after nothing but a beginning-of-text token if the tokenizer has
    one; else the first of them has nothing before it and counts in neither half of the ratio.
    """

    uses_sandbox = False
    Settings = PerplexitySettings
    templates: tuple[str, ...] = ()

    def __init__(self, settings: PerplexitySettings) -> None:
        self.settings = settings
        self.names = ("perplexity", "ifd") if settings.ifd else ("perplexity",)
        self._tokenizer: Any = None
        self._loading = asyncio.Lock()

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        tokenizer = await self._ready(context)
        asked = context.asked(self.settings.endpoint)
        ids, first, end = answer_tokens(tokenizer, record.messages, asked.chat)
        losses = await self._losses(context, ids[:end], first)
        given = losses[first:]
        if not given or math.isnan(given[0]):
            raise ScorerError("perplexity: the answer holds no token with something before it")
        mean = math.fsum(given) / len(given)
        detail = {"nats_per_token": round(mean, 6), "tokens": len(given)}
        scores = {"perplexity": Score(value=_exp(mean), detail=detail)}
        if self.settings.ifd and (ifd := await self._ifd(context, tokenizer, ids[first:end], given)) is not None:
            scores["ifd"] = ifd
        return scores

    async def _ifd(
        self, context: Context, tokenizer: Any, answer: Sequence[int], given: Sequence[float]
    ) -> Score | None:
        """None where there is none: for an answer of one token, or one that costs nothing by itself."""
        start = [tokenizer.bos_token_id] if starts_texts(tokenizer) else []
        text = [*start, *answer]
        if len(text) < 2:
            return None
        alone = (await self._losses(context, text, 0))[1:]
        given = given[len(given) - len(alone) :]
        with_prompt, without = math.fsum(given) / len(given), math.fsum(alone) / len(alone)
        if self.settings.ratio == "loss" and without == 0:
            return None
        value = with_prompt / without if self.settings.ratio == "loss" else _exp(with_prompt - without)
        detail = {"with": round(with_prompt, 6), "without": round(without, 6), "tokens": len(alone)}
        return Score(value=value, detail=detail)

    async def _losses(self, context: Context, ids: Sequence[int], first: int) -> list[float]:
        """Raises `UserError` where the server can give no log-probabilities of a prompt: no record's scores can be had."""
        settings = self.settings
        try:
            return await token_losses(
                context,
                ids,
                settings.window,
                settings.stride,
                label="perplexity",
                first=first,
                endpoint=settings.endpoint,
            )
        except NoLogprobs as error:
            raise UserError(
                f"the perplexity scorer: {error}. Ask a vLLM server (engine=vllm, or scorers.perplexity.endpoint=NAME), or "
                "leave it out with scorers.perplexity.enabled=false."
            ) from error

    async def _ready(self, context: Context) -> Any:
        settings, asked = self.settings, context.asked(self.settings.endpoint)
        async with self._loading:
            if self._tokenizer is None:
                if asked.context is not None and settings.window >= asked.context:
                    raise ConfigError(
                        f"scorers.perplexity.window={settings.window}: must be below the model's context={asked.context}"
                    )
                name = settings.tokenizer or asked.path
                self._tokenizer = await asyncio.to_thread(load_tokenizer, name, "scorers.perplexity.tokenizer")
        return self._tokenizer


def answer_tokens(tokenizer: Any, messages: Sequence[Message], chat: bool) -> tuple[list[int], int, int]:
    """(token ids of the conversation up to the last answer, the answer's first token, the place after its last one).

    The end of the turn is none of it. Raises `ScorerError` where there is no answer.
    """
    places = [place for place, message in enumerate(messages) if message.role == "assistant"]
    if not places:
        raise ScorerError("perplexity: the record holds no answer")
    talk = messages[: places[-1] + 1]
    templated = chat and tokenizer.chat_template is not None
    if templated:
        text, spans = render_conversation(tokenizer, [message.model_dump() for message in talk])
        start, end, _ = spans[-1]
    else:  # as a base model is asked
        before = "".join(f"{message.content}\n\n" for message in talk[:-1])
        text = before + talk[-1].content
        start, end = len(before), len(text)
    ids, offsets = encode(tokenizer, text, special=not templated)
    inside = [place for place, (left, right) in enumerate(offsets) if right > left and start <= left < end]
    if not inside:
        raise ScorerError("perplexity: the answer is empty")
    return ids, inside[0], inside[-1] + 1


def starts_texts(tokenizer: Any) -> bool:
    """Whether the tokenizer puts its beginning-of-text token before a text."""
    ids = tokenizer("a", add_special_tokens=True)["input_ids"]
    return tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id


def _exp(nats: float) -> float:
    """A loss of hundreds of nats a token is no number any more; it stays one here."""
    return math.exp(min(nats, 700.0))
