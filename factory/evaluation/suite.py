"""What a suite is: items to be asked about, what an answer is worth, and how worth is summed up."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from factory.engine.request import Sampling
from factory.evaluation.statistics import Transform, Values, bootstrap, identity, ratio
from factory.generators.base import Context
from factory.records import Frozen, Record
from factory.sources import Item, Source

# Who is asked: the evaluated model, the one it is measured against, the one that judges.
Role = Literal["model", "baseline", "judge"]
Answer = TypeVar("Answer")
Done = Mapping[Role, Sequence[Record]]  # the records of the stages that were run, by role


class SuiteSettings(Frozen):
    """The `suite:` part of the configuration that every suite has; a suite's own settings add to it."""

    name: str
    suite: str
    sampling: Sampling = Sampling()


@dataclass(frozen=True)
class Measure:
    """A number over items. `scale` says what the ratio of sums means: a mean, or the logarithm of what is shown.

    `share` marks a number between 0 and 1 that people read as a percentage.
    """

    name: str
    scale: Literal["mean", "log"] = "mean"
    higher_is_better: bool = True
    share: bool = True

    @property
    def transform(self) -> Transform:
        return _exp if self.scale == "log" else identity


def _exp(value: float) -> float:
    """A mean loss above 700 nats is no perplexity that anybody could read."""
    return math.exp(value) if value < 700 else math.inf


@dataclass(frozen=True)
class ItemResult:
    """One item's worth: per measure (total, weight). `id` is the same for every model that is asked the same item."""

    id: str
    values: Mapping[str, tuple[float, float]]
    group: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """What a suite found; `notes` are whole sentences on how it was measured, for whoever reads the numbers."""

    items: Sequence[ItemResult]
    measures: Sequence[Measure]
    notes: Sequence[str] = ()


class Suite(Protocol):
    """Asks roles one after another: each stage is done before the next begins, so that one engine runs at a time.

    `templates` are the names of the templates that it renders. `check` tells problems before anything is asked; `ready` holds what the suite itself needs while it runs (`folder` is the run's, `say` tells a line). `items`
    gives a stage's items: their digests name them (no two alike), and the records of earlier stages may be their rows.
    `answer` is one item's record, its worth in `meta`; a record with a `reason` could not be measured. `sampling` is
    what the suite says of a role's sampling, over the model's own.
    """

    Settings: ClassVar[type[SuiteSettings]]
    settings: SuiteSettings
    templates: Sequence[str]
    uses_sandbox: bool
    needs_source: bool
    roles: Sequence[Role]

    def check(self) -> list[str]: ...

    def ready(self, folder: Path, say: Callable[[str], None]) -> AbstractAsyncContextManager[object]: ...

    def sampling(self, role: Role) -> Sampling: ...

    def items(self, role: Role, done: Done) -> Iterator[Item]: ...

    async def answer(self, role: Role, item: Item, context: Context) -> Record: ...

    def summarise(self, done: Done) -> Summary: ...


async def together(work: Iterable[Coroutine[Any, Any, Answer]]) -> list[Answer]:
    """The answers to several questions asked at once, in order; the first error as it is, once all have ended."""
    found = await asyncio.gather(*work, return_exceptions=True)
    answers = []
    for answer in found:
        if isinstance(answer, BaseException):
            raise answer
        answers.append(answer)
    return answers


def named_items(source: Source) -> Iterator[Item]:
    """The source's items, each with a digest of its own: equal rows are told apart by how often they came before."""
    seen: Counter[str] = Counter()
    for item in source.items():
        seen[item.digest] += 1
        again = f".{seen[item.digest]}" if seen[item.digest] > 1 else ""
        yield replace(item, digest=f"{item.digest}{again}")


class Metric(Frozen):
    """One line of the results: a value with its 95% interval over `items` items; `group` is empty for all of them."""

    name: str
    group: str = ""
    value: float
    low: float
    high: float
    items: int
    higher_is_better: bool = True
    share: bool = True


def metrics(summary: Summary, seed: int) -> list[Metric]:
    """Every measure over all items, then by group where there is more than one."""
    found = []
    groups = sorted({item.group for item in summary.items})
    for measure in summary.measures:
        for group in ["", *(groups if len(groups) > 1 else [])]:
            values = values_of(summary.items, measure.name, group)
            if values:
                found.append(_metric(measure, group, values, seed))
    return found


def values_of(items: Sequence[ItemResult], name: str, group: str = "") -> Values:
    """What the items that have it say of a measure."""
    chosen = [item for item in items if not group or item.group == group]
    return [item.values[name] for item in chosen if name in item.values]


def _metric(measure: Measure, group: str, values: Values, seed: int) -> Metric:
    low, high = bootstrap(values, measure.transform, seed)
    return Metric(
        name=measure.name,
        group=group,
        value=ratio(values, measure.transform),
        low=low,
        high=high,
        items=len(values),
        higher_is_better=measure.higher_is_better,
        share=measure.share,
    )
