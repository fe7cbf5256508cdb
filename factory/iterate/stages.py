"""What is to be done, in which order, as plain data: the stages of a seed's rounds, and the command of each.

    generate -> samples, pairs -> reward -> graded -> pairs again -> sft -> dpo -> rpo ... -> merge -> evaluate

A stage is the command line that somebody would type, in a folder of its own. Which model a stage starts from is a name
that is known beforehand, since every stage's model lies in its own folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from factory.iterate.settings import IterateSettings, Step
from factory.iterate.words import merged, words

Lane = Literal["engine", "train", "aside"]
ROUNDS_PER_SEED = 16  # so that no two rounds of any seeds draw with the same one


@dataclass(frozen=True)
class Model:
    """A model by its base, which says how it is asked, and the folder of its weights where it was trained."""

    base: str
    folder: Path | None = None

    @property
    def words(self) -> list[str]:
        path = {"model": {"path": self.folder / "model"}} if self.folder else {}
        return words({"model": self.base}, path)


@dataclass(frozen=True)
class Stage:
    """One command. `lane` is what it needs: an engine with `model`, the GPU for training, or neither.

    `result` is the file that is there once it was done; `steps_of` are the stages whose optimiser steps it repeats.
    """

    key: str
    command: Literal["generate", "export", "train", "evaluate"]
    lane: Lane
    folder: Path
    words: tuple[str, ...]
    model: Model | None = None
    at_least: int = 0
    steps_of: tuple[str, ...] = ()

    @property
    def line(self) -> list[str]:
        return [self.command, *self.words]


class Plan:
    """The stages of every seed, made from the settings alone."""

    def __init__(self, settings: IterateSettings) -> None:
        self.settings, self.recipe = settings, settings.recipe
        self.root = Path(settings.out)
        self.teacher = Model(settings.teacher)

    # ---- where things lie

    def folder(self, seed: int, round_: int, name: str) -> Path:
        return self.root / f"seed-{seed}" / f"round-{round_}" / name

    def key(self, seed: int, round_: int, name: str) -> str:
        return f"seed-{seed}/round-{round_}/{name}"

    def trained(self, seed: int, round_: int, name: str) -> Model:
        return Model(self.recipe.student(round_), self.folder(seed, round_, name))

    def training(self, round_: int) -> list[str]:
        """The training stages of a round, in order."""
        recipe = self.recipe
        rpo = [f"rpo-{number}" for number in range(1, recipe.rpo.iterations + 1)] if recipe.rpo.enabled else []
        stages = [name for name in ("sft", "dpo") if getattr(recipe, name).enabled] + rpo
        return [name for name in stages if name != "sft" or recipe.anew(round_) == round_]

    def begins_with(self, seed: int, round_: int) -> Model | None:
        """What a round's training goes on from; None where that is the student's base model."""
        return None if self.recipe.anew(round_) == round_ else self.final(seed, round_ - 1)

    def final(self, seed: int, round_: int) -> Model:
        """What a round ends with; before the first one, the teacher."""
        if round_ == 0:
            return self.teacher
        return self.trained(seed, round_, "merge" if self.recipe.merge.enabled else self.training(round_)[-1])

    # ---- stages

    def start(self) -> Iterator[Stage]:
        """What the teacher can do before anything."""
        for name, suite in self.recipe.evaluate.items():
            if suite.enabled:
                yield self._evaluate(f"start/{name}", self.root / "start" / name, suite, self.teacher)

    def round(self, seed: int, round_: int) -> Iterator[Stage]:
        recipe = self.recipe
        yield self._generate(seed, round_, graded=False)
        yield self._export(seed, round_, "samples", "sft", recipe.samples)
        yield self._export(seed, round_, "pairs", "preference", recipe.pairs)
        if recipe.reward.enabled:
            yield self._train(
                seed, round_, "reward", "reward", recipe.reward, [self._pairs(seed, round_, graded=False)], None
            )
            yield self._generate(seed, round_, graded=True)
            yield self._export(seed, round_, "graded-pairs", "preference", recipe.pairs, {"reward": "reward"})
        start = self.begins_with(seed, round_)
        for name in self.training(round_):
            step: Step = recipe.rpo if name.startswith("rpo") else getattr(recipe, name)
            data = (
                [self._pairs(seed, round_, graded=name.startswith("rpo"))]
                if name != "sft"
                else self._samples(seed, round_)
            )
            yield self._train(seed, round_, name, name.partition("-")[0], step, data, start)
            start = self.trained(seed, round_, name)
        if recipe.merge.enabled:
            yield self._merge(seed, round_)
        for name, suite in recipe.evaluate.items():
            last = round_ == self.settings.rounds
            if suite.enabled and (suite.when == "always" or (suite.when == "ends" and last)):
                place = f"evaluate-{name}"
                yield self._evaluate(
                    self.key(seed, round_, place), self.folder(seed, round_, place), suite, self.final(seed, round_)
                )

    def controls(self, seed: int) -> Iterator[Stage]:
        """Models that the last round's is measured against, each with its evaluation."""
        for name, control in self.recipe.controls.items():
            if control.enabled:
                yield from self.control(seed, name)

    def control(self, seed: int, name: str) -> Iterator[Stage]:
        round_, recipe, control, place = (
            self.settings.rounds,
            self.recipe,
            self.recipe.controls[name],
            f"control-{name}",
        )
        began = round_ if control.data == "pairs" else recipe.anew(round_)
        trained = [(number, part) for number in range(began, round_ + 1) for part in self.training(number)]
        stage, start = "sft", None
        if control.data == "pairs":
            stage, start = "dpo", self.begins_with(seed, round_) or self.trained(seed, round_, "sft")
            trained = [(number, part) for number, part in trained if part != "sft"]
        if control.data == "unfiltered":
            yield from (self._unfiltered(seed, number) for number in range(1, round_ + 1))
        data = {
            "unfiltered": [self.folder(seed, number, "unfiltered") for number in range(1, round_ + 1)],
            "seeds": [self.root / "examples.jsonl"],
            "pairs": [self._pairs(seed, round_, graded=False)],
        }[control.data]
        steps = tuple(self.key(seed, number, part) for number, part in trained)
        yield self._train(seed, round_, place, stage, control, data, start, steps)
        for suite_name, suite in recipe.evaluate.items():
            if suite.enabled and suite.when != "start":
                of = f"{place}-{suite_name}"
                model = self.trained(seed, round_, place)
                yield self._evaluate(self.key(seed, round_, of), self.folder(seed, round_, of), suite, model)

    # ---- commands

    def _generate(self, seed: int, round_: int, *, graded: bool) -> Stage:
        step, teacher = self.recipe.generate, self.final(seed, round_ - 1)
        options = merged(step.options, step.first if round_ == 1 else self.recipe.asked)
        use = dict(step.use)
        if graded:
            model = {"path": f"{self.folder(seed, round_, 'reward')}/model"}
            use["+scorer@scorers.reward"] = "reward"
            scorer = {"models": {"own": model}, "keep": None}
            options = merged(options, {"scorers": {"reward": merged(scorer, self.recipe.reward.scorer)}})
        folder = self.folder(seed, round_, "generate")
        number = seed * ROUNDS_PER_SEED + round_
        own = words({}, {"out": folder, "run": f"{self.settings.run}-{seed}-{round_}", "seed": number})
        return Stage(
            key=self.key(seed, round_, "graded" if graded else "generate"),
            command="generate",
            lane="engine",
            folder=folder,
            words=(*words(use, {}), *teacher.words, *words({}, options), *own),
            model=teacher,
            at_least=step.at_least,
        )

    def _export(
        self, seed: int, round_: int, name: str, format_: str, step: Step, options: Mapping[str, Any] | None = None
    ) -> Stage:
        folder = self.folder(seed, round_, name)
        source = self.folder(seed, round_, "generate")
        run = f"{self.settings.run}-{seed}-{round_}"
        own = words({}, {"run": run, "out": source, "format": format_, "to": folder})
        return Stage(
            key=self.key(seed, round_, name),
            command="export",
            lane="aside",
            folder=folder,
            words=(*own, *words(step.use, merged(step.options, options or {}))),
        )

    def _unfiltered(self, seed: int, round_: int) -> Stage:
        """As they came, but for what resembles an evaluation set: that is taken out as it is of the samples."""
        same = {name: value for name, value in self.recipe.samples.options.items() if name == "decontamination"}
        return self._export(seed, round_, "unfiltered", "sft", Step(options={"keep": "True", **same}))

    def _samples(self, seed: int, round_: int) -> list[Path]:
        return [self.folder(seed, number, "samples") for number in range(1, round_ + 1)]

    def _pairs(self, seed: int, round_: int, *, graded: bool) -> Path:
        return self.folder(seed, round_, "graded-pairs" if graded and self.recipe.reward.enabled else "pairs")

    def _train(
        self,
        seed: int,
        round_: int,
        name: str,
        stage: str,
        step: Step,
        data: Sequence[Path],
        start: Model | None,
        steps_of: tuple[str, ...] = (),
    ) -> Stage:
        folder = self.folder(seed, round_, name)
        model = start or Model(self.recipe.student(round_))
        own = words({}, {"out": folder, "run": name, "seed": seed, "data": list(data)})
        return Stage(
            key=self.key(seed, round_, name),
            command="train",
            lane="train",
            folder=folder,
            words=(f"stage={stage}", *model.words, *words(step.use, step.options), *own),
            steps_of=steps_of,
        )

    def _merge(self, seed: int, round_: int) -> Stage:
        step, folder = self.recipe.merge, self.folder(seed, round_, "merge")
        parts = {"dpo": "dpo", "sft": "sft", "rpo": f"rpo-{self.recipe.rpo.iterations}"}
        models = [self.folder(seed, round_, parts[name]) / "model" for name in step.of]
        own = words({}, {"out": folder, "run": "merge", "stage": {"models": models}})
        return Stage(
            key=self.key(seed, round_, "merge"),
            command="train",
            lane="aside",
            folder=folder,
            words=("stage=merge", *words(step.use, step.options), *own),
        )

    def _evaluate(self, key: str, folder: Path, step: Step, model: Model) -> Stage:
        asked = self.recipe.asked if model.folder else {}
        own = words({}, {"out": folder, "run": folder.name})
        return Stage(
            key=key,
            command="evaluate",
            lane="engine",
            folder=folder,
            words=(*words(step.use, {}), *model.words, *words({}, merged(asked, step.options)), *own),
            model=model,
        )
