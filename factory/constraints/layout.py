"""What form a text has: lists, sections, highlights, titles, tables, JSON, set phrases."""

from __future__ import annotations

import json
import re

from pydantic import Field

from factory.constraints.base import MANY, Demands, Draw, Kind, plural
from factory.constraints.keywords import Word
from factory.constraints.texts import BULLET, NUMBERED, highlights

# A whole answer in one of these forms leaves no room for what these words name.
LAYOUT = frozenset(
    {"start", "end", "paragraphs", "sentences", "sentence length", "bullets", "numbers", "sections", "highlights",
     "title", "table", "placeholders", "postscript", "responses", "case", "language", "words", "comma", "digits",
     "exclamations", "letters", "frequency"}
)  # fmt: skip
ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_TITLE = re.compile(r"<<([^\n<>]+)>>")
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
_FENCE = re.compile(r"```(?:json)?[ \t]*\n?(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)
_RULE = re.compile(r"^[ \t]*\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")


class Bullets(Kind):
    """Exactly so many bullet points."""

    name = "detectable_format:number_bullet_lists"
    num_bullets: int = Field(ge=1)

    def broken(self, text: str) -> str:
        count = len(BULLET.findall(text))
        return "" if count == self.num_bullets else f"{count} bullet points, {self.num_bullets} wanted"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_bullets, "bullet point")
        return (
            f"Include exactly {count} in Markdown, as in:\n* One point\n* Another point",
            f"The answer must hold {count}, each on a line that begins with an asterisk and a space.",
        )

    def demands(self) -> Demands:
        return Demands(
            frozenset({"bullets"}), words=(2 * self.num_bullets, MANY), sentences=(self.num_bullets + 1, MANY)
        )

    @classmethod
    def draw(cls, draw: Draw) -> Bullets:
        return cls(num_bullets=draw.rng.randint(2, 6))


class NumberedList(Kind):
    """A list numbered from 1 to so many."""

    name = "detectable_format:numbered_list"
    num_items: int = Field(ge=2)

    def broken(self, text: str) -> str:
        found = [int(number) for number in NUMBERED.findall(text) if len(number) < 5]
        wanted = list(range(1, self.num_items + 1))
        return "" if found == wanted else f"numbers {found[:8]}, 1 to {self.num_items} wanted"

    def wordings(self) -> tuple[str, ...]:
        return (
            f"Give a numbered list of exactly {self.num_items} items: 1. ..., 2. ..., and so on.",
            f"Number your points from 1 to {self.num_items}, one a line, as in \"1. First point\".",
        )  # fmt: skip

    def demands(self) -> Demands:
        count = self.num_items
        claims = frozenset({"numbers"})
        return Demands(claims, literals=(str(count),), words=(3 * count, MANY), sentences=(count + 1, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> NumberedList:
        return cls(num_items=draw.rng.randint(3, 7))


class Highlights(Kind):
    """At least so many parts between asterisks."""

    name = "detectable_format:number_highlighted_sections"
    num_highlights: int = Field(ge=1)

    def broken(self, text: str) -> str:
        count = highlights(text)
        return "" if count >= self.num_highlights else f"{count} highlights, at least {self.num_highlights} wanted"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_highlights, "part")
        return (
            f"Highlight at least {count} of your answer with asterisks, *like this*.",
            f"Mark {self.num_highlights} or more phrases as *highlighted* in Markdown.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"highlights"}), words=(2 * self.num_highlights, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Highlights:
        return cls(num_highlights=draw.rng.randint(2, 5))


class Sections(Kind):
    """At least so many sections, each headed by a word and its number."""

    name = "detectable_format:multiple_sections"
    section_spliter: Word  # spelt as IFEval spells it
    num_sections: int = Field(ge=1)

    def broken(self, text: str) -> str:
        heads = re.findall(rf"^\W*{re.escape(self.section_spliter)}[ \t]*\d+", text, re.MULTILINE)
        return "" if len(heads) >= self.num_sections else f"{len(heads)} sections, {self.num_sections} wanted"

    def wordings(self) -> tuple[str, ...]:
        word = self.section_spliter
        return (
            f'Divide your answer into {self.num_sections} sections. Begin each with a line "{word} X", X being its number.',
            f"There must be {self.num_sections} sections, headed {word} 1, {word} 2, and so on.",
        )

    def demands(self) -> Demands:
        count, head = self.num_sections, f"{self.section_spliter} 1"
        return Demands(frozenset({"sections"}), exact=(head,), words=(6 * count, MANY), sentences=(count, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Sections:
        return cls(section_spliter=draw.rng.choice(("Section", "SECTION", "Part")), num_sections=draw.rng.randint(2, 4))


class Title(Kind):
    """A title between double angular brackets."""

    name = "detectable_format:title"

    def broken(self, text: str) -> str:
        return "" if any(title.strip() for title in _TITLE.findall(text)) else "no title"

    def wordings(self) -> tuple[str, ...]:
        return (
            "Give your answer a title in double angular brackets, such as <<a fresh start>>.",
            "Include a title, written <<like this>>.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"title"}), words=(2, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Title:
        return cls()


class Table(Kind):
    """A Markdown table of so many columns."""

    name = "detectable_format:table"
    num_columns: int = Field(ge=2)

    def broken(self, text: str) -> str:
        lines = text.splitlines()
        for head, rule, row in zip(lines, lines[1:], lines[2:], strict=False):
            if "|" in rule and _RULE.match(rule) and "|" in row and _cells(head) == self.num_columns == _cells(rule):
                return ""
        return f"no table of {self.num_columns} columns"

    def wordings(self) -> tuple[str, ...]:
        return (
            f"Include a Markdown table with exactly {self.num_columns} columns.",
            f"Part of the answer must be a Markdown table that has {self.num_columns} columns.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"table"}), words=(4 * self.num_columns, MANY), sentences=(4, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Table:
        return cls(num_columns=draw.rng.randint(2, 4))


def _cells(line: str) -> int:
    return len(line.strip().strip("|").split("|"))


class Placeholders(Kind):
    """At least so many placeholders in square brackets."""

    name = "detectable_content:number_placeholders"
    num_placeholders: int = Field(ge=1)

    def broken(self, text: str) -> str:
        count = len(_PLACEHOLDER.findall(text))
        return "" if count >= self.num_placeholders else f"{count} placeholders, {self.num_placeholders} wanted"

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.num_placeholders, "placeholder")
        return (
            f"Leave at least {count} in square brackets, such as [name].",
            f"The text must contain {self.num_placeholders} or more places to fill in, written [like this].",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"placeholders"}), words=(2 * self.num_placeholders, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> Placeholders:
        return cls(num_placeholders=draw.rng.randint(2, 4))


def _json(text: str) -> object:
    """The value of a text that is JSON, bare or in one fence. Raises `ValueError`."""
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    try:
        return json.loads(fenced.group(1) if fenced else text)
    except RecursionError as error:
        raise ValueError("nested too deep") from error


class Json(Kind):
    """The whole text is JSON."""

    name = "detectable_format:json_format"

    def broken(self, text: str) -> str:
        try:
            _json(text)
        except ValueError as error:
            return f"no JSON: {str(error)[:60]}"
        return ""

    def wordings(self) -> tuple[str, ...]:
        return (
            "Put the whole answer into JSON; a Markdown code fence around it is allowed.",
            "Your entire output must be valid JSON.",
        )

    def demands(self) -> Demands:
        return Demands(LAYOUT)

    @classmethod
    def draw(cls, draw: Draw) -> Json:
        return cls()


class JsonKeys(Kind):
    """The whole text is a JSON object with exactly these keys."""

    name = "detectable_format:json_keys"
    keys: tuple[Word, ...] = Field(min_length=1)

    def broken(self, text: str) -> str:
        try:
            value = _json(text)
        except ValueError as error:
            return f"no JSON: {str(error)[:60]}"
        if not isinstance(value, dict):
            return "no JSON object"
        return "" if set(value) == set(self.keys) else f"keys {', '.join(sorted(value))[:80]}"

    def wordings(self) -> tuple[str, ...]:
        quoted = ", ".join(f'"{key}"' for key in self.keys)
        return (
            f"Answer with a JSON object that has exactly the keys {quoted}, and with nothing else.",
            f"Give the answer as one JSON object. Its keys are {quoted}, no more and no fewer.",
        )

    def demands(self) -> Demands:
        return Demands(LAYOUT, exact=self.keys)

    @classmethod
    def draw(cls, draw: Draw) -> JsonKeys:
        sets: tuple[tuple[str, ...], ...] = (
            ("answer", "confidence"), ("summary", "details"), ("title", "body", "tags"), ("question", "answer"),
            ("topic", "points"), ("claim", "evidence", "source"), ("name", "reason"),
        )  # fmt: skip
        return cls(keys=draw.rng.choice(sets))


class SetAnswer(Kind):
    """One of three set answers, and not two of them."""

    name = "detectable_format:constrained_response"

    def broken(self, text: str) -> str:
        count = sum(answer in text for answer in ANSWERS)
        return "" if count == 1 else f"{count} of the set answers"

    def wordings(self) -> tuple[str, ...]:
        listed = " / ".join(f'"{answer}"' for answer in ANSWERS)
        return (f"Answer with one of these: {listed}", f"Reply with exactly one of the following sentences: {listed}")

    def demands(self) -> Demands:
        return Demands(LAYOUT | {"keywords", "forbidden"})

    @classmethod
    def draw(cls, draw: Draw) -> SetAnswer:
        return cls()


class TwoResponses(Kind):
    """Two different answers, separated by six asterisks."""

    name = "combination:two_responses"

    def broken(self, text: str) -> str:
        parts = [part.strip() for part in text.strip().split("******")]
        parts = parts[not parts[0] : len(parts) - (not parts[-1])]
        if len(parts) != 2 or not all(parts):
            return f"{len(parts)} answers, 2 wanted"
        return "" if parts[0] != parts[1] else "twice the same answer"

    def wordings(self) -> tuple[str, ...]:
        return (
            "Give two different answers, and nothing but them. Separate them with six asterisks: ******",
            "Write two alternative answers with a line of six asterisks (******) in between.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"paragraphs", "responses", "sections"}), words=(10, MANY), sentences=(2, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> TwoResponses:
        return cls()
