"""One coroutine a record from seed to fate; no step waits for another record's step.

Workers pull seed items from one iterator, in order. The result does not depend on who is faster: the kept records are
the first `n` accepted ones in the order of the seeds, and work beyond the seed that completes them is cancelled. So a
run that was killed and resumed ends with the same records as one that was not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from factory.errors import GeneratorError, RecordError, Stopped, UserError, boundary
from factory.generators.base import Context, Generator, Remembers
from factory.journal import Fate, Journal
from factory.records import Record
from factory.scoring import GroupScorer, Scorer, Scoring
from factory.selection import KeepRule, Seen
from factory.sources import Item


class Frontier:
    """Which seeds are done, and whether the records wanted are there.

    Seeds finish in any order; records are counted in the order of the seeds. Memory is bounded by the number of seeds
    in flight, except for the fingerprints of the records accepted (where a generator gives any).
    """

    def __init__(self, wanted: int | None) -> None:
        self.wanted, self.next_index, self.accepted, self.done = wanted, 0, 0, 0
        self._ahead: dict[int, Sequence[str | None]] = {}
        self._ahead_kept = 0
        self._seen = Seen()
        self.duplicates = 0

    def finish(self, index: int, kept: Sequence[str | None]) -> None:
        """Seed `index` is done; `kept` holds the fingerprints (or None) of the records it gave that passed."""
        self.done += 1
        self._ahead[index] = kept
        self._ahead_kept += len(kept)
        while self.next_index in self._ahead:
            kept = self._ahead.pop(self.next_index)
            self._ahead_kept -= len(kept)
            for fingerprint in kept:
                if self._seen.new(fingerprint):
                    self.accepted += 1
                else:
                    self.duplicates += 1
            self.next_index += 1

    @property
    def accepted_so_far(self) -> int:
        """Records that passed, those ahead of an unfinished seed among them; a few may prove duplicates or surplus."""
        return self.accepted + self._ahead_kept

    @property
    def complete(self) -> bool:
        return self.wanted is not None and self.accepted >= self.wanted

    @property
    def last_needed(self) -> int | None:
        """The seed beyond which nothing is needed any more, if the seeds done already hold enough records."""
        if self.wanted is None or self.accepted + self._ahead_kept < self.wanted:
            return None
        if self.accepted >= self.wanted:
            return self.next_index - 1
        accepted, seen = self.accepted, self._seen.copy()
        for index in sorted(self._ahead):
            accepted += sum(seen.new(fingerprint) for fingerprint in self._ahead[index])
            if accepted >= self.wanted:
                return index
        return None


@dataclass
class Progress:
    """What the run has done so far, for whoever shows it."""

    frontier: Frontier
    in_flight: int = 0
    failed: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def count(self, reason: str) -> None:
        """A record was lost. Few reasons are kept apart: a run may have millions of different ones."""
        if reason in self.reasons or len(self.reasons) < 100:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


@dataclass
class Pipeline:
    """Everything that turns seed items into fates.

    `workers` items are in flight at most, and no item is begun more than `window` places beyond the first unfinished
    one, which bounds memory. `make_context` gives an item its context; `on_progress` is called after every seed.
    """

    generator: Generator
    scorers: Mapping[str, Scorer | GroupScorer]
    rule: KeepRule
    journal: Journal
    config: int
    make_context: Callable[[Item], Context]
    wanted: int | None
    workers: int
    on_progress: Callable[[Progress], None] = lambda progress: None

    def __post_init__(self) -> None:
        self.progress = Progress(Frontier(self.wanted))
        self._scoring = Scoring(self.scorers, self.rule)
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._moved, self._pulling = asyncio.Event(), asyncio.Lock()
        self._stopping = False
        self.window = max(20_000, 20 * self.workers)

    async def run(self, items: Iterator[Item] | AsyncIterator[Item]) -> Progress:
        """Work until the records wanted are there or the items are used up. Raises what stops the run."""
        todo = self._unfinished(items)
        self._stopping = False
        workers = [asyncio.create_task(self._worker(todo)) for _ in range(self.workers)]
        try:
            # Every worker ends by itself, also when another one stopped the run: what is in flight is paid for, so it
            # is waited for and journaled.
            outcomes = await asyncio.gather(*workers, return_exceptions=True)
        except asyncio.CancelledError:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
            with contextlib.suppress(Stopped):
                self.journal.flush()
            raise
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        try:
            self.journal.flush()
        except Stopped as error:
            errors.append(error)
        if errors:
            raise min(errors, key=lambda error: isinstance(error, UserError))  # a bug before what it led to
        return self.progress

    async def _unfinished(self, items: Iterator[Item] | AsyncIterator[Item]) -> AsyncIterator[Item]:
        """The items that have no final fate under this configuration yet; the others are counted."""
        finished = self.journal.finished_seeds(self.config)
        known = next(finished, None)
        passed = 0
        async for item in _each(items):
            while known is not None and known.index < item.index:
                known = next(finished, None)
            if known is not None and known.index == item.index and known.digest == item.digest:
                if isinstance(self.generator, Remembers):
                    self.generator.remember(item, self.journal.seed_records(self.config, item.index))
                self.progress.frontier.finish(item.index, known.kept)
                if self.progress.frontier.complete:
                    finished.close()
                    return
                passed += 1
                if passed % 500 == 0:
                    await asyncio.sleep(0)
                continue
            yield item

    async def _worker(self, todo: AsyncIterator[Item]) -> None:
        frontier = self.progress.frontier
        while not self._stopping:
            async with self._pulling:
                if self._stopping or (item := await anext(todo, None)) is None:
                    return
                while item.index >= frontier.next_index + self.window:
                    self._moved.clear()
                    await self._moved.wait()
                    if self._stopping:
                        return
                if self._beyond(item.index):
                    return
            task = asyncio.create_task(self._process(item))
            self._tasks[item.index] = task
            try:
                await task
            except asyncio.CancelledError:
                if task.cancelled() and not _being_cancelled():
                    continue  # this item is not needed any more
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task
                raise
            except BaseException:
                self._stopping = True
                self._moved.set()
                raise
            finally:
                del self._tasks[item.index]

    def _beyond(self, index: int) -> bool:
        if self.wanted is None:
            return False
        last = self.progress.frontier.last_needed
        return last is not None and index > last

    async def _process(self, item: Item) -> None:
        progress = self.progress
        progress.in_flight += 1
        try:
            context = self.make_context(item)
            records, final = await self._records(item, context)
            try:
                prints = await self._write(item, context, records, final)
            except RecordError as error:
                records = [context.record((), self._seed_meta(item), reason=str(error))]
                prints = await self._write(item, context, records, final)
        finally:
            progress.in_flight -= 1
        kept = [mark for record, mark in zip(records, prints, strict=True) if record.kept]
        for record in records:
            if not record.kept:
                progress.count(record.reason)
        progress.failed += not final
        progress.frontier.finish(item.index, kept)
        self._moved.set()
        if kept and progress.frontier.last_needed is not None:
            # First make sure that whoever goes on from here sees it too: what is dropped now is not asked again then.
            await self.journal.written()
            last = progress.frontier.last_needed
            for index, task in self._tasks.items():
                if index > last:
                    task.cancel()
        self.on_progress(progress)

    async def _write(self, item: Item, context: Context, records: list[Record], final: bool) -> list[str | None]:
        """Journal the records; returns their fingerprints. Raises `RecordError` where a plug-in left no plain data."""
        async with boundary(GeneratorError, self.generator.__class__.__name__):
            marks = [self.generator.fingerprint(record) if record.kept else None for record in records]
        prints = [Seen.joined(mark) for mark in marks]
        story = {"item": item.digest, "exchanges": context.exchanges}
        fates = [Fate(item.index, sample, record, story, final) for sample, record in enumerate(records)]
        try:
            self.journal.add_fates(self.config, item.digest, fates, prints)
        except (TypeError, ValueError) as error:
            raise GeneratorError(f"the record is not JSON: {error}") from error
        return prints

    async def _records(self, item: Item, context: Context) -> tuple[list[Record], bool]:
        """The item's records with their fates, and whether these are final (an engine's failure is not)."""
        try:
            async with boundary(GeneratorError, self.generator.__class__.__name__):
                made = list(await self.generator.generate(item, context))
        except RecordError as error:
            return [context.record((), self._seed_meta(item), reason=str(error))], error.final
        if not made:
            return [context.record((), self._seed_meta(item), reason="the generator gave no record")], True
        return await self._scoring.fates(made, context)

    def _seed_meta(self, item: Item) -> dict[str, object]:
        """What a record that was never made still tells: its seed row, where the generator's records have it."""
        try:
            return dict(item.row) if self.generator.carries_columns else {"seed": dict(item.row)}
        except RecordError:
            return {}


async def _each(items: Iterator[Item] | AsyncIterator[Item]) -> AsyncIterator[Item]:
    if isinstance(items, AsyncIterator):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
