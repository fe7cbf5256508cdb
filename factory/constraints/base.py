"""What a kind of constraint is: frozen arguments, a check, its wording, and what it asks of a text."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from factory.records import Frozen

Relation = Literal["less than", "at least"]
MANY = 10**9


@dataclass(frozen=True)
class Demands:
    """What a constraint needs a text to be, for telling contradictions.

    `claims` are parts or qualities of the answer that it decides alone. `literals` must stand in the text in any case of
    the letters, `exact` just as they are. `no_words` and `no_characters` must not. `words` and `sentences` are the least
    and the most; `english` says that it makes sense in an English text only.
    """

    claims: frozenset[str] = frozenset()
    literals: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    no_words: tuple[str, ...] = ()
    no_characters: str = ""
    words: tuple[int, int] = (0, MANY)
    sentences: tuple[int, int] = (0, MANY)
    sentence_words: int = MANY
    english: bool = False
    foreign: bool = False


@dataclass(frozen=True)
class Draw:
    """What a constraint's arguments are drawn with: chance, and the request that they are for."""

    rng: random.Random
    request: str

    def words(self, among: Sequence[str], count: int) -> tuple[str, ...]:
        """Different words that the request does not mention: to demand one of its own is trivial, to ban it absurd."""
        request = self.request.lower()
        return tuple(self.rng.sample([word for word in among if word not in request], count))


class Kind(Frozen):
    """One type of constraint; an instance holds its arguments, named as in IFEval where it has the same type."""

    name: ClassVar[str]

    def broken(self, text: str) -> str:
        """Why the text does not keep it, in a few words; nothing where it does."""
        raise NotImplementedError

    def wordings(self) -> tuple[str, ...]:
        """Sentences that ask for it, each complete by itself."""
        raise NotImplementedError

    def demands(self) -> Demands:
        raise NotImplementedError

    @classmethod
    def draw(cls, draw: Draw) -> Kind:
        """Random arguments that a fitting answer can meet and an answer to the bare request seldom does."""
        raise NotImplementedError


def compare(count: int, relation: Relation, bound: int, what: str) -> str:
    """Why `count` breaks "less than" or "at least" `bound`, or nothing."""
    kept = count < bound if relation == "less than" else count >= bound
    return "" if kept else f"{count} {what}, {relation} {bound} wanted"


def interval(relation: Relation, bound: int) -> tuple[int, int]:
    return (0, bound - 1) if relation == "less than" else (bound, MANY)


def plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
