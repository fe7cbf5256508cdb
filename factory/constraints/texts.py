"""What a text consists of, as a reader counts it: words, sentences, paragraphs, bullets, and the language it is in.

Every pattern here takes time linear in the text: an answer comes from a model and may be anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# An apostrophe or a hyphen inside keeps a word together: "don't" and "well-known" are one each.
_WORD = re.compile(r"\w+(?:['’-]\w+)*")
_CANDIDATE = re.compile(r"[.!?…]+[\"'”’)\]*_]*(?=\s|$)|[。！？]+[”’」]*")
# After these a full stop ends no sentence.
_ABBREVIATIONS = frozenset(
    ("mr", "mrs", "ms", "dr", "prof", "st", "jr", "sr", "vs", "etc", "e.g", "i.e", "cf", "al", "fig", "no", "vol",
     "approx", "inc", "ltd", "co", "dept", "est", "u.s", "u.k", "a.m", "p.m", "p.s", "p.p.s")
)  # fmt: skip
_LAST_WORD = re.compile(r"(\S+)$")
_CAPITAL_NEXT = re.compile(r"\s*[\"'“‘(\[*_]*[^\W\d_a-z]")
_ITEM = re.compile(r"\s*(?:[-*•#|]|\d{1,4}[.)])")
_LIST_MARK = re.compile(r"(?:^|\n)\s*\d+$")
BULLET = re.compile(r"^[ \t]*[*-][ \t]+\S", re.MULTILINE)
NUMBERED = re.compile(r"^[ \t]*(\d+)[.)][ \t]+\S", re.MULTILINE)
# *so* or **so**, within a line; an asterisk before a blank is a bullet.
HIGHLIGHT = re.compile(r"\*{1,3}(?=[^\s*])[^*\n]*\*{1,3}")


def words(text: str) -> list[str]:
    return _WORD.findall(text)


def has_word(text: str, word: str) -> int:
    """How often a word, or a phrase, stands in the text by itself, whatever its case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


def sentences(text: str) -> list[str]:
    """The sentences of a text; a paragraph and a list item end one, an abbreviation or a decimal point does not."""
    found = [sentence for block in _blocks(text) for sentence in _split(block)]
    return [sentence for sentence in found if any(map(str.isalnum, sentence))]


def _blocks(text: str) -> Iterator[str]:
    """Paragraphs; a list's item, a heading and a row of a table are one each."""
    lines: list[str] = []
    for line in text.split("\n"):
        item = _ITEM.match(line)
        if lines and (item or not line.strip()):
            yield "\n".join(lines)
            lines = []
        if item:
            yield line
        elif line.strip():
            lines.append(line)
    yield "\n".join(lines)


def _split(block: str) -> Iterator[str]:
    start = 0
    for mark in _CANDIDATE.finditer(block):
        before = block[max(start, mark.start() - 40) : mark.start()]
        if not mark.group().startswith(".") or _ends(before, block, mark):
            yield block[start : mark.end()].strip()
            start = mark.end()
    yield block[start:].strip()


def _ends(before: str, text: str, mark: re.Match[str]) -> bool:
    """Whether a full stop after `before` ends a sentence."""
    if _LIST_MARK.search(before):
        return False  # the number of a list's item
    last = _LAST_WORD.search(before)
    word = last.group(1).lstrip("\"'“‘([*_").lower() if last else ""
    if word in _ABBREVIATIONS or (len(word) == 1 and word.isalpha() and word != "i"):
        # "Smith et al. found" goes on; "at 5 p.m. The next" does not. A title is always before a capital.
        return word in ("etc", "a.m", "p.m", "inc", "ltd", "u.s", "u.k") and bool(_CAPITAL_NEXT.match(text, mark.end()))
    return True


def paragraphs(text: str) -> list[str]:
    """What blank lines separate."""
    return [part.strip() for part in re.split(r"\n[ \t]*\n", text) if part.strip()]


def highlights(text: str) -> int:
    return sum(1 for found in HIGHLIGHT.findall(text) if found.strip("* "))


def language(text: str) -> str | None:
    """The ISO 639-1 code of the text's language ("zh-cn" and "zh-tw" for Chinese); None where none can be told."""
    found = languages(text)
    return found[0][0] if found else None


def languages(text: str) -> list[tuple[str, float]]:
    """The languages that the text may be in with their probabilities, the likeliest first; none where none can be told."""
    import langdetect

    langdetect.DetectorFactory.seed = 0  # it draws at random
    try:
        # Its profiles are of ordinary text; a text in capitals looks German to it.
        found = langdetect.detect_langs(text.lower() if text.isupper() else text)
    except langdetect.LangDetectException:
        return []
    return [(str(entry.lang), float(entry.prob)) for entry in found]
