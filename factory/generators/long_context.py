"""Long context (Llama 3.1 report, section 4.3.4): questions on a chunk, hierarchical summaries and questions on them, and a
repository with a file missing; always the whole document is in the training text.

Chunks are counted by the model's own tokenizer and never exceed their limit. A record falls into the smallest length bucket
that holds it. The repository's answers come from the repository itself, so nothing is asked for them.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from factory.engine.request import Response, Sampling
from factory.errors import ConfigError, RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.parsing import ParseSettings, parse_answer
from factory.generators.together import together
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item
from factory.tokens import Tokens

FOLDER = "long_context"
Kind = Literal["qa", "summary", "summary_qa"]
_PARTS = ParseSettings(kind="blocks", names=("question", "answer", "evidence"))
_POINTS_AWAY = re.compile(
    r"\b(?:this|the|above|given) (?:part|passage|chunk|excerpt|section|text|summary|document above)\b|\babove\b",
    re.IGNORECASE,
)
GROUNDED = 0.6  # of the words of an answer without quoted evidence, the share that the chunk must hold


class LongSettings(GeneratorSettings):
    """`tokenizer` names whose tokens count. A document is cut into chunks of `chunk_tokens`; `questions` of them are asked
    about. `buckets` are lengths in tokens; a record longer than the largest is lost."""

    tokenizer: str
    kinds: tuple[Kind, ...] = ("qa", "summary", "summary_qa")
    chunk_tokens: int = Field(8192, ge=32)
    questions: int = Field(2, ge=1)
    buckets: tuple[int, ...] = (16384, 32768, 65536, 131072)
    summary_sampling: Sampling = Sampling()
    few_shot_sampling: Sampling = Sampling()

    @field_validator("buckets")
    @classmethod
    def _rising(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or list(value) != sorted(set(value)) or value[0] < 1:
            raise ValueError("should be lengths in rising order, as [16384, 32768]")
        return value

    @field_validator("kinds")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError("needs one of qa, summary, summary_qa at least")
        return value


class LongContext:
    """One document gives records of each kind; one file that many others of its repository import gives one."""

    Settings: ClassVar[type[GeneratorSettings]] = LongSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: LongSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        names = ("question", "summary", "merge") if prompt_form == "chat" else ("question", "summary")
        prompts = [f"{FOLDER}/{prompt_form}/{name}.j2" for name in names]
        shared = [f"{FOLDER}/{name}.j2" for name in ("ask", "repository", "repository_answer")]
        self.templates: Sequence[str] = (*prompts, *shared)

    @functools.cached_property
    def tokens(self) -> Tokens:
        return Tokens(self.settings.tokenizer)

    def check(self, columns: set[str] | None) -> list[str]:
        problems = [problem for name in self.templates for problem in self._templates.check(name)]
        if columns is not None and not columns & {"text", "repository"}:
            problems.append(
                "task=long_context needs seeds with a column `text` (a folder of texts, or rows), or source.kind=repository "
                "source.path=FOLDER for a tree of Python files"
            )
        try:
            _ = self.tokens
        except ConfigError as error:
            problems += [f"task.tokenizer={self.settings.tokenizer}: {problem}" for problem in error.problems]
        return problems

    def fingerprint(self, record: Record) -> str | None:
        meta = record.meta
        return content_hash(meta["kind"], meta.get("question"), record.messages[0].content)

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = item.row
        if row.get("repository"):
            return [await asyncio.to_thread(self._repository, row, context)]
        document = str(row.get("text") or "").strip()
        if not document:
            raise RecordError("source: the document is empty")
        seed = {name: value for name, value in row.items() if name != "text"}
        chunks = await asyncio.to_thread(lambda: list(self.tokens.chunks(document, self.settings.chunk_tokens)))
        shared = {"chunks": len(chunks), "seed": seed}
        summary: str | RecordError | None = None
        if {"summary", "summary_qa"} & set(self.settings.kinds):
            try:
                summary = await self._summarise(chunks, context)
            except RecordError as error:
                if not error.final:
                    raise
                summary = error
        records: list[Record] = []
        for kind in self.settings.kinds:
            if kind == "qa":
                places = sorted(context.rng.sample(range(len(chunks)), min(self.settings.questions, len(chunks))))
                for place in places:
                    asked = self._question(chunks[place], False, place, context)
                    records.append(
                        await self._record(kind, document, asked, {**shared, "chunk": place}, records, context)
                    )
            elif kind == "summary":
                records.append(await self._record(kind, document, _told(summary), shared, records, context))
            else:
                asked = self._question_on(summary, context)
                records.append(await self._record(kind, document, asked, shared, records, context))
        return records

    async def _record(
        self,
        kind: Kind,
        document: str,
        asked: Any,
        meta: Mapping[str, Any],
        before: Sequence[Record],
        context: Context,
    ) -> Record:
        """The training text around what was made, in its bucket; lost, with its reason, where nothing was."""
        sample = len(before)
        try:
            made: dict[str, str] = await asked
        except RecordError as error:
            if not error.final:
                raise
            return context.record((), {**meta, "kind": kind}, sample=sample, reason=f"{kind}: {error}")
        question = context.render(
            f"{FOLDER}/ask.j2",
            kind="summary" if kind == "summary" else "qa",
            document=document,
            question=made.get("question", ""),
        )
        meta = {**meta, "kind": kind, **{name: text for name, text in made.items() if name != "answer"}}
        return await asyncio.to_thread(self._bucketed, question, made["answer"], meta, sample, context)

    def _bucketed(self, question: str, answer: str, meta: Mapping[str, Any], sample: int, context: Context) -> Record:
        tokens = self.tokens.count(question) + self.tokens.count(answer)
        bucket = next((bucket for bucket in self.settings.buckets if tokens <= bucket), None)
        meta = {**meta, "tokens": tokens, "bucket": bucket}
        if bucket is None:
            reason = f"length: over {self.settings.buckets[-1]} tokens"
            return context.record((), meta, sample=sample, reason=reason)
        return context.record(chat(question, answer), meta, sample=sample)

    # ---- questions

    async def _question_on(self, summary: str | RecordError | None, context: Context) -> dict[str, str]:
        told = await _told(summary)
        return await self._question(told["answer"], True, -1, context)

    async def _question(self, text: str, whole: bool, place: int, context: Context) -> dict[str, str]:
        """question, answer and evidence from a chunk, or from the summary of the whole (`place` -1)."""
        label = "summary question" if whole else "question"
        if self.prompt_form == "few_shot":
            prompt = context.render(f"{FOLDER}/few_shot/question.j2", text=text)
            sampling = self.settings.few_shot_sampling
            response = await context.ask(prompt=prompt, label=label, sample=place + 1, sampling=sampling)
            question, mark, answer = response.text.strip().partition("\nAnswer:")
            made = {"question": question.strip(), "answer": answer.strip().split("\n")[0]}
            if not mark or not made["answer"] or not made["question"].endswith("?"):
                raise RecordError("parse: not question and answer")
            if _grounded(made["answer"], text) < GROUNDED:
                raise RecordError("the answer is not in the text")
            if _grounded(made["answer"], made["question"]) == 1:
                raise RecordError("the answer only repeats the question")
        else:
            question = context.render(f"{FOLDER}/chat/question.j2", text=text, whole=whole)
            response = await context.ask(chat(question), label=label, sample=place + 1)
            _whole_answer(response)
            parts = parse_answer(response.text, _PARTS)
            made = {name: parts[name] for name in _PARTS.names}
            if not made["question"] or not made["answer"]:
                raise RecordError("parse: an empty part")
            if not _holds(text, made["evidence"]):
                raise RecordError("the evidence is not in the text")
        if _POINTS_AWAY.search(made["question"]):
            raise RecordError("the question points at a part that a reader cannot see")
        return made

    # ---- summaries

    async def _summarise(self, chunks: Sequence[str], context: Context) -> str:
        """A summary of every chunk, then summaries of as many summaries as fit into a chunk, until one is left."""
        count = len(chunks)
        asked = (self._summary(chunk, number, count, context) for number, chunk in enumerate(chunks, 1))
        summaries = await together(asked)
        level = 0
        while len(summaries) > 1:
            level += 1
            groups = self._groups(summaries)
            if len(groups) == len(summaries):
                raise RecordError("a summary is as long as a chunk")
            merged = (self._merge(group, level, number, context) for number, group in enumerate(groups))
            summaries = await together(merged)
        return summaries[0]

    def _groups(self, summaries: Sequence[str]) -> list[list[str]]:
        """Neighbours that fit into a chunk together; a lonely one stays with its neighbour's level."""
        groups: list[list[str]] = []
        room = 0
        for summary in summaries:
            tokens = self.tokens.count(summary) + 8  # and the marks around it
            if not groups or tokens > room:
                groups.append([])
                room = self.settings.chunk_tokens
            groups[-1].append(summary)
            room -= tokens
        return groups

    async def _summary(self, chunk: str, number: int, count: int, context: Context) -> str:
        if self.prompt_form == "few_shot":
            return await self._short_summary(chunk, f"summary {number}", context)
        prompt = context.render(f"{FOLDER}/chat/summary.j2", text=chunk, number=number, count=count)
        sampling = self.settings.summary_sampling
        response = await context.ask(chat(prompt), label="summary", sample=number, sampling=sampling)
        return _whole_answer(response)

    async def _merge(self, group: Sequence[str], level: int, number: int, context: Context) -> str:
        if len(group) == 1:
            return group[0]
        if self.prompt_form == "few_shot":
            return await self._short_summary(" ".join(group), f"merge {level}.{number}", context)
        prompt = context.render(f"{FOLDER}/chat/merge.j2", summaries=list(group))
        sampling = self.settings.summary_sampling
        response = await context.ask(chat(prompt), label=f"merge {level}", sample=number, sampling=sampling)
        return _whole_answer(response)

    async def _short_summary(self, text: str, label: str, context: Context) -> str:
        prompt = context.render(f"{FOLDER}/few_shot/summary.j2", text=text)
        response = await context.ask(prompt=prompt, label=label, sampling=self.settings.few_shot_sampling)
        line, more, _ = response.text.strip().partition("\n")
        if not line:
            raise RecordError("answer: empty")
        if response.truncated and not more:
            raise RecordError("answer: cut off at the token limit")
        if _grounded(line, text) < GROUNDED:
            raise RecordError("the answer is not in the text")
        return line

    # ---- repositories

    def _repository(self, row: Mapping[str, Any], context: Context) -> Record:
        """A repository without one file: who imports it, and the file; the answer is the repository's own."""
        root, removed, dependents = Path(row["repository"]), str(row["removed"]), list(row["dependents"])
        text = (root / removed).read_text(encoding="utf-8")
        answer = context.render(
            f"{FOLDER}/repository_answer.j2", removed=removed, dependents=dependents, text=text.rstrip()
        )
        meta: dict[str, Any] = {"kind": "repository", "removed": removed, "dependents": dependents, "seed": dict(row)}
        room = self.settings.buckets[-1] - self.tokens.count(answer) - 200  # the words around the files
        paths = self._fitting(root, removed, dependents, room)
        if paths is None:
            reason = f"length: over {self.settings.buckets[-1]} tokens"
            return context.record((), meta, reason=reason)
        files = [{"path": path, "text": (root / path).read_text(encoding="utf-8").rstrip()} for path in paths]
        question = context.render(f"{FOLDER}/repository.j2", files=files, removed=removed)
        return self._bucketed(question, answer, {**meta, "files": len(files)}, 0, context)

    def _fitting(self, root: Path, removed: str, dependents: Sequence[str], room: int) -> list[str] | None:
        """The files to show, in order: all that import the missing one, and of the others what fits; None where even
        those do not. One file's text is in memory at a time."""
        from factory.sources_code import python_files

        others = [str(file.relative_to(root)) for file in python_files(root)]
        chosen = []
        for path in [*dependents, *(path for path in others if path not in {removed, *dependents})]:
            try:
                tokens = self.tokens.count(f"# file: {path}\n{(root / path).read_text(encoding='utf-8')}\n\n") + 2
            except (OSError, UnicodeDecodeError):
                continue
            if tokens <= room:
                chosen.append(path)
                room -= tokens
            elif path in dependents:
                return None
        return sorted(chosen)


async def _told(summary: str | RecordError | None) -> dict[str, str]:
    if isinstance(summary, RecordError):
        raise summary
    return {"answer": str(summary)}


def _whole_answer(response: Response) -> str:
    if response.truncated:
        raise RecordError("answer: cut off at the token limit")
    if not response.text.strip():
        raise RecordError("answer: empty")
    return response.text.strip()


def _holds(text: str, quotation: str) -> bool:
    """Whether a quotation stands in a text, white space and quotation marks aside."""
    flat, quoted = ("".join(part.split()).lower() for part in (text, quotation.strip(" \n\"'“”.…")))
    return bool(quoted) and quoted in flat


def _grounded(answer: str, text: str) -> float:
    """Share of the answer's words of four letters or more whose beginnings (their first four) the text holds."""
    words = re.findall(r"\w{4,}", answer.lower())
    there = {word[:4] for word in re.findall(r"\w{4,}", text.lower())}
    return sum(word[:4] in there for word in words) / len(words) if words else 1.0
