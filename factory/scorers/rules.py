"""Rules: cheap checks of an answer's text. 1 where it passes them all; else 0, with the rules that it breaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.generators.base import Context
from factory.records import Record, Score
from factory.rules import RULES, RulesSettings, Subject


class Rules:
    """Reads nothing but the last answer and the prompt before it, so it costs nothing.

    One score, `rules`. The reason names every rule that is broken; the detail holds the names as `broken`, and as
    `measured` what each rule that was asked for saw, with the counts that cost nothing.
    """

    uses_sandbox = False
    Settings = RulesSettings
    names = ("rules",)
    templates: tuple[str, ...] = ()

    def __init__(self, settings: RulesSettings) -> None:
        self.settings = settings

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        return {"rules": judged(Subject(*last_exchange(record)), self.settings)}


def judged(subject: Subject, settings: RulesSettings) -> Score:
    measured: dict[str, Any] = {}
    broken = []
    for name, rule in RULES.items():
        finding = rule(subject, settings)
        if finding is not None:
            measured[name] = finding.measured
            broken += [finding.broken] if finding.broken else []
    return Score(value=float(not broken), reason=", ".join(broken), detail={"broken": broken, "measured": measured})


def last_exchange(record: Record) -> tuple[str, str]:
    """The last answer and the user's message before it; empty where there is none."""
    answer, prompt, asked = "", "", ""
    for message in record.messages:
        if message.role == "user":
            asked = message.content
        elif message.role == "assistant":
            answer, prompt = message.content, asked
    return answer, prompt
