"""The shape of an export's configuration. The values, with their comments, are in `conf/export.yaml`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from factory.decontamination import DecontaminationSettings
from factory.duplicates import ExactSettings, MinHashSettings, SemanticSettings
from factory.embedding import EmbeddingSettings
from factory.errors import near
from factory.records import Frozen
from factory.tags import TagSettings

Decider = Literal["verifier", "reward", "pairwise", "keep"]


class PairSettings(Frozen):
    """What makes one answer better than another."""

    decide: tuple[Decider, ...]
    verifiers: tuple[str, ...]
    max_length_ratio: Annotated[float, Field(ge=1)] | None
    levels: tuple[Annotated[float, Field(ge=0)], ...]
    min_level: int = Field(ge=0)

    @field_validator("levels")
    @classmethod
    def _ascending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("should be gaps in ascending order, as [0.5, 1, 2]")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> PairSettings:
        if self.min_level > len(self.levels):
            raise ValueError(
                f"min_level={self.min_level} is above the highest level, {len(self.levels)}: levels={list(self.levels)}"
            )
        return self


class RankingSettings(Frozen):
    """What a row of `format=reward` says of its responses."""

    write: Literal["rewards", "ranks", "attributes"]
    attributes: tuple[str, ...] | None
    max_responses: int = Field(ge=2)


class MixtureSettings(Frozen):
    """Shares of the parts that `by` tells apart."""

    by: str = Field(min_length=1)
    weights: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    max_repeats: int = Field(ge=1)

    @field_validator("weights")
    @classmethod
    def _some(cls, value: Mapping[str, float]) -> Mapping[str, float]:
        if value and not any(value.values()):
            raise ValueError("should hold at least one weight above 0, or none at all")
        return value


class MapSettings(Frozen):
    """A picture in the report: sampled rows by what they are about."""

    draw: bool
    most: int = Field(ge=2, le=5_000)
    layout: Literal["pca", "tsne"]


class ExactStep(ExactSettings):
    enabled: bool


class MinHashStep(MinHashSettings):
    enabled: bool


class SemanticStep(SemanticSettings):
    enabled: bool


class DuplicateSettings(Frozen):
    """Which steps look for rows that are there twice, and in what."""

    of: Literal["conversation", "prompt", "answer"] | None
    exact: ExactStep
    minhash: MinHashStep
    semantic: SemanticStep


class DecontaminationStep(DecontaminationSettings):
    """Whether rows that hold a problem of an evaluation set are dropped, and by what evidence."""

    enabled: bool
    by_meaning: bool


class TagStep(TagSettings):
    """Whether tags are brought to few names, and how."""

    normalise: bool


class ExportSettings(Frozen):
    """`python -m factory export`."""

    run: str | tuple[str, ...]
    out: str | tuple[str, ...] | None
    format: Literal["sft", "preference", "reward"]
    to: str | None
    seed: int
    keep: str | None
    order: str | None
    reward: str | None
    per_group: Annotated[int, Field(ge=1)] | None
    max_pairs: int = Field(ge=1)
    min_gap: float = Field(ge=0)
    pairs: PairSettings
    ranking: RankingSettings
    duplicates: DuplicateSettings
    decontamination: DecontaminationStep
    tags: TagStep
    embedding: EmbeddingSettings
    held_out: float = Field(ge=0, lt=1)
    mixture: MixtureSettings
    rows: Annotated[int, Field(ge=1)] | None
    tokens: Annotated[int, Field(ge=1)] | None
    tokenizer: str | None
    map: MapSettings
    push_to_hub: str | None
    private: bool

    @field_validator("run", "out")
    @classmethod
    def _names_some(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        if value is not None and not (value and all(value)):
            raise ValueError("names no run; write a name, or several as [a, b]")
        if isinstance(value, tuple) and len(set(value)) < len(value):
            raise ValueError("names a run twice")
        return value

    @field_validator("push_to_hub")
    @classmethod
    def _is_repository(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            raise ValueError("should be owner/name, the data set's name on the hub")
        return value

    @property
    def folders(self) -> tuple[Path, ...]:
        """The runs' folders."""
        if self.out is not None:
            return tuple(Path(out) for out in ([self.out] if isinstance(self.out, str) else self.out))
        return tuple(Path("outputs") / run for run in ([self.run] if isinstance(self.run, str) else self.run))

    @property
    def target(self) -> Path:
        """Where the export goes."""
        if self.to is not None:
            return Path(self.to)
        folders = self.folders
        if len(folders) == 1:
            return folders[0] / "export" / self.format
        return folders[0].with_name("+".join(folder.name for folder in folders)) / "export" / self.format

    def lacking(self) -> list[str]:
        """What these settings need beside each other, and what does nothing where it stands."""
        problems = []
        if self.per_group is not None and self.format != "sft":
            problems.append(f"per_group={self.per_group}: is for format=sft; max_pairs bounds the pairs of a prompt")
        if self.format == "preference" and not self.pairs.decide:
            problems.append("pairs.decide=[]: nobody decides; name verifier, reward, pairwise or keep")
        if self.rows is not None and self.tokens is not None:
            problems.append(f"rows={self.rows} and tokens={self.tokens}: give one of them, the other follows")
        if self.tokenizer is not None and self.tokens is None:
            problems.append(
                f"tokenizer={self.tokenizer}: counts the budget of tokens, and there is none: give tokens=N"
            )
        if self.format == "reward" and self.ranking.write != "attributes" and self.ranking.attributes is not None:
            problems.append(
                f"ranking.attributes={list(self.ranking.attributes)}: are written with ranking.write=attributes"
            )
        if self.mixture.max_repeats > 1 and not (self.mixture.weights or self.rows or self.tokens):
            problems.append(
                f"mixture.max_repeats={self.mixture.max_repeats}: repeats rows to reach weights or a budget; give "
                "mixture.weights, rows or tokens"
            )
        return problems


def one_of(key: str, value: str, names: set[str], kind: str) -> str:
    """What to say of a name that is not there."""
    return f"{key}={value}: no such {kind}{near(value, names)} (there is {', '.join(sorted(names)) or 'none'})"
