"""lm_eval: hands over to lm-evaluation-harness, which asks the factory's server itself, and reads back what it found.

The harness is a program of its own (`pip install lm-eval[api]`); its exact command line is shown, so that it can be
given by hand. Each of its tasks' documents becomes an item, from the samples that it logs; its own aggregate and standard
error stand beside ours in the notes. The run is one item of ours: a finished one is not run again, a broken one whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import orjson
from pydantic import Field

from factory.engine.client import Server
from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary
from factory.generators.base import Context
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.settings import Endpoint, OpenAIEngine
from factory.sources import Item, Source

PROGRAM = "lm_eval"
_LOWER_IS_BETTER = ("perplexity", "bits_per_byte", "ter", "brier")


class LmEvalSettings(SuiteSettings):
    """`tasks` are the harness's; `interface` is the endpoint it asks; `arguments` go to its command line as they are."""

    tasks: tuple[str, ...]
    interface: Literal["completions", "chat"] = "completions"
    tokenizer: str | None = None
    shots: int | None = Field(None, ge=0)
    limit: int | None = Field(None, ge=1)
    concurrency: int = Field(16, ge=1)
    arguments: tuple[str, ...] = ()


class LmEval:
    """One item: the harness's whole run."""

    Settings: ClassVar[type[SuiteSettings]] = LmEvalSettings
    uses_sandbox, needs_source = False, False
    roles: Sequence[Role] = ("model",)
    templates: Sequence[str] = ()

    def __init__(
        self, settings: LmEvalSettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings, self.seed, self.endpoint = settings, seed, endpoint
        self.folder = Path()
        self.say: Callable[[str], None] = print

    def check(self) -> list[str]:
        settings, problems = self.settings, []
        if shutil.which(PROGRAM) is None:
            problems.append(
                f'suite=lm_eval: the program {PROGRAM} is not on the PATH: pip install "lm-eval[api]" (into an environment of '
                "its own if you like; put its bin folder on the PATH)"
            )
        if not settings.tasks:
            problems.append("suite.tasks=[]: name tasks of the harness, as suite.tasks=[arc_easy,hellaswag]")
        if (
            settings.interface == "completions"
            and settings.tokenizer is None
            and isinstance(self.endpoint.engine, OpenAIEngine)
        ):
            problems.append(
                "suite.tokenizer is not set: with engine=openai name the model's tokenizer, or suite.interface=chat"
            )
        return problems

    @contextlib.asynccontextmanager
    async def ready(self, folder: Path, say: Callable[[str], None]) -> AsyncIterator[object]:
        self.folder, self.say = folder, say
        yield self

    def sampling(self, role: Role) -> Sampling:
        return self.settings.sampling

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        row = {"tasks": list(self.settings.tasks)}
        yield Item(0, content_hash(row, self.settings.model_dump(mode="json"), self.seed), row.copy)

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        server = await context.server()
        output = self.folder / "lm_eval"
        shutil.rmtree(output, ignore_errors=True)  # of a run that was broken off
        words = self.command(server, output)
        self.say(f"lm_eval: {shlex.join(words)}")
        await self._run(words, server.key)
        results, samples = await asyncio.to_thread(read_output, output)
        return context.record((), {"command": shlex.join(words), "results": results, "samples": samples})

    def command(self, server: Server, output: Path) -> list[str]:
        """The harness's command line; the key is in its environment."""
        settings = self.settings
        path = "chat/completions" if settings.interface == "chat" else "completions"
        arguments = {
            "model": server.model,
            "base_url": f"{server.url.rstrip('/')}/{path}",
            "num_concurrent": settings.concurrency,
            "max_retries": 3,
        }
        if settings.interface == "chat":
            arguments["tokenizer_backend"] = "None"
        else:
            arguments |= {"tokenizer": self._tokenizer(), "tokenized_requests": False}
        words = [
            PROGRAM, "--model", f"local-{'chat-' if settings.interface == 'chat' else ''}completions",
            "--model_args", ",".join(f"{key}={value}" for key, value in arguments.items()),
            "--tasks", ",".join(settings.tasks), "--seed", str(self.seed),
            "--output_path", str(output), "--log_samples",
        ]  # fmt: skip
        if settings.interface == "chat":
            words.append("--apply_chat_template")
        if settings.shots is not None:
            words += ["--num_fewshot", str(settings.shots)]
        if settings.limit is not None:
            words += ["--limit", str(settings.limit)]
        if generation := settings.sampling.body():
            words += ["--gen_kwargs", ",".join(f"{key}={value}" for key, value in generation.items())]
        return [*words, *settings.arguments]

    def _tokenizer(self) -> str:
        if self.settings.tokenizer is not None:
            return self.settings.tokenizer
        from factory.engine.models import resolve_model

        return resolve_model(self.endpoint.model.path).path

    async def _run(self, words: Sequence[str], key: str) -> None:
        log = self.folder / "logs" / "lm_eval.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with _opened(log) as file:
            process = await asyncio.create_subprocess_exec(
                *words, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                env={**os.environ, "OPENAI_API_KEY": key},
            )  # fmt: skip
            try:
                status = await process.wait()
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)
                await process.wait()
                raise
        if status:
            last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
            error = RecordError(f"lm_eval: ended with status {status}: {last[0][:200]} ({log})")
            error.final = False
            raise error

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("model", ()) if not record.reason]
        if not records:
            return Summary([], [])
        meta = records[0].meta
        items, names = [], set()
        for task, rows in meta["samples"].items():
            for row in rows:
                items.append(ItemResult(f"{task}/{row['id']}", {k: (v, 1.0) for k, v in row["values"].items()}, task))
                names |= set(row["values"])
        notes = [f"{task}: the harness itself says {_told(found)}" for task, found in meta["results"].items()]
        measures = [_measure(name, items) for name in sorted(names)]
        return Summary(items, measures, [f"Command: {meta['command']}", *notes])


def _opened(path: Path) -> IO[bytes]:
    return open(path, "wb")


def _measure(name: str, items: Sequence[ItemResult]) -> Measure:
    values = [item.values[name][0] for item in items if name in item.values]
    lower = any(word in name for word in _LOWER_IS_BETTER)
    return Measure(name, higher_is_better=not lower, share=all(0 <= value <= 1 for value in values))


def _told(found: Mapping[str, Any]) -> str:
    return (
        ", ".join(f"{name} {value:.4g}" for name, value in found.items() if isinstance(value, int | float)) or "nothing"
    )


def read_output(folder: Path) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """(the harness's results by task, its samples by task). Raises `RecordError` where it left none that can be read."""
    reports = sorted(folder.rglob("results_*.json"))
    if not reports:
        raise RecordError(f"lm_eval: left no results_*.json in {folder}")
    try:
        results = orjson.loads(reports[-1].read_bytes())["results"]
        samples = {}
        for path in sorted(reports[-1].parent.glob("samples_*.jsonl")):
            rows = [orjson.loads(line) for line in path.read_bytes().splitlines() if line.strip()]
            task = path.name.removeprefix("samples_").removesuffix(".jsonl").rpartition("_")[0]
            samples[task] = [{"id": _sample_id(row), "values": _numbers(row)} for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"lm_eval: its output in {folder} cannot be read: {type(error).__name__}: {error}") from error
    return dict(results), samples


def _sample_id(row: Mapping[str, Any]) -> str:
    """A document, and the filter of its answers where the task has several."""
    kind = row.get("filter", "none")
    return f"{row['doc_id']}" if kind == "none" else f"{row['doc_id']}/{kind}"


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """A sample's measures, as far as they are numbers (what is a pair for a weighted mean is left to the harness)."""
    return {name: float(row[name]) for name in row["metrics"] if isinstance(row.get(name), int | float)}
