"""The first command of the README, for real: a real engine, the embedded model, executed and verified data."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def passes(code: str, tests: list[str], folder: Path) -> bool:
    """Whether a plain interpreter, outside the project, runs the tests to their end."""
    script = folder / "check.py"
    script.write_text("\n".join([code, *tests, "print('all passed')"]))
    done = subprocess.run([sys.executable, "-I", str(script)], cwd=folder, capture_output=True, text=True, timeout=20)
    return done.returncode == 0 and done.stdout.endswith("all passed\n")


@pytest.mark.vllm
@pytest.mark.timeout(900)
def test_generate_code_with_the_embedded_model(tmp_path: Path) -> None:
    import datasets

    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "factory", "generate", "task=code", "n=3"]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    run = tmp_path / "outputs/code"
    data = datasets.load_dataset(str(run), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 3
    for row in data:
        meta = json.loads(row["meta"])
        name = re.search(r"def (\w+)\(", meta["solution"])
        assert name is not None
        assert passes(meta["solution"], meta["tests"], tmp_path)
        stub = re.sub(r"(def \w+\(.*?\).*?:\n).*", r"\1    return None\n", meta["solution"], flags=re.DOTALL)
        assert not passes(stub, meta["tests"], tmp_path)
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["kept"] == 3
    assert manifest["kept"] + sum(manifest["reasons"].values()) == manifest["records"]
    # The same command again: nothing is asked, no engine is started.
    again = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert json.loads((run / "manifest.json").read_text())["requests"] == manifest["requests"]
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path) not in listing
    assert "vllm.entrypoints" not in listing
