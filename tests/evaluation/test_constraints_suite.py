"""`suite=constraints`: drawn prompts, rows of one's own and IFEval's, strict and loose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from tests.evaluation.evaluations import answers, items, run, values
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import ROOT, write_rows

NO_COMMA = {"id": "punctuation:no_comma", "kwargs": {}}
WORDS = {"id": "length_constraints:number_words", "kwargs": {"num_words": 3, "relation": "at least"}}


def test_strict_and_loose_by_prompt_and_by_constraint(tmp_path: Path) -> None:
    rows = [
        {"prompt": "say it", "constraints": [NO_COMMA, WORDS]},
        {"prompt": "lead in", "constraints": [NO_COMMA]},
        {
            "prompt": "short",
            "instruction_id_list": [NO_COMMA["id"], WORDS["id"]],
            "kwargs": [{}, {**WORDS["kwargs"], "unused": None}],
        },
        {"prompt": "broken", "constraints": [{"id": "no:such", "kwargs": {}}]},
    ]
    said = {"say it": "all of these words", "lead in": "Sure, here it is:\nno such sign", "short": "two words"}
    with ModelServer(lambda body: Reply(said[last_text(body)])) as server:
        found = run(tmp_path, server, "suite=constraints", f"source.path={write_rows(tmp_path, rows)}")
        assert server.count == 3
    assert values(found) == {
        "prompt_strict": 1 / 3,
        "prompt_loose": 2 / 3,
        "instruction_strict": 3 / 5,
        "instruction_loose": 4 / 5,
    }
    assert found.status == 3 and "no constraint is named 'no:such'" in str(found.stopped)
    assert next(row["meta"]["why"] for row in answers(tmp_path)) == {}
    assert "punctuation:no_comma 2 of 3" in found.results["notes"][2]


def test_drawn_prompts_are_the_same_each_time_and_apart_from_training(tmp_path: Path) -> None:
    def script(body: dict[str, Any]) -> Reply:
        return Reply("An answer.")

    with ModelServer(script) as server:
        first = run(tmp_path, server, "suite=constraints", "suite.size=40")
        assert (first.status, server.count) == (0, 40)
        assert (
            run(tmp_path, server, "suite=constraints", "suite.size=40").results["metrics"] == first.results["metrics"]
        )
        run(tmp_path, server, "suite=constraints", "suite.size=50")
        assert (server.count, server.repeated) == (50, 0)
        run(tmp_path, server, "suite=constraints", "suite.size=10", "seed=1")
        assert server.count == 60
    assert len(items(tmp_path)) == 10
    own = yaml.safe_load((ROOT / "prompts/evaluate/requests.yaml").read_text())
    assert len(set(own)) == len(own) >= 30
    training = ROOT / "prompts/requests.yaml"
    if training.exists():
        data = yaml.safe_load(training.read_text())
        assert not {form.format(thing=thing) for form in data["forms"] for thing in data["things"]} & set(own)
