"""The solved examples that a generator shows to its model: what somebody wrote before any model did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from factory.errors import ConfigError
from factory.iterate.stages import Stage
from factory.records import Message


@runtime_checkable
class ShowsExamples(Protocol):
    """A generator that can tell its examples as conversations, in the form of its records."""

    def examples(self) -> Sequence[Sequence[Message]]: ...


def shown_examples(stage: Stage) -> list[Mapping[str, Any]]:
    """Rows with `messages`, for the control that is trained on them alone. Raises `ConfigError` where there are none."""
    from factory.compose import compose_config
    from factory.plan import make_plan

    generator = make_plan(*compose_config("generate", list(stage.words))).generator
    found = generator.examples() if isinstance(generator, ShowsExamples) else []
    if not found:
        raise ConfigError(
            f"recipe.controls: data=seeds wants solved examples, and task={generator.settings.name} shows none here; "
            "switch that control off with enabled=false"
        )
    return [{"messages": [message.model_dump() for message in conversation]} for conversation in found]
