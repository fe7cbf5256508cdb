"""What came of the rounds: `results.json` in numbers, `report.html` in words and pictures; of an unfinished run, too."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from factory.decontamination.behaviour import CONTAMINATED
from factory.errors import ConfigError, UserError
from factory.iterate.compared import compared
from factory.iterate.conclusions import conclusions
from factory.iterate.diversity import round_diversity
from factory.iterate.measured import read_suites
from factory.iterate.settings import IterateSettings
from factory.iterate.stages import Plan, Stage
from factory.iterate.utilisation import Work, stretches, work
from factory.outputs import write_atomically, write_json
from factory.settings import VllmEngine

VERSION = 1


def write_summary(settings: IterateSettings, state: Mapping[str, Any]) -> None:
    """Write both from the folders of the stages that are done; what cannot be read is told in them."""
    from factory.report.rounds import render

    root = Path(settings.out)
    results, worked = summarise(settings, state)
    write_json(root / "results.json", results)
    plain = orjson.loads(orjson.dumps(results, option=orjson.OPT_NON_STR_KEYS))  # as a reader of the file has it
    write_atomically(root / "report.html", render(plain, worked).encode())


def write_again(folder: Path) -> Path:
    """Write both anew in the folder of an earlier run, wherever it lies now; returns the report's path.

    Raises `ConfigError` where its `state.json` cannot be read.
    """
    path = folder / "state.json"
    try:
        state = orjson.loads(path.read_bytes())
        before = _json(folder / "results.json")
        rounds, seeds = _extent(state, before)
        settings = IterateSettings.model_validate(
            {
                "max_minutes": None, "overlap": "auto", "trainings": 1, "train_devices": None, "engine_devices": None,
                "engine": VllmEngine(), **state["described"], "out": str(folder), "rounds": rounds, "seeds": seeds,
            }
        )  # fmt: skip
        write_summary(settings, state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; the run's `iterate` command writes it anew") from error
    return folder / "report.html"


def _extent(state: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[int, list[int]]:
    """Rounds and seeds as the last report had them, and those of stages that came after it."""
    keys = [*state["stages"], *(key for key, *_ in state["stretches"])]
    found = [(int(seed), int(round_)) for key in keys for seed, round_ in re.findall(r"^seed-(\d+)/round-(\d+)/", key)]
    rounds = max([before.get("rounds") or 1, *(round_ for _, round_ in found)])
    return rounds, list(dict.fromkeys([*(before.get("seeds") or []), *(seed for seed, _ in found)])) or [0]


def summarise(settings: IterateSettings, state: Mapping[str, Any]) -> tuple[dict[str, Any], Work]:
    """All the numbers, as `results.json` has them, and who worked when."""
    root, stages, problems = Path(settings.out), state.get("stages", {}), list[str]()
    planned = list({stage.key: stage for stage in _planned(settings)}.values())  # controls may share their data
    done = [stage.key for stage in planned if stages.get(stage.key, {}).get("done")]
    suites = read_suites(root, settings, stages, problems)
    worked = work(root, state, problems)
    results = {
        "version": VERSION,
        "run": settings.run,
        "recipe": settings.recipe.name,
        "teacher": settings.teacher,
        "students": list(settings.recipe.students),
        "rounds": settings.rounds,
        "seeds": list(settings.seeds),
        "finished": len(done) == len(planned),
        "stages": {"done": len(done), "planned": len(planned), "next": _next(planned, stages)},
        "trained": list(_trained(settings)),
        "controls": _controls(settings, stages),
        "suites": [
            {
                "name": suite.name,
                "when": suite.when,
                **{key: suite.results.get(key) for key in ("suite", "settings", "notes")},
            }
            for suite in suites
        ],
        "measures": compared(suites),
        "diversity": list(_diversity(root, settings, problems)),
        "decontamination": _decontamination(root, settings),
        "utilisation": worked.numbers,
        "work": list(_work_table(root, planned, state)),
        "problems": problems,
    }
    return {**results, "conclusions": conclusions(results)}, worked


def _planned(settings: IterateSettings) -> Iterator[Stage]:
    """Every stage of the whole run, in the order of a seed."""
    plan = Plan(settings)
    yield from plan.start()
    for seed in settings.seeds:
        for round_ in range(1, settings.rounds + 1):
            yield from plan.round(seed, round_)
        yield from plan.controls(seed)


def _trained(settings: IterateSettings) -> Iterator[dict[str, Any]]:
    """What each round's training begins with (a base model, or the round whose model it goes on from), and its stages."""
    plan, recipe = Plan(settings), settings.recipe
    for round_ in range(1, settings.rounds + 1):
        anew = recipe.anew(round_) == round_
        begins = {"base": recipe.student(round_)} if anew else {"round": round_ - 1}
        yield {"round": round_, "from": begins, "stages": [name.replace("-", " ") for name in plan.training(round_)]}


def _next(planned: list[Stage], stages: Mapping[str, Any]) -> str | None:
    return next((stage.key for stage in planned if not stages.get(stage.key, {}).get("done")), None)


def _controls(settings: IterateSettings, stages: Mapping[str, Any]) -> dict[str, Any]:
    """What each control is trained on, and by seed its optimiser's steps beside those of the round's own training."""
    plan, found = Plan(settings), dict[str, Any]()
    for name, control in settings.recipe.controls.items():
        if not control.enabled:
            continue
        steps: dict[str, dict[str, int]] = {"steps": {}, "round_steps": {}}
        for seed in settings.seeds:
            key = plan.key(seed, settings.rounds, f"control-{name}")
            stage = next(stage for stage in plan.controls(seed) if stage.key == key)
            own, of = stages.get(key, {}).get("steps"), [stages.get(part, {}).get("steps") for part in stage.steps_of]
            if own is not None and None not in of:
                steps["steps"][str(seed)], steps["round_steps"][str(seed)] = own, sum(of)
        found[name] = {"data": control.data, **steps}
    return found


def _diversity(root: Path, settings: IterateSettings, problems: list[str]) -> Iterator[dict[str, Any]]:
    """By seed and round, as far as there are records."""
    for seed in settings.seeds:
        for round_ in range(1, settings.rounds + 1):
            folder = root / f"seed-{seed}" / f"round-{round_}"
            try:
                found = round_diversity(folder / "generate", folder / "diversity.json")
            except UserError as error:
                problems.append(f"seed-{seed}/round-{round_}: {error}")
                continue
            if found is not None:
                yield {"seed": seed, "round": round_, **found}


def _decontamination(root: Path, settings: IterateSettings) -> dict[str, Any]:
    """The evaluation sets that all rounds' samples and pairs were compared with, and what was left out: `not_asked` problems that
    do the same as one of theirs, and `samples` that resemble one."""
    sets, not_asked, samples = list[set[str]](), 0, 0
    for seed in settings.seeds:
        for round_ in range(1, settings.rounds + 1):
            folder = root / f"seed-{seed}" / f"round-{round_}"
            reasons = _json(folder / "generate/manifest.json").get("reasons") or {}
            not_asked += sum(count for reason, count in reasons.items() if reason.startswith(CONTAMINATED))
            for export in ("samples", "pairs", "graded-pairs"):  # whatever is trained on
                if funnel := _json(folder / export / "manifest.json").get("funnel"):
                    steps = [step for step in funnel if step.get("step") == "decontamination"]
                    samples += sum(step["in"] - step["out"] for step in steps) if export == "samples" else 0
                    sets.append({name for step in steps for name in step.get("sets", ())})
    return {"sets": sorted(set.intersection(*sets)) if sets else [], "not_asked": not_asked, "samples": samples}


def _work_table(root: Path, planned: list[Stage], state: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each stage that was begun: its time, over all invocations, and what it did."""
    seconds: dict[str, float] = {}
    kinds: dict[str, str] = {}
    for one in stretches(state)[0]:
        seconds[one.key] = seconds.get(one.key, 0.0) + one.end - one.begin
        kinds[one.key] = one.kind
    stages = state.get("stages", {})
    order = [stage.key for stage in planned]
    known = [*order, *sorted(key for key in {*seconds, *stages} if key not in set(order))]
    for key in known:
        facts = stages.get(key, {})
        if key not in seconds and not facts:
            continue
        yield {
            "stage": key,
            "kind": kinds.get(key),
            "done": bool(facts.get("done")),
            "seconds": round(seconds.get(key, facts.get("seconds") or 0.0), 3),
            **_did(root / key, kinds.get(key), facts),
        }


def _did(folder: Path, kind: str | None, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Records, kept ones, optimiser steps and tokens, where there are such."""
    found: dict[str, Any] = {"records": facts.get("records"), "kept": facts.get("kept"), "steps": facts.get("steps")}
    tokens = facts.get("tokens")
    if isinstance(tokens, Mapping):
        return {**found, "tokens": tokens.get("completion"), "prompt_tokens": tokens.get("prompt")}
    manifest = _json(folder / ("results.json" if kind == "evaluate" else "manifest.json"))
    if kind == "evaluate" and manifest:
        tokens = manifest.get("tokens", {})
        return {
            **found,
            "records": manifest.get("answers"),
            "tokens": tokens.get("completion"),
            "prompt_tokens": tokens.get("prompt"),
        }
    if kind == "aside" and "rows" in manifest:
        return {**found, "records": manifest["rows"], "tokens": None}
    return {**found, "tokens": _trained_tokens(folder) if kind == "train" else None}


def _trained_tokens(folder: Path) -> int | None:
    """Tokens that the optimiser's steps saw."""
    seen = [entry["tokens"] for path in folder.glob("**/metrics.jsonl") for entry in _lines(path) if "tokens" in entry]
    return int(sum(seen)) if seen else None


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            entry = orjson.loads(line.replace(b"NaN", b"null").replace(b"Infinity", b"null"))
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("tokens", 0), int | float):
            yield entry


def _json(path: Path) -> dict[str, Any]:
    try:
        return dict(orjson.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}
