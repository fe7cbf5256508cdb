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
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def follow(page: Path, folder: Path, code: Path) -> tuple[list[int], dict[str, dict[str, object]]]:
    """Do in `folder` what the page about plugging in says, with the package in `code`: (requests so far after each command,
    the manifests)."""
    files, commands = FILE.findall(page.read_text()), [shlex.split(line) for line in CONSOLE.findall(page.read_text())]
    assert len(files) == 7
    assert len(commands) == 3
    for name, text in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def answer(body: dict[str, object]) -> Reply:
        thing = "snow" if "snow" in str(body).lower() else "ink"
        said = "I am snow, white and cold." if thing == "snow" else "I am black and I speak."
        return Reply(f"<riddle>{said}</riddle>\n<answer>{thing.title()}.</answer>")

    with ModelServer(answer) as server:
        asked = []
        for _, _, _, *words in commands:
            local = [f"engine.base_url={server.url}", "engine=openai", "model=custom", "model.path=m"]
            done = subprocess.run([sys.executable, "-m", "factory", *words, *local], cwd=folder, capture_output=True,
                                  text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(code)})  # fmt: skip
            assert done.returncode == 0, done.stderr
            asked.append(server.count)
        hints = [str(body["messages"][-1]["content"]) for body in server.bodies if len(body["messages"]) == 3]
    assert sorted(hints) == [
        f"Now give a hint for whoever cannot guess it. Do not name the {thing}.." for thing in ("ink", "snow")
    ]
    return asked, {
        task: json.loads((folder / f"outputs/{task}/manifest.json").read_text()) for task in ("riddle", "best")
    }


def test_plugging_in_from_its_own_page(tmp_path: Path) -> None:
    asked, manifests = follow(ROOT / "docs/plugging-in.md", tmp_path, ROOT)
    assert asked == [4, 4, 8], "the second command asks nothing, the others twice for each row"
    assert manifests["riddle"]["kept"] == 1
    assert manifests["riddle"]["reasons"] == {"secret: names its answer": 1}
    assert manifests["best"]["kept"] == 2
    import pyarrow.parquet

    riddle = pyarrow.parquet.read_table(tmp_path / "outputs/riddle/data").to_pylist()
    assert [row["thing"] for row in riddle] == ["ink"]
    assert riddle[0]["tone"] in ("solemn", "cheerful")
    assert [turn["content"] for turn in riddle[0]["messages"]] == ["I am black and I speak.", "Ink."]
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
