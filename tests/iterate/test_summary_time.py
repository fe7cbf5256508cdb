"""Who worked when: unions, pauses, killed invocations, overlapping lanes, and the driver's file."""

from __future__ import annotations

import asyncio
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factory.iterate.utilisation import BINS, generating, total, training, union, within, work
from tests.iterate.sample_rounds import write_responses

_SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


def seconds(spans: list[tuple[int, int]]) -> set[int]:
    return {second for begin, end in spans for second in range(begin, end)}


@given(_SPANS)
def test_a_union_is_the_same_time_without_overlaps(spans: list[tuple[int, int]]) -> None:
    found = union(spans)
    assert seconds(found) == seconds(spans)  # type: ignore[arg-type]
    assert total(found) == len(seconds(spans))
    assert all(one[1] < two[0] for one, two in itertools.pairwise(found))


@given(_SPANS, _SPANS)
def test_within_is_what_both_have(spans: list[tuple[int, int]], bounds: list[tuple[int, int]]) -> None:
    found = within(union(spans), union(bounds))
    assert seconds(found) == seconds(spans) & seconds(bounds)  # type: ignore[arg-type]
    assert total(found) == len(seconds(spans) & seconds(bounds))


def state(*stretches: tuple[str, str, float, float]) -> dict[str, Any]:
    return {"stages": {}, "stretches": [list(one) for one in stretches]}


def journal(folder: Path, *spans: tuple[float, float]) -> None:
    """Responses from .. to."""
    folder.mkdir(parents=True)
    asyncio.run(write_responses(folder / "journal.db", folder.name, [(end, end - begin) for begin, end in spans]))


def metrics(folder: Path, *lines: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text(
        "".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines)
    )


def test_two_lanes_at_once_count_once(tmp_path: Path) -> None:
    journal(tmp_path / "seed-0/round-1/generate", (110, 130), (120, 150))
    metrics(
        tmp_path / "seed-1/round-1/sft",
        {"step": 1, "time": 140, "seconds": 10},
        {"step": 2, "time": 180, "seconds": 40},
    )
    found = work(
        tmp_path,
        state(
            ("seed-0/round-1/generate", "engine", 105, 155), ("seed-1/round-1/sft", "train", 125, 185),
            ("seed-1/round-1/samples", "aside", 100, 101), ("iterate", "all", 100, 200),
        ),
        [],
    ).numbers  # fmt: skip
    assert found["wall_seconds"] == 100
    assert found["seconds"] == {
        "generating": 40, "evaluating": 0, "training": 50, "either": 70, "both": 20, "stages": 80
    }  # fmt: skip
    assert found["share"] == {"working": 0.7, "stages": 0.8}


def test_grading_in_the_same_folder_is_not_counted_twice(tmp_path: Path) -> None:
    journal(tmp_path / "seed-0/round-1/generate", (110, 120), (160, 170))
    found = work(
        tmp_path,
        state(
            ("seed-0/round-1/generate", "engine", 100, 130), ("seed-0/round-1/graded", "engine", 150, 180),
            ("iterate", "all", 100, 200),
        ),
        [],
    )  # fmt: skip
    assert found.numbers["seconds"]["generating"] == 20
    assert {key: list(spans) for key, spans in found.busy.items()} == {
        "seed-0/round-1/generate": [(110, 120)], "seed-0/round-1/graded": [(160, 170)]
    }  # fmt: skip


def test_a_killed_invocation_is_known_by_its_stages_alone(tmp_path: Path) -> None:
    journal(tmp_path / "start/held_out", (1010, 1020), (5000, 5100))
    found = work(tmp_path, state(("start/held_out", "engine", 1000, 1030), ("iterate", "all", 2000, 2100)), []).numbers
    assert (found["wall_seconds"], found["pauses_seconds"], found["invocations"]) == (130, 970, 1)
    assert found["seconds"]["evaluating"] == 10, "what nobody knows the invocation of is left out of both"


def test_training_counts_from_the_first_step_to_the_last_of_each_stretch(tmp_path: Path) -> None:
    metrics(
        tmp_path, {"step": 1, "time": 20, "seconds": 4}, {"step": 2, "time": 30, "seconds": 10, "loss": float("nan")},
        {"step": 3, "time": 110, "seconds": 50}, {"step": 4, "time": 125}, {"step": 5, "time": 400, "seconds": 1}, '{"step": 6, "ti',
    )  # fmt: skip
    assert training(tmp_path, [(10, 40), (100, 130)]) == [(16, 30), (100, 125)]
    assert training(tmp_path, [(500, 600)]) == []


def test_training_in_phases_is_found_below(tmp_path: Path) -> None:
    metrics(tmp_path / "phases/adapters", {"step": 1, "time": 20, "seconds": 4})
    assert training(tmp_path, [(0, 40)]) == [(16, 20)]


def test_a_journal_in_use_can_be_read(tmp_path: Path) -> None:
    from factory.journal import Journal

    journal(tmp_path / "a", (10, 20), (15, 30), (40, 50))
    with Journal(tmp_path / "a/journal.db"):
        assert generating(tmp_path / "a/journal.db") == [(10, 30), (40, 50)]
        assert generating(tmp_path / "a/journal.db", most=1) == [(10, 30), (40, 50)]
    assert generating(tmp_path / "none.db") == []


def test_the_drivers_numbers_are_of_the_wall_time_alone(tmp_path: Path) -> None:
    lines = [f"[{time}, {gpu}, {busy}, {10 * busy}]" for time, gpu, busy in (
        (50, 0, 100), (100, 0, 20), (100, 1, 0), (149, 0, 40), (149, 1, 0), (500, 0, 100), (1000, 0, 90), (1049.5, 1, 60), (2000, 0, 1),
    )]  # fmt: skip
    (tmp_path / "gpu.jsonl").write_text("\n".join([*lines, '{"odd": 1}', "[1001, 0", "[1002, 0, null, 3]"]))
    found = work(tmp_path, state(("iterate", "all", 100, 150), ("iterate", "all", 1000, 1050)), [])
    assert found.numbers["gpus"] == [
        {"gpu": 0, "samples": 3, "busy": pytest.approx(0.5), "above_zero": 1.0, "most_mib": 900},
        {"gpu": 1, "samples": 3, "busy": pytest.approx(0.2), "above_zero": pytest.approx(1 / 3), "most_mib": 600},
    ]
    assert len(found.driver) == BINS
    assert found.driver[0] == pytest.approx(0.1), "the mean over the GPUs"
    assert found.driver[BINS // 2] == pytest.approx(0.9), "the pause between is cut out"
    assert sum(value is not None for value in found.driver) == 4


def test_nothing_happened_yet(tmp_path: Path) -> None:
    found = work(tmp_path, state(), [])
    assert found.numbers["wall_seconds"] == 0
    assert found.numbers["share"] == {"working": None, "stages": None}
