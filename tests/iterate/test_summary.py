"""`results.json` of a loop: its numbers are those of the files, reckoned here in another way."""

from __future__ import annotations

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.evaluation.results import read_results
from factory.evaluation.statistics import mcnemar, paired_bootstrap
from factory.evaluation.suite import ItemResult, Measure
from factory.iterate.run import described
from factory.iterate.state import State
from factory.iterate.summary import write_again, write_summary
from tests.iterate.sample_rounds import RECIPE, Rounds, composed, json_of, reasoning_item, whole_run, write_evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    made = whole_run(tmp_path_factory.mktemp("runs") / "demo", items=24)
    write_summary(made.settings, made.state.data)
    return made


@pytest.fixture(scope="module")
def results(run: Rounds) -> dict[str, Any]:
    return json_of(run.folder / "results.json")


def row_of(results: dict[str, Any], suite: str, measure: str, group: str = "") -> dict[str, Any]:
    found = [
        row for row in results["measures"] if (row["suite"], row["measure"], row["group"]) == (suite, measure, group)
    ]
    assert len(found) == 1
    return dict(found[0])


def value(row: dict[str, Any], of: str, name: str = "", round_: int | None = None) -> dict[str, Any]:
    return next(
        dict(entry)
        for entry in row["values"]
        if entry["of"] == of and entry["name"] == name and round_ in (None, entry["round"])
    )


def gain(row: dict[str, Any], first: tuple[str, str], to: tuple[str, int]) -> dict[str, Any]:
    return next(
        dict(entry)
        for entry in row["gains"]
        if (entry["from"]["of"], entry["from"]["name"]) == first and (entry["to"]["of"], entry["to"]["round"]) == to
    )


def worth(run: Rounds, key: str, measure: str, group: str = "") -> dict[str, float]:
    """Item by item, from the evaluation's own file."""
    _, items = read_results(run.folder / key)
    return {item.id: item.values[measure][0] for item in items if not group or item.group == group}


@pytest.mark.parametrize("group", ["", "gcd"])
def test_values_and_gains_are_those_of_the_items(run: Rounds, results: dict[str, Any], group: str) -> None:
    row = row_of(results, "held_out", "pass@4", group)
    start = worth(run, "start/held_out", "pass@4", group)
    assert value(row, "start", "held_out")["mean"] == pytest.approx(statistics.fmean(start.values()))
    last = {
        str(seed): worth(run, f"seed-{seed}/round-2/evaluate-held_out", "pass@4", group) for seed in run.settings.seeds
    }
    told = value(row, "round", round_=2)
    assert told["seeds"] == {seed: pytest.approx(statistics.fmean(items.values())) for seed, items in last.items()}
    assert told["mean"] == pytest.approx(statistics.fmean(told["seeds"].values()))
    against = gain(row, ("start", "held_out"), ("round", 2))
    each = [
        statistics.fmean(items[name] - start[name] for items in last.values()) for name in start
    ]  # an item: the mean over seeds of the difference
    assert against["difference"] == pytest.approx(statistics.fmean(each))
    assert against["items"] == len(start) == (8 if group else 24)
    for seed, difference in against["seeds"].items():
        control = worth(run, f"seed-{seed}/round-2/control-unfiltered-held_out", "pass@4", group)
        assert difference == pytest.approx(told["seeds"][seed] - value(row, "start", "held_out")["mean"])
        over = gain(row, ("control", "unfiltered"), ("round", 2))["seeds"][seed]
        assert over == pytest.approx(told["seeds"][seed] - statistics.fmean(control.values()))


def test_the_base_line_is_the_better_way_to_ask(results: dict[str, Any]) -> None:
    for row in results["measures"]:
        if row["suite"] != "held_out":
            continue
        ways = {entry["name"]: entry["mean"] for entry in row["values"] if entry["of"] == "start"}
        assert set(ways) == {"held_out", "shown"}
        assert ways[row["base"]] == max(ways.values())
    assert row_of(results, "held_out", "pass@1")["base"] == "shown"


def test_the_best_control_is_the_one_with_the_highest_mean(results: dict[str, Any]) -> None:
    row = row_of(results, "held_out", "pass@1")
    controls = {entry["name"]: entry["mean"] for entry in row["values"] if entry["of"] == "control"}
    assert set(controls) == {"unfiltered", "seeds", "no_nll"}
    assert row["best_control"] == max(controls, key=lambda name: controls[name]) == "no_nll"


def test_a_suite_of_the_ends_has_no_rounds_between(results: dict[str, Any]) -> None:
    row = row_of(results, "harder", "pass")
    assert [entry["round"] for entry in row["values"] if entry["of"] == "round"] == [2]
    assert gain(row, ("start", "harder"), ("round", 2))["shown"] == "up"


def test_with_one_seed_it_is_the_paired_bootstrap_of_evaluate(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "one", rounds=1, seeds=(0,), items=20)
    write_summary(run.settings, run.state.data)
    row = row_of(json_of(run.folder / "results.json"), "held_out", "score")
    start, last = worth(run, "start/held_out", "score"), worth(run, "seed-0/round-1/evaluate-held_out", "score")
    pairs = [[(side[name], 1.0) for name in start] for side in (start, last)]
    found = gain(row, ("start", "held_out"), ("round", 1))
    assert (found["low"], found["high"]) == pytest.approx(paired_bootstrap(*pairs, seed=0), abs=0.02)


def test_utilisation_is_the_union_of_work_over_the_invocations(run: Rounds, results: dict[str, Any]) -> None:
    """Every second of the run is looked at by itself."""
    stretches = run.state.data["stretches"]
    calls = [(begin, end) for _, lane, begin, end in stretches if lane == "all"]
    told = results["utilisation"]
    assert told["wall_seconds"] == pytest.approx(sum(end - begin for begin, end in calls))
    assert told["invocations"] == 2 and told["pauses_seconds"] == pytest.approx(3600.0)
    step = 0.25
    clock = np.concatenate([np.arange(begin, end, step) for begin, end in calls])
    busy, running = np.zeros(len(clock), bool), np.zeros(len(clock), bool)
    for _, lane, begin, end in stretches:
        if lane in ("engine", "train"):
            running |= (clock >= begin) & (clock < end)
            busy |= (clock >= begin + 5) & (clock < end - 3)  # as the sample has it
    assert told["seconds"]["stages"] == pytest.approx(running.sum() * step, rel=0.01)
    # Responses are there from one span before the first was made; the first step's seconds count.
    assert told["seconds"]["either"] == pytest.approx(busy.sum() * step, rel=0.05)
    assert told["share"]["working"] == pytest.approx(told["seconds"]["either"] / told["wall_seconds"])
    samples = [json.loads(line) for line in (run.folder / "gpu.jsonl").read_text().splitlines()]
    assert told["gpus"][0]["busy"] == pytest.approx(statistics.fmean(line[2] for line in samples) / 100)
    assert told["gpus"][0]["samples"] == len(samples)


def test_mcnemar_for_one_seed_of_right_and_wrong(tmp_path: Path) -> None:
    run = whole_run(tmp_path / "one", rounds=1, seeds=(0,), items=20)
    row_start, row_last = (worth(run, key, "pass@4") for key in ("start/held_out", "seed-0/round-1/evaluate-held_out"))
    assert set(row_start.values()) | set(row_last.values()) == {0.0, 1.0}
    write_summary(run.settings, run.state.data)
    found = gain(
        row_of(json_of(run.folder / "results.json"), "held_out", "pass@4"), ("start", "held_out"), ("round", 1)
    )
    assert found["test"] == "McNemar"
    assert found["p"] == mcnemar(
        [row_start[name] == 1 for name in row_start], [row_last[name] == 1 for name in row_start]
    )


SMALL = {
    "evaluate": {name: RECIPE["evaluate"][name] for name in ("held_out", "shown")},
    "controls": {"unfiltered": {"data": "unfiltered"}},
}


def test_a_folder_cut_off_in_any_stage_has_a_summary(tmp_path: Path) -> None:
    run = Rounds(tmp_path / "cut", *composed(tmp_path / "cut", 1, [0], **SMALL), items=6, records=8)
    write_summary(run.settings, run.state.data)
    stages = run.planned()
    assert json_of(run.folder / "results.json")["stages"] == {"done": 0, "planned": len(stages), "next": stages[0].key}
    for place, stage in enumerate(stages):
        run.invocation([], cut=stage, wait=10.0)
        write_summary(run.settings, run.state.data)
        cut_off = json_of(run.folder / "results.json")
        assert cut_off["stages"]["done"] == place, "what was cut off is not done, and not counted"
        assert f"{place} of {len(stages)} stages" in cut_off["conclusions"][0]["text"]
        run.invocation([stage], wait=10.0)
        write_summary(run.settings, run.state.data)
        found = json_of(run.folder / "results.json")
        assert found["stages"]["done"] == place + 1
        assert found["finished"] == (place + 1 == len(stages))
        assert found["problems"] == cut_off["problems"] == []
        assert (run.folder / "report.html").read_text().endswith("</html>\n")
    assert found["utilisation"]["invocations"] == 2 * len(stages)


def test_seeds_at_different_rounds_are_compared_where_most_are(tmp_path: Path) -> None:
    run = Rounds(tmp_path / "some", *composed(tmp_path / "some", 2, [0, 1, 2], **SMALL), items=6, records=8)
    ahead = "seed-0/round-2/evaluate-held_out"
    stages = [stage for stage in run.planned() if "round-2" not in stage.key or stage.key.startswith("seed-0")]
    run.invocation([stage for stage in stages if "control" not in stage.key and "unfiltered" not in stage.key])
    assert run.state.done(ahead)
    write_summary(run.settings, run.state.data)
    results = json_of(run.folder / "results.json")
    row = row_of(results, "held_out", "pass@1")
    assert row["last_round"] == 1
    assert set(gain(row, ("start", "held_out"), ("round", 1))["seeds"]) == {"0", "1", "2"}
    assert set(value(row, "round", round_=2)["seeds"]) == {"0"}
    said = [one["text"] for one in results["conclusions"] if one["about"] == "limits"]
    assert any("after round 1 of 2 for 3 of 3 seeds so far" in text for text in said)
    assert any(text.startswith("No control was measured") for text in said)


def test_items_that_one_side_lacks_are_left_out_of_the_comparison(run: Rounds, tmp_path: Path) -> None:
    folder = tmp_path / "lacking"
    shutil.copytree(run.folder, folder)
    kept = {}
    for key, rest in (
        ("seed-0/round-2/evaluate-held_out", slice(1, None)),
        ("seed-0/round-2/control-seeds-held_out", slice(0, -1)),
    ):
        lines = (folder / key / "items.jsonl").read_text().splitlines()[rest]
        (folder / key / "items.jsonl").write_text("\n".join(lines) + "\n")
        kept[key] = {json.loads(line)["id"]: json.loads(line)["values"]["pass@1"][0] for line in lines}
    write_again(folder)
    row = row_of(json_of(folder / "results.json"), "held_out", "pass@1")
    last, other = kept.values()
    assert [value(row, *of)["items"] for of in (("round", "", 2), ("round", "", 1), ("start", "shown"))] == [23, 24, 24]
    assert value(row, "round", round_=2)["seeds"]["0"] == pytest.approx(statistics.fmean(last.values()))
    assert gain(row, ("start", "held_out"), ("round", 2))["items"] == 23
    both = gain(row, ("control", "seeds"), ("round", 2))
    assert both["items"] == 22
    assert both["seeds"]["0"] == pytest.approx(
        statistics.fmean(last[name] - other[name] for name in {*last} & {*other})
    )


def test_what_cannot_be_read_is_told_and_the_rest_is_there(run: Rounds, tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(run.folder, folder)
    (folder / "seed-0/round-2/evaluate-held_out/results.json").write_text("{")
    (folder / "seed-0/round-1/generate/journal.db").write_bytes(b"nothing of SQLite's" * 100)
    next((folder / "seed-1/round-1/generate/data").glob("*.parquet")).write_bytes(b"PAR1")
    (folder / "seed-1/round-1/diversity.json").write_text("{")
    write_again(folder)
    results = json_of(folder / "results.json")
    told = " ".join(results["problems"])
    assert len(results["problems"]) == 3
    for place in ("seed-0/round-2/evaluate-held_out", "seed-0/round-1/generate", "seed-1/round-1"):
        assert place in told
    assert row_of(results, "held_out", "pass@1")["last_round"] == 1
    assert [(one["seed"], one["round"]) for one in results["diversity"]] == [(0, 1), (0, 2), (1, 2)]


def test_the_work_of_each_stage_is_in_the_table(run: Rounds, results: dict[str, Any]) -> None:
    rows = {one["stage"]: one for one in results["work"]}
    assert set(rows) == set(run.state.data["stages"])
    asked = rows["start/held_out"]
    assert (asked["kind"], asked["records"], asked["tokens"]) == ("evaluate", 4 * 24, 20 * 24)
    made = rows["seed-0/round-1/generate"]
    assert (made["kind"], made["records"], made["tokens"]) == ("generate", 24, 9 * 24)
    trained = rows["seed-0/round-1/sft"]
    metrics = (run.folder / "seed-0/round-1/sft/metrics.jsonl").read_text().splitlines()
    assert (trained["steps"], trained["tokens"]) == (40, sum(json.loads(line)["tokens"] for line in metrics))
    for key, _, begin, end in run.state.data["stretches"]:
        assert key == "iterate" or rows[key]["seconds"] == pytest.approx(end - begin, abs=0.002)


def test_another_way_of_asking_needs_the_same_items(tmp_path: Path) -> None:
    """A suite of the start alone that asks something else is no base line."""
    run = Rounds(tmp_path / "other", *composed(tmp_path / "other", 1, [0], **SMALL), items=6, records=8)
    stages = run.planned()
    run.invocation(stages)
    write_evaluation(
        run.folder / "start/shown", [reasoning_item(f"other/{n}", "gcd", 4) for n in range(6)], {"shots": 4}
    )
    write_summary(run.settings, run.state.data)
    row = row_of(json_of(run.folder / "results.json"), "held_out", "pass@1")
    assert row["base"] == "held_out"
    assert [entry["name"] for entry in row["values"] if entry["of"] == "start"] == ["held_out"]


def test_lower_may_be_better(tmp_path: Path) -> None:
    """A perplexity: the exponential of a ratio of sums, a token's weight each."""
    run = Rounds(tmp_path / "low", *composed(tmp_path / "low", 1, [0, 1], **SMALL), items=6, records=8)
    run.invocation(run.planned())
    measure = [Measure("perplexity", "log", higher_is_better=False, share=False)]
    for stage in run.planned():
        if stage.command == "evaluate":
            loss = (
                2.8
                if stage.key == "start/shown"
                else {"start": 3.0, "control": 2.5, "evaluate": 2.0}[
                    stage.key.split("/")[-1 if "round" in stage.key else 0].split("-")[0]
                ]
            )
            items = [ItemResult(f"i{n}", {"perplexity": ((loss + 0.01 * n) * (n + 5), n + 5.0)}) for n in range(40)]
            write_evaluation(stage.folder, items, {}, measures=measure)
    write_summary(run.settings, run.state.data)
    results = json_of(run.folder / "results.json")
    row = row_of(results, "held_out", "perplexity")
    weights = [n + 5 for n in range(40)]
    mean = sum(0.01 * n * weight for n, weight in enumerate(weights)) / sum(weights)
    assert value(row, "round", round_=1)["mean"] == pytest.approx(math.exp(2 + mean))
    assert row["base"] == "shown", "the lower one is the better way of asking"
    found = gain(row, ("start", "held_out"), ("round", 1))
    assert found["difference"] == pytest.approx(math.exp(2 + mean) - math.exp(3 + mean))
    assert found["high"] < 0 and found["shown"] == "down" and found["p"] < 0.001
    first = next(one for one in results["conclusions"] if one["about"] == "held_out")
    assert (
        first["kind"] == "shown"
        and "(lower is better)" in first["text"]
        and "below the starting model" in first["text"]
    )


# ---- drawn again


def test_it_is_drawn_again_from_its_folder_alone(run: Rounds, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(run.folder, folder)
    (folder / "report.html").unlink()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "factory", "report", f"out={folder}"],
        env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout.strip()) == (0, f"{folder}/report.html"), done.stderr
    assert (folder / "report.html").read_text() == (run.folder / "report.html").read_text()
    assert json_of(folder / "results.json") == json_of(run.folder / "results.json")


def test_without_its_last_results_rounds_and_seeds_are_those_of_the_stages(run: Rounds, tmp_path: Path) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(run.folder, folder)
    (folder / "results.json").unlink()
    write_again(folder)
    found = json_of(folder / "results.json")
    assert (found["rounds"], found["seeds"], found["finished"]) == (2, [0, 1], True)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"stages": {}}', '{"stages": {}, "stretches": [], "described": {"recipe": 3}}']
)
def test_a_state_that_cannot_be_read_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(ConfigError, match="state.json cannot be read"):
        write_again(tmp_path)


def test_every_recipe_can_be_drawn_before_anything_ran(tmp_path: Path) -> None:
    recipes = sorted(path.stem for path in (Path(__file__).parents[2] / "conf/recipe").glob("*.yaml"))
    assert recipes
    for name in recipes:
        config, problems = compose_config("iterate", [f"recipe={name}", f"out={tmp_path / name}"])
        assert problems == []
        (tmp_path / name).mkdir()
        State(tmp_path / name, described(config)).write()
        assert write_again(tmp_path / name).read_text().endswith("</html>\n")
