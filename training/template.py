"""From a conversation to tokens: which are the prompt's, which the answer's, and where a turn ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.errors import TrainingError
from training.settings import ModelSource

Message = Mapping[str, Any]
SCORED, PREFERENCE = 1, 2  # bits of a token's mask: part of the likelihood; part of the preference
_PROBE = ({"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "Yes."})


class RowError(Exception):
    """One row cannot be used; its text says why."""


class Template:
    """Renders and tokenises conversations with a model's own chat template.

    An answer's tokens are those that follow the prompt as the model will see it when it is asked (the template with its
    generation prompt), up to and with the token that ends the turn. The prompt's tokens are exactly those of the prompt
    alone, whatever follows.
    """

    def __init__(self, model: ModelSource) -> None:
        self.tokenizer = load_tokenizer(model)
        self.end_ids = _end_ids(self.tokenizer, model)
        problems = self._check(model)
        if problems:
            raise TrainingError(*problems)

    def _check(self, model: ModelSource) -> list[str]:
        name, tokenizer = model.name, self.tokenizer
        if not tokenizer.chat_template:
            return [
                f"model={name}: its tokenizer has no chat template; give one with chat.template=FILE "
                "(chatml and gemma are shipped)"
            ]
        if not self.end_ids:
            return [
                f"model={name}: its tokenizer has no end token; name the one that ends a turn with chat.end_token=TOKEN"
            ]
        plain, asked = self.render(_PROBE[:1], ask=False), self.render(_PROBE[:1], ask=True)
        if plain == asked:
            return [
                f"model={name}: its chat template has no generation prompt (add_generation_prompt changes nothing), so "
                "an answer's beginning is unknown; give another with chat.template=FILE"
            ]
        try:
            self.encode([(_PROBE, 0)])
        except RowError as error:
            return [f"model={name}: {error}"]
        return []

    def render(self, messages: Sequence[Message], *, ask: bool) -> str:
        text: str = self.tokenizer.apply_chat_template(
            [dict(message) for message in messages], tokenize=False, add_generation_prompt=ask
        )
        return text

    def encode(
        self, conversations: Sequence[tuple[Sequence[Message], int]], *, whole: bool = False
    ) -> list[tuple[list[int], list[int]]]:
        """(token ids, masks) of each (messages, index of the first message whose answer is scored).

        What a template writes after the last turn's end is left out, unless `whole`. Raises `RowError` where a template rewrites earlier turns or does not end an answer.
        """
        pieces = [self._pieces(messages, first) for messages, first in conversations]
        texts = [text for conversation in pieces for text, _ in conversation]
        encoded = self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        found, place = [], 0
        for conversation in pieces:
            ids: list[int] = []
            mask: list[int] = []
            for _, is_answer in conversation:
                part = encoded[place]
                place += 1
                ids += part
                mask += self._answer_mask(part) if is_answer else [0] * len(part)
            last = max((at for at, bits in enumerate(mask) if bits), default=-1)
            end = len(ids) if whole else last + 1
            found.append((ids[:end], mask[:end]))
            bos = self.tokenizer.bos_token_id
            if bos is not None and bos not in self.end_ids and ids[:2] == [bos, bos]:
                raise RowError("the chat template begins with two begin-of-text tokens")
        return found

    def _pieces(self, messages: Sequence[Message], first: int) -> list[tuple[str, bool]]:
        """The rendered text cut before and after each answer that is scored, so that no token lies across a cut."""
        whole = self.render(messages, ask=False)
        pieces, done = [], 0
        for place, message in enumerate(messages):
            if message["role"] != "assistant" or place < first:
                continue
            before = self.render(messages[:place], ask=True)
            after = self.render(messages[: place + 1], ask=False)
            if not whole.startswith(before) or not whole.startswith(after):
                raise RowError(
                    "the chat template writes earlier turns differently once others follow; train on the last turn "
                    "only (stage.turns=last) or give another with chat.template=FILE"
                )
            pieces += [(whole[done : len(before)], False), (whole[len(before) : len(after)], True)]
            done = len(after)
        return pieces

    def _answer_mask(self, ids: Sequence[int]) -> list[int]:
        ends = [place for place, token in enumerate(ids) if token in self.end_ids]
        if not ends:
            raise RowError(
                "the chat template does not end an answer with the end token "
                f"{self.tokenizer.convert_ids_to_tokens(sorted(self.end_ids))}, so the model would not learn to stop; "
                "name the token that ends a turn with chat.end_token=TOKEN"
            )
        end = ends[-1]
        return [SCORED | PREFERENCE] * end + [SCORED] + [0] * (len(ids) - end - 1)


def load_tokenizer(model: ModelSource) -> Any:
    """The model's tokenizer with the template and the end token that the settings name."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, revision=model.revision)
    except (OSError, ValueError) as error:
        raise TrainingError(
            f"model={model.name}: its tokenizer cannot be loaded: {str(error).splitlines()[0]}"
        ) from error
    if model.chat_template is not None:
        tokenizer.chat_template = model.chat_template
    if model.end_token is not None:
        if model.end_token not in tokenizer.get_vocab():
            raise TrainingError(f"chat.end_token={model.end_token}: the vocabulary of {model.name} has no such token")
        tokenizer.eos_token = model.end_token
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _end_ids(tokenizer: Any, model: ModelSource) -> frozenset[int]:
    if model.end_token is not None:
        return frozenset({tokenizer.eos_token_id})
    found = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    if found:
        from transformers import GenerationConfig

        try:
            ends = GenerationConfig.from_pretrained(model.path, revision=model.revision).eos_token_id
        except OSError:  # none beside the model
            ends = None
        found |= set(ends if isinstance(ends, list) else [ends]) - {None}
    return frozenset(found)
