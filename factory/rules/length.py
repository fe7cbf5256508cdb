"""Too short, too long, or cut off in the middle."""

from __future__ import annotations

import re
import unicodedata

from factory.rules.settings import RulesSettings
from factory.rules.subject import INDENTED, Finding, Subject

_FENCE = re.compile(r"^[ \t]*(```|~~~)", re.MULTILINE)
# Lines that end as they like: a list's item, a heading, a table's row, a quotation, a formula, a link, a key and value.
_LOOSE = re.compile(r"\s*(?:[-*+•–—#>|$\\]|\(?\w{1,3}[.):]\s|\*\*|https?://|[\w ]{1,30}:\s)")
# Words that no English sentence ends with.
_LEADS_ON = re.compile(
    r"(?:^|[^\w'’])(?:and|or|the|an?|of|with|because|such as|including|for example|e\.g\.|than|from|into|their|its|whose|although"
    r"|which|to the|in the|is a|are the)$",
    re.IGNORECASE,
)
_CLOSERS = "*_~\"'”’»)」』` \t"
_WORDS = 6  # a last line of fewer is a name, a title or a short answer
_CJK_SIGNS = 15


def too_short(subject: Subject, bounds: RulesSettings) -> Finding:
    length = len(subject.text.strip())
    short = bounds.min_chars is not None and length < bounds.min_chars
    return Finding(length, "too short" if short else "")


def too_long(subject: Subject, bounds: RulesSettings) -> Finding | None:
    if bounds.max_chars is None or len(subject.text.strip()) <= bounds.max_chars:
        return None  # the length is told by `too_short`
    return Finding(bounds.max_chars, "too long")


def unfinished(subject: Subject, bounds: RulesSettings) -> Finding | None:
    if not bounds.unfinished:
        return None
    found = stops_in_the_middle(subject.text)
    return Finding(found, "unfinished" if found else "")


def stops_in_the_middle(text: str) -> bool:
    """Whether a text looks cut off: an open code fence, a word that leads on, or prose without an end of sentence.

    Where most other lines end without one, too (verse, lists, code without fences), that is the text's manner.
    """
    if len(_FENCE.findall(text)) % 2:
        return True
    written = [line for line in text.splitlines() if line.strip()]
    lines = [line.strip() for line in written]
    if not lines or _FENCE.match(lines[-1]) or INDENTED.match(written[-1]):
        return False
    last = lines[-1].rstrip(_CLOSERS)
    if not last:
        return False
    if _LEADS_ON.search(last):
        return len(lines) > 1 or len(last.split()) >= _WORDS
    category = unicodedata.category(last[-1])
    if last[-1] == "," or category in ("Ps", "Pi"):  # an opening bracket or quotation mark
        return len(last.split()) > 3  # "Kind regards,"
    if category[0] not in "LM" or _LOOSE.match(lines[-1]) or not _is_prose(last):
        return False
    open_ended = [line for line in lines[:-1] if _ends_open(line)]
    return len(lines) < 3 or len(open_ended) * 2 < len(lines) - 1


def _is_prose(line: str) -> bool:
    words = len(line.split())
    signs = sum(unicodedata.category(sign) == "Lo" for sign in line)
    return words >= _WORDS or signs >= _CJK_SIGNS


def _ends_open(line: str) -> bool:
    kept = line.rstrip(_CLOSERS)
    return not kept or kept[-1] not in ".!?:;…。！？：；．।؟"
