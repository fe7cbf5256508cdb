"""Topic: what an instruction is about, coarse and fine, by a model or by a classifier on embeddings.

Both know the same taxonomy, a YAML file of coarse topic -> fine topic -> example instructions. The model chooses in two steps
and says how certain it is; the classifier learns from the examples when it is first needed, which takes a second or two
beside loading the embedding model, and leaves no file behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from factory.embedding import EmbeddingSettings
from factory.generators.base import Context
from factory.prompts import Templates
from factory.records import Record, Score
from factory.scorers.asking import AskingSettings, ask_about, instruction_of, object_schema, templates_of
from factory.scorers.topic_classifier import TopicClassifier
from factory.taxonomy import Taxonomy, load_examples, load_taxonomy

_NAME = "topic/choose"
_CONFIDENCE = {"low": 1 / 3, "medium": 2 / 3, "high": 1.0}


class TopicSettings(AskingSettings):
    """`taxonomy` and `examples` are files among the prompts, the user's own first. `examples` are rows of `text`, `coarse`
    and `fine` (YAML or JSONL) that the classifier learns from; null: those of the taxonomy. `regularisation` is the
    inverse strength (C) of its logistic regression."""

    by: Literal["model", "classifier"] = "model"
    taxonomy: str = "topic/taxonomy.yaml"
    examples: str | None = None
    embedding: EmbeddingSettings = EmbeddingSettings(model="minilm")
    regularisation: float = 10.0


class Topic:
    """One score, `topic`: how certain the choice is, from 0 to 1. `detail` holds `coarse` and `fine`."""

    uses_sandbox = False
    Settings = TopicSettings
    names = ("topic",)

    def __init__(self, settings: TopicSettings) -> None:
        """Raises `ConfigError` where a file is missing or wrong."""
        self.settings = settings
        templates = Templates()
        self.taxonomy: Taxonomy = load_taxonomy(templates, settings.taxonomy)
        files = [settings.taxonomy, *([settings.examples] if settings.examples else [])]
        self.templates = (*templates_of(_NAME), *files)
        self.classifier: TopicClassifier | None = None
        if settings.by == "classifier":
            examples = load_examples(templates, settings.examples, self.taxonomy)
            self.classifier = TopicClassifier(examples, settings.embedding, settings.regularisation)

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        instruction = instruction_of(record, self.settings.max_chars)
        if self.classifier is not None:
            value, detail = await self.classifier.classify(instruction)
            return {"topic": Score(value=value, detail={"by": "classifier", **detail})}
        coarse = await self._choose(
            instruction, "", {name: _examples(fine) for name, fine in self.taxonomy.items()}, context
        )
        fine = await self._choose(instruction, coarse["topic"], self.taxonomy[coarse["topic"]], context)
        confidence = min(_CONFIDENCE[coarse["confidence"]], _CONFIDENCE[fine["confidence"]])
        detail = {
            "by": "model",
            "coarse": coarse["topic"],
            "fine": fine["topic"],
            "says": str(fine["reason"] or coarse["reason"]),
        }
        return {"topic": Score(value=confidence, detail=detail)}

    async def _choose(
        self, instruction: str, within: str, choices: Mapping[str, Any], context: Context
    ) -> Mapping[str, Any]:
        if len(choices) == 1:
            return {"reason": "", "topic": next(iter(choices)), "confidence": "high"}
        schema = object_schema(
            reason={"type": "string"},
            topic={"type": "string", "enum": list(choices)},
            confidence={"type": "string", "enum": list(_CONFIDENCE)},
        )
        variables = {
            "instruction": instruction,
            "within": within,
            "choices": {name: few[:3] for name, few in choices.items()},
        }
        found: Mapping[str, Any] = await ask_about(context, _NAME, variables, schema, self.settings)
        return found


def _examples(fine: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The first example of each fine topic."""
    return tuple(examples[0] for examples in fine.values())
