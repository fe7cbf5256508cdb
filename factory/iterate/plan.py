"""Checks a recipe before anything runs: every command of every stage is composed and checked as if it were typed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from factory import config
from factory.endpoint import SOME_ENGINE
from factory.errors import ConfigError
from factory.iterate.settings import IterateSettings
from factory.iterate.stages import Plan, Stage
from factory.settings import VllmEngine

_OWN = ("out=", "run=", "seed=", "data=", "to=", "model.path=", "stage.models=", "keep=", "reward=")
_SERVED = {**SOME_ENGINE, "served_name": "some"}


def checked_settings(composed: Mapping[str, Any], problems: list[str]) -> IterateSettings | None:
    """The settings; `problems` gets all that is wrong with them and with the stages that they make."""
    data = {key: value for key, value in composed.items() if key != "hydra"}
    engine = data.get("engine")
    if isinstance(engine, Mapping) and engine.get("kind") != "vllm":
        problems.append(f"engine.kind={engine.get('kind')}: iterate serves its own models, with engine=vllm")
        data["engine"] = VllmEngine().model_dump()
    settings = config.validated(IterateSettings, data, "", problems)
    if settings is None or problems:
        return settings
    plan = Plan(settings)
    recipe = settings.recipe
    if not any(suite.enabled for suite in recipe.evaluate.values()):
        problems.append("recipe.evaluate: measures nothing; name a suite, so that a gain can be told from none")
    if not plan.training(1):
        problems.append("recipe: trains nothing; enable sft, dpo or rpo")
        return settings
    if recipe.merge.enabled:
        there = {name.partition("-")[0] for name in plan.training(1)}
        problems += [
            f"recipe.merge.of={name}: recipe.{name} is not enabled" for name in recipe.merge.of if name not in there
        ]
    if recipe.anew(settings.rounds) < settings.rounds:
        until = f"recipe.sft.until={recipe.sft.until}"
        if not plan.training(settings.rounds):
            problems.append(f"{until}: the rounds after it train nothing; enable dpo or rpo, or leave it out (null)")
        if recipe.merge.enabled and "sft" in recipe.merge.of:
            problems.append(f"recipe.merge.of=sft: rounds after {until} have none")
        if len(recipe.students) > recipe.anew(settings.rounds):
            problems.append(
                f"recipe.students: {len(recipe.students)} of them, and no round after {until} trains a new one"
            )
    if (
        any(control.data == "pairs" for control in recipe.controls.values() if control.enabled)
        and not recipe.sft.enabled
    ):
        problems.append("recipe.controls: data=pairs starts from the round's SFT model; enable recipe.sft")
    if problems:
        return settings
    last = settings.rounds
    stages = [
        *plan.start(),
        *plan.round(settings.seeds[0], 1),
        *plan.round(settings.seeds[0], last),
        *plan.controls(settings.seeds[0]),
    ]
    seen: set[tuple[str, ...]] = set()
    for stage in stages:
        # Commands that differ by their folders alone have the same problems.
        kind = tuple(word for word in stage.line if not word.startswith(_OWN))
        if kind not in seen:
            seen.add(kind)
            problems += [f"{stage.key}: {problem}" for problem in _problems(stage, settings.out)]
    return settings


def _problems(stage: Stage, root: str) -> list[str]:
    """What the stage's own command would say of its configuration; files that earlier stages make are not there yet."""
    from factory.compose import compose_config

    try:
        composed, problems = compose_config(stage.command, list(stage.words))
    except ConfigError as error:
        return list(error.problems)
    check: dict[str, Callable[[dict[str, Any], list[str]], None]] = {
        "generate": _generate, "evaluate": _evaluate, "train": _train, "export": _export,
    }  # fmt: skip
    found = list(problems)
    try:
        check[stage.command](composed, found)
    except ConfigError as error:
        found += error.problems
    return [problem for problem in found if f"{root}/" not in problem]  # what an earlier stage will have made


def _generate(composed: dict[str, Any], problems: list[str]) -> None:
    from factory.plan import make_plan

    make_plan({**composed, "engine": _SERVED}, problems)


def _evaluate(composed: dict[str, Any], problems: list[str]) -> None:
    from factory.evaluation.plan import make_evaluation

    make_evaluation({**composed, "engine": _SERVED}, problems)


def _train(composed: dict[str, Any], problems: list[str]) -> None:
    from factory.train import train_settings

    data = {key: value for key, value in composed.items() if key != "hydra"}
    if data["stage"]["name"] != "merge":
        train_settings(data, problems)


def _export(composed: dict[str, Any], problems: list[str]) -> None:
    from factory.export import ExportSettings

    config.validated(ExportSettings, {key: value for key, value in composed.items() if key != "hydra"}, "", problems)
