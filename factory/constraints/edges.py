"""How a text begins and ends, and how it is written: case, punctuation, language."""

from __future__ import annotations

import re

from pydantic import Field, field_validator

from factory.constraints.base import MANY, Demands, Draw, Kind, Relation, compare, plural
from factory.constraints.keywords import Word
from factory.constraints.texts import language, words

_POSTSCRIPT = {"P.S.": r"(?<!\w)P\.[ ]?S\.?(?!\w)", "P.P.S": r"(?<!\w)P\.[ ]?P\.[ ]?S\.?(?!\w)"}
LANGUAGES = {
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "de": "German", "en": "English", "es": "Spanish", "fa": "Persian",
    "fi": "Finnish", "fr": "French", "gu": "Gujarati", "he": "Hebrew", "hi": "Hindi", "it": "Italian", "ja": "Japanese",
    "kn": "Kannada", "ko": "Korean", "ml": "Malayalam", "mr": "Marathi", "ne": "Nepali", "nl": "Dutch", "pa": "Punjabi",
    "pl": "Polish", "pt": "Portuguese", "ru": "Russian", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "ur": "Urdu", "vi": "Vietnamese", "zh-cn": "Chinese",
}  # fmt: skip
DRAWN = ("ar", "de", "es", "fr", "hi", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "tr", "zh-cn")  # widely spoken
MOST_CAPITALS = 0.2  # of the words: more is shouting


class Start(Kind):
    """The text begins with a phrase."""

    name = "startend:start_phrase"
    start_phrase: Word

    def broken(self, text: str) -> str:
        begins = text.lstrip(" \n\t\"'*#").lower().startswith(self.start_phrase.lower())
        return "" if begins else f"begins {text.strip()[:30]!r}"

    def wordings(self) -> tuple[str, ...]:
        return (f'Begin with the words "{self.start_phrase}".', f'The very first words must be "{self.start_phrase}".')

    def demands(self) -> Demands:
        return Demands(frozenset({"start"}), literals=(self.start_phrase,), words=(5, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Start:
        phrases = ("To begin with", "In short", "Let us see", "Good question", "Picture this", "Few people know that")
        return cls(start_phrase=draw.rng.choice(phrases))


class End(Kind):
    """The text ends with a phrase, and nothing follows."""

    name = "startend:end_checker"
    end_phrase: Word

    def broken(self, text: str) -> str:
        ends = text.strip().strip("\"'*").strip().lower().endswith(self.end_phrase.strip().lower())
        return "" if ends else f"ends {text.strip()[-30:]!r}"

    def wordings(self) -> tuple[str, ...]:
        return (
            f'Finish with exactly this phrase: "{self.end_phrase}" Nothing may follow it.',
            f'The last words of your answer must be "{self.end_phrase}".',
        )

    def demands(self) -> Demands:
        needed = (len(words(self.end_phrase)), MANY)
        return Demands(frozenset({"end"}), literals=(self.end_phrase,), words=needed, sentences=(2, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> End:
        phrases = ("That is all.", "Thank you for reading.", "What do you think?", "I hope this helps.",
                   "And that is the whole story.", "Let me know if anything is unclear.")  # fmt: skip
        return cls(end_phrase=draw.rng.choice(phrases))


class Quoted(Kind):
    """The whole text stands between double quotation marks."""

    name = "startend:quotation"

    def broken(self, text: str) -> str:
        text = text.strip()
        return "" if len(text) > 1 and text[0] == text[-1] == '"' else "not between quotation marks"

    def wordings(self) -> tuple[str, ...]:
        return (
            "Wrap your whole answer in double quotation marks.",
            'The first and the last character must be a double quotation mark: "',
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"start", "end"}))

    @classmethod
    def draw(cls, draw: Draw) -> Quoted:
        return cls()


class QuestionEnd(Kind):
    """The last sentence is a question."""

    name = "startend:question"

    def broken(self, text: str) -> str:
        return "" if text.rstrip(" \n\t\"'*”’)").endswith(("?", "？", "؟")) else "does not end with a question"

    def wordings(self) -> tuple[str, ...]:
        return ("End your answer with a question.", "The last sentence must be a question.")

    def demands(self) -> Demands:
        return Demands(frozenset({"end"}), words=(3, MANY))

    @classmethod
    def draw(cls, draw: Draw) -> QuestionEnd:
        return cls()


class RepeatPrompt(Kind):
    """The text begins with the request, word for word."""

    name = "combination:repeat_prompt"
    prompt_to_repeat: Word

    def broken(self, text: str) -> str:
        begins = text.strip().lower().startswith(self.prompt_to_repeat.strip().lower())
        return "" if begins else "does not repeat the request"

    def wordings(self) -> tuple[str, ...]:
        return (
            "First repeat the request above word for word, without the sentences about the form; then answer it.",
            "Before you answer, copy the request itself without change (but none of the rules that follow it).",
        )

    def demands(self) -> Demands:
        prompt = self.prompt_to_repeat
        least = len(words(prompt)) + 3
        return Demands(frozenset({"start"}), exact=(prompt,), words=(least, MANY), sentences=(2, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> RepeatPrompt:
        return cls(prompt_to_repeat=draw.request)


class Postscript(Kind):
    """A postscript, begun by its mark."""

    name = "detectable_content:postscript"
    postscript_marker: Word

    def broken(self, text: str) -> str:
        pattern = _POSTSCRIPT.get(self.postscript_marker, rf"(?<!\w){re.escape(self.postscript_marker)}")
        return "" if re.search(pattern, text, re.IGNORECASE) else "no postscript"

    def wordings(self) -> tuple[str, ...]:
        return (
            f"At the end, add a postscript that begins with {self.postscript_marker}",
            f"Close with a postscript, marked {self.postscript_marker}",
        )

    def demands(self) -> Demands:
        return Demands(
            frozenset({"postscript", "end"}), literals=("P.S.",), words=(4, MANY), sentences=(2, MANY), english=True
        )

    @classmethod
    def draw(cls, draw: Draw) -> Postscript:
        return cls(postscript_marker=draw.rng.choice(("P.S.", "P.P.S")))


# ---- how it is written


class Upper(Kind):
    """English, all in capitals."""

    name = "change_case:english_capital"

    def broken(self, text: str) -> str:
        return ("" if language(text) == "en" else "not English") if text.isupper() else "not all in capitals"

    def wordings(self) -> tuple[str, ...]:
        return ("Write in English and in capital letters only.", "YOUR ANSWER MUST BE IN ENGLISH, ALL IN CAPITALS.")

    def demands(self) -> Demands:
        return Demands(frozenset({"case", "language"}), words=(8, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Upper:
        return cls()


class Lower(Kind):
    """English, without a capital letter."""

    name = "change_case:english_lowercase"

    def broken(self, text: str) -> str:
        return ("" if language(text) == "en" else "not English") if text.islower() else "not all in lower case"

    def wordings(self) -> tuple[str, ...]:
        return (
            "Write in English and in lower case only: no capital letters at all.",
            "your answer should be in english, without a single capital letter.",
        )

    def demands(self) -> Demands:
        return Demands(frozenset({"case", "language"}), words=(8, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> Lower:
        return cls()


class CapitalWords(Kind):
    """So many words all in capitals ("I" and "A" are such)."""

    name = "change_case:capital_word_frequency"
    capital_frequency: int = Field(ge=1)
    capital_relation: Relation

    def broken(self, text: str) -> str:
        count = sum(word.isupper() for word in words(text))
        return compare(count, self.capital_relation, self.capital_frequency, "words in capitals")

    def wordings(self) -> tuple[str, ...]:
        count = plural(self.capital_frequency, "word")
        return (
            f"Write {self.capital_relation} {count} all in CAPITALS.",
            f"Words in all capital letters should appear {self.capital_relation} {plural(self.capital_frequency, 'time')}.",
        )

    def demands(self) -> Demands:
        if self.capital_relation == "less than":
            return Demands(frozenset({"case"}))
        least = int(self.capital_frequency / MOST_CAPITALS)
        return Demands(frozenset({"case"}), words=(least, MANY), english=True)

    @classmethod
    def draw(cls, draw: Draw) -> CapitalWords:
        return cls(capital_frequency=draw.rng.randint(3, 6), capital_relation="at least")


class NoComma(Kind):
    """No comma."""

    name = "punctuation:no_comma"

    def broken(self, text: str) -> str:
        return "a comma" if "," in text else ""

    def wordings(self) -> tuple[str, ...]:
        return ("Do not use any commas.", "Your answer must not contain a comma.")

    def demands(self) -> Demands:
        return Demands(frozenset({"comma"}), no_characters=",")

    @classmethod
    def draw(cls, draw: Draw) -> NoComma:
        return cls()


class NoDigits(Kind):
    """No digit; numbers are spelt out."""

    name = "detectable_content:no_digits"

    def broken(self, text: str) -> str:
        digit = re.search(r"\d", text)
        return f"the digit {digit.group()}" if digit else ""

    def wordings(self) -> tuple[str, ...]:
        return ("Use no digits; spell numbers out.", "There must be no digit in the answer: write numbers as words.")

    def demands(self) -> Demands:
        return Demands(frozenset({"digits"}), no_characters="0123456789")

    @classmethod
    def draw(cls, draw: Draw) -> NoDigits:
        return cls()


class Exclamations(Kind):
    """At least so many exclamation marks, or none."""

    name = "punctuation:exclamation_marks"
    count: int = Field(ge=1)
    relation: Relation

    def broken(self, text: str) -> str:
        return compare(text.count("!"), self.relation, self.count, "exclamation marks")

    def wordings(self) -> tuple[str, ...]:
        marks = plural(self.count, "exclamation mark")
        return (f"Use {self.relation} {marks}.", f"The answer should contain {self.relation} {marks}.")

    def demands(self) -> Demands:
        least = (0, MANY) if self.relation == "less than" else (3 * self.count, MANY)
        return Demands(frozenset({"exclamations"}), words=least)

    @classmethod
    def draw(cls, draw: Draw) -> Exclamations:
        return cls(count=draw.rng.randint(2, 4), relation="at least")


class Language(Kind):
    """The text is in a language, by its ISO 639-1 code."""

    name = "language:response_language"
    language: str

    @field_validator("language")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in LANGUAGES:
            raise ValueError(f"should be one of {', '.join(LANGUAGES)}")
        return value

    def broken(self, text: str) -> str:
        found = language(text)
        return "" if found == self.language else f"language {found or 'unknown'}"

    def wordings(self) -> tuple[str, ...]:
        name = LANGUAGES[self.language]
        return (f"Write your whole answer in {name}.", f"Answer in {name} only; no other language is allowed.")

    def demands(self) -> Demands:
        english = self.language == "en"
        return Demands(frozenset({"language"}), words=(8, MANY), english=english, foreign=not english)

    @classmethod
    def draw(cls, draw: Draw) -> Language:
        return cls(language=draw.rng.choice(DRAWN))
