"""From an instruction to its instances (Self-Instruct, section 3.1): is it a classification, and cases of it.

For a classification the label comes before the input, so that a model does not write inputs for one label only; for the
others the input comes first. An instruction that needs no input has one instance, its output.
"""

from __future__ import annotations

import re
from typing import Any

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, chat
from factory.generators.seed_tasks import Instance

_ONE_WORD = Sampling(temperature=0, max_tokens=4, stop=("\n",))
CLASSIFICATION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"classification": {"type": "boolean"}},
    "required": ["classification"],
    "additionalProperties": False,
}
_NONE = re.compile(r"^\W*(none|no input|n/?a|无)\W*$", re.IGNORECASE)


class InstanceWriter:
    """Asks for what belongs to one instruction."""

    def __init__(self, folder: str, few_shot: bool, most: int, few_shot_sampling: Sampling) -> None:
        self.few_shot, self.most, self._sampling = few_shot, most, few_shot_sampling
        self.templates = tuple(f"{folder}/{name}.j2" for name in ("classification", "output_first", "input_first"))

    async def is_classification(self, instruction: str, number: int, context: Context) -> bool:
        """`number` tells apart the instructions of one item. Raises `RecordError` where the answer is neither."""
        question = context.render(self.templates[0], instruction=instruction)
        if not self.few_shot:
            answer = await context.ask_json(
                chat(question), CLASSIFICATION_SCHEMA, label="classification", sample=number
            )
            return bool(answer["classification"])
        response = await context.ask(prompt=question, label="classification", sample=number, sampling=_ONE_WORD)
        said = response.text.strip().lower()
        if said.startswith(("yes", "no", "是", "否", "不")):
            return said.startswith(("yes", "是"))
        raise RecordError("classification: neither yes nor no")

    async def write(self, instruction: str, classification: bool, number: int, context: Context) -> list[Instance]:
        """The instances as they were written, good and bad. Raises `RecordError` where there are none to be read."""
        name = self.templates[1 if classification else 2]
        if self.few_shot:
            prompt = context.render(name, instruction=" ".join(instruction.split()))
            response = await context.ask(prompt=prompt, label="instances", sample=number, sampling=self._sampling)
            found = read_instances(response.text, classification)
            if response.truncated and found:
                found = found[:-1]
                if not found:
                    raise RecordError("instances: cut off at the token limit")
            return found
        question = context.render(name, instruction=instruction, most=self.most)
        answer = await context.ask_json(
            chat(question), _schema(classification, self.most), label="instances", sample=number
        )
        label = "label" if classification else "output"
        return [Instance(input=_given(each["input"]), output=each[label]) for each in answer["instances"]]


def listing(name: str, items: dict[str, Any], fewest: int, most: int) -> dict[str, Any]:
    """An object with one list: not every server's JSON mode takes a list by itself."""
    entries = {"type": "array", "items": items, "minItems": fewest, "maxItems": most}
    return {"type": "object", "properties": {name: entries}, "required": [name], "additionalProperties": False}


def _schema(classification: bool, most: int) -> dict[str, Any]:
    """A list of cases, whose keys are in the order in which they shall be written."""
    names = ("label", "input") if classification else ("input", "output")
    case = {
        "type": "object",
        "properties": {name: {"type": "string"} for name in names},
        "required": list(names),
        "additionalProperties": False,
    }
    return listing("instances", case, 1, most)


def _given(text: str) -> str:
    return "" if _NONE.match(text) else text.strip()


def read_instances(text: str, classification: bool) -> list[Instance]:
    """The cases of a continuation, which goes on behind "Label:" (of a classification) or "Input:"."""
    first, second = ("Label", "Input") if classification else ("Input", "Output")
    found: list[Instance] = []
    for part in re.split(rf"(?m)^{first}:", text):
        before, mark, after = part.partition(f"\n{second}:")
        if not mark:
            break
        after = re.split(r"(?m)^(?:Task|Input|Output|Label):", after)[0]
        label, given = (before, after) if classification else (after, before)
        found.append(Instance(input=_given(given), output=label.strip()))
    return found
