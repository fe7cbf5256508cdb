"""The language and the script of an answer, against those expected."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

from factory.constraints.texts import languages
from factory.rules.settings import RulesSettings
from factory.rules.subject import INDENTED, Finding, Subject, without_code

_READ = 2000  # characters: enough to tell a language by
_LEAST = 60  # letters, below which it cannot be told; a sign of Chinese, Japanese or Korean weighs four
_CONFIDENT = 0.9  # of the prompt's language, where the answer's must be the same
# A prompt that names a language, or asks for a translation, may well be answered in another one.
_NAMES_LANGUAGE = re.compile(
    r"translat|übersetz|tradui|traduc|翻译|翻譯|перевед|\b(?:arabic|bengali|chinese|czech|danish|dutch|english|finnish|french|german|greek"
    r"|hebrew|hindi|hungarian|indonesian|italian|japanese|korean|latin|mandarin|norwegian|persian|polish|portuguese|romanian|russian|spanish"
    r"|swedish|tamil|thai|turkish|ukrainian|urdu|vietnamese|deutsch|englisch|französisch|spanisch|français|anglais|allemand|español|inglés)\b"
    r"|英语|英文|中文|汉语|日语|法语|德语",
    re.IGNORECASE,
)
# Languages so near that the detector takes one for the other.
_NEAR = ({"no", "da"}, {"hr", "sl"}, {"cs", "sk"}, {"mk", "bg"}, {"af", "nl"})

# The first word of a letter's Unicode name, and the script that it stands for.
_SCRIPTS = {
    "LATIN": "latin", "FULLWIDTH": "latin", "CYRILLIC": "cyrillic", "GREEK": "greek", "ARABIC": "arabic", "HEBREW": "hebrew",
    "DEVANAGARI": "devanagari", "BENGALI": "bengali", "TAMIL": "tamil", "TELUGU": "telugu", "THAI": "thai", "GEORGIAN": "georgian",
    "ARMENIAN": "armenian", "CJK": "han", "HIRAGANA": "kana", "KATAKANA": "kana", "HANGUL": "hangul",
}  # fmt: skip
_ALLOWED = {"japanese": {"han", "kana"}, "korean": {"hangul", "han"}}
_LEAST_LETTERS = 5


def expected_language(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """The answer's language as [code, probability]. It breaks the rule only where another one is certain: short, mixed
    and code-like texts pass."""
    wanted = bounds.language
    if wanted is None:
        return None
    found = told(subject.prose)
    if found is None:
        return Finding(None)
    if wanted == "same":
        prompt = None if _NAMES_LANGUAGE.search(subject.prompt) else told(without_code(subject.prompt))
        if prompt is None or prompt[1] < _CONFIDENT:
            return Finding(list(found))
        wanted = prompt[0]
    code, probability = found
    near = any({code, wanted} <= group for group in _NEAR)
    wrong = code != wanted and not near and probability >= bounds.language_confidence
    return Finding([code, probability], "wrong language" if wrong else "")


def told(text: str) -> tuple[str, float] | None:
    """(ISO 639-1 code, probability) of a text's likeliest language; None where it is too short to tell."""
    text = INDENTED.sub("", text)[:_READ]
    weight = sum((4 if script_of(sign) in ("han", "kana", "hangul") else 1) for sign in text if sign.isalpha())
    if weight < _LEAST:
        return None
    found = languages(text)
    return (found[0][0].partition("-")[0], round(found[0][1], 3)) if found else None


def expected_script(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """The share of each script among the prose's letters."""
    wanted = bounds.script
    if wanted is None:
        return None
    counts = scripts(subject.prose)
    letters = sum(counts.values())
    shares = {name: round(count / letters, 3) for name, count in counts.most_common()}
    if wanted == "same":
        before = scripts(without_code(subject.prompt))
        if _NAMES_LANGUAGE.search(subject.prompt) or sum(before.values()) < _LEAST_LETTERS:
            return Finding(shares)
        allowed = set(before)
    else:
        allowed = _ALLOWED.get(wanted, {wanted})
    other = sum(count for name, count in counts.items() if name not in allowed)
    wrong = letters >= _LEAST_LETTERS and other / letters > bounds.max_other_script
    return Finding(shares, "wrong script" if wrong else "")


def scripts(text: str) -> Counter[str]:
    """How many letters each script has; letters of mathematics, modifiers and the like have none."""
    return Counter(script for sign in text if (script := script_of(sign)))


@lru_cache(maxsize=65_536)
def script_of(sign: str) -> str:
    if not sign.isalpha() or unicodedata.category(sign) == "Lm":
        return ""
    first = unicodedata.name(sign, "").partition(" ")[0]
    return _SCRIPTS.get(
        first, "" if first in ("", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT", "BLACK-LETTER") else first.lower()
    )
