"""`report.html` of a loop, as a browser shows it."""

from __future__ import annotations

import html
import re
import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

import factory.report
from factory.iterate.summary import write_again, write_summary
from tests.iterate.sample_rounds import RECIPE, Rounds, composed, json_of, suite, whole_run
from tests.test_report import browse
from tests.test_training_report import BAD, facts, text_of

TITLES = (
    "What the numbers say",
    "Gains",
    "Better, or only surer?",
    "The data, round by round",
    "Where the time went",
    "Stages",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Rounds:
    made = whole_run(tmp_path_factory.mktemp("runs") / "demo", items=24, records=120)
    write_summary(made.settings, made.state.data)
    return made


@pytest.fixture(scope="module")
def opened(run: Rounds) -> tuple[str, list[str]]:
    return browse(run.folder / "report.html")


def cells(page: str, head: str) -> list[str]:
    """The texts of the first row whose head begins so."""
    row = next(
        row for row in re.findall(r"<tr.*?</tr>", page, re.DOTALL) if re.match(rf'<tr[^>]*><th scope="row">{head}', row)
    )
    return [text_of(cell) for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)]


def row_of(run: Rounds, measure: str, group: str = "") -> dict[str, Any]:
    rows = json_of(run.folder / "results.json")["measures"]
    return next(
        dict(row) for row in rows if (row["suite"], row["measure"], row["group"]) == ("held_out", measure, group)
    )


def test_the_console_is_silent_and_every_section_is_there(opened: tuple[str, list[str]]) -> None:
    page, console = opened
    assert console == []
    assert [title for title in TITLES if f">{title}</h2>" in page] == list(TITLES)
    assert "nan" not in text_of(page).lower().split()
    assert "None" not in text_of(page)


def test_the_head_and_the_tables_say_what_the_results_say(run: Rounds, opened: tuple[str, list[str]]) -> None:
    page, row = opened[0], row_of(run, "pass@1")
    shown = facts(page)
    last = next(value for value in row["values"] if value["of"] == "round" and value["round"] == 2)
    over = next(
        gain
        for gain in row["gains"]
        if gain["from"]["of"] == "start" and gain["from"]["name"] == row["base"] and gain["to"]["round"] == 2
    )
    assert shown["pass@1 on held_out, round 2"][0] == f"{100 * last['mean']:.1f} %"
    assert shown["Gain over the start"][0] == f"{100 * over['difference']:+.1f} points"
    assert (
        shown["Generating or training"][0]
        == f"{100 * json_of(run.folder / 'results.json')['utilisation']['share']['working']:.1f} %"
    )
    found = cells(page, "Round 2")
    assert found[1] == f"{100 * last['mean']:.1f} %"
    assert found[2] == f"{100 * last['low']:.1f} to {100 * last['high']:.1f} %"
    assert found[-1] == ", ".join(f"{100 * value:.1f}" for value in last["seeds"].values())
    control = next(gain for gain in row["gains"] if gain["from"]["name"] == "seeds" and gain["to"]["of"] == "round")
    assert cells(page, "Control seeds")[3] == f"{100 * control['difference']:+.1f} points".replace("-", "−")
    group = row_of(run, "pass@1", "lcm")
    assert (
        cells(page, "lcm")[1] == f"{100 * next(v for v in group['values'] if v['name'] == group['base'])['mean']:.1f} %"
    )
    for one in json_of(run.folder / "results.json")["conclusions"]:
        text = one["text"].removeprefix("Not shown: ").replace(" %", "\N{NO-BREAK SPACE}%")
        assert " ".join(text[1:].split()) in text_of(page)


def test_the_timeline_reads_every_stage(run: Rounds, opened: tuple[str, list[str]]) -> None:
    tips = [html.unescape(tip) for tip in re.findall(r'data-tip="([^"]*)"', opened[0])]
    for key, lane, begin, end in run.state.data["stretches"]:
        if lane in ("engine", "train"):
            (tip,) = [tip for tip in tips if tip.startswith(f"{key}: ")]
            assert tip.endswith(("generating", "evaluating", "training"))
            assert f"{end - begin:.1f} s" in tip or "1 min" in tip
    lanes = re.findall(r'<div class="lane(?: gap)?"><span[^>]*>([^<]*)</span>', opened[0])
    assert lanes == [
        "engine, start",
        "engine, seed 0",
        "engine, seed 1",
        "training, seed 0",
        "training, seed 1",
        "GPU busy, %",
        "",
    ]
    assert opened[0].count('class="pause"') == 6, "a mark in each lane, and in the driver's"


def test_the_rounds_can_be_read_by_the_arrow_keys(run: Rounds, opened: tuple[str, list[str]]) -> None:
    tips = [html.unescape(tip) for tip in re.findall(r'data-tip="(round [^"]*)"', opened[0])]
    one, many = row_of(run, "pass@1"), row_of(run, "pass@4")
    ends = [
        next(value for value in row["values"] if value["of"] == "round" and value["round"] == 1) for row in (many, one)
    ]
    told = ", ".join(
        f"pass@{k} {100 * end['mean']:.1f} % ({100 * end['low']:.1f} % to {100 * end['high']:.1f} %)"
        for k, end in zip((4, 1), ends, strict=True)
    )
    assert f"round 1: {told}" in tips


_USER = """
(() => {
  const seen = [], canvas = document.querySelector(".lanes");
  const press = (key) => canvas.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  press("ArrowRight"); seen.push(document.getElementById("tip").textContent);
  document.getElementById("theme").click(); seen.push(document.documentElement.dataset.theme);
  for (const one of document.querySelectorAll("details")) one.open = true;
  const frame = document.createElement("div");
  document.body.style.width = "400px";
  seen.push(document.body.scrollWidth <= 400);
  seen.push([...document.querySelectorAll(".canvas")].every((one) => one.tabIndex === 0 && one.ariaLabel.length > 20));
  seen.push([...document.querySelectorAll("svg.whisker")].every((one) => one.getAttribute("aria-label").length > 5));
  document.body.dataset.seen = JSON.stringify(seen);
})();
"""


def test_keys_theme_and_a_narrow_screen(run: Rounds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("style.css", "script.js", "rounds.css"):
        shutil.copy(Path(factory.report.__file__).with_name(name), tmp_path)
    script = tmp_path / "script.js"
    script.write_text(script.read_text("utf-8") + _USER, "utf-8")
    monkeypatch.setattr("factory.report.frame._HERE", tmp_path)
    shutil.copytree(run.folder, tmp_path / "run")
    page, console = browse(write_again(tmp_path / "run"))
    seen = re.search(r'data-seen="([^"]*)"', page)
    assert console == []
    assert seen
    first, *rest = orjson.loads(html.unescape(seen[1]))
    assert first.startswith("start/held_out: ")
    assert rest == ["dark", True, True, True]


def test_hostile_names_and_texts_stay_text(tmp_path: Path) -> None:
    recipe = {
        "name": BAD, "students": [BAD], "evaluate": {"held_out": suite("always"), "shown": suite("start")},
        "controls": {"unfiltered": {"data": "unfiltered"}},
    }  # fmt: skip
    made = whole_run(
        tmp_path / "run",
        rounds=1,
        seeds=(0,),
        items=9,
        records=8,
        recipe=recipe,
        hostile=BAD,
        groups=(BAD, "</style>", "a&b"),
    )
    for path in made.folder.glob("**/results.json"):
        results = json_of(path)
        results["settings"] = {BAD: BAD, "shots": BAD}
        results["measures"] = [{**one, "name": one["name"].replace("score", BAD)} for one in results["measures"]]
        path.write_bytes(orjson.dumps(results))
    for path in made.folder.glob("**/items.jsonl"):
        path.write_text(path.read_text().replace('"score"', orjson.dumps(BAD).decode()))
    made.state.data["stretches"].append([f"seed-0/round-1/{BAD}", "train", 1.0, 2.0])
    write_summary(made.settings, made.state.data)
    page, console = browse(made.folder / "report.html")
    assert console == []
    assert "PWNED" not in page.partition("<body")[0].partition("<title>")[0]
    assert page.count("<script") == 1
    assert "<img" not in page
    assert text_of(page).count("PWNED") > 10, "it is all there to be read"
    assert not re.search(r'(src|href)="(?!#)|\sstyle=', re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL))


def test_an_unfinished_run_says_so_and_a_new_one_is_a_page(tmp_path: Path) -> None:
    made = Rounds(tmp_path / "run", *composed(tmp_path / "run", 1, [0], **RECIPE), items=6, records=8)
    write_summary(made.settings, made.state.data)
    page, console = browse(made.folder / "report.html")
    assert console == []
    assert "No evaluation is finished yet." in page
    stages = made.planned()
    made.invocation(stages[:4], cut=stages[4])
    write_summary(made.settings, made.state.data)
    page, console = browse(made.folder / "report.html")
    assert console == []
    assert f">4 of {len(stages)} stages</span>" in page
    assert "(not finished)" in page
    assert ">The data, round by round</h2>" in page, "of the round whose records are there"


def test_a_page_of_many_seeds_and_rounds_stays_small(tmp_path: Path) -> None:
    made = whole_run(tmp_path / "run", rounds=3, seeds=range(4), items=9, records=8, recipe={"controls": {}})
    write_summary(made.settings, made.state.data)
    assert (made.folder / "report.html").stat().st_size < 500_000
