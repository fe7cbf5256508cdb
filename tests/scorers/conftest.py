from __future__ import annotations

from pathlib import Path

import pytest

from tests.scorers.reward_models import FIVE, make_reward_model


@pytest.fixture(scope="session")
def scalar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward model of one output."""
    return make_reward_model(tmp_path_factory.mktemp("scalar"))


@pytest.fixture(scope="session")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of HelpSteer2's five attributes."""
    return make_reward_model(tmp_path_factory.mktemp("graded"), 5, names=FIVE, seed=1)
