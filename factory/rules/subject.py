"""What a rule looks at, and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from factory.rules.settings import RulesSettings

_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)", re.DOTALL | re.MULTILINE)
INDENTED = re.compile(r"^(?: {4}|\t).*$", re.MULTILINE)  # code, or a paragraph within a list
_INLINE = re.compile(r"`[^`\n]{1,300}`")
# Somebody else's words: between quotation marks on one line, and lines that are quoted as in a letter.
_QUOTED = re.compile(r"\"[^\"\n]{1,400}\"|“[^”\n]{1,400}”|„[^“”\n]{1,400}[“”]|«[^»\n]{1,400}»|「[^」\n]{1,400}」|^[ \t]*>.*$", re.MULTILINE)  # fmt: skip
_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
# A sign of Chinese, Japanese or Korean is a word; elsewhere a run of letters and digits is.
_WORD = re.compile(rf"[{_CJK}]|[^\W_{_CJK}]+")


class Finding(NamedTuple):
    """`measured` is JSON, for the score's detail; `broken` names the rule where the text breaks it, else it is empty."""

    measured: Any
    broken: str = ""


class Subject:
    """An answer and the prompt that it answers; both may be empty.

    `prose` is the answer without code, in fences or between backquotes; `spoken` is that without quotations.
    """

    def __init__(self, text: str, prompt: str = "") -> None:
        self.text, self.prompt = text, prompt

    @cached_property
    def prose(self) -> str:
        return without_code(self.text)

    @cached_property
    def spoken(self) -> str:
        return _QUOTED.sub(" … ", self.prose)

    @cached_property
    def words(self) -> list[str]:
        """Of the prose, in lower case."""
        return _WORD.findall(self.prose.lower())


def without_code(text: str) -> str:
    return _INLINE.sub(" ", _FENCED.sub("\n", text))


# None: the rule is not asked for, and measuring for the detail's sake alone would cost too much.
Rule = Callable[[Subject, "RulesSettings"], Finding | None]
