"""How long a text is: words, sentences, paragraphs."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from factory.constraints.base import MANY, Demands, Draw, Kind, Relation, compare, interval, plural
from factory.constraints.keywords import WORDS, Word
from factory.constraints.texts import paragraphs, sentences, words

_STARS = re.compile(r"^[ \t]*\*\*\*[ \t]*$", re.MULTILINE)
_FIRST_WORD = re.compile(r"[\"'“‘(*_#\s]*(\w+(?:['’-]\w+)*)")


class WordCount(Kind):
    """So many words."""

    name = "length_constraints:number_words"
    num_words: int = Field(ge=1)
    relation: Relation

    def broken(self, text: str) -> str:
        return compare(len(words(text)), self.relation, self.num_words, "words")

    def wordings(self) -> tuple[str, ...]:
        return (
            f"Answer with {self.relation} {self.num_words} words.",
            f"Your answer should be {self.relation} {self.num_words} words long.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"words"}), words=interval(self.relation, self.num_words))

    @classmethod
    def draw(cls, draw: Draw) -> WordCount:
        if draw.rng.random() < 0.5:
            return cls(num_words=draw.rng.randrange(30, 101, 10), relation="less than")
        return cls(num_words=draw.rng.randrange(150, 301, 25), relation="at least")


class WordRange(Kind):
    """From so many words to so many."""

    name = "length_constraints:words_between"
    least: int = Field(ge=0)
    most: int = Field(ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> WordRange:
        if self.least > self.most:
            raise ValueError(f"least={self.least} must not be above most={self.most}")
        return self

    def broken(self, text: str) -> str:
        count = len(words(text))
        return "" if self.least <= count <= self.most else f"{count} words, {self.least} to {self.most} wanted"

    def wordings(self) -> tuple[str, ...]:
        return (
            f"Use between {self.least} and {self.most} words.",
            f"The length must be from {self.least} to {self.most} words.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"words"}), words=(self.least, self.most))

    @classmethod
    def draw(cls, draw: Draw) -> WordRange:
        least = draw.rng.randrange(40, 201, 20)
        return cls(least=least, most=least + draw.rng.choice((20, 30, 50)))


class SentenceCount(Kind):
    """So many sentences."""

    name = "length_constraints:number_sentences"
    num_sentences: int = Field(ge=1)
    relation: Relation

    def broken(self, text: str) -> str:
        return compare(len(sentences(text)), self.relation, self.num_sentences, "sentences")

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_sentences, "sentence")
        return (f"Write {self.relation} {count}.", f"Your answer should consist of {self.relation} {count}.")

    def demands(self) -> Demands:
        least, most = interval(self.relation, self.num_sentences)
        return Demands(frozenset({"sentences"}), sentences=(least, most), words=(4 * least, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> SentenceCount:
        if draw.rng.random() < 0.5:
            return cls(num_sentences=draw.rng.randint(3, 5), relation="less than")
        return cls(num_sentences=draw.rng.randint(7, 12), relation="at least")


class SentenceLength(Kind):
    """No sentence is longer than so many words."""

    name = "length_constraints:words_per_sentence"
    most: int = Field(ge=1)

    def broken(self, text: str) -> str:
        longest = max((len(words(sentence)) for sentence in sentences(text)), default=0)
        return f"a sentence of {longest} words, at most {self.most} wanted" if longest > self.most else ""

    def wordings(self) -> tuple[str, ...]:
        return (
            f"No sentence may have more than {self.most} words.",
            f"Keep every sentence to at most {self.most} words.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"sentence length"}), sentence_words=self.most)

    @classmethod
    def draw(cls, draw: Draw) -> SentenceLength:
        return cls(most=draw.rng.randint(10, 15))


class StarParagraphs(Kind):
    """So many paragraphs, separated by lines of three asterisks."""

    name = "length_constraints:number_paragraphs"
    num_paragraphs: int = Field(ge=1)

    def broken(self, text: str) -> str:
        parts = _STARS.split(text.strip())
        if any(not part.strip() for part in parts[1:-1]):
            return "an empty paragraph"
        count = sum(bool(part.strip()) for part in parts)
        return "" if count == self.num_paragraphs else f"{count} paragraphs, {self.num_paragraphs} wanted"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_paragraphs, "paragraph")
        return (
            f"Write exactly {count}, separated from each other by a line with three asterisks: ***",
            f"There should be {count}. Put a line that holds only *** between one paragraph and the next.",
        )

    def demands(self) -> Demands:
        least = (4 * self.num_paragraphs, MANY), (self.num_paragraphs, MANY)
        return Demands(frozenset({"paragraphs"}), words=least[0], sentences=least[1])

    @classmethod
    def draw(cls, draw: Draw) -> StarParagraphs:
        return cls(num_paragraphs=draw.rng.randint(2, 5))


class Paragraphs(Kind):
    """So many paragraphs, separated by blank lines."""

    name = "length_constraints:plain_paragraphs"
    num_paragraphs: int = Field(ge=1)

    def broken(self, text: str) -> str:
        count = len(paragraphs(text))
        return "" if count == self.num_paragraphs else f"{count} paragraphs, {self.num_paragraphs} wanted"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_paragraphs, "paragraph")
        return (f"Write exactly {count}, with a blank line between them.", f"Use {count}, divided by blank lines.")

    def demands(self) -> Demands:
        least = self.num_paragraphs
        return Demands(frozenset({"paragraphs"}), words=(4 * least, MANY), sentences=(least, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Paragraphs:
        return cls(num_paragraphs=draw.rng.randint(2, 5))


class ParagraphFirstWord(Kind):
    """So many paragraphs, separated by blank lines, and one of them begins with a given word."""

    name = "length_constraints:nth_paragraph_first_word"
    num_paragraphs: int = Field(ge=1)
    nth_paragraph: int = Field(ge=1)
    first_word: Word

    @model_validator(mode="after")
    def _within(self) -> ParagraphFirstWord:
        if self.nth_paragraph > self.num_paragraphs:
            raise ValueError(f"nth_paragraph={self.nth_paragraph} is beyond num_paragraphs={self.num_paragraphs}")
        return self

    def broken(self, text: str) -> str:
        found = paragraphs(text)
        if len(found) != self.num_paragraphs:
            return f"{len(found)} paragraphs, {self.num_paragraphs} wanted"
        first = _FIRST_WORD.match(found[self.nth_paragraph - 1])
        word = first.group(1) if first else ""
        return "" if word.lower() == self.first_word.lower() else f"paragraph {self.nth_paragraph} begins with {word!r}"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_paragraphs, "paragraph")
        return (
            f'Write exactly {count}, with a blank line between them; paragraph {self.nth_paragraph} starts with the word "{self.first_word}".',
            f'Divide the answer by blank lines into {count}. The first word of paragraph {self.nth_paragraph} must be "{self.first_word}".',
        )

    def demands(self) -> Demands:
        claims = {"paragraphs", *(["start"] if self.nth_paragraph == 1 else [])}
        words_needed, least = (4 * self.num_paragraphs, MANY), (self.num_paragraphs, MANY)
        return Demands(
            frozenset(claims), literals=(self.first_word,), words=words_needed, sentences=least, english=True
        )

    @classmethod
    def draw(cls, draw: Draw) -> ParagraphFirstWord:
        count = draw.rng.randint(2, 4)
        (word,) = draw.words(WORDS, 1)
        return cls(num_paragraphs=count, nth_paragraph=draw.rng.randint(1, count), first_word=word)
