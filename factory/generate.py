"""`generate`: run a plan in its folder, from the lock to the report."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import importlib
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory.endpoint_rooms import EndpointRooms
from factory.engine.asker import Asker
from factory.engine_room import EngineRoom
from factory.errors import EXIT_DONE, EXIT_STOPPED, Stopped, UserError
from factory.generators.base import Asked, Context, Grows, Remembers
from factory.journal import Journal
from factory.outputs import carried_columns, final_fates, versions, write_config, write_data, write_json, write_manifest
from factory.pipeline import Pipeline
from factory.plan import Plan
from factory.progress import Display
from factory.resources import Opener, Resources
from factory.run_folder import RunLock, unwritable
from factory.sources import Item, grown

if TYPE_CHECKING:
    from factory.sandbox import Sandbox


@dataclass
class Outcome:
    """How a run ended: its exit status, its manifest, and why it was stopped, if it was."""

    status: int
    manifest: Mapping[str, Any]
    stopped: UserError | None


async def generate(plan: Plan, display: Display) -> Outcome:
    """Run to the end or to whatever stops it, then write what there is."""
    folder = Path(plan.settings.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(folder, error) from error
    with RunLock(folder), Journal(folder / "journal.db", display.say) as journal, journal.reported():
        run = _Run(plan, folder, journal, display)
        return await run.to_end()


class _Run:
    def __init__(self, plan: Plan, folder: Path, journal: Journal, display: Display) -> None:
        self.plan, self.folder, self.journal, self.display = plan, folder, journal, display
        self.started = time.time()
        settings = plan.settings
        self.room = EngineRoom(settings.model, settings.engine, plan.api_key, folder / "logs", display)
        self.others = EndpointRooms(settings, plan.endpoint_keys, folder / "logs", display)
        self.identity = self.room.identity
        self.config = self._config_id()
        self.budgets = self.others.budgets(journal)
        self.budget = self.budgets[None]
        self.sandbox: Sandbox | None = None
        self.asker: Asker
        self.opener: Opener
        self.endpoints: Mapping[str, Asked] = {}

    def _config_id(self) -> int:
        """This configuration's number; says so where the run began with another one."""
        before = self.journal.current_config()
        model = {"path": self.plan.settings.model.path, "digest": self.room.digest}
        config = {
            "settings": {key: value for key, value in self.plan.composed.items() if key != "hydra"},
            "templates": self.plan.template_digest,
            "model": model,
        }
        number = self.journal.config_id(self.plan.fate_key(self.identity, self.others.identities), config)
        if before is not None and before[0] != number:
            changed = _changes(before[1], config)
            self.display.say(
                f"changed since this run's last time: {changed}. Answers that this does not touch are used again; "
                "records are decided anew. (run=NAME keeps both.)"
            )
        return number

    @contextlib.asynccontextmanager
    async def _engine_room(self) -> AsyncIterator[None]:
        """What must be ended with the run: the sandbox, and the engine once somebody asked for it."""
        async with contextlib.AsyncExitStack() as stack:
            scorers = self.plan.scorers.values()
            if self.plan.generator.uses_sandbox or any(scorer.uses_sandbox for scorer in scorers):
                from factory.sandbox import open_sandbox

                self.sandbox = await stack.enter_async_context(open_sandbox(self.plan.settings.sandbox))
            self.endpoints = await stack.enter_async_context(self.others.open(self.journal, self.budgets))
            self.asker = await stack.enter_async_context(self.room.open(self.journal, self.budget))
            resources = Resources(self.folder / "logs", self.display.status, self.display.say)
            self.opener = await stack.enter_async_context(Opener(resources))
            yield

    def _context(self, item: Item) -> Context:
        plan = self.plan
        return Context(
            item=item,
            settings=plan.generator.settings,
            seed=plan.settings.seed,
            asker=self.asker,
            templates=plan.templates,
            template_digest=plan.template_digest,
            sampling=plan.settings.model.sampling,
            chat=plan.settings.model.chat,
            prompt_form=plan.settings.model.prompt_form,
            path=plan.settings.model.path,
            tokens=plan.settings.model.context,
            endpoints=self.endpoints,
            sandbox=self._open_sandbox,
            opener=self.opener,
        )

    def _open_sandbox(self) -> Sandbox:
        if self.sandbox is None:
            raise RuntimeError(
                f"{type(self.plan.generator).__name__} uses the sandbox: set `uses_sandbox = True` in it"
            )
        return self.sandbox

    async def to_end(self) -> Outcome:
        plan, stopped = self.plan, None
        pipeline = Pipeline(
            generator=plan.generator,
            scorers=plan.scorers,
            rule=plan.rule,
            journal=self.journal,
            config=self.config,
            make_context=self._context,
            wanted=plan.wanted,
            workers=self._workers(),
            on_progress=self.display.progress,
        )
        self.display.begin(pipeline.progress, plan.wanted, self.budget.spent)
        try:
            async with self._engine_room():
                # While the first answers are on their way: nobody need wait for this then.
                aside = asyncio.get_running_loop().run_in_executor(None, self._prepare_the_end)
                async with contextlib.aclosing(self._items()) as items:
                    await pipeline.run(items)
                    if isinstance(plan.generator, Grows):
                        await plan.generator.finish()
                await aside
        except Stopped as error:
            stopped = error
        except UserError:
            self.display.end()
            raise
        except (asyncio.CancelledError, KeyboardInterrupt):
            self.display.end()
            with contextlib.suppress(UserError):  # the journal holds it all
                self.finish(Stopped("interrupted"))
            raise
        self.display.end()
        try:
            return self.finish(stopped)
        except UserError as error:  # no room to write what came of it, most likely for the reason that stopped the run
            raise stopped or Stopped(*error.problems) from error

    async def _items(self) -> AsyncGenerator[Item, None]:
        plan = self.plan
        if isinstance(plan.generator, Grows):
            documents = plan.source.items() if plan.source.named else None
            async with contextlib.aclosing(plan.generator.grow(plan.settings.seed, documents, self._context)) as rows:
                async for item in grown(rows, plan.attempts):
                    yield item
        else:
            for item in itertools.islice(plan.source.items(), plan.attempts):
                yield item

    def _prepare_the_end(self) -> None:
        """Write the configuration down, and import what the end of the run needs."""
        write_config(self.folder, self.plan.composed)
        for name in ("pyarrow.json", "pyarrow.parquet", "factory.card", "factory.report", "rich.table"):
            importlib.import_module(name)

    def _workers(self) -> int:
        settings = self.plan.settings
        if settings.in_flight is not None:
            return settings.in_flight
        # More than the engine takes, so that it stays full while others are between two requests or in the sandbox.
        capacity = self.room.capacity + self.others.capacity
        workers = capacity * 3 // 2 if self.plan.generator.uses_sandbox else capacity + capacity // 4
        if isinstance(self.plan.generator, Remembers):
            workers = 3 * capacity  # some of them wait for what the ones before them find
        # Few records wanted: many more seeds at once would only finish together, too late to be of use.
        return workers if self.plan.wanted is None else min(workers, max(16, 4 * self.plan.wanted))

    def finish(self, stopped: UserError | None) -> Outcome:
        """Write data, manifest, card and report from the journal."""
        from factory.card import write_card
        from factory.report import write_report

        plan = self.plan
        columns = carried_columns(self.journal.fates(self.config)) if plan.generator.carries_columns else {}
        names = [name for scorer in plan.scorers.values() for name in scorer.names]
        totals = write_data(self.folder, final_fates(self.journal, self.config, plan.wanted), columns, names)
        short = plan.wanted is not None and totals.kept < plan.wanted
        spent = self.budget.spent
        requests, prompt_tokens, completion_tokens, _ = self.journal.spent()
        manifest = {
            "task": plan.task,
            "run": plan.settings.run,
            "wanted": plan.wanted,
            "seeds": totals.seeds,
            "records": totals.kept + totals.rejected,
            "kept": totals.kept,
            "rejected": totals.rejected,
            "reasons": dict(totals.reasons.most_common()),
            "keep": plan.rule.text,
            "scores": totals.scores,
            "score_errors": {name: dict(said.most_common()) for name, said in sorted(totals.score_errors.items())},
            "model": {
                "name": plan.settings.model.name,
                "path": plan.settings.model.path,
                "digest": self.room.digest,
            },
            "engine": {"kind": plan.settings.engine.kind},
            "endpoints": self.others.described(self.journal),
            "templates": plan.template_digest,
            "seed": plan.settings.seed,
            "requests": requests,
            "tokens": {"prompt": prompt_tokens, "completion": completion_tokens},
            "cost": spent.usd,
            "seconds": round(time.time() - self.started, 3),
            "versions": versions(),
            "finished": stopped is None and not short,
            "stopped": str(stopped) if stopped else None,
            "started_at": timestamp(self.started),
            "ended_at": timestamp(time.time()),
        }
        if isinstance(plan.generator, Grows):
            for name, content in plan.generator.files().items():
                write_json(self.folder / name, content)
        write_manifest(self.folder, manifest)
        write_card(self.folder)
        write_report(self.folder)
        if stopped is None and short:
            bounded = plan.attempts is not None and totals.seeds >= plan.attempts
            more = f"try more seeds with attempts={2 * max(1, totals.seeds)}" if bounded else "the source holds no more"
            stopped = Stopped(
                f"{totals.kept} of the {plan.wanted} records wanted were accepted from {totals.seeds} seeds: {more}. "
                f"Why others were lost is in {self.folder}/report.html."
            )
        return Outcome(EXIT_STOPPED if stopped else EXIT_DONE, manifest, stopped)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two configurations, by key."""
    changed = []
    if before["model"]["digest"] != now["model"]["digest"]:
        changed.append("the model")
    if before["templates"] != now["templates"]:
        changed.append("a prompt template")
    old, new = _flat(before["settings"]), _flat(now["settings"])
    changed += [key for key in sorted(old | new) if old.get(key) != new.get(key) and key not in ("n", "attempts")]
    return ", ".join(changed) or "the configuration"


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat


def timestamp(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
