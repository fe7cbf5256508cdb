"""The dataset card: what `datasets` makes of its front matter, and what a reader makes of its text."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from factory.card import escape, fenced, write_card
from factory.errors import UserError
from factory.records import Message, Record
from tests.sample_run import HOSTILE, manifest, records, write_parquet, write_run


def front_matter(card: str) -> dict[str, Any]:
    return dict(yaml.safe_load(card.split("---\n")[1]))


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("runs") / "code-demo", records(120), exchanges=False)
    write_parquet(run)
    write_card(run)
    return run


_LOAD = """
import sys
from datasets import load_dataset
kept = load_dataset(sys.argv[1], split="train", cache_dir=sys.argv[2])
lost = load_dataset(sys.argv[1], "rejected", split="train", cache_dir=sys.argv[2])
import json
print(json.dumps([len(kept), len(lost), kept[0]["messages"], sorted(set(lost["reason"]))]))
"""


def test_datasets_loads_the_folder_through_the_card(run_dir: Path, tmp_path: Path) -> None:
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path), "PYTHONPATH": ""}
    command = [sys.executable, "-c", _LOAD, str(run_dir), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    kept, lost, messages, reasons = orjson.loads(done.stdout.splitlines()[-1])
    told = manifest(records(120))
    assert (kept, lost, reasons) == (told["kept"], told["rejected"], sorted(told["reasons"]))
    first = next(record for record in records(120) if record.kept)
    assert messages == [{"role": message.role, "content": message.content} for message in first.messages]


def test_the_front_matter_is_the_hubs(run_dir: Path) -> None:
    matter = front_matter((run_dir / "README.md").read_text("utf-8"))
    assert matter["size_categories"] == ["n<1K"]
    assert "synthetic" in matter["tags"]
    assert [(config["config_name"], config["data_files"][0]["path"]) for config in matter["configs"]] == [
        ("default", "data/*.parquet"),
        ("rejected", "rejected/*.parquet"),
    ]
    assert "license" not in matter, "the license is the user's to choose"


def test_the_text_tells_what_happened(run_dir: Path) -> None:
    card, told = (run_dir / "README.md").read_text("utf-8"), manifest(records(120))
    assert "No license is set" in card
    assert told["templates"] in card
    assert told["model"]["digest"] in card
    assert f"| **Kept** | **{told['kept']}** |" in card
    for reason, count in told["reasons"].items():
        assert f"| {escape(reason)} | -{count} |" in card
    for field in ("messages", "scores", "topic", "attempts", "usage"):
        assert f"| `{field}` |" in card
    assert "run against its tests in a sandbox" in card, "what was verified"
    assert "one model wrote both" in card, "and what was not"


def test_a_task_without_execution_does_not_claim_any(tmp_path: Path) -> None:
    run = write_run(tmp_path / "talk", records(30, "respond"), exchanges=False)
    card = write_card(run).read_text("utf-8")
    assert "sandbox" not in card
    assert "nothing was executed" in card
    assert "A language model judged the records" in card


def test_hostile_texts_neither_break_the_card_nor_leave_their_place(tmp_path: Path) -> None:
    bad = "x | `y` <script>alert(1)</script>\n---\nlicense: mit\n# no"
    made = [Record(id="1" * 32, task=bad, messages=(Message(role="user", content=f"````\n{HOSTILE}\n---"),), kept=True)]
    made.append(Record(id="2" * 32, task=bad, reason=bad))
    run = write_run(tmp_path / "run", made, exchanges=False, run=bad, stopped=bad, finished=False, keep=bad)
    card = write_card(run).read_text("utf-8")
    matter = front_matter(card)
    assert matter["pretty_name"] == bad
    assert "license" not in matter
    sample = re.search(r"^(`{4,})text\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert sample
    assert HOSTILE in sample[2]
    outside = card.partition("---\n\n")[2].replace(sample[0], "")
    assert "<script>" not in re.sub(r"`[^`\n]*`", "", outside)
    assert not re.search(r"^(license|# no)", outside, re.MULTILINE)
    for row in re.findall(r"^\|.*$", outside, re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4)


def test_nothing_kept_and_no_data_yet(tmp_path: Path) -> None:
    run = write_run(tmp_path / "none", [], finished=False, stopped="budget: 0 requests")
    card = write_card(run).read_text("utf-8")
    assert "No record was kept." in card
    assert "The run stopped early: budget: 0 requests." in card
    assert [config["config_name"] for config in front_matter(card)["configs"]] == ["default"]


def test_no_manifest_is_the_users_to_mend(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"manifest\.json"):
        write_card(tmp_path)


def test_a_fence_is_longer_than_what_it_holds() -> None:
    assert fenced("a ````` b").startswith("``````text\n")
