"""What a generator is, and the context through which it asks the model, the templates and the sandbox."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

from factory.engine.request import Request, Response, Sampling
from factory.engine.structured import ask_json
from factory.errors import ConfigError
from factory.prompts import Templates
from factory.records import Frozen, Message, Record, Usage, content_hash
from factory.resources import Opener, Opens
from factory.sources import Item, Row

if TYPE_CHECKING:
    from factory.engine.asker import Asker
    from factory.engine.client import Server
    from factory.sandbox import Sandbox

T = TypeVar("T")


def chat(*turns: str | tuple[str, str], system: str = "") -> tuple[Message, ...]:
    """Messages from texts: user, assistant, user, ... in turn, after an optional system prompt."""
    roles = ("user", "assistant")
    messages = [Message(role="system", content=system)] if system else []
    for number, turn in enumerate(turns):
        role, text = turn if isinstance(turn, tuple) else (roles[number % 2], turn)
        messages.append(Message(role=role, content=text))
    return tuple(messages)


class GeneratorSettings(Frozen):
    """The `task:` part of the configuration that every generator has; a generator's own settings add to it."""

    name: str
    generator: str
    sampling: Sampling = Sampling()


class Generator(Protocol):
    """Turns one seed item into records.

    `Settings` is the pydantic model of its configuration. `templates` are the names of the templates that it renders,
    for their digest and their check. `check` tells problems before anything is asked, given the columns of a seed row
    (None where they are not known). With `carries_columns`, `meta` holds a row's columns, which become columns of the
    data set.
    """

    Settings: ClassVar[type[GeneratorSettings]]
    settings: GeneratorSettings
    templates: Sequence[str]
    uses_sandbox: bool
    carries_columns: bool

    def check(self, columns: set[str] | None) -> list[str]: ...

    def fingerprint(self, record: Record) -> str | Sequence[str] | None:
        """What makes two records the same one (only the first is kept), each of several keys by itself; None where
        duplicates are welcome."""

    async def generate(self, item: Item, context: Context) -> Sequence[Record]: ...


@runtime_checkable
class Remembers(Protocol):
    """A generator whose later items build on what earlier ones gave (`factory.generators.pool`).

    Items are begun in their order. One whose fate is final already is not generated again when a run goes on:
    `remember` is called in its place, with the records that it gave.
    """

    def remember(self, item: Item, records: Sequence[Record]) -> None: ...


@runtime_checkable
class Grows(Protocol):
    """A generator whose own seeds must be asked for first (`factory.generators.topics`).

    `grow` yields seed rows in an order that the answers alone decide, as soon as each is known. `documents` are the
    items of the source, if the user named one; `make_context` gives an item of the generator's own making a context to
    ask through. `finish` is awaited once the records wanted are there, for what shall be whole all the same. `files` are
    what shall lie in the run's folder, as JSON, by name.
    """

    def grow(
        self, seed: int, documents: Iterator[Item] | None, make_context: Callable[[Item], Context]
    ) -> AsyncGenerator[Row, None]: ...

    async def finish(self) -> None: ...

    def files(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class Asked:
    """A model that may be asked: through whom, how it likes it, where its tokenizer is and how many tokens it takes at most
    (`ModelSettings`; None: its own limit)."""

    asker: Asker
    sampling: Sampling
    chat: bool
    prompt_form: str
    path: str = ""
    context: int | None = None


class Context:
    """Everything that one seed item's coroutine may use, and the story of what it did.

    `rng` is the item's own: seeded by the run's seed and the item, so the same on every run. `endpoints` are the models
    beside the run's own, by name.
    """

    def __init__(
        self,
        *,
        item: Item,
        settings: GeneratorSettings,
        seed: int,
        asker: Asker,
        templates: Templates,
        template_digest: str,
        sampling: Sampling,
        sandbox: Callable[[], Sandbox],
        chat: bool = True,
        opener: Opener | None = None,
        prompt_form: str = "chat",
        path: str = "",
        tokens: int | None = None,
        endpoints: Mapping[str, Asked] | None = None,
    ) -> None:
        self.item, self.settings, self.templates = item, settings, templates
        self.rng = random.Random(f"{seed}/{item.digest}/{item.index}")
        self.usage = Usage()
        self.exchanges: list[str] = []
        self._seed, self._asker, self._sandbox, self._opener = seed, asker, sandbox, opener
        self._template_digest = template_digest
        self.sampling = settings.sampling.over(sampling)
        self._own, self._endpoints = Asked(asker, self.sampling, chat, prompt_form, path, tokens), endpoints or {}

    @property
    def sandbox(self) -> Sandbox:
        return self._sandbox()

    def asked(self, endpoint: str | None = None) -> Asked:
        """Who is asked under this name; None is the run's own model, with the task's sampling over its own."""
        if endpoint is None:
            return self._own
        if endpoint not in self._endpoints:
            raise ConfigError(f"no endpoint is named {endpoint} (there is {', '.join(self._endpoints) or 'none'})")
        return self._endpoints[endpoint]

    def render(self, template: str, /, **variables: Any) -> str:
        """The named template, filled in. Raises `GeneratorError` where a variable is missing."""
        return self.templates.render(template, variables)

    async def ask(
        self,
        messages: Sequence[Message] = (),
        *,
        prompt: str | tuple[int, ...] = "",
        label: str = "answer",
        sample: int = 0,
        schema: Mapping[str, Any] | None = None,
        sampling: Sampling | None = None,
        endpoint: str | None = None,
    ) -> Response:
        """One answer to a chat or, with `prompt` (a text, or token ids), a raw continuation; from the journal where it was asked before.

        `sample` tells apart several answers to the same question; `label` names the step in reports. `endpoint` names
        another model than the run's own, which is drawn from as that model's own settings say.
        """
        asked = self.asked(endpoint)
        chosen = sampling.over(asked.sampling) if sampling else asked.sampling
        seed = int(content_hash(self._seed, self.item.digest, self.item.index, label, sample)[:8], 16) >> 1
        if messages and not asked.chat:  # a base model: what was said so far is what it continues
            prompt, messages = "\n\n".join(message.content for message in messages) + "\n\n", ()
        request = Request(tuple(messages), prompt, chosen.body(), seed, schema)
        step = label if endpoint is None else f"{label}@{endpoint}"
        key, response = await asked.asker.ask(request, step, self.item.index)
        self.exchanges.append(key)
        self.usage += Usage(
            requests=1,
            prompt_tokens=response.prompt_tokens,
            completion_tokens=response.completion_tokens,
            seconds=round(response.seconds, 6),
        )
        return response

    async def server(self) -> Server:
        """A server of the model, started where it was not, for a program that does its own asking (not journaled)."""
        return (await self._asker.engine()).server

    async def ask_json(
        self,
        messages: Sequence[Message],
        schema: Mapping[str, Any],
        *,
        label: str = "answer",
        sample: int = 0,
        sampling: Sampling | None = None,
        endpoint: str | None = None,
    ) -> Any:
        """An answer that fits a JSON schema; raises `RecordError` where none came after asking again."""
        return await ask_json(self, messages, schema, label=label, sample=sample, sampling=sampling, endpoint=endpoint)

    async def draw(self, label: str, determined_by: Any, choose: Callable[[], Awaitable[T]]) -> T:
        """What `choose` returned (JSON) when this item first asked for it, in this run's journal.

        For draws from what other items gave: a run that goes on sees them again, even where a filter that was changed
        since would have let others into the pool. `determined_by` is what makes it another draw, such as how many.
        """
        identity = (self.settings.name, self._asker.identity, self._seed, self.item.digest, self.item.index)
        return await self._asker.draw(content_hash("draw", *identity, label, determined_by), label, choose)

    async def once(self, label: str, determined_by: Any, compute: Callable[[], Awaitable[T]]) -> T:
        """What `compute` returned (JSON) when this run first asked for it, for whichever item: a reward of a text.

        `determined_by` is all that the value depends on. Unlike a draw it is not this item's own.
        """
        return await self._asker.draw(content_hash("once", label, determined_by), label, compute)

    async def opened(self, plug_in: Opens) -> Any:
        """What the plug-in's `ready` gives: opened at the first call, shared by the run, closed at its end."""
        if self._opener is None:
            raise RuntimeError(f"{type(plug_in).__name__} opens a resource, which only `generate` provides")
        return await self._opener.get(plug_in)

    def record(
        self,
        messages: Sequence[Message],
        meta: Mapping[str, Any] | None = None,
        *,
        sample: int = 0,
        reason: str = "",
        parents: Sequence[str] = (),
    ) -> Record:
        """A record of this item, not scored yet; with a `reason` it is lost already.

        Its `parents` are, unless given, the records of another run that the item was made from.
        """
        identity = content_hash(
            self.settings.name,
            self._template_digest,
            self.item.digest,
            self.item.index,
            sample,
            self._asker.identity,
            self.sampling.body(),
            self._seed,
        )
        return Record(
            id=identity,
            task=self.settings.name,
            messages=tuple(messages),
            meta=dict(meta or {}),
            reason=reason,
            parents=tuple(parents) or self.item.parents,
            usage=self.usage,
        )
