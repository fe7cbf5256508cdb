"""What a scorer opens: when the first value is wanted that the journal does not have, once, until the run's end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Literal

import pytest

from factory.errors import UserError
from factory.generators.base import Context
from factory.records import Frozen, Record, Score
from factory.resources import Resources
from tests.model_server import ModelServer, Reply
from tests.runs import kept, run, write_rows


class WeigherSettings(Frozen):
    broken: Literal["", "by the user", "by a bug"] = ""
    identity: str = "one"
    keep_from: float = 0.0


class Weigher:
    """Scores with something that takes a while to open."""

    Settings = WeigherSettings
    names = ("weight",)
    templates = ()
    uses_sandbox = False
    happened: list[str] = []  # noqa: RUF012

    def __init__(self, settings: WeigherSettings) -> None:
        self.settings, self.identity = settings, settings.identity

    def check(self, where: str) -> list[str]:
        return [f"{where}.keep_from: cannot be"] if self.settings.keep_from < 0 else []

    @contextlib.asynccontextmanager
    async def ready(self, resources: Resources) -> AsyncIterator[float]:
        self.happened.append("opening")
        await asyncio.sleep(0.02)
        if self.settings.broken == "by the user":
            raise UserError("weigher: no such file")
        assert not self.settings.broken
        assert resources.logs.name == "logs"
        try:
            yield 2.0
        finally:
            self.happened.append("closed")

    async def score(self, record: Record, context: Context) -> Mapping[str, Score]:
        async def weigh() -> float:
            factor: float = await context.opened(self)
            self.happened.append("weighed")
            return factor * len(record.messages[-1].content)

        value = await context.once("weight", [self.identity, record.messages[-1].content], weigh)
        return {"weight": Score(value=value)}


ADDED = ("+scorers.weigher.scorer=tests.scorers.test_ready.Weigher",)


@pytest.fixture
def happened(tmp_path: Path) -> list[str]:
    write_rows(tmp_path, 6)
    Weigher.happened.clear()
    return Weigher.happened


def answered() -> ModelServer:
    return ModelServer(lambda body: Reply(f"answer to {body['messages'][-1]['content']}"))


def test_it_is_opened_once_and_closed_and_a_second_run_opens_nothing(tmp_path: Path, happened: list[str]) -> None:
    with answered() as server:
        assert run(tmp_path, server, *ADDED).status == 0
        assert happened == ["opening", *["weighed"] * 6, "closed"]
        happened.clear()
        # Another rule decides anew, from the values that are there.
        assert run(tmp_path, server, *ADDED, "keep='weight > 1'").status == 0
        assert happened == []
        assert len(kept(tmp_path)) == 6
        # Another model under the same path is another scorer.
        assert run(tmp_path, server, *ADDED, "keep='weight > 1'", "scorers.weigher.identity=two").status == 0
        assert happened == ["opening", *["weighed"] * 6, "closed"]
        assert server.count == 6


@pytest.mark.parametrize(
    ("broken", "said"),
    [("by the user", "^weigher: no such file$"), ("by a bug", "^Weigher cannot be opened: AssertionError: ")],
)
def test_what_cannot_be_opened_stops_the_run(tmp_path: Path, happened: list[str], broken: str, said: str) -> None:
    """It loses no record: none can be scored without."""
    with answered() as server, pytest.raises(UserError, match=said):
        run(tmp_path, server, *ADDED, f"scorers.weigher.broken='{broken}'")
    assert happened == ["opening"]


def test_a_scorer_checks_its_settings_before_anything_starts(tmp_path: Path, happened: list[str]) -> None:
    with pytest.raises(UserError, match=r"^scorers.weigher.keep_from: cannot be$"):
        run(tmp_path, "http://127.0.0.1:9/v1", *ADDED, "scorers.weigher.keep_from=-1")
