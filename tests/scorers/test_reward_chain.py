"""From `train stage=reward` to scores: the folder it writes is all that the scorer needs."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl", reason="the extra train is not installed")

from tests.scorers.reward_models import bare_outputs
from tests.scorers.test_reward import A, opinions, scored, turns
from tests.training.runs import manifest, trained
from tests.training.test_data import ATTRIBUTES, graded_rows
from tests.training.tiny import make_model, write_rows


def test_a_model_trained_on_attributes_brings_its_names_and_weights(tmp_path: Path) -> None:
    tiny = make_model(tmp_path / "tiny")
    data = str(write_rows(tmp_path / "graded.jsonl", graded_rows(16)))
    out = trained("reward", tiny, tmp_path / "training", data=data, stage={"attributes": ATTRIBUTES})
    assert list(ATTRIBUTES) == ["helpfulness", "correctness"]
    for place in ("beside its manifest", "alone"):
        folder = out / "model" if place != "alone" else (out / "model").rename(tmp_path / "alone")
        (tmp_path / place).mkdir(exist_ok=True)
        for record in scored(tmp_path / place, f"{A}.path='{folder}'", count=4):
            bare = bare_outputs(folder, turns(record))
            wanted = sum(weight * value for weight, value in zip(ATTRIBUTES.values(), bare, strict=True))
            assert record.scores["reward"].value == pytest.approx(wanted, abs=1e-3)
            assert list(opinions(record)["a"]["attributes"]) == list(ATTRIBUTES)


def test_a_model_trained_on_pairs_is_normalised_by_what_it_held_out(tmp_path: Path) -> None:
    tiny = make_model(tmp_path / "tiny")
    out = trained("reward", tiny, tmp_path / "training", eval={"share": 0.25})
    held = manifest(out)["held_out"]
    for record in scored(tmp_path, f"{A}.path={out}/model", f"{A}.normalise=held_out", count=4):
        raw = bare_outputs(out / "model", turns(record))[0]
        wanted = (raw - held["eval_reward_mean"]) / held["eval_reward_std"]
        assert record.scores["reward"].value == pytest.approx(wanted, abs=1e-3)
