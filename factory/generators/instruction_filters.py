"""Which generated instructions, and which instances of them, are dropped without asking anybody (Self-Instruct, section 3.1
and appendix A; for Chinese, BELLE)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from factory.generators.seed_tasks import Instance
from factory.records import Frozen


class FilterSettings(Frozen):
    """Bounds on an instruction, in words (None: not checked) and in characters; `max_chars_examples` is for one that gives
    examples. One that holds a word of `not_text` or begins as one of `openings` is dropped."""

    min_words: int | None = Field(None, ge=0)
    max_words: int | None = Field(None, ge=1)
    min_chars: int | None = Field(None, ge=0)
    max_chars: int | None = Field(None, ge=1)
    max_chars_examples: int | None = Field(None, ge=1)
    not_text: tuple[str, ...] = ()
    openings: tuple[str, ...] = ()
    ascii_first: bool = False


_EXAMPLES = re.compile(r"例如|比如|示例|例子|譬如")


def unfit(text: str, bounds: FilterSettings) -> str:
    """Why an instruction is dropped, or nothing."""
    count = len(text.split())
    if not text:
        return "empty"
    if bounds.min_words is not None and count < bounds.min_words:
        return "too few words"
    if bounds.max_words is not None and count > bounds.max_words:
        return "too many words"
    if bounds.min_chars is not None and len(text) < bounds.min_chars:
        return "too short"
    most = bounds.max_chars_examples if _EXAMPLES.search(text) else bounds.max_chars
    if most is not None and len(text) > most:
        return "too long"
    if word := _named(text, bounds.not_text):
        return f"not for text alone ({word})"
    if opening := next((each for each in bounds.openings if text.lower().startswith(each.lower())), None):
        return f"begins with {opening!r}"
    if bounds.ascii_first and not text[0].isascii():
        return "begins with a character beyond ASCII"
    if not text[0].isalnum():
        return "begins with punctuation"
    return ""


def _named(text: str, words: Sequence[str]) -> str | None:
    """The first of the words in a text: whole ones, or their plurals, where the script has spaces."""
    for word in words:
        pattern = rf"\b{re.escape(word)}(s|es)?\b" if word.isascii() else re.escape(word)
        if re.search(pattern, text, re.IGNORECASE):
            return word
    return None


def sound_instances(instances: Sequence[Instance], most: int) -> tuple[list[Instance], str]:
    """(those that are kept, why the last of the others were not).

    Dropped: an empty output; an output that repeats its input; the second of two equal ones; all that give one input
    different outputs.
    """
    outputs: dict[str, set[str]] = {}
    for each in instances:
        outputs.setdefault(each.input.strip(), set()).add(each.output.strip())
    kept: dict[str, Instance] = {}
    reason = "none could be read"
    for each in instances:
        given, said = each.input.strip(), each.output.strip()
        if not said:
            reason = "empty output"
        elif said == given:
            reason = "the output repeats the input"
        elif len(outputs[given] - {""}) > 1:
            reason = "one input with different outputs"
        else:
            kept.setdefault(given, Instance(input=given, output=said))
    return list(kept.values())[:most], reason
