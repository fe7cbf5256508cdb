"""`results.json` of a loop: its numbers are those of the files, reckoned here in another way."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factory.evaluation.results import read_results
from factory.evaluation.statistics import mcnemar, paired_bootstrap
from factory.iterate.summary import write_summary
from tests.iterate.sample_rounds import Rounds, composed, json_of, whole_run


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


def test_diversity_is_that_of_the_records(run: Rounds, results: dict[str, Any]) -> None:
    assert [(one["seed"], one["round"]) for one in results["diversity"]] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    one = results["diversity"][0]
    assert one["records"] == 24
    assert not math.isnan(one["compression_ratio"])


def test_a_folder_cut_off_at_any_stage_has_a_summary(tmp_path: Path) -> None:
    run = Rounds(tmp_path / "cut", *composed(tmp_path / "cut", 1, [0]), items=9, records=8)
    write_summary(run.settings, run.state.data)
    stages = run.planned()
    for place, stage in enumerate(stages):
        run.invocation([], cut=stage, wait=10.0)
        write_summary(run.settings, run.state.data)
        run.invocation([stage], wait=10.0)
        write_summary(run.settings, run.state.data)
        found = json_of(run.folder / "results.json")
        assert found["stages"]["done"] == place + 1
        assert found["finished"] == (place + 1 == len(stages))
        assert found["problems"] == []
