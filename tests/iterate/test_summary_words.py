"""The sentences of a loop's report: what they claim follows from the items, and nothing more is claimed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factory.iterate.summary import write_summary
from factory.iterate.wording import ends, interval, signed
from tests.iterate.sample_rounds import RECIPE, Rounds, composed, json_of, suite, whole_run

ONE: dict[str, Any] = {"evaluate": {"held_out": suite("always")}, "controls": {}}
CONTROLLED: dict[str, Any] = {
    "evaluate": {"held_out": suite("always"), "shown": suite("start", shots=1)},
    "controls": {"unfiltered": {"data": "unfiltered"}, "seeds": {"data": "seeds"}},
}


def said(folder: Path, right: Callable[[str, int], int], recipe: dict[str, Any], **wants: Any) -> list[dict[str, str]]:
    """What is said of a run whose stages answer so many of four tries at each item right."""
    made = whole_run(
        folder, recipe=recipe, right=right, records=8, **{"rounds": 1, "seeds": (0,), "items": 60, **wants}
    )
    write_summary(made.settings, made.state.data)
    found = json_of(folder / "results.json")["conclusions"]
    assert all(set(one) == {"about", "kind", "text"} for one in found)
    return list(found)


def of(found: list[dict[str, str]], about: str, part: str = "") -> list[tuple[str, str]]:
    return [(one["kind"], one["text"]) for one in found if one["about"] == about and part in one["text"]]


def starting(stage: str, number: int) -> int:
    """One try in four at six items of ten: pass@1 is 15 %, pass@4 60 %."""
    return 1 if number % 10 < 6 else 0


def after(right: Callable[[int], int]) -> Callable[[str, int], int]:
    return lambda stage, number: starting(stage, number) if stage.startswith("start") else right(number)


@pytest.mark.parametrize(("right", "kind", "part"), [
    (lambda n: 4 if n % 10 < 4 else 0, "against", "Sharpening: pass@1 rose while pass@4 fell"),
    (lambda n: 4 if n % 10 < 6 else 0, "not shown", "that the gain is more than sharpening. pass@1 rose, but no gain in pass@4"),
    (lambda n: 2 if n % 10 < 9 else 0, "shown", "pass@4 rose along with pass@1"),
    (lambda n: 1 if n % 10 < 6 else 0, "seen", "No gain in pass@1 is shown"),
])  # fmt: skip
def test_sharpening_is_told_from_learning(tmp_path: Path, right: Callable[[int], int], kind: str, part: str) -> None:
    found = of(said(tmp_path / "run", after(right), ONE), "held_out", part)
    assert [one for one, _ in found] == [kind]
    assert "from the base line to round 1 (pass@1 " in found[0][1]


def test_both_measures_are_told_over_the_same_way_of_asking(tmp_path: Path) -> None:
    """Asked with examples, the start is better by pass@1; without them, by pass@4."""

    def right(stage: str, number: int) -> int:
        if not stage.startswith("start"):
            return 3 if number % 10 < 4 else 0
        return (2 if number % 10 < 3 else 0) if "shown" in stage else (1 if number % 10 < 4 else 0)

    ((_, text),) = of(said(tmp_path / "run", right, CONTROLLED), "held_out", "less pass@1")
    signs = [re.search(rf"{name} ([+−][\d.]+) points", text) for name in (r"\(pass@1", r"; pass@4", "less pass@1")]
    assert [sign and sign[1] for sign in signs] == ["+15.0", "+10.0", "−5.0"], text


def test_up_to_k_tries_and_no_further(tmp_path: Path) -> None:
    found = said(tmp_path / "run", after(lambda n: 2 if n % 10 < 9 else 0), ONE)
    ((_, text),) = of(found, "held_out", "rose along")
    assert "up to 4 tries the gain is not sharpening alone" in text
    assert text.endswith("With more tries than 4 nothing was measured.")


def test_a_gain_is_told_with_both_values_its_interval_and_its_size(tmp_path: Path) -> None:
    found = said(tmp_path / "run", after(lambda n: 2 if n % 10 < 9 else 0), ONE)
    kind, text = of(found, "held_out")[0]
    row = next(
        row
        for row in json_of(tmp_path / "run/results.json")["measures"]
        if row["measure"] == "pass@1" and not row["group"]
    )
    gain = row["gains"][0]
    assert gain["difference"] == pytest.approx(0.45 - 0.15)
    assert kind == "shown"
    assert text == (
        f"pass@1 on held_out after round 1 (45.0 %) is 30.0 points (95 % interval {100 * gain['low']:.1f} to "
        f"{100 * gain['high']:.1f}) above the starting model (15.0 %); 60 items, 1 seed."
    )


def test_a_loss_is_told_as_such(tmp_path: Path) -> None:
    found = said(tmp_path / "run", after(lambda n: 0), ONE)
    kind, text = of(found, "held_out")[0]
    assert kind == "against" and "below the starting model" in text and "-" not in text.partition("interval")[2][:12]
    assert of(found, "held_out", "A loss in pass@1 on these groups")[0][0] == "against"


def test_the_same_is_not_shown_to_differ(tmp_path: Path) -> None:
    found = said(tmp_path / "run", after(lambda n: 1 if n % 10 < 6 else 0), ONE)
    kind, text = of(found, "held_out")[0]
    assert kind == "not shown"
    assert text.startswith(
        "Not shown: a difference between pass@1 on held_out after round 1 (15.0 %) and the starting model (15.0 %)"
    )
    assert not [one for one in found if one["kind"] == "shown"]


def test_an_interval_from_few_items_is_not_enough(tmp_path: Path) -> None:
    """Four items, all of them better: the interval leaves out zero, but one exchange in eight looks as good."""
    found = said(tmp_path / "run", lambda stage, n: 1 if stage.startswith("start") else 3, ONE, items=4)
    kind, text = of(found, "held_out")[0]
    assert kind == "not shown"
    assert text.endswith("+50.0 points (95 % interval 50.0 to 50.0, but p 0.125); 4 items, 1 seed.")


def test_controls_are_named_by_what_they_were_trained_on_the_best_one_first(tmp_path: Path) -> None:
    def right(stage: str, number: int) -> int:
        name = stage.rpartition("/")[2]
        best = {"held_out": 1, "shown": 2, "evaluate-held_out": 4}.get(name, 3 if "seeds" in name else 1)
        return best if number % 10 < 9 else 0

    found = said(tmp_path / "run", right, CONTROLLED)
    texts = [text for _, text in of(found, "held_out")]
    assert (
        "above the starting model asked with 1 solved example (45.0 %), the better of 2 ways of asking it" in texts[0]
    )
    assert "above the best control, seeds (67.5 %: SFT on the solved examples alone, for as many steps)." in texts[1]
    assert "above the control unfiltered (22.5 %: SFT on the unfiltered samples, for as many steps)." in texts[2]


def test_a_control_of_other_steps_says_so(tmp_path: Path) -> None:
    made = whole_run(tmp_path / "run", recipe=CONTROLLED, rounds=1, seeds=(0,), items=12, records=8)
    made.state.data["stages"]["seed-0/round-1/control-seeds"]["steps"] = 7
    write_summary(made.settings, made.state.data)
    found = list(json_of(tmp_path / "run/results.json")["conclusions"])
    assert of(found, "held_out", "SFT on the solved examples alone, for 7 steps where the rounds took 80")


def test_limits_are_always_told(tmp_path: Path) -> None:
    found = said(tmp_path / "run", starting, ONE)
    limits = [text for kind, text in of(found, "limits")]
    assert all(one["kind"] == "limit" for one in found if one["about"] == "limits")
    assert limits[0].startswith("With one seed the variation between seeds was not measured")
    assert limits[1].startswith(
        "held_out: 60 items. They are drawn from random seeds that no training data are drawn from"
    )
    assert limits[2].startswith("held_out: the start was asked in one way only, without solved examples.")
    assert limits[3].startswith("No control was measured")
    assert limits[4].startswith("Nothing is corrected for many comparisons.")
    assert not any("held_out was measured after" in text for text in limits)


def test_a_start_that_was_shown_examples_is_not_called_asked_in_one_way(tmp_path: Path) -> None:
    for name, recipe in (
        ("shown", {"evaluate": {"held_out": suite("always", shots=4)}, "controls": {}}),
        ("two", CONTROLLED),
    ):
        assert not of(said(tmp_path / name, starting, recipe), "limits", "in one way only")


def test_with_several_seeds_it_says_what_was_resampled(tmp_path: Path) -> None:
    found = said(tmp_path / "run", starting, ONE, seeds=(0, 3))
    assert of(found, "limits")[0][1].startswith("Intervals resample the items and the 2 seeds.")


def test_items_of_other_suites_are_not_called_unseen(tmp_path: Path) -> None:
    from factory.iterate.conclusions import _unseen

    assert "was not looked at" in _unseen({"suite": "humaneval", "settings": {}}, {})
    assert "no training data" in _unseen({"suite": "reasoning", "settings": {"split": "hard"}}, {})


def test_what_was_decontaminated_is_told_in_numbers(tmp_path: Path) -> None:
    from factory.iterate.conclusions import _unseen
    from factory.iterate.summary import _decontamination

    settings, _ = composed(tmp_path / "run", 2, [0])
    human: dict[str, Any] = {"suite": "humaneval", "settings": {}}
    for round_, (sets, lost) in enumerate([(["humaneval", "own"], 2), (["humaneval"], 1)], 1):
        folder = tmp_path / f"run/seed-0/round-{round_}"
        step = {"step": "decontamination", "in": 10, "out": 10 - lost, "sets": sets}
        reasons = {"contaminated: does what a/1 asks for": 3, "execution: wrong": 9}
        for name, manifest in (
            ("samples", {"funnel": [{"step": "keep", "in": 12, "out": 10}, step]}),
            ("generate", {"reasons": reasons}),
        ):
            (folder / name).mkdir(parents=True)
            (folder / name / "manifest.json").write_text(json.dumps(manifest))
        if round_ == 1:
            assert _decontamination(tmp_path / "run", settings)["sets"] == ["humaneval", "own"]
    found = _decontamination(tmp_path / "run", settings)
    assert found == {"sets": ["humaneval"], "not_asked": 6, "samples": 3}
    told = _unseen(human, {"decontamination": found})
    assert "6 problems doing what an evaluation problem asks for, and 3 samples resembling one" in told
    assert "was not looked at" in _unseen({**human, "suite": "own"}, {"decontamination": found})


def test_before_anything_is_measured_nothing_is_claimed(tmp_path: Path) -> None:
    run = Rounds(tmp_path / "run", *composed(tmp_path / "run", 1, [0], **RECIPE))
    write_summary(run.settings, run.state.data)
    (one,) = json_of(tmp_path / "run/results.json")["conclusions"]
    assert one["kind"] == "limit" and one["text"].startswith("The run is not finished: 0 of ")


@pytest.mark.parametrize(("value", "share", "told"), [
    (0.2314, True, "+23.1 points"), (-0.0004, True, "0.0 points"), (-0.051, True, "−5.1 points"), (-1.25, False, "−1.25"),
])  # fmt: skip
def test_differences_are_spelt_as_people_read_them(value: float, share: bool, told: str) -> None:
    assert signed(value, share) == told


def test_intervals_are_spelt_as_people_read_them() -> None:
    gain = {"low": -0.0123, "high": 0.05}
    assert interval(gain, True) == "95 % interval −1.2 to 5.0"
    assert interval(gain, True, -1) == "95 % interval −5.0 to 1.2"
    assert ends(gain, True) == "−1.2 to +5.0"
    assert interval({"low": None, "high": None}, True) == "no interval"


@pytest.mark.parametrize("until", [None, 1])
def test_rounds_that_go_on_from_others_are_told(tmp_path: Path, until: int | None) -> None:
    recipe = {**ONE, "sft": {"until": until}}
    found = of(said(tmp_path / "run", after(lambda n: 2), recipe, rounds=3), "data", "trained a base model anew")
    told = "Round 2 goes on from round 1 with dpo. Round 3 goes on from round 2 with dpo. The other rounds trained a base model anew."
    assert found == ([] if until is None else [("seen", told)])
    trained = json_of(tmp_path / "run/results.json")["trained"]
    anew = [one["round"] for one in trained if one["from"] == {"base": "smollm2"} and one["stages"] == ["sft", "dpo"]]
    assert anew == ([1, 2, 3] if until is None else [1])
    page = (tmp_path / "run/report.html").read_text()
    assert ("goes on from round 2 with dpo</" in page) == (until is not None)
