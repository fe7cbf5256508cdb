"""The documentation does what it says: its files are written, its commands are run."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from factory.cli import COMMANDS
from factory.compose import compose_config
from tests.model_server import ModelServer, Reply

ROOT = Path(__file__).parent.parent
FILE = re.compile(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_plugging_in_from_its_own_page(tmp_path: Path) -> None:
    page = (ROOT / "docs/plugging-in.md").read_text()
    files = FILE.findall(page)
    assert len(files) == 7
    for name, text in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    commands = [shlex.split(command) for command in CONSOLE.findall(page)]
    assert len(commands) == 3

    def answer(body: dict[str, object]) -> Reply:
        thing = "snow" if "snow" in str(body) else "ink"
        said = "I am snow, white and cold." if thing == "snow" else "I am black and I speak."
        return Reply(f"<riddle>{said}</riddle>\n<answer>{thing.title()}.</answer>")

    with ModelServer(answer) as server:
        asked = []
        for _, _, _, *words in commands:
            local = [f"engine.base_url={server.url}", "engine=openai", "model=custom", "model.path=m"]
            done = subprocess.run([sys.executable, "-m", "factory", *words, *local], cwd=tmp_path, capture_output=True,
                                  text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
            assert done.returncode == 0, done.stderr
            asked.append(server.count)
    assert asked == [2, 2, 6], "the second command asks nothing, the third twice for each row"
    manifests = {
        task: json.loads((tmp_path / f"outputs/{task}/manifest.json").read_text()) for task in ("riddle", "best")
    }
    assert manifests["riddle"]["kept"] == 1
    assert manifests["riddle"]["reasons"] == {"secret: names its answer": 1}
    assert manifests["best"]["kept"] == 2
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "outputs/riddle/data")["thing"].to_pylist() == ["ink"]
    assert pyarrow.parquet.read_table(tmp_path / "outputs/best/data")["tone"].to_pylist() == ["solemn", "cheerful"]
    exported = subprocess.run([sys.executable, "-m", "factory", "export", "run=best"], cwd=tmp_path, capture_output=True,
                              text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert exported.returncode == 0, exported.stderr
    assert "thing" in pyarrow.parquet.read_table(tmp_path / "outputs/best/export/sft/part-00000.parquet").column_names


def commands_of(page: Path) -> list[list[str]]:
    lines = re.findall(r"python -m factory +([^`\n#|]*)", page.read_text().replace("\\\n", " "))
    return [words for line in lines if (words := shlex.split(line.strip().rstrip(".,;:)"))) and words[0].islower()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_documentation_is_one(page: Path) -> None:
    for command, *words in commands_of(page):
        assert command in COMMANDS, f"{page.name}: {command}"
        keys = [word for word in words if "=" in word and not word.startswith(("-", "+"))]
        if (
            command in ("generate", "export", "evaluate")
            and "--multirun" not in words
            and not {"task=riddle", "task=best", "task=mine"} & set(keys)
        ):
            _, problems = compose_config(command, [key for key in keys if "..." not in key])
            assert problems == [], f"{page.name}: {command} {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_in_the_documentation_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
