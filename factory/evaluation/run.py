"""`evaluate`: a suite's stages one after another, each through the pipeline and the journal, then the results."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from factory.engine.asker import Asker
from factory.engine.limits import Budget
from factory.engine_room import EngineRoom
from factory.errors import EXIT_DONE, EXIT_STOPPED, Stopped, UserError
from factory.evaluation.plan import EvaluationPlan
from factory.evaluation.results import write_answers, write_results
from factory.evaluation.suite import Role, Suite, metrics
from factory.generate import timestamp
from factory.generators.base import Context, GeneratorSettings
from factory.journal import Fate, Journal
from factory.outputs import versions, write_config
from factory.pipeline import Pipeline
from factory.progress import Display
from factory.records import Record
from factory.run_folder import RunLock, unwritable
from factory.selection import KeepRule
from factory.sources import Item

if TYPE_CHECKING:
    from factory.sandbox import Sandbox


@dataclass
class Evaluated:
    """How an evaluation ended: its exit status, its results as in results.json, and why it was stopped, if it was."""

    status: int
    results: Mapping[str, Any]
    stopped: UserError | None


async def evaluate(plan: EvaluationPlan, display: Display) -> Evaluated:
    """Run to the end or to whatever stops it, then write what was found so far."""
    folder = plan.settings.folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    with RunLock(folder), Journal(folder / "journal.db", display.say) as journal, journal.reported():
        return await _Evaluation(plan, journal, display).to_end()


class _Stage:
    """One role's part of a suite, as the pipeline takes it: an item gives one record, scored where it was made."""

    Settings: ClassVar[type[GeneratorSettings]] = GeneratorSettings
    templates: Sequence[str] = ()
    carries_columns = False

    def __init__(self, suite: Suite, role: Role) -> None:
        self.suite, self.role, self.uses_sandbox = suite, role, suite.uses_sandbox
        settings = suite.settings
        self.settings = GeneratorSettings(
            name=f"{settings.name}/{role}", generator=settings.suite, sampling=suite.sampling(role)
        )

    def check(self, columns: set[str] | None) -> list[str]:
        return self.suite.check()

    def fingerprint(self, record: Record) -> str | None:
        return None

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        return [await self.suite.answer(self.role, item, context)]


class _Evaluation:
    def __init__(self, plan: EvaluationPlan, journal: Journal, display: Display) -> None:
        self.plan, self.journal, self.display = plan, journal, display
        self.folder, self.started = plan.settings.folder, time.time()
        self.rooms: dict[Role, EngineRoom] = {
            role: EngineRoom(place.model, place.engine, plan.keys[role], self.folder / "logs" / role, display)
            for role, place in plan.endpoints.items()
        }
        self.budgets = self._budgets()
        self.done: dict[Role, Sequence[Record]] = {}
        self.fates: list[Fate] = []
        self.errors: dict[str, int] = {}
        self.sandbox: Sandbox | None = None

    def _budgets(self) -> dict[Role, Budget]:
        """One bound for all roles, each charged at its own price; what was spent before is known by its label."""
        budgets: dict[Role, Budget] = {}
        for role, place in self.plan.endpoints.items():
            shared = next(iter(budgets.values())).spent if budgets else None
            prices = (place.model.price.input, place.model.price.output)
            budgets[role] = Budget(self.plan.settings.budget, prices, shared)
        for _, _, prompt_tokens, completion_tokens, label in self.journal.timeline():
            budget = next((budget for role, budget in budgets.items() if role == label), None)
            if budget is not None:
                budget.charge(prompt_tokens, completion_tokens, 1)
        return budgets

    async def to_end(self) -> Evaluated:
        write_config(self.folder, self.plan.composed)
        stopped: UserError | None = None
        try:
            async with self._at_hand():
                await self._stages()
        except Stopped as error:
            stopped = error
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.display.end()
            with contextlib.suppress(UserError):  # the journal holds it all
                self._finish(Stopped("interrupted"))
            raise
        finally:
            self.display.end()
        return self._finish(stopped)

    @contextlib.asynccontextmanager
    async def _at_hand(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            if self.plan.suite.uses_sandbox:
                from factory.sandbox import open_sandbox

                self.sandbox = await stack.enter_async_context(open_sandbox(self.plan.settings.sandbox))
            await stack.enter_async_context(self.plan.suite.ready(self.folder, self.display.say))
            yield

    async def _stages(self) -> None:
        """Each role in turn. An engine is ended before another one starts, and kept where the next role needs the same."""
        roles = list(self.plan.suite.roles)
        while roles:
            first = self.rooms[roles[0]]
            async with first.open(self.journal, self.budgets[roles[0]]) as asker:
                while roles and self._same(first, self.rooms[roles[0]]):
                    await self._stage(roles.pop(0), asker)

    def _same(self, first: EngineRoom, second: EngineRoom) -> bool:
        return (first.engine, first.settings) == (second.engine, second.settings)

    async def _stage(self, role: Role, asker: Asker) -> None:
        plan, suite, room = self.plan, self.plan.suite, self.rooms[role]
        items = list(suite.items(role, self.done))
        stage = _Stage(suite, role)
        config = self._config_id(role)
        capacity = room.capacity
        pipeline = Pipeline(
            generator=stage,
            scorers={},
            rule=KeepRule("", set()),
            journal=self.journal,
            config=config,
            make_context=lambda item: self._context(item, stage, role, asker),
            wanted=None,
            workers=min(plan.settings.in_flight or capacity + capacity // 4, max(1, len(items))),
            on_progress=self.display.progress,
        )
        self.display.begin(pipeline.progress, len(items), self.budgets[role].spent)
        try:
            await pipeline.run(iter(items))
        finally:
            self.display.end()
            self._collect(role, config, items)

    def _config_id(self, role: Role) -> int:
        room = self.rooms[role]
        settings = {key: value for key, value in self.plan.composed.items() if key != "hydra"}
        return self.journal.config_id(
            self.plan.stage_key(role, room.identity),
            {
                "settings": settings,
                "templates": self.plan.template_digest,
                "model": {"path": room.settings.path, "digest": room.digest},
            },
        )

    def _collect(self, role: Role, config: int, items: Sequence[Item]) -> None:
        """The stage's records, without those of items that an earlier, larger source had."""
        with contextlib.suppress(Stopped):  # what is in the file counts; why the rest is not is being told
            self.journal.flush()
        known = {item.index: item.digest for item in items}
        fates = [fate for fate in self.journal.fates(config) if known.get(fate.seed_index) == fate.story["item"]]
        for fate in fates:
            if fate.record.reason:
                self.errors[fate.record.reason] = self.errors.get(fate.record.reason, 0) + 1
        self.done[role] = [fate.record for fate in fates]
        self.fates += fates

    def _context(self, item: Item, stage: _Stage, role: Role, asker: Asker) -> Context:
        plan, model = self.plan, self.rooms[role].settings
        return Context(
            # An item is named by its digest alone: with more samples or more items its place changes, its answer not.
            item=dataclasses.replace(item, index=0),
            settings=stage.settings,
            seed=plan.settings.seed,
            asker=asker,
            templates=plan.templates,
            template_digest=plan.template_digest,
            sampling=model.sampling,
            chat=model.chat,
            sandbox=self._open_sandbox,
        )

    def _open_sandbox(self) -> Sandbox:
        assert self.sandbox is not None, "a suite that uses the sandbox says so"
        return self.sandbox

    def _finish(self, stopped: UserError | None) -> Evaluated:
        """Write answers, items, results and report from what there is."""
        plan = self.plan
        summary, complete = plan.suite.summarise(self.done), stopped is None
        if stopped is None and self.errors:
            stopped = Stopped(
                f"{sum(self.errors.values())} of {len(self.fates)} answers could not be measured ("
                f"{max(self.errors, key=lambda reason: self.errors[reason])[:120]}); the numbers are over the others. The "
                "same command tries those again that an engine's failure cost."
            )
        spent = next(iter(self.budgets.values())).spent
        results: dict[str, Any] = {
            "suite": plan.suite.settings.name,
            "run": plan.settings.name,
            "seed": plan.settings.seed,
            **{role: self._described(role) for role in self.rooms},
            "settings": dict(plan.settings.suite),
            "templates": plan.template_digest,
            "items": len(summary.items),
            "answers": len(self.fates),
            "errors": dict(sorted(self.errors.items(), key=lambda entry: -entry[1])),
            "metrics": [metric.model_dump() for metric in metrics(summary, plan.settings.seed)],
            "measures": [dataclasses.asdict(measure) for measure in summary.measures],
            "notes": list(summary.notes),
            "requests": spent.requests,
            "tokens": {"prompt": spent.prompt_tokens, "completion": spent.completion_tokens},
            "cost": spent.usd,
            "seconds": round(time.time() - self.started, 3),
            "versions": versions(),
            "complete": complete,  # every answer was asked for, though some may be errors
            "finished": stopped is None,
            "stopped": str(stopped) if stopped else None,
            "started_at": timestamp(self.started),
            "ended_at": timestamp(time.time()),
        }
        write_answers(self.folder, self.fates)
        write_results(self.folder, results, summary.items)
        return Evaluated(EXIT_STOPPED if stopped else EXIT_DONE, results, stopped)

    def _described(self, role: Role) -> dict[str, Any]:
        room = self.rooms[role]
        return {
            "name": room.settings.name,
            "path": room.settings.path,
            "digest": room.digest,
            "engine": room.engine.kind,
            "sampling": self.plan.suite.sampling(role).over(room.settings.sampling).body(),
        }
