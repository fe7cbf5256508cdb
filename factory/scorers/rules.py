"""Rules: cheap checks of an answer's text. 1 where it passes them all; else 0, with the rule that it breaks."""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping

from pydantic import Field

from factory.generators.base import Context
from factory.records import Frozen, Record, Score

_REFUSAL = re.compile(
    r"^\W*(i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|as an ai\b|i can(?:no|['’])t (?:help|assist|do|provide|fulfil)|"
    r"i(?: a|['’])m (?:not able|unable) to|i will not)",
    re.IGNORECASE,
)


class RulesSettings(Frozen):
    """Bounds on the last assistant message. Shares are of characters; a bound of null is not checked."""

    min_chars: int | None = Field(1, ge=0)
    max_chars: int | None = Field(None, ge=1)
    max_emoji: int | None = Field(None, ge=0)
    max_exclamations: int | None = Field(None, ge=0)
    max_repetition: float | None = Field(None, gt=0)  # text length over its deflated length; prose is near 2
    max_line_share: float | None = Field(None, gt=0, le=1)  # of the lines, the most frequent one
    refusals: bool = True  # an answer that begins by refusing breaks the rule
    unfinished: bool = False  # prose that does not end a sentence breaks the rule


class Rules:
    """Reads nothing but the text, so it costs nothing."""

    uses_sandbox = False
    Settings = RulesSettings
    names = ("rules",)
    templates: tuple[str, ...] = ()

    def __init__(self, settings: RulesSettings) -> None:
        self.settings = settings

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        text = next((message.content for message in reversed(record.messages) if message.role == "assistant"), "")
        broken = self._broken(text)
        return {"rules": Score(value=0.0 if broken else 1.0, reason=broken)}

    def _broken(self, text: str) -> str:
        """The first rule that the text breaks, or nothing."""
        bounds, length = self.settings, len(text.strip())
        if bounds.min_chars is not None and length < bounds.min_chars:
            return "too short"
        if bounds.max_chars is not None and length > bounds.max_chars:
            return "too long"
        if bounds.refusals and _REFUSAL.search(text[:200]):
            return "refusal"
        if bounds.max_exclamations is not None and text.count("!") > bounds.max_exclamations:
            return "too many exclamation marks"
        if bounds.max_emoji is not None and sum(map(_is_emoji, text)) > bounds.max_emoji:
            return "too many emoji"
        if bounds.max_repetition is not None and length > 200:
            data = text.encode()
            if len(data) / len(zlib.compress(data)) > bounds.max_repetition:
                return "repetitive"
        if bounds.max_line_share is not None:
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if len(lines) > 4 and max(map(lines.count, set(lines))) / len(lines) > bounds.max_line_share:
                return "repeats a line"
        if bounds.unfinished and length and unicodedata.category(text.rstrip()[-1])[0] == "L":
            return "unfinished"
        return ""


def _is_emoji(character: str) -> bool:
    return unicodedata.category(character) == "So" and ord(character) > 0x2190
