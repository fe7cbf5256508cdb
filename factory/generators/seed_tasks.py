"""Seed tasks: instructions with examples, written by people, that a pool grows from."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, ValidationError

from factory.errors import ConfigError
from factory.generators.few_shot import load_data
from factory.prompts import Templates
from factory.records import Frozen


class Instance(Frozen):
    """One case of a task; `input` is empty where the instruction says it all."""

    input: str = ""
    output: str


class SeedTask(Frozen):
    """`classification`: the outputs are a few labels that could be listed beforehand."""

    name: str
    instruction: str
    classification: bool
    instances: tuple[Instance, ...] = Field(min_length=1)

    @property
    def text(self) -> str:
        """The instruction with the input of its first instance."""
        return conversation(self.instruction, self.instances[0].input)


def conversation(instruction: str, given: str) -> str:
    """What a user would write."""
    return f"{instruction}\n\n{given}" if given else instruction


def load_seed_tasks(templates: Templates, name: str) -> Sequence[SeedTask]:
    """The seed tasks in a YAML file among the prompts. Raises `ConfigError` that names file, task and key."""
    data = load_data(templates, name)
    if not isinstance(data, list) or not data:
        raise ConfigError(f"prompts/{name}: must be a list of tasks (name, instruction, classification, instances)")
    tasks, problems = [], []
    for number, entry in enumerate(data, 1):
        try:
            tasks.append(SeedTask.model_validate(entry))
        except ValidationError as error:
            for found in error.errors(include_url=False):
                where = ".".join(map(str, found["loc"]))
                problems.append(f"prompts/{name}, task {number}: {where}: {found['msg']}")
    if problems:
        raise ConfigError(*problems)
    return tasks
