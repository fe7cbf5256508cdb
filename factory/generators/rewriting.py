"""One round of an instruction's evolution: the rewriting, and what eliminates it before anybody answers it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from factory.engine.request import Sampling
from factory.engine.structured import NotJson
from factory.generators.base import Context, chat
from factory.generators.evolution import Eliminated, EvolutionSettings
from factory.generators.few_shot import load_data
from factory.prompts import Templates

# Words that say nothing alone. An answer of these and of punctuation is no answer.
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "again",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "down",
        "for",
        "from",
        "had",
        "has",
        "have",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "same",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "us",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "why",
        "will",
        "with",
        "would",
        "yes",
        "you",
        "your",
    ]
)

EQUAL_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"reason": {"type": "string"}, "equal": {"type": "boolean"}},
    "required": ["reason", "equal"],
    "additionalProperties": False,
}
_ONE_WORD = Sampling(temperature=0, max_tokens=4, stop=("\n",))


class Rewriter:
    """One round's rewriting, and the eliminations that need no answer. Templates: `evolve` of the task's own folder (for a
    small model with examples for each operation), `equal` of Evol-Instruct's."""

    def __init__(self, settings: EvolutionSettings, templates: Templates, folder: str, prompt_form: str) -> None:
        self.settings, self._templates, self.few_shot = settings, templates, prompt_form == "few_shot"
        self._evolve, self._equal = f"{folder}/{prompt_form}/evolve.j2", f"evol_instruct/{prompt_form}/equal.j2"
        self._examples = f"{folder}/few_shot/examples.yaml"
        self.templates = (self._evolve, self._equal, *([self._examples] if self.few_shot else []))

    def check(self) -> list[str]:
        low, high = self.settings.added_words
        problems = [problem for name in (self._evolve, self._equal) for problem in self._templates.check(name)]
        if not self._operations():
            problems.append(f"task.operations={list(self.settings.operations)}: none of them can be asked for")
        if not 0 <= low <= high:
            problems.append(f"task.added_words=[{low},{high}]: should be two numbers, the lower one first")
        return problems

    def _operations(self) -> Sequence[str]:
        """Those that are wanted; in the few-shot form, those of them that there are examples for."""
        wanted = self.settings.operations
        return (
            [each for each in wanted if each in load_data(self._templates, self._examples)] if self.few_shot else wanted
        )

    async def rewrite(self, parent: str, number: int, context: Context) -> tuple[str, str]:
        """(operation, the new instruction) of round `number`. Raises `Eliminated`."""
        operation = context.rng.choice(self._operations())
        instruction = await self._rewritten(parent, operation, number, context)
        reason = self._eliminated(parent, instruction)
        if not reason and self.settings.judge_equal:
            try:
                same = await self._same(parent, instruction, number, context)
            except NotJson as error:
                raise Eliminated(f"the comparison with its parent: {error}", operation, instruction) from error
            reason = "equal to its parent, says the model" if same else ""
        if reason:
            raise Eliminated(reason, operation, instruction)
        return operation, instruction

    async def _rewritten(self, parent: str, operation: str, number: int, context: Context) -> str:
        settings = self.settings
        low, high = settings.added_words
        if self.few_shot:
            examples = load_data(self._templates, self._examples)[operation]
            prompt = context.render(self._evolve, examples=examples, instruction=one_line(parent))
            sampling = settings.evolve_few_shot_sampling
            answer = await context.ask(prompt=prompt, label="evolve", sample=number, sampling=sampling)
            text = answer.text.strip().split("\n")[0].strip()
            if text in {str(example["evolved"]) for example in examples}:
                raise Eliminated("repeats an example of the prompt", operation, text)
        else:
            question = context.render(self._evolve, instruction=parent, operation=operation, low=low, high=high)
            sampling = settings.evolve_sampling
            answer = await context.ask(chat(question), label="evolve", sample=number, sampling=sampling)
            text = tagged(answer.text, "instruction")
        if answer.truncated or not text:
            raise Eliminated("cut off at the token limit" if answer.truncated else "no instruction", operation, text)
        return text

    def _eliminated(self, parent: str, instruction: str) -> str:
        if same_text(parent, instruction):
            return "equal to its parent"
        if says_nothing(instruction):
            return "only punctuation and stop words"
        if word := leaked(instruction, self.settings.leaks):
            return f"leaks the prompt's words ({word})"
        return ""

    async def _same(self, parent: str, instruction: str, number: int, context: Context) -> bool:
        if self.few_shot:
            prompt = context.render(self._equal, first=one_line(parent), second=one_line(instruction))
            answer = await context.ask(prompt=prompt, label="equal", sample=number, sampling=_ONE_WORD)
            said = answer.text.strip().casefold()
            if not said.startswith(("same", "different")):
                raise NotJson("neither the same nor different")
            return said.startswith("same")
        question = context.render(self._equal, first=parent, second=instruction)
        return bool((await context.ask_json(chat(question), EQUAL_SCHEMA, label="equal", sample=number))["equal"])


def one_line(text: str) -> str:
    """As a few-shot prompt shows it: examples are a line each."""
    return " ".join(text.split())


def tagged(text: str, name: str) -> str:
    """What stands between the tags, or nothing."""
    found = re.search(rf"<{name}>(.*?)</{name}>", text, re.DOTALL)
    return found.group(1).strip() if found else ""


def says_nothing(text: str) -> bool:
    """Whether a text has but punctuation and stop words."""
    words: list[str] = re.findall(r"[^\W_]+", text.lower())
    return all(word in STOP_WORDS for word in words)


def leaked(text: str, words: Sequence[str]) -> str | None:
    """The first of the prompt's own words that stands in the text."""
    folded = text.casefold()
    return next((word for word in words if word.casefold() in folded), None)


def sorry_and_short(text: str, most: int) -> bool:
    """Whether an answer apologises in fewer than `most` words, which shows that the instruction cannot be answered."""
    return "sorry" in text.casefold() and len(text.split()) < most


def same_text(one: str, other: str) -> bool:
    """Equal but for case, spaces and punctuation."""
    return re.findall(r"\w+", one.casefold()) == re.findall(r"\w+", other.casefold())
