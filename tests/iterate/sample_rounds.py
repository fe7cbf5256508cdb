"""The folder of an `iterate` run as its stages leave it, up to any of them, without a model: made by the same functions
that write the real files."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from factory.engine.request import Request, Response
from factory.evaluation.results import write_results
from factory.evaluation.statistics import pass_at_k
from factory.evaluation.suite import ItemResult, Measure
from factory.iterate.run import described
from factory.iterate.settings import IterateSettings
from factory.iterate.stages import Plan, Stage
from factory.iterate.state import State
from factory.journal import Fate, Journal
from factory.outputs import final_fates, write_data, write_manifest
from factory.records import Message, Record, Score, content_hash
from factory.settings import VllmEngine
from tests.sample_training import entries, manifest, write_training
from tests.sample_training import settings as train_settings

GROUPS = ("gcd", "lcm", "needle_haystack")
BEGAN = 1_790_000_000.0
Skill = Callable[
    [Stage, int | None, int], float
]  # of a stage's model, by seed and round: log-odds on a middling question


def suite(when: str, shots: int = 0, split: str = "eval") -> dict[str, Any]:
    asked = {"samples": 4, "k": [1, 4], "split": split, "shots": shots}
    return {"when": when, "use": {"suite": "reasoning"}, "options": {"suite": asked}}


RECIPE: dict[str, Any] = {
    "name": "reasoning",
    "students": ["smollm2"],
    "generate": {"use": {"task": "reasoning"}, "first": {"task": {"shots": 4}}},
    "reward": {"enabled": False},
    "sft": {},
    "dpo": {},
    "rpo": {"enabled": False},
    "merge": {"enabled": False},
    "evaluate": {"held_out": suite("always"), "shown": suite("start", shots=4), "harder": suite("ends", split="hard")},
    "controls": {"unfiltered": {"data": "unfiltered"}, "seeds": {"data": "seeds"}, "no_nll": {"data": "pairs"}},
}


def composed(folder: Path, rounds: int, seeds: Sequence[int], **changes: Any) -> tuple[IterateSettings, dict[str, Any]]:
    """Settings, and the configuration as the command composes it; `changes` are of the recipe."""
    config = {
        "recipe": {**RECIPE, **changes}, "run": folder.name, "out": str(folder), "teacher": "smollm2", "rounds": rounds,
        "seeds": list(seeds), "max_minutes": None, "overlap": "auto", "trainings": 1, "engine_devices": None, "train_devices": None,
        "engine": VllmEngine().model_dump(mode="json"), "hydra": {},
    }  # fmt: skip
    return IterateSettings.model_validate({key: value for key, value in config.items() if key != "hydra"}), config


def rising(stage: Stage, seed: int | None, round_: int) -> float:
    """Rounds gain, less each time; controls gain less; other ways of asking help the start."""
    name = stage.key.rpartition("/")[2]
    if stage.key.startswith("start/"):
        return -1.2 if name == "shown" else -2.0
    if name.startswith("control-unfiltered"):
        return -0.8 + 0.05 * (seed or 0)
    if name.startswith("control-seeds"):
        return -1.3
    if name.startswith("control-no_nll"):
        return 0.1
    return -1.0 + 0.6 * math.log2(1 + round_) + 0.08 * ((seed or 0) - 1)


class Rounds:
    """Writes stage after stage; `wait` is the pause before the next invocation."""

    def __init__(self, folder: Path, settings: IterateSettings, config: Mapping[str, Any], **wants: Any) -> None:
        self.folder, self.settings, self.config = folder, settings, config
        self.items: int = wants.pop("items", 30)
        self.records: int = wants.pop("records", 24)
        self.skill: Skill = wants.pop("skill", rising)
        self.right: Callable[[str, int], int] | None = wants.pop("right", None)  # answers of four, by stage and item
        self.group_names: Sequence[str] = wants.pop("groups", GROUPS)
        self.hostile: str = wants.pop("hostile", "")
        self.gpus: int = wants.pop("gpus", 1)
        assert not wants
        folder.mkdir(parents=True, exist_ok=True)
        self.state = State(folder, described(config))
        self.now = BEGAN
        self.dice = random.Random(5)

    def planned(self) -> list[Stage]:
        plan = Plan(self.settings)
        found = list(plan.start())
        for seed in self.settings.seeds:
            for round_ in range(1, self.settings.rounds + 1):
                found += plan.round(seed, round_)
            found += plan.controls(seed)
        return found

    def invocation(self, stages: Sequence[Stage], *, wait: float = 0.0, cut: Stage | None = None) -> None:
        """One call of the command: does these stages, and is stopped in the middle of `cut`."""
        self.now += wait
        began = self.now
        self.now += 8.0  # the servers start
        for stage in stages:
            self._stage(stage, whole=True)
        if cut is not None:
            self._stage(cut, whole=False)
        self.state.stretch("iterate", "all", began, self.now)
        self._driver(began, self.now)

    def _stage(self, stage: Stage, *, whole: bool) -> None:
        began = self.now
        self.now += {"engine": 60.0, "train": 90.0, "aside": 2.0}[stage.lane] + self.dice.random()
        self.state.stretch(stage.key, stage.lane, began, self.now)
        facts = getattr(self, f"_{stage.command}")(stage, began + 5, self.now - 3, whole)
        if whole:
            self.state.finish(stage.key, seconds=round(self.now - began, 1), words=stage.line, **facts)

    def _driver(self, began: float, ended: float) -> None:
        with (self.folder / "gpu.jsonl").open("a") as file:
            for second in range(math.ceil(began), int(ended)):
                for gpu in range(self.gpus):
                    busy = 0 if second - began < 8 else 70 + (second * 7 + gpu) % 30
                    file.write(f"[{second:.1f}, {gpu}, {busy}, {1000 + gpu}]\n")

    # ---- what the commands leave

    def place(self, stage: Stage) -> tuple[int | None, int]:
        parts = stage.key.split("/")
        return (None, 0) if len(parts) == 2 else (int(parts[0][5:]), int(parts[1][6:]))

    def _evaluate(self, stage: Stage, began: float, ended: float, whole: bool) -> dict[str, Any]:
        seed, round_ = self.place(stage)
        worth = self.items_of(stage, self.skill(stage, seed, round_))
        if not whole:
            worth = worth[: len(worth) // 3]
        write_evaluation(
            stage.folder, worth, suite_settings(stage, self.settings), finished=whole, name=self.hostile or "tiny"
        )
        times = [began + (ended - began) * (n + 1) / 20 for n in range(20)]
        asyncio.run(
            write_responses(stage.folder / "journal.db", stage.key, [(time, (ended - began) / 20) for time in times])
        )
        return {"errors": 0}

    def items_of(self, stage: Stage, skill: float) -> list[ItemResult]:
        """The same questions for every stage of a suite; the answers are drawn for each."""
        hard = stage.key.endswith("harder")
        questions = random.Random(f"items/{hard}")
        answers = random.Random(stage.key)
        found = []
        for number in range(self.items):
            group = self.group_names[number % len(self.group_names)]
            ease = questions.gauss(0, 1.2) - (1.5 if hard else 0.0)
            share = 1 / (1 + math.exp(-(skill + ease)))
            right = sum(answers.random() < share for _ in range(4))
            right = right if self.right is None else self.right(stage.key, number)
            found.append(reasoning_item(f"{group}/{'hard' if hard else 'easy'}{number}", group, right, self.hostile))
        return found

    def _generate(self, stage: Stage, began: float, ended: float, whole: bool) -> dict[str, Any]:
        seed, round_ = self.place(stage)
        made = round_records(self.records if whole else self.records // 2, seed or 0, round_, self.hostile)
        return write_generated(stage.folder, made, began, ended, f"{seed}/{round_}")

    def _export(self, stage: Stage, began: float, ended: float, whole: bool) -> dict[str, Any]:
        stage.folder.mkdir(parents=True, exist_ok=True)
        if whole:
            write_manifest(stage.folder, {"format": "sft", "rows": 11})
        return {}

    def _train(self, stage: Stage, began: float, ended: float, whole: bool) -> dict[str, Any]:
        steps = sum(self.state.facts(key)["steps"] for key in stage.steps_of) or 40
        lines = entries("sft", steps if whole else steps // 2)
        for number, line in enumerate(lines):
            line["time"] = round(began + (ended - began) * (number + 1) / len(lines), 3)
            line["seconds"] = (ended - began) / len(lines)
        write_training(stage.folder, lines, manifest("sft", steps) if whole else None, train_settings("sft"))
        return {"steps": steps}


def suite_settings(stage: Stage, settings: IterateSettings) -> dict[str, Any]:
    name = next(name for name in settings.recipe.evaluate if stage.key.endswith(name))
    return dict(settings.recipe.evaluate[name].options["suite"])


MEASURES = [Measure("pass"), Measure("score"), Measure("pass@1"), Measure("pass@4")]


def reasoning_item(name: str, group: str, right: int, said: str = "", samples: int = 4) -> ItemResult:
    share = right / samples
    values = {
        "pass": (share, 1.0),
        "score": (share + 0.1 * (1 - share), 1.0),
        **{f"pass@{k}": (pass_at_k(samples, right, k), 1.0) for k in (1, 4)},
    }
    return ItemResult(name, values, group, {"answer": said or "7", "samples": samples, "right": right})


def write_evaluation(
    folder: Path,
    items: Sequence[ItemResult],
    settings: Mapping[str, Any],
    *,
    finished: bool = True,
    measures: Sequence[Measure] = MEASURES,
    name: str = "tiny",
) -> None:
    """`results.json` and `items.jsonl` as `evaluate` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {
        "suite": "reasoning", "run": folder.name, "seed": 0,
        "model": {"name": name, "path": "models/tiny", "digest": "d1", "engine": "openai", "sampling": {}},
        "settings": dict(settings), "templates": "t1", "items": len(items), "answers": 4 * len(items), "errors": {},
        "metrics": [],
        "measures": [dataclasses.asdict(measure) for measure in measures], "notes": ["Items are drawn by the states from 2,147,483,648 on (split eval)."],
        "requests": 4 * len(items), "tokens": {"prompt": 50 * len(items), "completion": 20 * len(items)}, "cost": 0.0,
        "seconds": 50.0, "versions": {}, "finished": finished, "stopped": None, "started_at": "", "ended_at": "",
    }  # fmt: skip
    write_results(folder, results, items)


def round_records(count: int, seed: int, round_: int, said: str = "") -> list[Record]:
    """Four answers to each question; later rounds are right more often, and say the same thing more often."""
    dice = random.Random(f"records/{seed}/{round_}")
    made = []
    for number in range(count):
        question = f"What is the greatest common divisor of {number // 4 + 2} and {6 * (number // 4)}? {said}"
        answer = f"<answer>{dice.randrange(max(1, 9 - 2 * round_))}</answer> of {round_} {said}"
        right = dice.random() < 0.2 + 0.15 * round_
        made.append(
            Record(
                id=content_hash(seed, round_, number), task="reasoning",
                messages=(Message(role="user", content=question), Message(role="assistant", content=answer)),
                meta={"group": content_hash(question), "topic": "gcd"},
                scores={"answer": Score(value=float(right)), "reward": Score(value=round_ + dice.random())},
                kept=right, reason="" if right else "answer: wrong",
            )
        )  # fmt: skip
    return made


def write_generated(folder: Path, made: Sequence[Record], began: float, ended: float, name: str) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    kept = sum(record.kept for record in made)
    spans = [(began + (ended - began) * (n + 1) / len(made), 2 * (ended - began) / len(made)) for n in range(len(made))]
    asyncio.run(write_responses(folder / "journal.db", name, spans))
    with Journal(folder / "journal.db") as journal:
        config = journal.config_id("fixture", {"settings": {}, "model": {"name": "tiny"}})
        for number, record in enumerate(made):
            journal.add_fates(config, f"item-{number}", [Fate(number, 0, record, {"item": f"item-{number}"})], [None])
        journal.flush()
        write_data(folder, final_fates(journal, config, None), {}, ["answer", "reward"])
    facts = {
        "kept": kept, "records": len(made), "seeds": len(made) // 4,
        "tokens": {"prompt": 40 * len(made), "completion": 9 * len(made)},
    }  # fmt: skip
    write_manifest(folder, {"task": "reasoning", "run": name, "wanted": None, "finished": True, **facts})
    return facts


async def write_responses(path: Path, name: str, spans: Sequence[tuple[float, float]]) -> None:
    """Responses made at the first of each pair, after the second's seconds."""
    if path.exists():
        path.unlink()
    with Journal(path) as journal:
        for number, (_, seconds) in enumerate(spans):
            request = Request((Message(role="user", content=f"{name} {number}"),), sampling={}, seed=number)
            await journal.add_response(request.key(name), "model", request, Response("7", "stop", 30, 9, seconds))
    connection = sqlite3.connect(path)
    rows = [row for (row,) in connection.execute("SELECT rowid FROM responses ORDER BY rowid")]
    connection.executemany(
        "UPDATE responses SET made_at=? WHERE rowid=?", [(at, row) for (at, _), row in zip(spans, rows, strict=True)]
    )
    connection.commit()
    connection.close()


def whole_run(
    folder: Path,
    *,
    rounds: int = 2,
    seeds: Sequence[int] = (0, 1),
    recipe: Mapping[str, Any] | None = None,
    **wants: Any,
) -> Rounds:
    """A run that came to its end in two invocations, an hour apart."""
    made = Rounds(folder, *composed(folder, rounds, seeds, **(recipe or {})), **wants)
    stages = made.planned()
    middle = len(stages) // 2
    made.invocation(stages[:middle])
    made.invocation(stages[middle:], wait=3600.0)
    return made


def json_of(path: Path) -> dict[str, Any]:
    return dict(orjson.loads(path.read_bytes()))
