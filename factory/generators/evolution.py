"""The lineage of an instruction (Evol-Instruct: Xu et al. 2023, arXiv:2304.12244, section 3; WizardCoder: Luo et al. 2023,
arXiv:2306.08568, section 3.1): rounds of rewriting, each from the last one that was not eliminated.

One seed is one lineage, in one coroutine: nothing is shared between seeds, so that rounds need no barrier and a run that
was killed goes on by asking the journal. Every round makes a record. Its parent is the record that it was evolved from; one
that was eliminated says why and has no children: the next round tries again from its parent.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.errors import RecordError
from factory.generators.base import Context
from factory.records import Message, Record

# Words that say nothing alone. An answer of these and of punctuation is no answer.
STOP_WORDS = frozenset(
    ["a", "about", "after", "again", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been", "before", "being", "both", "but", "by", "can", "could", "did", "do", "does", "down", "for", "from", "had", "has", "have", "he", "her", "here", "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "me", "more", "most", "my", "no", "nor", "not", "of", "off", "on", "once", "only", "or", "other", "our", "out", "over", "own", "same", "she", "should", "so", "some", "such", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under", "until", "up", "us", "very", "was", "we", "were", "what", "when", "where", "which", "while", "who", "why", "will", "with", "would", "yes", "you", "your"]
)


@dataclass
class Answer:
    """What a round's instruction was answered: the conversation, what the record tells of it, and why it is lost, if so."""

    messages: Sequence[Message]
    meta: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


# Of a round: the instruction that it starts from and its number -> the operation and the new instruction.
Rewrite = Callable[[str, int], Awaitable[tuple[str, str]]]
Reply = Callable[[str, int], Awaitable[Answer]]


async def evolve(
    start: str, rounds: int, context: Context, *, rewrite: Rewrite, answer: Reply, seed: Mapping[str, Any]
) -> list[Record]:
    """The records of `rounds` rounds after the seed's own (round 0, which is not rewritten).

    Each step raises `RecordError` to eliminate its round; a failure that is not final (an engine's) ends the lineage, to
    be tried again by the next run.
    """
    records: list[Record] = []
    parent: Record | None = None
    lineage: list[dict[str, Any]] = []
    current = start
    for number in range(rounds + 1):
        operation, instruction, made = "", start, Answer(())
        try:
            if number:
                operation, instruction = "unknown", ""
                operation, instruction = await rewrite(current, number)
            made = await answer(instruction, number)
        except Eliminated as error:
            operation, instruction = error.operation or operation, error.instruction or instruction
            made = Answer((), reason=str(error))
        except RecordError as error:
            if not error.final:
                raise
            made = Answer((), reason=str(error))
        meta = {
            "instruction": instruction,
            "round": number,
            "operation": operation,
            "lineage": list(lineage),
            **made.meta,
            "seed": dict(seed),
        }
        parents = [parent.id] if parent is not None else []
        record = context.record(made.messages, meta, sample=number, reason=made.reason, parents=parents)
        records.append(record)
        if not made.reason or number == 0:  # a seed is evolved whatever was answered to it
            parent, current = record, instruction
            lineage.append({"id": record.id, "round": number, "operation": operation})
    return records


class Eliminated(RecordError):
    """This round's rewriting is not taken; carries what there was of it."""

    def __init__(self, reason: str, operation: str = "", instruction: str = "") -> None:
        self.operation, self.instruction = operation, instruction
        super().__init__(f"evolution: {reason}")


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
