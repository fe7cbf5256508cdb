"""A stage's examples, tokenised once, checked row by row before any model is loaded, and kept on disk.

An example is one prompt with its answers: one for SFT, two for a preference pair, K for a ranking. Each answer is a
document of its own (prompt and answer). They are written as one Arrow file under the hash of all that determined them
and read through a memory map, so that memory does not grow with the data and a second run starts at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.errors import TrainingError
from training.rows import Row, check_columns, content_digest, data_files, read_rows
from training.settings import RewardStage, SftStage, Source, TrainSettings
from training.template import SCORED, Message, RowError, Template

if TYPE_CHECKING:
    import pyarrow
    from datasets import Dataset

VERSION = 1  # of what is written
PROBLEMS_SHOWN = 8
Say = Callable[[str], None]


@dataclass(frozen=True)
class Prepared:
    """Tokenised examples on disk.

    `folder` holds `examples.arrow` (columns ids, mask, lengths, rewards, key, where) and `facts.json`; `rows` were
    read, `dropped` counts those that were left out by reason, and `digest` names data, tokenizer and masks together.
    """

    folder: Path
    digest: str
    rows: int
    examples: int
    tokens: int
    dropped: Mapping[str, int]

    def load(self) -> Dataset:
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / "examples.arrow"))


def prepare(settings: TrainSettings, source: Source, template: Template, say: Say, name: str = "data") -> Prepared:
    """Tokenise a source. Raises `TrainingError` that names file, row and remedy for what cannot be trained on."""
    files = data_files(source)
    for file in files:
        check_columns(file, settings.stage.name)
    digest = _digest(settings, source, files, template)
    folder = Path(settings.out) / "prepared" / digest
    if not (folder / "facts.json").exists():
        _write(folder, settings, source, files, template, say, name)
    facts = json.loads((folder / "facts.json").read_text())
    if facts["examples"] == 0:
        raise TrainingError(
            f"{name}={source.path}: no example is left of {facts['rows']} rows: {_told(facts['dropped'])}"
        )
    return Prepared(folder, digest, facts["rows"], facts["examples"], facts["tokens"], facts["dropped"])


def _told(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in dropped.items()) or "it is empty"


def _digest(settings: TrainSettings, source: Source, files: Sequence[Path], template: Template) -> str:
    tokenizer = template.tokenizer
    parts = [VERSION, content_digest(files), source.rows, tokenizer.chat_template, sorted(template.end_ids),
             tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else repr(tokenizer.get_vocab()),
             limit(settings, template), settings.too_long, settings.stage.name, getattr(settings.stage, "turns", ""),
             getattr(settings.stage, "attributes", "")]  # fmt: skip
    return hashlib.blake2b(json.dumps(parts, default=dict, sort_keys=True).encode(), digest_size=16).hexdigest()


def limit(settings: TrainSettings, template: Template) -> int:
    """The longest document in tokens: the settings', else the model's own."""
    own = template.tokenizer.model_max_length
    return settings.max_length or (int(own) if own < 10**7 else 8192)


def _write(
    folder: Path,
    settings: TrainSettings,
    source: Source,
    files: Sequence[Path],
    template: Template,
    say: Say,
    name: str,
) -> None:
    import pyarrow as pa

    fresh = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    reader = Reader(settings, template)
    try:
        with pa.OSFile(str(fresh / "examples.arrow"), "wb") as sink, pa.ipc.new_stream(sink, _schema()) as writer:
            for batch in reader.examples(files, source.rows):
                if batch:
                    writer.write_batch(pa.RecordBatch.from_pylist(batch, _schema()))
                if reader.rows % 50_000 < 1000 and reader.rows > 1000:
                    say(f"{name}: {reader.rows:,} rows tokenised")
        reader.fail_on_problems()
        facts = {"rows": reader.rows, "examples": reader.kept, "tokens": reader.tokens, "dropped": dict(reader.dropped)}
        (fresh / "facts.json").write_text(json.dumps(facts))
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            ("ids", pa.list_(pa.int32())),
            ("mask", pa.list_(pa.uint8())),
            ("lengths", pa.list_(pa.int32())),
            ("rewards", pa.list_(pa.float64())),
            ("tokens", pa.int32()),
            ("scored", pa.int32()),
            ("key", pa.int64()),
            ("where", pa.string()),
        ]
    )


class Reader:
    """Turns rows into examples; collects what is wrong with them, with file and row."""

    def __init__(self, settings: TrainSettings, template: Template) -> None:
        self.settings, self.template = settings, template
        self.limit = limit(settings, template)
        self.rows = self.kept = self.tokens = 0
        self.dropped: Counter[str] = Counter()
        self.problems: list[str] = []
        self.wrong = 0

    def examples(self, files: Sequence[Path], most: int | None) -> Iterator[list[dict[str, Any]]]:
        for file in files:
            number = 0
            for rows in read_rows(file):
                if most is not None:
                    rows = rows[: most - self.rows]
                yield self._batch(file, number, rows)
                number += len(rows)
                self.rows += len(rows)
                if most is not None and self.rows >= most:
                    return

    def _batch(self, file: Path, number: int, rows: Sequence[Row]) -> list[dict[str, Any]]:
        readable = []
        for place, row in enumerate(rows):
            where = f"{file}, row {number + place}"
            try:
                readable.append((where, row, read_example(row, self.settings)))
            except RowError as error:
                self._problem(where, error)
        try:  # all at once: the tokenizer is fast over many texts
            encoded = self._encode([example for _, _, example in readable])
        except RowError:
            encoded = self._encode_each(readable)
        found = []
        for (where, row, example), documents in zip(readable, encoded, strict=True):
            if documents is None:
                continue
            made = self._finish(where, row, example, documents)
            if made is not None:
                found.append(made)
                self.kept += 1
                self.tokens += made["tokens"]
        return found

    def _encode(self, examples: Sequence[Example]) -> list[list[tuple[list[int], list[int]]] | None]:
        flat = [conversation for example in examples for conversation in example.conversations]
        # A reward model reads what any server sends it: the whole rendered text.
        encoded = iter(self.template.encode(flat, whole=self.settings.stage.name == "reward"))
        return [[next(encoded) for _ in example.conversations] for example in examples]

    def _encode_each(
        self, readable: Sequence[tuple[str, Row, Example]]
    ) -> list[list[tuple[list[int], list[int]]] | None]:
        found: list[list[tuple[list[int], list[int]]] | None] = []
        for where, _, example in readable:
            try:
                found += self._encode([example])
            except RowError as error:
                self._problem(where, error)
                found.append(None)
        return found

    def _finish(
        self, where: str, row: Row, example: Example, documents: Sequence[tuple[list[int], list[int]]]
    ) -> dict[str, Any] | None:
        """The example as it is written, or None where it is left out."""
        for ids, mask in documents:
            prompt = mask.index(next(bits for bits in mask if bits)) if any(mask) else len(mask)
            if prompt >= self.limit:
                text = f"its prompt has {prompt} tokens, max_length is {self.limit}: raise it, or take the row out"
                self._problem(where, RowError(text))
                return None
            if len(ids) > self.limit and self.settings.too_long == "refuse":
                text = f"has {len(ids)} tokens, max_length is {self.limit}: raise it, or say too_long=drop"
                self._problem(where, RowError(text))
                return None
        if any(len(ids) > self.limit for ids, _ in documents):
            if self.settings.too_long == "drop":
                self.dropped["longer than max_length"] += 1
                return None
            documents = [(ids[: self.limit], mask[: self.limit]) for ids, mask in documents]
        if len(documents) > 1 and len({tuple(ids) for ids, _ in documents}) == 1:
            self.dropped["with equal answers"] += 1
            return None
        if len(example.rewards) > 1 and self.settings.stage.name == "reward" and len(set(example.rewards)) == 1:
            self.dropped["without a preference"] += 1
            return None
        return {
            "ids": [token for ids, _ in documents for token in ids],
            "mask": [bits for _, mask in documents for bits in mask],
            "lengths": [len(ids) for ids, _ in documents],
            "rewards": example.rewards,
            "tokens": sum(len(ids) for ids, _ in documents),
            "scored": sum(bits & SCORED for _, mask in documents for bits in mask),
            "key": example.key,
            "where": str(row.get("id") or where),
        }

    def _problem(self, where: str, error: RowError) -> None:
        self.wrong += 1
        if len(self.problems) < PROBLEMS_SHOWN:
            self.problems.append(f"{where}: {error}")

    def fail_on_problems(self) -> None:
        if self.problems:
            more = self.wrong - len(self.problems)
            raise TrainingError(*self.problems, *([f"and {more:,} more rows like these"] if more else []))


@dataclass(frozen=True)
class Example:
    """One row's conversations (messages, index of the first that is scored), rewards and the prompt's key.

    `rewards` has one number for each conversation, several (one an attribute) for regression, none for SFT and for
    pairs whose data says only which is better.
    """

    conversations: Sequence[tuple[Sequence[Message], int]]
    rewards: Sequence[float]
    key: int


def read_example(row: Row, settings: TrainSettings) -> Example:
    """Raises `RowError` for what is empty, missing or no number."""
    stage = settings.stage
    if isinstance(stage, SftStage):
        return _sft(row, stage)
    prompt = _turns(row, "prompt", "user")
    if row.get("responses") is not None:
        answers = [_said(answer, f"responses[{place}]", "assistant") for place, answer in enumerate(row["responses"])]
        if len(answers) < 2 and row.get("attributes") is None:
            raise RowError("responses: two answers to a prompt are needed at least")
        rewards = _ranking(row, stage, len(answers))
    else:
        answers = [_turns(row, "chosen", "assistant"), _turns(row, "rejected", "assistant")]
        rewards = _pair_rewards(row, stage.name)
    conversations = [([*prompt, *answer], len(prompt)) for answer in answers]
    return Example(conversations, rewards, prompt_key(prompt))


def _sft(row: Row, stage: SftStage) -> Example:
    if row.get("messages") is not None:
        messages = _turns(row, "messages", "user")
        first = 0
    else:
        prompt = _turns(row, "prompt", "user")
        messages, first = [*prompt, *_turns(row, "completion", "assistant")], len(prompt)
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    if not answers or messages[-1]["role"] != "assistant":
        raise RowError("messages: the last turn must be the assistant's")
    if stage.turns == "last":
        first = answers[-1]
    opening = next(place for place in answers if place >= first)
    return Example([(messages, first)], (), prompt_key(messages[:opening]))


def _turns(row: Row, column: str, role: str) -> list[dict[str, str]]:
    return _said(row.get(column), column, role)


def _said(value: Any, column: str, role: str) -> list[dict[str, str]]:
    """A list of messages; a text stands for one message of `role`."""
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    if not isinstance(turns, list) or not turns:
        raise RowError(f"{column}: is empty; a list of messages or a text is needed")
    for place, turn in enumerate(turns):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("role"), str):
            raise RowError(f"{column}[{place}]: is no message with role and content")
        if not isinstance(turn.get("content"), str) or not turn["content"].strip():
            kind = "answer" if turn["role"] == "assistant" else f"{turn['role']} message"
            raise RowError(f"{column}[{place}]: the {kind} is empty; take the row out or fill it")
    return [{"role": turn["role"], "content": turn["content"]} for turn in turns]


def _pair_rewards(row: Row, stage: str) -> tuple[float, ...]:
    if stage == "dpo":
        return ()
    if stage == "reward":
        return (1.0, 0.0)
    return tuple(_number(row.get(name), name) for name in ("chosen_reward", "rejected_reward"))


def _ranking(row: Row, stage: Any, count: int) -> tuple[float, ...]:
    if stage.name == "reward" and row.get("attributes") is not None:
        return _attributes(row["attributes"], stage, count)
    column = "rewards" if row.get("rewards") is not None or stage.name == "rpo" else "ranks"
    values = row.get(column)
    if not isinstance(values, list) or len(values) != count:
        raise RowError(f"{column}: one number for each of the {count} responses is needed")
    sign = 1 if column == "rewards" else -1  # rank 1 is the best
    return tuple(sign * _number(value, f"{column}[{place}]") for place, value in enumerate(values))


def _attributes(values: Any, stage: RewardStage, count: int) -> tuple[float, ...]:
    """K x A numbers, NaN where a response was not graded for an attribute."""
    if not isinstance(values, list) or len(values) != count:
        raise RowError(f"attributes: grades for each of the {count} responses are needed")
    found = []
    for place, grades in enumerate(values):
        for name in stage.attributes:
            value = (grades or {}).get(name)
            found.append(math.nan if value is None else _number(value, f"attributes[{place}].{name}"))
    if all(math.isnan(value) for value in found):
        raise RowError(f"attributes: none of {', '.join(stage.attributes)} is graded")
    return tuple(found)


def _number(value: Any, column: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        said = "is missing" if value is None else f"is {value!r}, no finite number"
        raise RowError(f"{column}: {said}; a reward is needed for each answer (factory export fills them)")
    return float(value)


def prompt_key(messages: Sequence[Message]) -> int:
    """A number that equal prompts share, for splits that keep a prompt on one side."""
    text = json.dumps([[message["role"], message["content"]] for message in messages], ensure_ascii=False)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


def held_out(keys: np.ndarray, share: float) -> np.ndarray:
    """Which examples are held out: (N,) bool, the same for equal prompts on every machine."""
    return (keys.view(np.uint64) >> np.uint64(11)) / float(1 << 53) < share
