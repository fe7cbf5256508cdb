from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the extra train is not installed")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.training.tiny import make_model

    return make_model(tmp_path_factory.mktemp("tiny"))
