"""The lineage of an instruction (Evol-Instruct: Xu et al. 2023, arXiv:2304.12244, section 3; WizardCoder: Luo et al. 2023,
arXiv:2306.08568, section 3.1): rounds of rewriting, each from the last one that was not eliminated.

One seed is one lineage, in one coroutine: nothing is shared between seeds, so that rounds need no barrier and a run that
was killed goes on by asking the journal. Every round makes a record. Its parent is the record that it was evolved from; one
that was eliminated says why and has no children: the next round tries again from its parent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import Field

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings
from factory.records import Message, Record


class EvolutionSettings(GeneratorSettings):
    """`operations` are drawn from uniformly; `added_words` are how many a rewriting may add (low, high).

    `leaks` are words of the prompts that no instruction may hold. `judge_equal`: the model compares it with its parent.
    """

    rounds: int = Field(4, ge=1)
    operations: tuple[str, ...] = ()
    added_words: tuple[int, int] = (10, 20)
    leaks: tuple[str, ...] = ()
    judge_equal: bool = True
    evolve_sampling: Sampling = Sampling()
    evolve_few_shot_sampling: Sampling = Sampling()


@dataclass
class Answer:
    """What a round's instruction was answered: the conversation, what the record tells of it, and why it is lost, if so.

    One that is not `sound` has no children, whatever the scorers will say of it.
    """

    messages: Sequence[Message]
    meta: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    sound: bool = True


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
        if (made.sound and not made.reason) or number == 0:  # a seed is evolved whatever was answered to it
            parent, current = record, instruction
            lineage.append({"id": record.id, "round": number, "operation": operation})
    return records


class Eliminated(RecordError):
    """This round's rewriting is not taken; carries what there was of it."""

    def __init__(self, reason: str, operation: str = "", instruction: str = "") -> None:
        self.operation, self.instruction = operation, instruction
        super().__init__(f"evolution: {reason}")
