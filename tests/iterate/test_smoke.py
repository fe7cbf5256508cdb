"""The whole loop for real: vLLM, TRL, the embedded model; killed in a stage that chance picks, and gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from factory.compose import compose_config
from factory.iterate.plan import checked_settings
from factory.iterate.stages import Plan

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "factory", "iterate", "recipe=smoke")


def state(folder: Path) -> dict[str, Any]:
    with contextlib.suppress(FileNotFoundError):
        found: dict[str, Any] = json.loads((folder / "state.json").read_text())["stages"]
        return found
    return {}


@pytest.mark.skipif("FACTORY_SMOKE" not in os.environ, reason="four minutes and more: make smoke")
@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_every_stage_of_a_loop_killed_on_the_way(tmp_path: Path) -> None:
    composed, problems = compose_config("iterate", ["recipe=smoke"])
    settings = checked_settings(composed, problems)
    assert problems == []
    assert settings is not None
    plan = Plan(settings)
    stages = [*plan.start(), *plan.round(0, 1), *plan.controls(0)]
    chance = random.Random()
    enough, seconds = chance.randrange(1, len(stages) - 1), chance.uniform(0, 6)
    print(f"killed {seconds:.1f} s after stage {enough} of {len(stages)}")
    folder, environment = tmp_path / "outputs/smoke", {**os.environ, "PYTHONPATH": str(ROOT)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(COMMAND, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while len(state(folder)) < enough and process.poll() is None:
            time.sleep(0.2)
        time.sleep(seconds)
        assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        before = state(folder)
        status = subprocess.run(COMMAND, cwd=tmp_path, env=environment, stdout=log, stderr=log, check=False).returncode
    assert status == 0, (tmp_path / "log").read_text()[-3000:]
    after = state(folder)
    assert set(after) == {stage.key for stage in stages}
    assert {key: after[key] for key in before} == before, "what was done is not done again"
    for name in ("reward", "sft", "dpo", "rpo-1", "merge", "control-seeds"):
        assert list((folder / "seed-0/round-1" / name / "model").glob("*.safetensors")), name
    results = json.loads((folder / "results.json").read_text())
    assert results["finished"]
    assert (folder / "report.html").stat().st_size > 10_000
    assert "FACTORY_ITERATE_KEY" not in (folder / "state.json").read_text()
