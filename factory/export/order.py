"""What a record is worth: the reward that ranks answers to one prompt, and the order in which steps prefer records."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from factory.export.pool import Pool
from factory.selection import Expression

# The first of these that there is, each; a difficulty multiplies a quality (Llama 3.1 report, section 4.1.3: semantic
# duplicates are told apart in order of quality x difficulty).
QUALITIES = ("reward", "judge", "pairwise", "execution", "constraints", "answer", "fidelity")
DIFFICULTIES = ("difficulty", "ifd", "tags")
# Who decides where this score is the reward; anything else is a check in code.
_SOURCES = {"reward": "reward model", "judge": "judge", "pairwise": "judge"}


@dataclass(frozen=True)
class Reward:
    """What ranks answers to one prompt. Without an expression 1 for a kept record and 0 for one that was lost."""

    expression: Expression | None
    source: str

    @property
    def text(self) -> str:
        return "1 where kept, 0 where lost" if self.expression is None else self.expression.text


def reward_by(text: str | None, names: set[str]) -> Reward:
    """Raises `ValueError`. Without a text the reward model's or the judge's score, where there is one."""
    if text is None:
        text = next((name for name in ("reward", "judge") if name in names), None)
    if text is None:
        return Reward(None, "verifier")
    expression = Expression(text, names)
    return Reward(expression, source_of(expression.names))


def source_of(names: set[str]) -> str:
    return next((_SOURCES[name] for name in _SOURCES if name in names), "verifier")


def order_by(text: str | None, names: set[str], least: Callable[[str], float | None]) -> Expression | None:
    """Raises `ValueError`. `least` gives a score's least value: below zero, a greater difficulty would make it worse."""
    if text is not None:
        return Expression(text, names)
    quality = next((name for name in QUALITIES if name in names), None)
    difficulty = next((name for name in DIFFICULTIES if name in names), None)
    if quality is not None and difficulty is not None and (low := least(quality) or 0.0) < 0:
        quality = f"({quality} + {-low!r})"
    made = " * ".join(part for part in (quality, difficulty) if part)
    return Expression(made, names) if made else None


def least_of(pool: Pool, name: str) -> float | None:
    """The least value of a score."""
    scored = (item.scored() for item, _ in pool.left())
    return min((scores[name][0] for scores in scored if name in scores), default=None)


def evaluated(pool: Pool, expression: Expression) -> Iterator[tuple[int, float | None]]:
    for item, _ in pool.left():
        yield item.n, expression.value({name: value for name, (value, _) in item.scored().items()})
