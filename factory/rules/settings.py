"""The bounds of the rules."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from factory.records import Frozen

Script = Literal[
    "latin", "cyrillic", "greek", "arabic", "hebrew", "devanagari", "bengali", "tamil", "telugu", "thai", "georgian",
    "armenian", "han", "japanese", "korean",
]  # fmt: skip
Personal = Literal["email", "phone", "card", "ip", "iban", "secret"]


class RulesSettings(Frozen):
    """Bounds on the last assistant message; what is null, false or empty is not checked."""

    min_chars: int | None = Field(1, ge=0)
    max_chars: int | None = Field(None, ge=1)
    max_emoji: int | None = Field(None, ge=0)
    max_exclamations: int | None = Field(None, ge=0)
    max_apologies: int | None = Field(None, ge=0)
    max_repetition: float | None = Field(None, gt=0)  # text length over its deflated length; prose is near 2
    max_line_share: float | None = Field(None, gt=0, le=1)  # of the lines, the most frequent one
    max_ngram_share: float | None = Field(
        None, ge=0, le=1
    )  # of the runs of `ngram` words, those that were there before
    ngram: int = Field(5, ge=1)
    refusals: bool = True  # an answer that begins by refusing breaks the rule
    self_identification: bool = False
    unfinished: bool = False  # an answer that stops in the middle breaks the rule
    language: str | None = None  # an ISO 639-1 code, or "same" as the prompt's
    language_confidence: float = Field(0.9, gt=0.5, le=1)  # how sure the other language must be
    script: Script | Literal["same"] | None = None
    max_other_script: float = Field(0.1, ge=0, lt=1)  # of the letters, those of other scripts
    personal_data: tuple[Personal, ...] = ()
    phone_region: str | None = "US"  # whose numbers are known without "+"; null: none

    @field_validator("language")
    @classmethod
    def _is_known(cls, value: str | None) -> str | None:
        if value in (None, "same"):
            return value
        import langdetect.detector_factory

        factory = langdetect.detector_factory
        factory.init_factory()
        known = sorted({code.partition("-")[0] for code in factory._factory.get_lang_list()})
        if not re.fullmatch(r"[a-z]{2}", str(value)) or value not in known:
            raise ValueError(f"is no language that can be told: use same, or one of {', '.join(known)}")
        return value

    @field_validator("phone_region")
    @classmethod
    def _is_region(cls, value: str | None) -> str | None:
        if value is None:
            return value
        import phonenumbers

        if value not in phonenumbers.SUPPORTED_REGIONS:
            raise ValueError("is no region with telephone numbers: use two capital letters of ISO 3166, as US, or null")
        return value
