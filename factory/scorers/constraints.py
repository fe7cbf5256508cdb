"""Constraints: verified by code, whatever the model believes it wrote (IFEval, Zhou et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

from factory.constraints import check
from factory.errors import ScorerError
from factory.generators.base import Context
from factory.records import Frozen, Record, Score


class ConstraintsSettings(Frozen):
    """`loose`: an introduction, a last line and asterisks are forgiven, as in IFEval's loose accuracy."""

    loose: bool = False


class Constraints:
    """Needs `meta` with `constraints` (a list of {"id", "kwargs"}), and may have `scope`: "last", the last answer
    keeps them, or "all", every answer does.

    One score, `constraints`: the share that was kept, so 1 where all were.
    """

    uses_sandbox = False
    Settings = ConstraintsSettings
    names = ("constraints",)
    templates: tuple[str, ...] = ()

    def __init__(self, settings: ConstraintsSettings) -> None:
        self.settings = settings

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        constraints = record.meta.get("constraints")
        if not constraints:
            raise ScorerError("the record's meta holds no constraints; see docs/constraints.md for their form")
        answers = [message.content for message in record.messages if message.role == "assistant"]
        if not answers:
            raise ScorerError("the record holds no answer")
        asked = answers if record.meta.get("scope") == "all" else answers[-1:]
        try:
            verdicts = [check(answer, constraints, loose=self.settings.loose) for answer in asked]
        except ValueError as error:
            raise ScorerError(f"the record's constraints: {error}") from error
        flat = [verdict for turn in verdicts for verdict in turn]
        broken = [verdict for verdict in flat if not verdict.kept]
        reason = broken[0].id if broken else ""
        detail = {"verdicts": [[verdict.model_dump(exclude_defaults=True) for verdict in turn] for turn in verdicts]}
        return {"constraints": Score(value=1 - len(broken) / len(flat), reason=reason, detail=detail)}
