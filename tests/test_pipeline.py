"""The pipeline: which records are kept does not depend on who is faster, and a plug-in's failure is one record's."""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.engine.request import Sampling
from factory.errors import RecordError, Stopped, UserError
from factory.generators.base import Context, GeneratorSettings
from factory.journal import Journal
from factory.outputs import final_fates
from factory.pipeline import Frontier, Pipeline, Progress
from factory.prompts import Templates
from factory.records import Message, Record, Score
from factory.selection import KeepRule
from factory.sources import Item
from tests.model_server import ModelServer, Reply
from tests.runs import ROOT, command, kept, reasons, run_once, write_rows

# One seed: after how many turns of the loop it is done, and the fingerprints of its records (None: rejected).
Seed = tuple[int, tuple[str | None, ...]]


@dataclass
class Scripted:
    """A generator whose every seed is told beforehand: `seeds[i]`."""

    seeds: Sequence[Seed]
    begun: list[int] = field(default_factory=list)
    peak: int = 0
    running: int = 0
    Settings: ClassVar[type[GeneratorSettings]] = GeneratorSettings
    settings: GeneratorSettings = field(default_factory=lambda: GeneratorSettings(name="scripted", generator="x"))
    templates: tuple[str, ...] = ()
    uses_sandbox: bool = False
    carries_columns: bool = False

    def check(self, columns: set[str] | None) -> list[str]:
        return []

    def fingerprint(self, record: Record) -> str | None:
        return str(record.meta["print"]) if record.meta.get("print") else None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        turns, marks = self.seeds[item.index]
        self.begun.append(item.index)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            for _ in range(turns):
                await asyncio.sleep(0)
        finally:
            self.running -= 1
        return [
            context.record(
                [Message(role="assistant", content=f"{item.index}.{number}")],
                {"print": mark},
                sample=number,
                reason="" if mark is not None else "scripted: no",
            )
            for number, mark in enumerate(marks)
        ]


class Identity:
    identity = "model"


def context_of(generator: Any) -> Any:
    def make(item: Item) -> Context:
        return Context(
            item=item, settings=generator.settings, seed=0, asker=Identity(), templates=Templates([]),  # type: ignore[arg-type]
            template_digest="", sampling=Sampling(), sandbox=lambda: None,  # type: ignore[arg-type, return-value]
        )  # fmt: skip

    return make


def items(count: int) -> list[Item]:
    return [Item(index, f"d{index}", lambda index=index: {"number": index}) for index in range(count)]


def work(
    journal: Journal, generator: Any, seeds: int, *, wanted: int | None = None, workers: int = 4, **fields: Any
) -> Progress:
    rule = fields.pop("rule", KeepRule("", set()))
    pipeline = Pipeline(
        generator, fields.pop("scorers", {}), rule, journal, 1, context_of(generator), wanted, workers, **fields
    )
    return asyncio.run(pipeline.run(iter(items(seeds))))


def outcome(journal: Journal, wanted: int | None) -> list[str]:
    """The kept answers, as the data has them."""
    return [fate.record.messages[0].content for fate in final_fates(journal, 1, wanted) if fate.record.kept]


@contextlib.contextmanager
def fresh_journal() -> Any:
    with tempfile.TemporaryDirectory() as folder, Journal(Path(folder) / "journal.db") as journal:
        journal.config_id("key", {})
        yield journal


marks = st.lists(st.one_of(st.none(), st.just(""), st.sampled_from("abcd")), min_size=1, max_size=3).map(tuple)
scripts = st.lists(st.tuples(st.integers(0, 12), marks), min_size=1, max_size=25)


def sequential(seeds: Sequence[Seed], wanted: int | None) -> list[str]:
    """What comes out where one seed is done after the other."""
    found, seen = [], set()
    for index, (_, prints) in enumerate(seeds):
        for number, mark in enumerate(prints):
            if mark is not None and mark not in seen and (wanted is None or len(found) < wanted):
                seen |= {mark} - {""}
                found.append(f"{index}.{number}")
    return found


@settings(max_examples=60, deadline=None)
@given(scripts, st.one_of(st.none(), st.integers(1, 12)), st.integers(1, 8))
def test_the_kept_records_do_not_depend_on_latency(seeds: list[Seed], wanted: int | None, workers: int) -> None:
    with fresh_journal() as journal:
        generator = Scripted(seeds)
        work(journal, generator, len(seeds), wanted=wanted, workers=workers)
        assert outcome(journal, wanted) == sequential(seeds, wanted)
        assert generator.peak <= workers
        assert len(generator.begun) == len(set(generator.begun))


class Killed(BaseException):
    """Stands for SIGKILL within this process: it passes every handler."""


@settings(max_examples=40, deadline=None)
@given(scripts, st.one_of(st.none(), st.integers(1, 12)), st.lists(st.integers(1, 8), min_size=1, max_size=3))
def test_an_interrupted_run_ends_as_one_that_was_not(seeds: list[Seed], wanted: int | None, stops: list[int]) -> None:
    with fresh_journal() as journal:
        for after in stops:
            left = iter(range(after))

            def stop(progress: Progress, left: Any = left) -> None:
                if next(left, None) is None:
                    raise Killed

            with contextlib.suppress(Killed):
                work(journal, Scripted(seeds), len(seeds), wanted=wanted, on_progress=stop)
        done = {seed.index for seed in journal.finished_seeds(1)}
        last = Scripted(seeds)
        work(journal, last, len(seeds), wanted=wanted)
        assert not done & set(last.begun), "what was done is not done again"
        assert outcome(journal, wanted) == sequential(seeds, wanted)


def test_work_beyond_what_is_needed_is_cancelled() -> None:
    with fresh_journal() as journal:
        seeds = [(1, ("",))] * 5 + [(10_000, ("",))] * 20
        generator = Scripted(seeds)
        work(journal, generator, len(seeds), wanted=5, workers=8)
        assert len(outcome(journal, 5)) == 5
        assert len(generator.begun) <= 5 + 8
        assert generator.running == 0


@settings(max_examples=300)
@given(st.lists(marks, max_size=15), st.one_of(st.none(), st.integers(1, 8)), st.randoms(use_true_random=False))
def test_the_frontier_counts_as_a_slow_and_simple_one_does(
    kept_of: list[tuple[str | None, ...]], wanted: int | None, draw: random.Random
) -> None:
    frontier, done = Frontier(wanted), {}
    order = list(range(len(kept_of)))
    draw.shuffle(order)
    for index in order:
        # Of a seed's records, those kept; "" has no fingerprint.
        prints = [mark or None for mark in kept_of[index] if mark is not None]
        frontier.finish(index, prints)
        done[index] = prints
        prefix = next(number for number in range(len(order) + 1) if number not in done)
        assert frontier.next_index == prefix
        assert frontier.accepted == distinct(done[number] for number in range(prefix))
        if wanted is None:
            assert frontier.last_needed is None
            continue
        assert frontier.complete == (frontier.accepted >= wanted)
        last = frontier.last_needed
        if last is None:
            assert distinct(done[number] for number in sorted(done)) < wanted
        elif not frontier.complete:
            through = [done[number] for number in sorted(done) if number <= last]
            assert distinct(through) >= wanted
            assert distinct(through[:-1]) < wanted


def distinct(groups: Any) -> int:
    count, seen = 0, set()
    for group in groups:
        for mark in group:
            count += mark is None or mark not in seen
            seen.add(mark)
    return count


# ---- failures of plug-ins


@dataclass
class Failing(Scripted):
    """Seed 1 does something wrong."""

    how: str = ""

    def fingerprint(self, record: Record) -> str | None:
        if self.how == "fingerprint" and record.meta["print"] == "one":
            raise KeyError("no print")
        return None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        made = await super().generate(item, context)
        if item.index == 1:
            if self.how == "raises":
                raise ValueError("seven is no colour")
            if self.how == "says":
                raise RecordError("taste: too sweet")
            if self.how == "cancels":
                raise asyncio.CancelledError
            if self.how == "nothing":
                return []
            if self.how == "rubbish":
                return [made[0].model_copy(update={"meta": {"made": object()}})]
            if self.how == "surrogate":
                return [made[0].model_copy(update={"meta": {"text": "\ud800"}})]
        return made


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "Failing: ValueError: seven is no colour"),
        ("says", "taste: too sweet"),
        ("cancels", "Failing: it cancelled itself"),
        ("nothing", "the generator gave no record"),
        ("rubbish", "the record is not JSON: "),
        ("surrogate", "the record is not JSON: "),
        ("fingerprint", "Failing: KeyError: 'no print'"),
    ],
)
def test_a_generators_failure_is_its_records_reason(how: str, reason: str) -> None:
    with fresh_journal() as journal:
        seeds = [(0, ("zero",)), (0, ("one",)), (0, ("two",))]
        work(journal, Failing(seeds, how=how), 3)
        fates = [fate.record for fate in journal.fates(1)]
        assert [record.kept for record in fates] == [True, False, True]
        assert fates[1].reason.startswith(reason)
        assert fates[1].meta == {"seed": {"number": 1}}
        assert len(list(journal.finished_seeds(1))) == 3


@dataclass
class Grader:
    """Scores 1, except that seed 1 is treated as told."""

    how: str = ""
    names: tuple[str, ...] = ("grade",)
    templates: tuple[str, ...] = ()
    uses_sandbox: bool = False
    asked: int = 0

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        self.asked += 1
        if context.item.index == 1:
            if self.how == "raises":
                raise ZeroDivisionError("nothing to divide by")
            if self.how == "nan":
                return {"grade": Score(value=float("nan"))}
            if self.how == "rubbish":
                return {"grade": Score(value=1, detail={"thing": object()})}
            if self.how == "nothing":
                return {}
            return {"grade": Score(value=0, reason="dull")}
        return {"grade": Score(value=1)}


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", "own: ZeroDivisionError: nothing to divide by"),
        ("nan", "own: ValidationError"),
        ("rubbish", "the record is not JSON: "),
        ("nothing", "keep: 'grade > 0' cannot be decided from the scores none"),
        ("zero", "grade: dull"),
    ],
)
def test_a_scorers_failure_is_its_records_reason_and_never_a_score(how: str, reason: str) -> None:
    with fresh_journal() as journal:
        rule = KeepRule("grade > 0", {"grade"})
        work(journal, Scripted([(0, ("",))] * 3), 3, scorers={"own": Grader(how)}, rule=rule)
        fates = [fate.record for fate in journal.fates(1)]
        assert [record.kept for record in fates] == [True, False, True]
        assert fates[1].reason.startswith(reason)
        assert set(fates[1].scores) == ({"grade"} if how == "zero" else set())


def test_a_rule_that_cannot_be_computed_is_its_records_reason() -> None:
    with fresh_journal() as journal:
        rule = KeepRule("1 / grade >= 1", {"grade"})
        work(journal, Scripted([(0, ("",))] * 3), 3, scorers={"own": Grader()}, rule=rule)
        fates = [fate.record for fate in journal.fates(1)]
        assert [record.kept for record in fates] == [True, False, True]
        assert fates[1].reason.startswith("keep: ")


def test_a_record_whose_fate_is_sealed_is_not_scored_further() -> None:
    first, second = Grader("zero"), Grader()
    second.names = ("other",)
    with fresh_journal() as journal:
        rule = KeepRule("grade > 0 and other > 0", {"grade", "other"})

        async def other(record: Record, context: Context) -> Mapping[str, Score]:
            second.asked += 1
            return {"other": Score(value=1)}

        second.score = other  # type: ignore[method-assign]
        work(journal, Scripted([(0, ("",))] * 3), 3, scorers={"own": first, "other": second}, rule=rule)
    assert (first.asked, second.asked) == (3, 2)


def test_a_bug_stops_the_run_and_keeps_its_name() -> None:
    def broken(progress: Progress) -> None:
        raise LookupError("a bug of ours")

    with fresh_journal() as journal, pytest.raises(LookupError, match="a bug of ours"):
        work(journal, Scripted([(3, ("",))] * 10), 10, on_progress=broken)


class Stopping(Scripted):
    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        if item.index == 2:
            raise Stopped("no more")
        return await super().generate(item, context)


def test_what_is_in_flight_when_the_run_stops_is_written_down() -> None:
    with fresh_journal() as journal:
        with pytest.raises(UserError, match="no more"):
            work(journal, Stopping([(30, ("",))] * 50), 50, workers=4)
        assert [seed.index for seed in journal.finished_seeds(1)] == [0, 1, 3]


def test_memory_is_bounded_by_a_window() -> None:
    """A seed that takes for ever holds the others back in the end, so that what waits for it stays small."""
    release = asyncio.Event()

    class Slow(Scripted):
        async def generate(self, item: Item, context: Context) -> Sequence[Record]:
            if item.index == 0:
                await release.wait()
            return await super().generate(item, context)

    with fresh_journal() as journal:
        generator = Slow([(0, ("",))] * 500)
        pipeline = Pipeline(generator, {}, KeepRule("", set()), journal, 1, context_of(generator), None, 4)
        pipeline.window = 100

        async def main() -> None:
            running = asyncio.create_task(pipeline.run(iter(items(500))))
            await asyncio.sleep(0.5)
            assert max(generator.begun) < 100
            release.set()
            await running

        asyncio.run(main())
        assert len(generator.begun) == 500


# ---- plug-ins of a user's own, as a user runs them

PLUGIN = """
from factory.generators.from_template import FromTemplate
from factory.records import Score

class Generator(FromTemplate):
    async def generate(self, item, context):
        if item.index == 1:
            raise RuntimeError("the plug-in's own")
        return await super().generate(item, context)

    def fingerprint(self, record):
        return record.messages[-1].content
"""


def test_a_users_generator_in_a_file_beside_the_run(tmp_path: Path) -> None:
    write_rows(tmp_path, 4)
    (tmp_path / "mine.py").write_text(PLUGIN)
    with ModelServer(lambda body: Reply("the same")) as server:
        status, said = command(tmp_path, server.url, "task.generator=mine.Generator")
    assert status == 0, said
    assert [answer for _, answer in kept(tmp_path)] == ["the same"]
    assert reasons(tmp_path) == {
        "duplicate: the same as an earlier record": 2,
        "Generator: RuntimeError: the plug-in's own": 1,
    }


def test_a_bug_of_ours_ends_with_a_traceback(tmp_path: Path) -> None:
    write_rows(tmp_path, 4)
    program = (
        "import sys, factory.pipeline as p\n"
        "def broken(self, *a): raise LookupError('a bug of ours')\n"
        "p.Frontier.finish = broken\n"
        "from factory.cli import main; main(sys.argv[1:])"
    )
    from tests.runs import words

    with ModelServer() as server:
        done = subprocess.run(
            [sys.executable, "-c", program, "generate", *words(tmp_path, server.url)],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode not in (0, 2, 3, 130)
    assert "Traceback" in done.stderr
    assert "LookupError: a bug of ours" in done.stderr


def test_an_empty_answer_and_a_cut_one_are_lost_with_their_reasons(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)

    def script(body: dict[str, Any]) -> Reply:
        number = body["messages"][-1]["content"][-1]
        return {"0": Reply("  \n"), "1": Reply("half a", finish_reason="length"), "2": Reply("whole")}[number]

    outcome, _ = run_once(tmp_path, script)
    assert [answer for _, answer in kept(tmp_path)] == ["whole"]
    assert reasons(tmp_path) == {"answer: empty": 1, "answer: cut off at the token limit": 1}
    assert outcome.status == 0
