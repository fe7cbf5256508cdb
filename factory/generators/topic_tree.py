"""Prompts from a tree of topics (Nemotron-4 340B report, section 3.2.1), with their answers.

Kinds of prompts: open questions and writing tasks from general topics, instructions on documents of a source (closed QA), and
problems of mathematics and programming from topics and keywords by level. One item is one topic (or document) and a kind: a
list of prompts is asked for, each is revised to be more specific, and answered: a record each.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from factory.engine.request import Sampling
from factory.errors import ConfigError, RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.few_shot import load_data
from factory.generators.lists import ask_list, continue_list
from factory.generators.rewriting import tagged
from factory.generators.topics import Node, TopicTree
from factory.prompts import Templates
from factory.records import Frozen, Record, content_hash
from factory.sources import Item, Row

Kind = Literal["open_qa", "writing", "closed_qa", "maths", "coding"]
Branch = Literal["general", "maths", "coding"]
BRANCH: Mapping[str, Branch] = {"open_qa": "general", "writing": "general", "maths": "maths", "coding": "coding"}
_LONGEST_TOPIC = 80
_JOIN = "topic_tree/closed_qa.j2"


class BranchSettings(Frozen):
    """One tree: `subject` in words, as the prompt has it; `breadth` of each level; a root for each of `levels`."""

    subject: str
    breadth: tuple[int, ...] = Field(min_length=1)
    levels: tuple[str, ...] = ()

    @field_validator("breadth")
    @classmethod
    def _wide(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1:
            raise ValueError("each level needs one topic at least")
        return value


class TopicTreeSettings(GeneratorSettings):
    """`shares` of the kinds in a turn (0 leaves one out); `prompts` a topic; `text_types` of writing, of which each topic gets
    `types_each`. `topics` names the file of topics given by hand, which are merged with the model's."""

    shares: Mapping[Kind, int] = Field(default_factory=dict)
    branches: Mapping[Branch, BranchSettings] = Field(default_factory=dict)
    topics: str = "topic_tree/topics.yaml"
    prompts: int = Field(4, ge=1)
    text_types: tuple[str, ...] = ()
    types_each: int = Field(2, ge=1)
    revise: bool = True
    max_document: int = Field(8000, ge=200)
    list_sampling: Sampling = Sampling()
    revise_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()


class TopicTreeGenerator:
    """Grows its tree while the first leaves are in use; see `factory.generators.topics`."""

    Settings: ClassVar[type[GeneratorSettings]] = TopicTreeSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: TopicTreeSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.few_shot = settings, templates, prompt_form == "few_shot"
        self._folder = f"topic_tree/{prompt_form}"
        self.kinds = [kind for kind, share in settings.shares.items() if share]
        names = ["topics", *self.kinds, *(["revise"] if settings.revise else [])]
        self._prompts = [f"{self._folder}/{name}.j2" for name in names]
        self._prompts += [_JOIN] if "closed_qa" in self.kinds else []
        self.templates: Sequence[str] = (*self._prompts, settings.topics)
        self.tree: TopicTree | None = None

    def check(self, columns: set[str] | None) -> list[str]:
        settings = self.settings
        problems = [problem for name in self._prompts for problem in self._templates.check(name)]
        if not self.kinds:
            problems.append("task.shares: is empty; give a kind of prompts, as task.shares.open_qa=1")
        for kind in self.kinds:
            if kind in BRANCH and BRANCH[kind] not in settings.branches:
                problems.append(f"task.shares.{kind}: needs task.branches.{BRANCH[kind]}")
        if "writing" in self.kinds and not settings.text_types:
            problems.append("task.text_types=[]: name one at least, as task.text_types=[letter]")
        if columns is not None and not columns & {"text", "item", "document"}:
            problems.append(
                "source: closed QA needs documents, in a column `text` or `document`; a folder of texts has it, too"
            )
        try:
            self._manual()
        except ConfigError as error:
            problems += error.problems
        return problems

    def _manual(self) -> Mapping[str, Mapping[str, Sequence[str]]]:
        """Topics given by hand: branch -> level ("" where the branch has none) -> names."""
        data = load_data(self._templates, self.settings.topics)
        where = f"prompts/{self.settings.topics}"
        if not isinstance(data, Mapping):
            raise ConfigError(f"{where}: must name lists of topics by branch (general) or branch and level (maths)")
        found: dict[str, dict[str, Sequence[str]]] = {}
        for branch, entry in data.items():
            lists = entry if isinstance(entry, Mapping) else {"": entry or []}
            for level, names in lists.items():
                if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                    raise ConfigError(f"{where}: {branch}{level and f'.{level}'}: must be a list of topics")
            found[str(branch)] = {str(level): names for level, names in lists.items()}
        return found

    def fingerprint(self, record: Record) -> str | None:
        """Equal prompts, on one document where they are about one."""
        return content_hash(str(record.meta.get("prompt")).casefold(), record.meta.get("document"))

    def files(self) -> Mapping[str, Any]:
        if self.tree is None:
            return {}
        roots = [{"branch": root.path[0], **root.as_json()} for root in self.tree.roots]
        return {"tree.json": {"complete": not any(node.open for node in self.tree.nodes()), "roots": roots}}

    # ---- growing

    def _roots(self) -> list[Node]:
        manual, roots = self._manual(), []
        for branch in dict.fromkeys(BRANCH[kind] for kind in self.kinds if kind in BRANCH):
            settings = self.settings.branches[branch]
            for level in settings.levels or ("",):
                path = (branch, level) if level else (branch,)
                given = tuple(manual.get(branch, {}).get(level, ()))
                name = f"{settings.subject} ({level})" if level else settings.subject
                roots.append(Node(name, path, level, settings.breadth, given))
        return roots

    async def grow(
        self, seed: int, documents: Iterator[Item] | None, make_context: Callable[[Item], Context]
    ) -> AsyncGenerator[Row, None]:
        """A row for each topic or document and kind, by the shares."""
        tree = self.tree = TopicTree(self._roots(), self._subtopics, make_context)
        streams = {kind: self._rows(kind, seed, tree, documents) for kind in self.kinds}
        tree.start()
        try:
            while streams:
                for turn in range(max(self.settings.shares[kind] for kind in streams)):
                    for kind in [kind for kind in streams if turn < self.settings.shares[kind]]:
                        row = await anext(streams[kind], None)
                        if row is None:
                            del streams[kind]
                        else:
                            yield row
        finally:
            await tree.end()

    async def finish(self) -> None:
        if self.tree is not None:
            await self.tree.finish()

    async def _rows(
        self, kind: Kind, seed: int, tree: TopicTree, documents: Iterator[Item] | None
    ) -> AsyncGenerator[Row, None]:
        if kind == "closed_qa":
            for item in documents or ():
                yield {"kind": kind, "document": item.digest, "number": item.index, **_document(item)}
            return
        roots = [root for root in tree.roots if root.path[0] == BRANCH[kind]]
        async for leaf in tree.leaves(roots):
            row = {"kind": kind, "topic": leaf.name, "path": list(leaf.path), "level": leaf.level}
            if kind == "writing":
                chance, types = random.Random(f"{seed}/{leaf.path}"), self.settings.text_types
                for text_type in chance.sample(types, min(self.settings.types_each, len(types))):
                    yield {**row, "text_type": text_type}
            else:
                yield row

    async def _subtopics(self, node: Node, context: Context, count: int, there: Sequence[str]) -> list[str]:
        settings = self.settings
        variables = {"subject": settings.branches[node.path[0]].subject, "level": node.level}  # type: ignore[index]
        above = [name for name in node.path[1:] if name != node.level]
        taken = [*there, *above]  # a topic is no subtopic of itself
        if self.few_shot:
            topic = above[-1] if above else node.name

            def render(shown: Sequence[str]) -> str:
                return context.render(f"{self._folder}/topics.j2", topic=topic, there=[*there, *shown])

            return await continue_list(
                render, count, context, label="topics", there=taken, longest=_LONGEST_TOPIC,
                sampling=settings.few_shot_sampling,
            )  # fmt: skip
        prompt = context.render(f"{self._folder}/topics.j2", **variables, path=above, count=count, there=list(there))
        return await ask_list(
            prompt, count, context, label="topics", there=taken, longest=_LONGEST_TOPIC, sampling=settings.list_sampling
        )

    # ---- prompts and answers

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = dict(item.row)
        if problem := row.get("problem"):
            raise RecordError(problem)
        if row["kind"] == "closed_qa":
            row["text"] = passage(row["text"], self.settings.max_document, context.rng)
        records = []
        for number, prompt in enumerate(await self._asked(row, context)):
            records.append(await self._record(number, prompt, row, context))
        return records

    async def _asked(self, row: Mapping[str, Any], context: Context) -> list[str]:
        """The prompts of a topic and kind."""
        settings, name = self.settings, f"{self._folder}/{row['kind']}.j2"
        given = {key: row[key] for key in ("topic", "level", "text_type", "text") if key in row}
        if "path" in row:
            given["area"] = " > ".join(part for part in row["path"][1:-1] if part != row["level"])
        if self.few_shot:

            def render(shown: Sequence[str]) -> str:
                return context.render(name, **given, there=list(shown))

            return await continue_list(
                render, settings.prompts, context, label=row["kind"], longest=400, sampling=settings.few_shot_sampling
            )
        prompt = context.render(name, **given, count=settings.prompts)
        return await ask_list(prompt, settings.prompts, context, label=row["kind"], sampling=settings.list_sampling)

    async def _record(self, number: int, prompt: str, row: Mapping[str, Any], context: Context) -> Record:
        meta = {key: value for key, value in row.items() if key != "text"} | {"first_prompt": prompt}
        try:
            final = await self._revised(number, prompt, row, context) if self.settings.revise else prompt
            question = context.render(_JOIN, instruction=final, text=row["text"]) if "text" in row else final
            meta["prompt"] = final
            response = await context.ask(chat(question), label="answer", sample=number)
        except RecordError as error:
            if not error.final:
                raise
            return context.record((), meta, sample=number, reason=str(error))
        text = response.text.strip()
        reason = "answer: empty" if not text else "answer: cut off at the token limit" if response.truncated else ""
        return context.record(chat(question, text), meta, sample=number, reason=reason)

    async def _revised(self, number: int, prompt: str, row: Mapping[str, Any], context: Context) -> str:
        settings, name = self.settings, f"{self._folder}/revise.j2"
        if self.few_shot:
            question = context.render(name, prompt=" ".join(prompt.split()))
            sampling = settings.few_shot_sampling
            response = await context.ask(prompt=question, label="revise", sample=number, sampling=sampling)
            text = response.text.strip().split("\n")[0].strip()
        else:
            question = context.render(name, prompt=prompt, kind=row["kind"], text=row.get("text", ""))
            response = await context.ask(
                chat(question), label="revise", sample=number, sampling=settings.revise_sampling
            )
            text = tagged(response.text, "prompt")
        if response.truncated or not text:
            raise RecordError("revise: cut off at the token limit" if response.truncated else "revise: no prompt")
        return text


def _document(item: Item) -> dict[str, str]:
    """A document's text, and where it is from; or why it cannot be read."""
    try:
        row = item.row
    except RecordError as error:
        return {"problem": str(error)}
    text = str(row.get("text") or row.get("document") or row.get("item") or "").strip()
    return {"text": text, "source": str(row.get("path", ""))} if text else {"problem": "source: the document is empty"}


def passage(text: str, most: int, chance: random.Random) -> str:
    """A document, or of a long one whole paragraphs from a random one on, `most` characters in all."""
    if len(text) <= most:
        return text
    paragraphs = text.split("\n\n")
    start = chance.randrange(len(paragraphs))
    while start and sum(len(part) + 2 for part in paragraphs[start:]) < most:
        start -= 1
    found = ""
    for part in paragraphs[start:]:
        if found and len(found) + 2 + len(part) > most:
            break
        found = f"{found}\n\n{part}" if found else part
    return found[:most].strip()
