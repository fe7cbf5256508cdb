"""Two-turn and longer dialogues in which the model plays both sides (Nemotron-4 340B report, sections 3.2.2 and 3.2.3).

A first request -> an answer -> the user's next turn, written by the model as a person of some kind -> an answer, and so on. A
dialogue ends at its turn limit, at the done token, when the "user" begins to talk like an assistant, or when somebody
repeats himself; what was good before that is kept, if it has turns enough. Courtesies are cut out of the user's turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.few_shot import load_data
from factory.generators.from_template import TOO_LONG
from factory.generators.requests import DATA, check_columns, own_requests, request_of
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.sources import Item

PERSONAS = "dialogue/personas.yaml"
DONE = "<done>"
Style = Literal["normal", "complex", "concise"]
# How an assistant talks and a user does not.
_ASSISTANT = re.compile(
    r"^\W*(?:as an ai\b|i(?:['’]m| am) an ai\b|(?:sure|certainly|of course|absolutely)[!,]|i(?:['’]d| would) be (?:happy|glad) to|"
    r"here (?:is|are) (?:a|an|the|some)\b|you(?:['’]re| are) welcome)|\b(?:how (?:can|may) i (?:help|assist)|"
    r"let me know if you (?:have|need)|i hope this helps|feel free to (?:ask|reach))",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"^\s*(?:assistant|ai|bot|person|user|you)\s*:", re.IGNORECASE | re.MULTILINE)
_COURTESY = (
    r"(?:(?:oh|ah|okay|ok|wow|well|yes)[,!.]?\s+)?(?:thank you|thanks|many thanks|great|perfect|awesome|wonderful|hello|hi|hey|"
    r"good (?:morning|day|evening)|that(?:['’]s| is| was) (?:very |really |so |quite )?(?:helpful|great|interesting|useful|good|clear)|"
    r"i (?:really )?appreciate|(?:very )?interesting|good (?:answer|point|to know)|nice (?:answer|one))\b"
)
# A short sentence of praise or thanks; a question is never one.
_OPENING = re.compile(rf"^\s*{_COURTESY}[^.!?\n]{{0,60}}(?:[.!]+(?=\s|$)\s*|$)", re.IGNORECASE)
_CLOSING = re.compile(
    r"(?:^|(?<=[.!?]))\s*(?:thank you|thanks|many thanks|i appreciate|have a (?:nice|good))\b[^.!?\n]*[.!?]*\s*$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"^\s*(?:(?:thank you|thanks|great|perfect|hello|hi|hey)\s*[,!–-]\s*)+(?=\w)", re.IGNORECASE)
_PLEASE = re.compile(r"(?:,\s*please\b|\bplease\b,?\s*)", re.IGNORECASE)


class DialogueSettings(GeneratorSettings):
    """`turns` of the user at most, at least `least_turns` of them for a record; the last one is answered unless
    `answer_last` is false (a prompt for preference data). `alike` is how similar two turns may be before it counts as
    repetition, from 0 to 1."""

    turns: int = Field(3, ge=2)
    least_turns: int = Field(2, ge=1)
    answer_last: bool = True
    styles: tuple[Style, ...] = ("normal", "complex", "concise")
    alike: float = Field(0.8, gt=0, le=1)
    user_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _ordered(self) -> DialogueSettings:
        if self.least_turns > self.turns:
            raise ValueError(f"task.least_turns={self.least_turns} must not be above task.turns={self.turns}")
        if not self.styles:
            raise ValueError("task.styles: needs one style at least")
        return self


class Dialogue:
    """One seed gives one dialogue."""

    Settings: ClassVar[type[GeneratorSettings]] = DialogueSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: DialogueSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        self.template = f"dialogue/{prompt_form}/user_turn.j2"
        self.templates: Sequence[str] = (self.template, PERSONAS, DATA)

    def check(self, columns: set[str] | None) -> list[str]:
        return self._templates.check(self.template) + check_columns(self.settings.name, columns)

    def seeds(self, seed: int) -> Iterator[Mapping[str, Any]]:
        return own_requests(self._templates, seed)

    def fingerprint(self, record: Record) -> str | None:
        return content_hash([message.content for message in record.messages if message.role == "user"])

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        settings, people = self.settings, load_data(self._templates, PERSONAS)
        style, person = context.rng.choice(settings.styles), context.rng.choice(people["persons"])
        talk = chat(request_of(item.row))
        ended = "turn limit"
        for turn in range(1, settings.turns + 1):
            if turn > 1:
                said, stop = await self._user(talk, person, people["styles"][style], turn, context)
                if stop:
                    ended = stop
                    break
                talk = (*talk, *chat(said))
            if turn == settings.turns and not settings.answer_last:
                break
            answer, stop = await self._assistant(talk, turn, context)
            if stop:
                ended, talk = stop, talk[:-1]
                break
            talk = (*talk, *chat(("assistant", answer)))
        users = sum(message.role == "user" for message in talk)
        meta = {"persona": {"person": person, "style": style}, "turns": users, "ended": ended, "seed": dict(item.row)}
        short = users < settings.least_turns
        return [context.record(talk, meta, reason=f"dialogue: {ended} after {users} of its turns" if short else "")]

    async def _user(
        self, talk: tuple[Message, ...], person: str, style: str, turn: int, context: Context
    ) -> tuple[str, str]:
        """(the user's next turn without courtesies, why the dialogue ends instead)."""
        conversation = [message.model_dump() for message in talk]
        if self.prompt_form == "few_shot":
            prompt = context.render(self.template, conversation=conversation, person=person)
            answer = await context.ask(prompt=prompt, label=f"user {turn}", sampling=self.settings.few_shot_sampling)
        else:
            question = context.render(self.template, conversation=conversation, person=person, style=style)
            answer = await context.ask(chat(question), label=f"user {turn}", sampling=self.settings.user_sampling)
        text = answer.text.strip().strip('"“”').strip()
        if DONE in text or not (said := without_courtesies(text)):
            return "", "done"
        if _ASSISTANT.search(said) or _SPEAKER.search(said):
            return "", "role flip"
        if answer.truncated:
            return "", "turn cut off"
        if any(_alike(said, message.content) >= self.settings.alike for message in talk):
            return "", "repetition"
        return said, ""

    async def _assistant(self, talk: tuple[Message, ...], turn: int, context: Context) -> tuple[str, str]:
        answer = await context.ask(talk, label=f"answer {turn}")
        if turn == 1 and (answer.truncated or not answer.text.strip()):
            raise RecordError(TOO_LONG if answer.truncated else "answer: empty")
        before = [message.content for message in talk if message.role == "assistant"]
        if answer.truncated or not answer.text.strip():
            return "", "answer cut off"
        if any(_alike(answer.text, earlier) >= self.settings.alike for earlier in before):
            return "", "repetition"
        return answer.text, ""


def without_courtesies(text: str) -> str:
    """A user's turn without thanks, praise, greetings and "please"; empty where it held nothing else."""
    before = None
    while before != text:
        before = text
        text = _CLOSING.sub("", _OPENING.sub("", _ADDRESS.sub("", text))).strip()
    text = _PLEASE.sub("", text).strip()
    text = re.sub(r"\s+([?.!,])", r"\1", text)
    return text[:1].upper() + text[1:] if any(map(str.isalnum, text)) else ""


def _alike(one: str, two: str) -> float:
    """How similar two turns are, from 0 to 1, by their words in order; long ones by their beginnings."""
    first, second = (re.findall(r"\w+", text.lower())[:200] for text in (one, two))
    return SequenceMatcher(None, first, second, autojunk=False).ratio()
