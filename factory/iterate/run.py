"""The machine itself: every stage in its order, in a process of its own, never twice, and on its way out at any moment."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol

import orjson

from factory.engine.server_failure import last_lines
from factory.engine.server_plan import cpu_build, list_gpus
from factory.engine.server_process import ServerProcess
from factory.errors import EXIT_DONE, EXIT_STOPPED, Stopped, UserError
from factory.iterate.engines import Engines
from factory.iterate.settings import IterateSettings
from factory.iterate.stages import Model, Plan, Stage
from factory.iterate.state import State
from factory.iterate.watch import GpuWatch
from factory.progress import Display
from factory.run_folder import RunLock, unwritable

GRACE = 120.0  # seconds for a stage to write down what it has once it is asked to stop
_LOOK = 0.1  # seconds between looks at a running stage


Start = Callable[[Coroutine[Any, Any, None]], object]  # begins work that goes on beside


class OutOfTime(Stopped):
    """`max_minutes` is over."""


class Serves(Protocol):
    """What has the models answer (`Engines`)."""

    async def serve(self, path: str) -> list[str]: ...
    async def rest(self) -> None: ...
    def environment(self) -> dict[str, str]: ...


async def iterate(
    settings: IterateSettings,
    composed: Mapping[str, Any],
    display: Display,
    *,
    program: Sequence[str] = (sys.executable, "-m", "factory"),
    engines: AbstractAsyncContextManager[Serves] | None = None,
) -> int:
    """Run to the end, or to the end of `max_minutes`; returns the exit status. Raises `UserError` for a failed stage.

    `program` is what the stages' commands are given to, `engines` what serves the models to them.
    """
    root = Path(settings.out)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(root, error) from error
    with RunLock(root):
        state = State(root, described(composed))
        state.write()
        environment = dict(os.environ)  # as it was given; the servers' choice of devices is not the training's
        engines = engines or Engines(settings.engine, root / "logs", display.status, settings.engine_devices)
        async with GpuWatch(root / "gpu.jsonl"):
            return await _Machine(settings, state, display, program, environment).to_end(engines)


def described(composed: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the stages, apart from how many of them and in what pieces."""
    free = {
        "hydra",
        "rounds",
        "seeds",
        "max_minutes",
        "overlap",
        "trainings",
        "engine_devices",
        "train_devices",
        "engine",
    }
    return {key: value for key, value in composed.items() if key not in free}


class _Machine:
    def __init__(
        self,
        settings: IterateSettings,
        state: State,
        display: Display,
        program: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.settings, self.state, self.display, self.program = settings, state, display, program
        self.plan, self.root = Plan(settings), Path(settings.out)
        self.began = time.time()
        minutes = settings.max_minutes
        self.deadline = self.began + 60 * minutes if minutes is not None else None
        self.overlap = bool(list_gpus()) and not cpu_build() if settings.overlap == "auto" else settings.overlap
        if settings.trainings > 1 and not self.overlap:
            display.say(
                f"trainings={settings.trainings}: one at a time here; they overlap on a GPU, or with overlap=true"
            )
        engine = asyncio.Semaphore()
        self.lanes = {"engine": engine, "train": asyncio.Semaphore(settings.trainings) if self.overlap else engine}
        self.environment = environment
        self.turns: dict[str, asyncio.Lock] = {}  # of stages that two chains have in common
        self.engines: Serves

    async def to_end(self, engines: AbstractAsyncContextManager[Serves]) -> int:
        from factory.iterate.summary import write_summary

        stopped: Stopped | None = None
        try:
            async with engines as self.engines:
                await self._all()
        except Stopped as error:
            stopped = error
        finally:
            self.state.stretch("iterate", "all", self.began, time.time())
            write_summary(self.settings, self.state.data)
        if stopped is not None:
            if not isinstance(stopped, OutOfTime):
                raise stopped
            self.display.say(f"{stopped}")
            return EXIT_STOPPED
        return EXIT_DONE

    async def _all(self) -> None:
        await self._one_after_another(self.plan.start())
        if any(control.data == "seeds" and control.enabled for control in self.plan.recipe.controls.values()):
            self._write_examples()
        async with _all_or_none() as start:
            for seed in self.settings.seeds:
                start(self._seed(seed, start))

    async def _seed(self, seed: int, start: Start) -> None:
        """Rounds one after another. Nothing waits for an evaluation or for another control."""
        for round_ in range(1, self.settings.rounds + 1):
            stages = list(self.plan.round(seed, round_))
            await self._one_after_another(stage for stage in stages if stage.command != "evaluate")
            start(self._one_after_another(stage for stage in stages if stage.command == "evaluate"))
        for name, control in self.plan.recipe.controls.items():
            if control.enabled:
                start(self._one_after_another(self.plan.control(seed, name)))

    async def _one_after_another(self, stages: Iterable[Stage]) -> None:
        """In their order; neighbours that need neither engine nor training do not need each other, and run together."""
        for aside, group in itertools.groupby(stages, key=lambda stage: stage.lane == "aside"):
            if aside:
                async with _all_or_none() as start:
                    for stage in group:
                        start(self._stage(stage))
            else:
                for stage in group:
                    await self._stage(stage)

    async def _stage(self, stage: Stage) -> None:
        async with self.turns.setdefault(stage.key, asyncio.Lock()):
            if not self.state.done(stage.key):
                await self._once(stage)

    async def _once(self, stage: Stage) -> None:
        async with contextlib.AsyncExitStack() as stack:
            if stage.lane != "aside":
                await stack.enter_async_context(self.lanes[stage.lane])
            self._in_time()
            words, environment = list(stage.line), dict(os.environ)
            began = time.time()
            if stage.lane == "engine":
                assert stage.model is not None
                words += await self._served(_path(stage.model))
                environment |= self.engines.environment()
            elif stage.lane == "train":
                if not self.overlap:
                    await self.engines.rest()
                environment = dict(self.environment)
                if self.settings.train_devices is not None:
                    environment |= {
                        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # numbered as the servers' devices are
                        "CUDA_VISIBLE_DEVICES": self.settings.train_devices,
                    }
            if stage.steps_of:
                words.append(f"steps={sum(self.state.facts(key)['steps'] for key in stage.steps_of)}")
            self.display.say(f"{self._clock()}  {stage.key}")
            try:
                status = await self._run(stage, words, environment)
            finally:
                self.state.stretch(stage.key, stage.lane, began, time.time())
            facts = _outcome(stage, status, self._log(stage), began)
            self.state.finish(stage.key, seconds=round(time.time() - began, 1), words=stage.line, **facts)
            self.display.say(f"{self._clock()}  {stage.key}: {_told(facts)}{time.time() - began:.0f} s")

    async def _run(self, stage: Stage, words: Sequence[str], environment: Mapping[str, str]) -> int:
        """The command's exit status. Asked to stop in the middle, it keeps what it has; raises `OutOfTime` then."""
        log = self._log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        process = ServerProcess([*self.program, *words], environment, log, grace=GRACE)
        try:
            while not process.exited():
                await asyncio.sleep(_LOOK)
                if said := _last(log):
                    self.display.status(f"{stage.key}: {said}")
                if self.deadline is not None and time.time() > self.deadline:
                    await process.stop()
                    raise self._late()
        finally:
            await asyncio.shield(process.stop())
        assert process.status is not None
        return process.status

    async def _served(self, path: str) -> list[str]:
        """What `Serves.serve` says. A start takes minutes: it is broken off when the time is over."""
        left = None if self.deadline is None else max(0.0, self.deadline - time.time())
        try:
            async with asyncio.timeout(left) as limit:
                return await self.engines.serve(path)
        except TimeoutError:
            if limit.expired():
                raise self._late() from None
            raise

    def _in_time(self) -> None:
        if self.deadline is not None and time.time() > self.deadline:
            raise self._late()

    def _late(self) -> OutOfTime:
        return OutOfTime(f"stopped after max_minutes={self.settings.max_minutes:g}; the same command goes on from here")

    def _clock(self) -> str:
        seconds = int(time.time() - self.began)
        return f"{seconds // 60:3d}:{seconds % 60:02d}"

    def _log(self, stage: Stage) -> Path:
        return self.root / "logs" / f"{stage.key.replace('/', '.')}.log"

    def _write_examples(self) -> None:
        """The solved examples that the first round's prompts show, as conversations."""
        path = self.root / "examples.jsonl"
        if not path.exists():
            from factory.iterate.examples import shown_examples
            from factory.outputs import write_atomically

            stage = next(self.plan.round(self.settings.seeds[0], 1))
            write_atomically(path, b"".join(orjson.dumps(row) + b"\n" for row in shown_examples(stage)))


@functools.cache
def _path(model: Model) -> str:
    """Where a model is: its folder, or what the configuration of its base says."""
    if model.folder is not None:
        return str(model.folder / "model")
    from factory.compose import compose_config

    composed, problems = compose_config("generate", list(model.words))
    if problems:
        raise UserError(*problems)
    return str(composed["model"]["path"])


@contextlib.asynccontextmanager
async def _all_or_none() -> AsyncIterator[Start]:
    """Coroutines at once, which may start others; the first failure stops all, which write down what they have, and is
    raised."""
    try:
        async with asyncio.TaskGroup() as group:
            yield group.create_task
    except BaseExceptionGroup as many:
        raise min(_leaves(many), key=lambda error: isinstance(error, OutOfTime)) from None


def _leaves(many: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in many.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _outcome(stage: Stage, status: int, log: Path, began: float) -> dict[str, Any]:
    """What is noted of a stage that is done. Raises `UserError`, with the end of its log, where it is not.

    Status 3 alone does not tell: fewer records than wanted, or a few answers that could not be measured, are an end; a
    lost engine or a full disk is none, whatever there is by then.
    """
    since = began if status == EXIT_STOPPED else 0.0
    manifest = _json(stage.folder / "manifest.json", since)
    if stage.command == "generate" and (status == EXIT_DONE or (status == EXIT_STOPPED and _came_to_its_end(manifest))):
        if (kept := manifest.get("kept") or 0) >= stage.at_least:
            return {name: manifest.get(name) for name in ("kept", "records", "seeds", "tokens")}
        lost = next(iter(manifest.get("reasons") or ()), None)
        raise UserError(
            f"{stage.key}: kept {kept:,} records, fewer than recipe.generate.at_least={stage.at_least}"
            + (f"; most were lost at the step {lost}" if lost else "")
            + ". A lower number, or more to try (recipe.generate.options), in another run=NAME"
        )
    if stage.command == "evaluate" and status in (EXIT_DONE, EXIT_STOPPED):
        results = _json(stage.folder / "results.json", since)
        wrong = sum(results.get("errors", {}).values())
        if status == EXIT_DONE or (results.get("complete") and wrong <= 0.01 * results.get("answers", 0)):
            return {"errors": wrong}
    if status == EXIT_DONE:
        steps = manifest.get("steps") if stage.command == "train" else None
        return {"steps": steps} if steps is not None else {}
    said = "\n".join(f"  {line}" for line in last_lines(log.read_text(errors="replace")[-20_000:], 12))
    raise UserError(f"{stage.key}: ended with status {status}; the end of {log}:\n{said}")


def _came_to_its_end(manifest: Mapping[str, Any]) -> bool:
    """Whether nothing broke off a `generate` that kept fewer records than wanted."""
    return bool(manifest) and manifest.get("stopped") is None


def _json(path: Path, since: float) -> dict[str, Any]:
    """Empty where there is none, or one from before: what a stage could not write, an earlier try may have left."""
    try:
        if path.stat().st_mtime < since - 1:  # some file systems keep whole seconds
            return {}
        return dict(orjson.loads(path.read_bytes()))
    except (OSError, ValueError):
        return {}


def _told(facts: Mapping[str, Any]) -> str:
    if facts.get("kept") is not None:
        return f"{facts['kept']:,} of {facts['records']:,} kept, "
    return f"{facts['steps']:,} steps, " if facts.get("steps") else ""


def _last(log: Path) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 2000))
        return (last_lines(file.read().decode(errors="replace"), 1) or [""])[0]
    return ""
