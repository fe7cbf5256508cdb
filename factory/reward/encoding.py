"""From a conversation to the tokens that a reward model reads: the chat template applied once, nothing added, nothing cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.errors import ScorerError, UserError
from factory.records import Message
from factory.reward.model import RewardModel

_PROBE = (Message(role="user", content="Say yes."), Message(role="assistant", content="Yes."))


class Encoder:
    """Encodes for one model, in whichever thread asks. Raises `UserError` where its tokenizer cannot be had."""

    def __init__(self, model: RewardModel) -> None:
        from transformers import AutoTokenizer

        found = model.resolved
        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(found.path, revision=found.revision)
        except (OSError, ValueError) as error:
            raise model.problem(f"its tokenizer cannot be loaded: {str(error).splitlines()[0]}") from error
        if not self._tokenizer.chat_template:
            raise model.problem("its tokenizer has no chat template, by which prompt and answer become one text")
        text = model.config.get("text_config") or model.config
        if len(self._tokenizer) > (known := text.get("vocab_size", len(self._tokenizer))):
            raise model.problem(f"its tokenizer has {len(self._tokenizer)} tokens, its embedding {known}")
        self.limit = self._limit(model)
        # A token is at most so many bytes; a text with more than the limit's worth need not be encoded to be refused.
        self._longest = max(len(token) for token in self._tokenizer.get_vocab())
        self._check(model)

    def _limit(self, model: RewardModel) -> int:
        config = model.config
        positions = config.get("max_position_embeddings") or (config.get("text_config") or {}).get(
            "max_position_embeddings"
        )
        bounds = (model.settings.max_length, positions, self._tokenizer.model_max_length)
        return min(int(bound) for bound in bounds if bound is not None)

    def _check(self, model: RewardModel) -> None:
        try:
            ids = self.encode(_PROBE)
        except ScorerError as error:
            raise UserError(f"{model.where}.path={model.settings.path}: {error}") from error
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:2] == [bos, bos] and bos != self._tokenizer.eos_token_id:
            raise model.problem(
                "its chat template begins with two begin-of-text tokens, which it cannot have learned from"
            )

    def encode(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of the whole conversation. Raises `ScorerError` for one without an answer or too long to be read."""
        (found,) = self.encode_all([messages])
        if isinstance(found, ScorerError):
            raise found
        return found

    def encode_all(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | ScorerError]:
        """The same for many at once, on all cores; an error stands where it would be raised."""
        found: list[Any] = []
        for messages in conversations:
            try:
                found.append(self._text(messages))
            except ScorerError as error:
                found.append(error)
        places = [place for place, text in enumerate(found) if isinstance(text, str)]
        for place, ids in zip(places, self._ids([found[place] for place in places]), strict=True):
            found[place] = ids
            if len(ids) > self.limit:
                found[place] = ScorerError(f"reward: too long: {len(ids)} tokens, the model reads {self.limit}")
        return found

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        found: list[list[int]] = self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return found

    def _text(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        if not messages or messages[-1].role != "assistant":
            raise ScorerError("reward: the record does not end with an answer")
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            text: str = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=False)
        except TemplateError as error:
            raise ScorerError(f"reward: the chat template takes no such conversation: {error}") from error
        if len(text) > self.limit * self._longest:
            raise ScorerError(f"reward: too long: {len(text)} characters, the model reads {self.limit} tokens")
        return text
