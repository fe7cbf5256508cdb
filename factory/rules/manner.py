"""Manner: emoji, exclamation marks, apologies. Counted always, since the counts are of use for a whole data set."""

from __future__ import annotations

import re

from factory.rules.settings import RulesSettings
from factory.rules.subject import Finding, Subject

# What is shown as a picture by itself (Unicode's Emoji_Presentation, from memory of the blocks), and two that mostly are.
# Arrows, check marks, stars of text, box drawing and enclosed digits are no emoji.
_PICTURE = (
    "[\u231a\u231b\u23e9-\u23ec\u23f0\u23f3\u25fd\u25fe\u2614\u2615\u2648-\u2653\u267f\u2693\u26a1\u26aa\u26ab\u26bd\u26be\u26c4\u26c5"
    "\u26ce\u26d4\u26ea\u26f2\u26f3\u26f5\u26fa\u26fd\u2705\u270a\u270b\u2728\u274c\u274e\u2753-\u2755\u2757\u2795-\u2797\u27b0\u27bf"
    "\u2b1b\u2b1c\u2b50\u2b55\u263a\u2764\U0001f004\U0001f0cf\U0001f18e\U0001f191-\U0001f19a\U0001f201\U0001f21a\U0001f22f"
    "\U0001f232-\U0001f23a\U0001f250\U0001f251\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f7e0-\U0001f7eb\U0001f90c-\U0001f9ff"
    "\U0001fa70-\U0001faff]"
)
_ONE = rf"(?:{_PICTURE}|[\u00a9\u00ae\u203c-\u3299](?=\ufe0f))\ufe0f?[\U0001f3fb-\U0001f3ff]?"
# Several pictures joined are one emoji; so are two letters of a flag, and a digit in a key.
_EMOJI = re.compile(rf"[\U0001f1e6-\U0001f1ff]{{2}}|[0-9#*]\ufe0f?\u20e3|{_ONE}(?:\u200d{_ONE})*")

# Not "!=", "![image]", "#!", and not a factorial: those follow or precede no sentence.
_EXCLAMATION = re.compile(r"(?<![\s!#<(\[{=])(?<!\b\w)(?<!\d)!+(?![=\[\w(])|(?<=\w[ \u00a0\u202f])!+(?=\s|$)|！+")

_VERY = r"(?:so |very |really |truly |terribly |deeply |sincerely |awfully |extremely )*"
_APOLOGY = re.compile(
    # Being sorry to hear of something, or for somebody's loss, is sympathy.
    rf"\b(?:i['’]?m|i am|we['’]re|we are) {_VERY}sorry\b(?! (?:to (?:hear|learn|see|read|say)|(?:for|about) (?:your|his|her|their|the) loss))"
    rf"|\b(?:i|we) (?:do |must )?{_VERY}apologi[sz]e\b"
    rf"|\b(?:my|our) {_VERY}(?:sincere |deepest |humble )?apologies\b|(?:^|[.!?]\s+|\n)(?:sorry|apologies)\b(?= (?:for|about|that)|[,.!])"
    r"|\b(?:es tut mir (?:sehr |wirklich )?leid|ich (?:bitte um entschuldigung|entschuldige mich))\b"
    r"|\bje (?:suis (?:vraiment |sincèrement )?désolée?|m['’]excuse)\b|\blo siento\b(?! por tu pérdida)|\bpido disculpas\b"
    r"|抱歉|对不起|對不起|申し訳(?:ありません|ございません)|ごめんなさい|죄송합니다",
    re.IGNORECASE,
)
# The prompt asks for words of this kind, in a letter or a scene.
REGRET_ASKED = re.compile(
    r"apolog|\bsorry\b|condolence|sympath|\bexcuse|regret|\bdeclin|\brefus|\breject|turn(?:ing|ed)? down|say(?:ing)? no\b|\bcancel|\bresign|\babsen"
    r"|entschuldig|absage|désolé|excuses|disculp|道歉|抱歉|对不起|お詫び|사과",
    re.IGNORECASE,
)


def emoji(subject: Subject, bounds: RulesSettings) -> Finding:
    count = len(_EMOJI.findall(subject.prose))
    many = bounds.max_emoji is not None and count > bounds.max_emoji
    return Finding(count, "too many emoji" if many else "")


def exclamations(subject: Subject, bounds: RulesSettings) -> Finding:
    """Exclamation marks in prose: of "!!!" each one counts, those of code and of factorials do not."""
    count = sum(len(marks) for marks in _EXCLAMATION.findall(subject.prose))
    many = bounds.max_exclamations is not None and count > bounds.max_exclamations
    return Finding(count, "too many exclamation marks" if many else "")


def apologies(subject: Subject, bounds: RulesSettings) -> Finding:
    """Apologies in the answer's own voice; the bound does not hold where the prompt asks for regrets."""
    count = len(_APOLOGY.findall(subject.spoken))
    many = bounds.max_apologies is not None and count > bounds.max_apologies
    return Finding(count, "too many apologies" if many and not REGRET_ASKED.search(subject.prompt) else "")
