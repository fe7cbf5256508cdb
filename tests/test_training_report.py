"""The report of a training run: what it says is what the files say, whatever state they are in."""

from __future__ import annotations

import html
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

import factory.report
from factory.errors import UserError
from factory.report.curves import Series, curves, smooth, span, thin
from factory.report.training import write_training_report
from factory.report.training_run import read_run
from tests.sample_run import records, write_run
from tests.sample_training import CALIBRATION, entries, manifest, settings, write_training
from tests.test_report import browse

BAD = '"><script>document.title="PWNED"</script><img src=x onerror="document.title=1">'


def text_of(page: str) -> str:
    """What a reader sees, tags aside."""
    body = re.sub(r"<(script|style)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def facts(page: str) -> dict[str, tuple[str, str]]:
    """The head's numbers: (value, note) by name."""
    found = re.findall(r'<dt>([^<]*)</dt><dd class="value">([^<]*)</dd><dd class="note">([^<]*)</dd>', page)
    return {name: (html.unescape(value), html.unescape(note)) for name, value, note in found}


def tips(page: str, title: str) -> list[str]:
    """What the arrow keys read in the chart with this title."""
    figure = page[page.index(f"<b>{title}</b>") :].partition("</figure>")[0]
    return [html.unescape(tip) for tip in re.findall(r'data-tip="([^"]*)"', figure)]


def report(folder: Path) -> str:
    return write_training_report(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def dpo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lines = entries("dpo", 40, every=10)
    return write_training(tmp_path_factory.mktemp("runs") / "dpo", lines, manifest("dpo", 40), settings("dpo"))


def test_a_real_training_is_told_as_its_files_have_it(tmp_path: Path) -> None:
    """The contract with the trainer: what `training` writes is what is read here."""
    pytest.importorskip("trl")
    from tests.training.tiny import make_model, settings_for
    from training import reward
    from training.settings import TrainSettings
    from training.work import open_work

    said = settings_for("reward", make_model(tmp_path / "tiny"), tmp_path / "run", eval={"share": 0.2, "every": 2})
    assert reward.train(open_work(TrainSettings.model_validate(said), lambda text: None), lambda text: None)
    page, console = browse(write_training_report(tmp_path / "run" / "out"))
    assert console == []
    told = json.loads((tmp_path / "run/out/manifest.json").read_text())
    shown = facts(page)
    assert shown["Steps"][0] == f"{told['steps']:,}"
    assert shown["Held-out loss"][0] == f"{told['held_out']['eval_loss']:.4g}"
    text = text_of(page)
    assert f"Calibration error {told['held_out']['eval_calibration_error']:.4g}" in text
    for one in told["calibration"]:
        assert f"{one['confidence']:.3f} {one['accuracy']:.3f}" in text
    assert told["data"][0]["digest"][:12] in text
    assert f"torch {told['versions']['torch']}" in text
    assert "optimizer.lr 0.01" in text


def test_the_head_says_what_the_metrics_say(dpo: Path) -> None:
    page, console = browse(write_training_report(dpo))
    assert console == []
    lines = entries("dpo", 40, every=10)
    trained, held = [line for line in lines if "loss" in line], [line for line in lines if "eval_loss" in line]
    shown = facts(page)
    assert shown["Steps"] == ("40", "of 40 · 2 epochs")
    assert shown["Held-out loss"][0] == f"{held[-1]['eval_loss']:.4g}"
    assert f"{trained[-1]['loss']:.4g} in training, {trained[0]['loss']:.4g} at its start" in shown["Held-out loss"][1]
    assert shown["Held-out accuracy"][0] == f"{100 * held[-1]['eval_accuracy']:.1f} %"
    assert shown["Tokens trained"][0] == f"{sum(line['tokens'] for line in trained) / 1e6:.3g} M"
    speeds = sorted(line["tokens_per_second"] for line in trained[1:])
    assert shown["Tokens per second"][0] == f"{speeds[len(speeds) // 2]:,.0f}"
    assert "39 windows, without the first" in shown["Tokens per second"][1]
    assert ">Finished</span>" in page


def test_every_logged_value_can_be_read_by_the_arrow_keys(dpo: Path) -> None:
    page, lines = report(dpo), entries("dpo", 40, every=10)
    read = tips(page, "Implicit rewards")
    assert len(read) == 40
    for line, held, tip in [(lines[9], lines[10], read[9]), (lines[-2], lines[-1], read[39])]:
        assert tip.startswith(f"step {line['step']}: chosen {line['chosen_reward']:.3g}, ")
        assert f"rejected {line['rejected_reward']:.3g}" in tip
        assert f"held-out chosen {held['eval_chosen_reward']:.3g}" in tip


def test_data_and_settings_are_those_of_the_manifest(dpo: Path) -> None:
    text = text_of(report(dpo))
    assert "outputs/code/data a4698bf81d06 12,345 12,001 7,654,321 310 longer than 2,048 tokens, 34 the same" in text
    assert "optimizer.lr 2e-05" in text
    assert "optimizer.clip null" in text
    assert "Versions: torch 2.13.0 · trl 1.16.0" in text


@pytest.mark.parametrize(("stage", "there", "not_there"), [
    ("sft", ["Loss", "Gradient norm"], ["Reward margin", "Accuracy", "Calibration on held-out pairs"]),
    ("dpo", ["Accuracy", "Reward margin", "Log-probabilities of the answers"], ["Reward", "Calibration error"]),
    ("rpo", ["Accuracy", "Reward margin", "Implicit rewards"], ["Reward"]),
    ("reward", ["Accuracy", "Reward", "Calibration on held-out pairs"], ["Reward margin"]),
])  # fmt: skip
def test_a_stage_shows_its_own_curves(tmp_path: Path, stage: str, there: list[str], not_there: list[str]) -> None:
    more = {"calibration": CALIBRATION} if stage == "reward" else {}
    page = report(write_training(tmp_path / "run", entries(stage, 20, every=5), manifest(stage, 20, **more)))
    titles = re.findall(r"<figcaption><b>([^<]*)</b>", page)
    assert set(there) <= set(titles)
    assert not set(not_there) & set(titles)
    assert ("the data's gap" in text_of(page)) == (stage == "rpo")


@pytest.mark.parametrize(("found", "said"), [(0.7, "the longer"), (-0.7, "the shorter"), (0.4, None), (-0.5, None)])
def test_length_is_warned_of_beyond_a_half(tmp_path: Path, found: float, said: str | None) -> None:
    lines = entries("dpo", 20, every=5)
    for line in lines:
        line.update({name: found for name in line if name.endswith("length_correlation")})
    text = text_of(report(write_training(tmp_path / "run", lines, manifest("dpo", 20))))
    assert ("may be learning length" in text) == (said is not None)
    assert said is None or f"{said} the chosen answer" in text
    assert said is None or f"correlation {found:.2f} on held-out pairs" in text


def test_learning_by_heart_is_told(tmp_path: Path) -> None:
    lines = entries("sft", 40, every=10)
    for line, value in zip((line for line in lines if "eval_loss" in line), (2.0, 1.5, 1.6, 1.8), strict=True):
        line["eval_loss"] = value
    text = text_of(report(write_training(tmp_path / "run", lines, manifest("sft", 40))))
    assert "lowest at step 20 (1.5) and is 1.8 now" in text


# ---- runs that are not whole


def test_a_run_in_progress_shows_what_is_there(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run", entries("sft", 100)[:25], None, settings("sft"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 26, "loss": 1.2, "grad_no')  # a kill
    page, console = browse(write_training_report(folder))
    assert console == []
    assert facts(page)["Steps"] == ("25", "of about 100 · 0.5 epochs")
    assert ">Not finished</span>" in page
    text = text_of(page)
    assert "There is no manifest.json" in text
    assert "one line of metrics.jsonl could not be read" in text
    assert "outputs/code/data" in text


@pytest.mark.parametrize("whole", [True, False])
def test_no_metrics_yet(tmp_path: Path, whole: bool) -> None:
    folder = write_training(tmp_path / "run", [], None, settings("dpo"))
    if whole:
        (folder / "metrics.jsonl").unlink()
    page, console = browse(write_training_report(folder))
    assert console == []
    assert "No step was logged yet." in page
    assert facts(page)["Steps"][0] == "0"


def test_evaluations_alone_are_drawn(tmp_path: Path) -> None:
    lines = [line for line in entries("dpo", 20, every=5) if "loss" not in line]
    page = report(write_training(tmp_path / "run", lines, manifest("dpo", 20)))
    assert [tip.partition(":")[0] for tip in tips(page, "Loss")] == ["step 5", "step 10", "step 15", "step 20"]
    assert f"held-out margin {lines[-1]['eval_margin']:.3g}" in tips(page, "Reward margin")[-1]


def test_values_that_are_no_numbers_are_a_gap_and_said(tmp_path: Path) -> None:
    lines = entries("sft", 40)
    lines[9]["loss"], lines[20]["grad_norm"] = math.nan, math.inf
    page, console = browse(write_training_report(write_training(tmp_path / "run", lines, manifest("sft", 40))))
    assert console == []
    assert "Not a number: loss at step 10, grad_norm at step 21." in text_of(page)
    figure = page[page.index("<b>Loss</b>") :].partition("</figure>")[0]
    assert figure.count("curve line one") == 2, "the line is in two parts"
    assert 'class="odd"' in figure
    assert "step 10: loss not a number" in tips(page, "Loss")[9]
    assert "nan" not in re.sub(r"<style.*?</style>|<script.*?</script>", "", page, flags=re.DOTALL).lower()


def test_phases_are_one_curve_with_marks(tmp_path: Path) -> None:
    for n, name in enumerate(("zebra", "adapters")):  # the order is of time, not of the alphabet
        lines = [{**line, "time": line["time"] + 1000 * n} for line in entries("sft", 20, every=10)]
        own = settings("sft", model={"name": "tiny"}, steps=20 * (n + 1))
        made = manifest("sft", 20 * (n + 1))
        write_training(tmp_path / "run" / "phases" / name, lines, made, own, skip=20 * n)
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest("sft", 20, run="demo-adapters")))
    page, console = browse(write_training_report(tmp_path / "run"))
    assert console == []
    assert "<h1>run</h1>" in page
    assert facts(page)["Steps"] == ("40", "of 40 · 2 + 2 epochs"), "steps that a part before has taken count once"
    text = text_of(page)
    assert "zebra, steps 1 to 20; adapters, steps 21 to 40" in text
    assert "Settings of phase zebra" in text
    assert len(tips(page, "Loss")) == 40


@pytest.mark.parametrize("broken", ["{", "[]", "[" * 100_000])
def test_a_broken_manifest_is_said(tmp_path: Path, broken: str) -> None:
    folder = write_training(tmp_path / "run", entries("sft", 5), None, settings("sft"))
    (folder / "manifest.json").write_text(broken)
    text = text_of(report(folder))
    assert "manifest.json" in text and "is left out" in text
    assert facts(report(folder))["Steps"][0] == "5"


def test_a_folder_that_is_no_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no training"):
        write_training_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


_ODD: list[Any] = [
    *(
        5,
        -3,
        0,
        1.5,
        10**30,
        10**400,
        math.nan,
        math.inf,
        1e300,
        "x",
        "",
        None,
        True,
        [],
        [1, None, "a"],
        {},
        {"a": [1]},
    ),
    [{"path": 3, "digest": [1], "rows": "x", "tokens": math.nan, "dropped": [1], "weight": math.nan}],
    [{"pairs": 1e300, "confidence": 1e5, "accuracy": -4}, {"pairs": 3, "confidence": 0.7, "accuracy": 2.0}],
    {"stage": 5, "model": 3, "data": 7, "epochs": "x", "steps": -4, "run": [1]},
    {"stage": {"name": "reward"}, "epochs": math.nan, "data": [[1]], "steps": math.inf},
]
_KEYS = (
    "stage",
    "run",
    "model",
    "data",
    "steps",
    "processes",
    "settings",
    "versions",
    "calibration",
    "capacity",
    "epochs",
)
_METRICS = ("step", "loss", "eval_loss", "accuracy", "epoch", "time", "tokens", "seconds", "tokens_per_second")


def test_whatever_the_files_hold_there_is_a_page(tmp_path: Path) -> None:
    dice = random.Random(0)
    for n in range(1_000):
        made = {name: dice.choice(_ODD) for name in dice.sample(_KEYS, dice.randint(0, 8))}
        lines = [
            {"step": dice.choice([1, 2, 3]), **{name: dice.choice(_ODD) for name in dice.sample(_METRICS, 4)}}
            for _ in range(dice.randint(0, 4))
        ]
        folder = write_training(tmp_path / "run", lines, made, dice.choice([None, made]))
        assert report(folder).endswith("</html>\n"), n
        shutil.rmtree(folder)


def test_hostile_texts_stay_text(tmp_path: Path) -> None:
    row = {"path": BAD, "digest": BAD, "rows": 1, "examples": 1, "tokens": 1, "dropped": {BAD: 1}}
    made = manifest(
        BAD, 20, run=BAD, data=[row], versions={BAD: BAD}, settings={BAD: BAD, "model": {"name": BAD}},
        calibration=[{"pairs": BAD, "confidence": 1, "accuracy": 1}],
    )  # fmt: skip
    lines: list[Any] = [{**line, BAD: math.nan} for line in entries("dpo", 20)]
    folder = write_training(tmp_path / "run" / "phases" / "<b>&'", lines, made)
    write_training(tmp_path / "run" / "phases" / "other", lines, made)
    shutil.copy(folder / "manifest.json", tmp_path / "run")
    for page_at in (write_training_report(tmp_path / "run"), write_training_report(folder)):
        page, console = browse(page_at)
        assert console == []
        assert page.count("<script") == 1
        assert "<img" not in page
        assert "PWNED" not in re.sub(r"<body.*", "", page.partition("<title>")[0], flags=re.DOTALL)
        assert not re.search(
            r'(src|href)="(?!#)|\sstyle=', re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
        )


# ---- the page as it is used

_USER = """
(() => {
  const seen = [], canvas = document.querySelector(".canvas");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight"); seen.push(document.getElementById("tip").textContent);
  press("ArrowRight"); seen.push(document.getElementById("tip").textContent);
  document.getElementById("theme").click(); seen.push(document.documentElement.dataset.theme);
  seen.push(document.documentElement.scrollWidth <= innerWidth);
  seen.push([...document.querySelectorAll(".canvas")].every((one) => one.tabIndex === 0 && one.ariaLabel.length > 20));
  document.body.dataset.seen = JSON.stringify(seen);
})();
"""


def test_keys_read_the_curves(dpo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("style.css", "script.js"):
        shutil.copy(Path(factory.report.__file__).with_name(name), tmp_path)
    script = tmp_path / "script.js"
    script.write_text(script.read_text("utf-8") + _USER, "utf-8")
    monkeypatch.setattr("factory.report.frame._HERE", tmp_path)
    run = tmp_path / "run"
    shutil.copytree(dpo, run)
    page, console = browse(write_training_report(run))
    seen = re.search(r'data-seen="([^"]*)"', page)
    assert console == []
    assert seen
    lines = [line for line in entries("dpo", 40, every=10) if "loss" in line]
    first, second, *rest = orjson.loads(html.unescape(seen[1]))
    assert first.startswith(f"step 1: loss {lines[0]['loss']:.3g}")
    assert second.startswith(f"step 2: loss {lines[1]['loss']:.3g}")
    assert rest == ["dark", True, True]


def test_thirty_thousand_steps_are_a_small_page(tmp_path: Path) -> None:
    page = report(write_training(tmp_path / "run", entries("dpo", 30_000, every=3_000), manifest("dpo", 30_000)))
    assert len(page) < 700_000
    assert max(line.count(",") for line in re.findall(r'<polyline points="([^"]*)"', page)) <= 620
    assert facts(page)["Steps"][0] == "30,000"


# ---- the command


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    return subprocess.run(
        [sys.executable, "-m", "factory", *words],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


def test_the_command_draws_either_kind_of_run(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    write_training(tmp_path / "outputs/sft", entries("sft", 5), None, settings("sft"))
    write_run(tmp_path / "outputs/code", records(5))
    for name, title in (("sft", "training report"), ("code", "run report")):
        done = command(tmp_path, "report", f"run={name}")
        assert (done.returncode, done.stdout.strip()) == (0, f"outputs/{name}/report.html"), done.stderr
        assert f"{title}</title>" in (tmp_path / done.stdout.strip()).read_text("utf-8")
    done = command(tmp_path, "report", "run=nope")
    assert done.returncode == 2
    assert "outputs/nope holds no run" in done.stderr
    assert command(tmp_path, "explain", "3fa4", "run=sft").returncode == 2, "a training has no records to explain"


def test_nothing_that_trains_is_imported(dpo: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from factory.report.training import write_training_report\n"
        "write_training_report(Path(sys.argv[1])); print([n for n in ('torch', 'training', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(dpo)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


# ---- the parts, where a page would not show a mistake

_VALUES = st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), min_size=1, max_size=400)


@given(_VALUES, st.integers(6, 60))
def test_thinning_keeps_extremes_ends_and_gaps(values: list[float], most: int) -> None:
    points = list(enumerate(map(float, values)))
    found = thin(points, most)
    assert len(found) <= max(1.6 * most, 1)
    assert {step for step, _ in found} <= {step for step, _ in points}
    assert [step for step, _ in found] == sorted({step for step, _ in found})
    assert (found[0][0], found[-1][0]) == (0, len(points) - 1)
    known = [value for value in values if math.isfinite(value)]
    kept = [value for _, value in found if math.isfinite(value)]
    assert (min(kept, default=0), max(kept, default=0)) == (min(known, default=0), max(known, default=0))
    assert (len(known) < len(values)) == (len(kept) < len(found))


@given(_VALUES, st.booleans())
def test_smoothing_stays_between_and_keeps_gaps(values: list[float], robust: bool) -> None:
    points = list(enumerate(map(float, values)))
    found = smooth(points, robust=robust)
    assert [step for step, _ in found] == [step for step, _ in points]
    known = [value for value in values if math.isfinite(value)]
    for (_, raw), (_, value) in zip(points, found, strict=True):
        assert math.isfinite(raw) == math.isfinite(value)
        assert not math.isfinite(value) or min(known) - 1e-3 <= value <= max(known) + 1e-3


def test_a_spike_does_not_lift_what_is_robust() -> None:
    points = [(float(n), 1000.0 if n == 200 else 1.0) for n in range(400)]
    assert max(value for _, value in smooth(points, robust=True)) == 1.0
    assert max(value for _, value in smooth(points)) > 10


def test_the_heights_leave_the_first_steps_out() -> None:
    points = [(float(n), 900.0 if n < 4 else 2.0 - n / 400) for n in range(200)]
    seen = span([Series("loss", points, "one")])
    assert seen.high < 5
    assert seen.low <= 2.0 - 199 / 400
    assert seen.outside == 4


@given(st.lists(st.floats(-1e100, 1e100), min_size=1, max_size=50))
def test_any_numbers_can_be_drawn(values: list[float]) -> None:
    series = [Series("x", list(enumerate(values)), "one")]
    drawn = curves("x", series, shown=span(series))
    places = [float(y) for text in re.findall(r'points="([^"]*)"', drawn) for y in re.findall(r",(\S+)", text)]
    assert all(-20 <= y <= 120 for y in places)


def test_a_training_reads_in_order_whatever_its_lines_order(tmp_path: Path) -> None:
    lines = entries("sft", 9)
    run = read_run(write_training(tmp_path / "run", [*lines[5:], *lines[:5]], None, settings("sft")))
    assert [step for step, _ in run.points("loss")] == list(range(1, 10))
