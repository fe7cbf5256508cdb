"""Words and letters that must, or must not, be there."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from factory.constraints.base import MANY, Demands, Draw, Kind, Relation, compare, plural
from factory.constraints.texts import has_word

# Everyday words that few answers hold by chance and most topics have room for.
WORDS = (
    "anchor", "archive", "balance", "basket", "blanket", "border", "bridge", "bucket", "button", "candle", "canvas",
    "captain", "ceiling", "century", "chance", "circle", "climate", "compass", "copper", "corner", "cotton", "council",
    "courage", "curtain", "danger", "dinner", "distance", "doctor", "drawer", "engine", "evening", "fabric", "factor",
    "feather", "festival", "fortune", "frame", "garden", "gesture", "glass", "guest", "harbour", "harvest", "hinge",
    "honest", "island", "journey", "kettle", "ladder", "lantern", "leather", "lesson", "letter", "machine", "market",
    "meadow", "measure", "mirror", "morning", "muscle", "neighbour", "orchard", "palace", "pattern", "pencil", "pepper",
    "pillow", "planet", "pocket", "promise", "purpose", "quarter", "ribbon", "rhythm", "saddle", "season", "secret",
    "shadow", "silence", "silver", "sketch", "spirit", "station", "stranger", "summer", "symbol", "temper", "thread",
    "ticket", "timber", "treasure", "tunnel", "umbrella", "velvet", "village", "violin", "weather", "whisper", "window",
)  # fmt: skip
# Words that most answers hold, so that doing without one takes care.
COMMON = (
    "also", "always", "because", "before", "both", "different", "even", "every", "first", "good", "great", "help",
    "important", "just", "like", "long", "make", "many", "more", "most", "need", "new", "often", "only", "other", "over",
    "people", "really", "small", "some", "such", "sure", "than", "there", "through", "time", "use", "very", "way", "well",
)  # fmt: skip


def _word(value: str) -> str:
    if not value.strip():
        raise ValueError("is empty")
    return value


Word = Annotated[str, AfterValidator(_word)]


class Existence(Kind):
    """Every keyword stands in the text as a word of its own."""

    name = "keywords:existence"
    keywords: tuple[Word, ...] = Field(min_length=1)

    def broken(self, text: str) -> str:
        missing = [word for word in self.keywords if not has_word(text, word)]
        return f"without {missing[0]!r}" if missing else ""

    def wordings(self) -> tuple[str, ...]:
        quoted = " and ".join(f'"{word}"' for word in self.keywords)
        one = len(self.keywords) == 1
        return (
            f"Use the {'word' if one else 'words'} {quoted}.",
            f"Somewhere in your answer, {'the word' if one else 'each of the words'} {quoted} must appear.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"keywords"}), literals=self.keywords, words=(3, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Existence:
        return cls(keywords=draw.words(WORDS, draw.rng.randint(1, 2)))


class Frequency(Kind):
    """A keyword stands in the text so often."""

    name = "keywords:frequency"
    keyword: Word
    frequency: int = Field(ge=1)
    relation: Relation

    def broken(self, text: str) -> str:
        return compare(has_word(text, self.keyword), self.relation, self.frequency, f"times {self.keyword!r}")

    def wordings(self) -> tuple[str, ...]:
        if self.relation == "less than" and self.frequency == 1:
            return (f'The word "{self.keyword}" must not appear.', f'Never write the word "{self.keyword}".')
        often = f"{self.relation} {plural(self.frequency, 'time')}"
        return (
            f'The word "{self.keyword}" should appear {often}.',
            f'Write the word "{self.keyword}" {often}.',
        )

    def demands(self) -> Demands:
        if self.relation == "less than":
            banned = (self.keyword,) if self.frequency == 1 else ()
            return Demands(frozenset({"frequency"}), no_words=banned, english=True)
        needed = (self.keyword,) * self.frequency
        return Demands(frozenset({"frequency"}), literals=needed, words=(4 * self.frequency, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Frequency:
        (word,) = draw.words(WORDS, 1)
        return cls(keyword=word, frequency=draw.rng.randint(2, 4), relation="at least")


class Forbidden(Kind):
    """None of these words stands in the text."""

    name = "keywords:forbidden_words"
    forbidden_words: tuple[Word, ...] = Field(min_length=1)

    def broken(self, text: str) -> str:
        found = [word for word in self.forbidden_words if has_word(text, word)]
        return f"holds {found[0]!r}" if found else ""

    def wordings(self) -> tuple[str, ...]:
        quoted = ", ".join(f'"{word}"' for word in self.forbidden_words)
        return (f"Do not use any of these words: {quoted}.", f"Your answer has to do without {quoted}.")

    def demands(self) -> Demands:
        return Demands(frozenset({"forbidden"}), no_words=self.forbidden_words, english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Forbidden:
        return cls(forbidden_words=draw.words(COMMON, draw.rng.randint(2, 4)))


class Letters(Kind):
    """A letter (any single character) stands in the text so often, whatever its case."""

    name = "keywords:letter_frequency"
    letter: str = Field(min_length=1, max_length=1)
    let_frequency: int = Field(ge=1)
    let_relation: Relation

    def broken(self, text: str) -> str:
        count = text.lower().count(self.letter.lower())
        return compare(count, self.let_relation, self.let_frequency, f"times {self.letter!r}")

    def wordings(self) -> tuple[str, ...]:
        if self.let_relation == "less than" and self.let_frequency == 1:
            return (f'Do without the letter "{self.letter}".', f'The letter "{self.letter}" must not occur.')
        often = f"{self.let_relation} {plural(self.let_frequency, 'time')}"
        return (
            f'The letter "{self.letter}" should occur {often}.',
            f'Across your answer, use the letter "{self.letter}" {often}.',
        )

    def demands(self) -> Demands:
        if self.let_relation == "less than":
            banned = self.letter.lower() + self.letter.upper() if self.let_frequency == 1 else ""
            return Demands(frozenset({"letters"}), no_characters=banned, english=True)
        # A rare letter is in one word out of ten or so.
        return Demands(frozenset({"letters"}), words=(5 * self.let_frequency, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Letters:
        arguments: dict[str, Any] = {"let_frequency": draw.rng.randint(3, 6), "let_relation": "at least"}
        if draw.rng.random() < 0.3:  # to do without a rare letter
            arguments = {"let_frequency": 1, "let_relation": "less than"}
        return cls(letter=draw.rng.choice("jkqvxz"), **arguments)
