"""Rules: cheap checks of an answer's text, each a function of a few lines with a name, in files by what they look at.

A rule measures, and says whether a configured bound is broken. It reads the text and nothing else, in time that grows
with its length and no faster, and never raises: what it reads was written by a model.
"""

from __future__ import annotations

from collections.abc import Mapping

from factory.rules.language import expected_language, expected_script
from factory.rules.length import too_long, too_short, unfinished
from factory.rules.manner import apologies, emoji, exclamations
from factory.rules.private import personal_data
from factory.rules.repetition import compression, ngrams, same_line
from factory.rules.settings import RulesSettings
from factory.rules.subject import Finding, Rule, Subject
from factory.rules.voice import refusal, self_identification

# In the order in which a reason names them. The names are those of what they measure, in a score's detail.
RULES: Mapping[str, Rule] = {
    "chars": too_short,
    "chars_most": too_long,
    "refusal": refusal,
    "self_identification": self_identification,
    "exclamations": exclamations,
    "emoji": emoji,
    "apologies": apologies,
    "compression": compression,
    "line_share": same_line,
    "ngram_share": ngrams,
    "unfinished": unfinished,
    "language": expected_language,
    "script": expected_script,
    "personal_data": personal_data,
}

__all__ = ["RULES", "Finding", "Rule", "RulesSettings", "Subject"]
