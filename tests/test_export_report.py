"""The report of an export: its numbers counted again from the rows, its texts shown as texts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

import factory.report
from factory.compose import compose_config
from factory.embedding import Embedder, EmbeddingSettings, open_embedder
from factory.errors import ConfigError, UserError
from factory.export import ExportSettings, export
from factory.report.map import make_map
from factory.report.measures import wilson
from factory.report.selection import write_selection_report
from tests.sample_export import conversations, pairs, turn, write_export
from tests.scored_run import scored, write_scored
from tests.test_report import browse
from tests.test_scored_report import BAD, section, tips
from tests.test_training_report import text_of


def report(folder: Path) -> str:
    return write_selection_report(folder).read_text("utf-8")


@pytest.fixture(scope="module")
def preference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_export(tmp_path_factory.mktemp("exports") / "pairs", pairs(300, fond=0.5))


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return open_embedder(EmbeddingSettings(dimensions=64))


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, embedder: Embedder) -> Path:
    rows, lost = conversations(120), conversations(60, "lost", 9)
    twins = [{"id": lost[n]["id"], "kept": rows[n]["id"], "similarity": 0.8 + n / 300, "kind": ("minhash", "semantic")[n % 2]}
             for n in range(40)]  # fmt: skip
    folder = write_export(tmp_path_factory.mktemp("exports") / "sft", rows, lost, twins)
    make_map(folder, embedder, model="hashing", most=80, layout="pca")
    return folder


def test_margins_and_lengths_are_those_of_the_rows(preference: Path) -> None:
    page, console = browse(write_selection_report(preference))
    assert console == []
    rows = pairs(300, fond=0.5)
    margins = [row["chosen_reward"] - row["rejected_reward"] for row in rows]
    longer = [len(row["chosen"][0]["content"]) - 200 for row in rows]
    part = section(page, "pairs")
    drawn = [int(found[1]) for tip in tips(part) if (found := re.match(r"margin .*: (\d+) pairs$", tip))]
    assert sum(drawn) == 300
    differs = [length for length in longer if length]
    low, high = wilson(sum(length > 0 for length in longer), len(differs))
    text = text_of(part)
    assert f"of {len(differs)} pairs that differ in length ({100 * low:.0f} to {100 * high:.0f} %)" in text
    for source, count in (("reward model", 200), ("verifier", 100)):
        mine = [row["source"] == source for row in rows]
        of = [[value for value, here in zip(values, mine, strict=True) if here] for values in (longer, margins)]
        rho = pytest.importorskip("scipy.stats").spearmanr(*of).statistic
        assert rho > 0.3
        assert f"Decided by {source} Spearman {rho:.2f} (" in text and f"), {count} pairs" in text
        assert f"Where {source} decided, the margin goes with the length." in text
        assert f"Margin, decided by {source} {count} ·" in text
    cells = [
        re.match(r"length difference (\S+) to \S+, margin \S+ to \S+: (\d+) better is longer, (\d+) ", tip)
        for tip in tips(part)
    ]
    known = [(float(cell[1]), int(cell[2]), int(cell[3])) for cell in cells if cell]
    assert sum(up + down for _, up, down in known) == 300
    assert all(down == 0 for start, _, down in known if start > 0) and all(
        up == 0 for start, up, _ in known if start < -10
    )
    assert "keep if > 0.2" in text, "the margin's own bound"
    scores = section(page, "scores")
    found = {
        int(m[1]): (int(m[2]), int(m[3]))
        for tip in tips(scores)
        if (m := re.match(r"judge (\d): (\d+) chosen, (\d+) rejected", tip))
    }
    assert found == {1: (0, 75), 2: (0, 75), 3: (100, 75), 4: (100, 75), 5: (100, 0)}


def test_pairs_whose_margin_ignores_the_length_have_no_warning(tmp_path: Path) -> None:
    text = text_of(report(write_export(tmp_path / "even", pairs(300))))
    assert "Does the margin go with the length?" in text and "the margin goes with the length." not in text


def test_rankings_compare_the_best_with_the_worst(tmp_path: Path) -> None:
    rows = [
        {"id": str(n), "run": "r", "task": "t", "model": "m", "prompt": [turn("user", "?")],
         "responses": [[turn("assistant", "a" * (10 + n))], [turn("assistant", "b" * 10)], [turn("assistant", "c" * 9)]],
         "rewards": [2.5, 1.0, 0.5], "source": "reward model", "response_ids": ["x", "y", "z"], "response_models": ["m"] * 3}
        for n in range(12)
    ]  # fmt: skip
    part = section(report(write_export(tmp_path / "reward", rows, format="reward")), "pairs")
    assert any(tip == "margin 2: 12 pairs" for tip in tips(part))
    assert any(tip == "answers 3: 12 prompts" for tip in tips(part))
    assert "longer one in 100 % of 12 pairs that differ" in text_of(part)


def test_statistics_of_the_rule_are_drawn_with_their_values(sft: Path) -> None:
    part = section(report(sft), "scores")
    assert "one way in: ≥ q75 (0.5)" in part and "keep if ≥ 2 · one way in: = max (5)" in part
    assert part.count('class="cut"') == 3
    rows, lost = conversations(120), conversations(60, "lost", 9)
    found = {
        int(m[1]): (int(m[2]), int(m[3]))
        for tip in tips(part)
        if (m := re.match(r"judge (\d): (\d+) written, (\d+) left out", tip))
    }
    for grade in range(1, 6):
        told = [sum(row["scores"]["judge"] == grade for row in some) for some in (rows, lost)]
        assert found[grade] == tuple(told)


def test_each_runs_quantile_has_its_line(tmp_path: Path) -> None:
    both = {"chat": {"q75(reward)": 0.5}, "code": {"q75(reward)": 1.0}}
    page = report(
        write_export(tmp_path / "two", conversations(100), keep="reward >= q75", statistics=both, runs=["chat", "code"])
    )
    assert "keep if ≥ q75 (0.5), ≥ q75 (1)" in page and section(page, "scores").count('class="cut"') == 2


def test_duplicates_stand_side_by_side_as_text(sft: Path) -> None:
    page, console = browse(write_selection_report(sft))
    assert console == []
    part = section(page, "duplicates")
    assert "Listed: 20 minhash, 20 semantic." in part
    assert part.count("<details") == 24
    rows, lost = conversations(120), conversations(60, "lost", 9)
    sides = re.findall(r"<pre[^>]*>(.*?)</pre>", part, re.DOTALL)
    assert text_of(sides[0]).startswith(" ".join(f"user: {rows[0]['messages'][0]['content']}".split())[:60])
    assert text_of(sides[1]).startswith(" ".join(f"user: {lost[0]['messages'][0]['content']}".split())[:60])
    assert (
        page.count("<script") == 1 and "<img" not in page and "PWNED" not in re.search(r"<title>(.*?)</title>", page)[1]
    )  # type: ignore[index]
    shown = [float(found) for found in re.findall(r"similarity ([\d.]+)", part)]
    assert shown[:12] == sorted(shown[:12]) and min(shown) == 0.8, "from the least alike of each kind"


def test_the_map_shows_points_by_topic_and_by_fate(sft: Path) -> None:
    part = section(report(sft), "map")
    points = re.findall(r'<circle class="hit pt c\d"[^>]* data-c="(\d+)"[^>]* cx="([\d.]+)%" cy="([\d.]+)%"', part)
    assert len(points) == 80
    assert all(2 <= float(x) <= 98 and 2 <= float(y) <= 98 for _, x, y in points)
    assert re.findall(r"<span>(\w+)</span></label>", part) == ["topic", "run", "fate"]
    assert "strings" in text_of(part) and "written (40)" in text_of(part) and "keep (40)" in text_of(part)
    assert len({code[0] for code, *_ in points}) == 9, "a colour for each topic"
    assert "<script" not in part and "&lt;/script&gt;" in part


_USER = """
(() => {
  const seen = [], colours = () => [...document.querySelectorAll(".pt")].map((point) => point.getAttribute("class").slice(-1)).join("");
  const legends = () => [...document.querySelectorAll("[data-key]")].map((legend) => !legend.hidden);
  const first = colours(); seen.push(legends());
  document.querySelectorAll("#colours input")[2].click();
  seen.push(colours() !== first, new Set(colours()).size, legends());
  document.querySelector(".map-plot .canvas").dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
  seen.push(document.getElementById("tip").hidden);
  document.body.dataset.seen = JSON.stringify(seen);
})();
"""


def test_points_are_coloured_by_what_one_chooses(sft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("style.css", "script.js"):
        shutil.copy(Path(factory.report.__file__).with_name(name), tmp_path)
    script = (tmp_path / "script.js").read_text()
    (tmp_path / "script.js").write_text(script + _USER)
    monkeypatch.setattr("factory.report.frame._HERE", tmp_path)
    page, console = browse(write_selection_report(sft))
    assert console == []
    seen = re.search(r'data-seen="([^"]*)"', page)
    assert seen
    assert orjson.loads(seen[1]) == [[True, False, False], True, 2, [False, False, True], False]


@pytest.mark.parametrize("layout", ["pca", "tsne"])
def test_a_map_puts_like_texts_near_each_other(tmp_path: Path, embedder: Embedder, layout: Any) -> None:
    folder = write_export(tmp_path / "map", conversations(60))
    path = make_map(folder, embedder, model="hashing", most=60, layout=layout,
                    about=lambda ids: {next(iter(sorted(ids))): {"category": "told"}})  # fmt: skip
    assert path is not None
    first = path.read_bytes()
    points = orjson.loads(first)["points"]
    assert sum("category" in point["about"] for point in points) == 1
    assert {tuple(point) for point in points} == {("id", "text", "about", "at")}, (
        "neither whole texts nor vectors are kept"
    )
    near = far = 0.0
    for a in points:
        for b in points:
            gap = sum((x - y) ** 2 for x, y in zip(a["at"], b["at"], strict=True))
            if a["about"]["topic"] == b["about"]["topic"]:
                near += gap / 9
            else:
                far += gap / 72
    assert near < far
    make_map(folder, embedder, model="hashing", most=60, layout=layout,
             about=lambda ids: {next(iter(sorted(ids))): {"category": "told"}})  # fmt: skip
    assert path.read_bytes() == first, "the same map every time"


def test_too_few_rows_make_no_map(tmp_path: Path, embedder: Embedder) -> None:
    folder = write_export(tmp_path / "one", conversations(1))
    assert make_map(folder, embedder, model="hashing", most=10, layout="pca") is None
    assert 'id="map"' not in report(folder)


@pytest.mark.parametrize(
    "rows", [pairs(1), pairs(2), conversations(1), [{**row, "chosen_reward": 2.0} for row in pairs(5)]], ids=len
)
def test_little_is_said_of_little(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    page, console = browse(write_selection_report(write_export(tmp_path / "few", rows)))
    assert console == []
    assert "nan" not in text_of(page).lower().split()


def test_hostile_names_stay_text(tmp_path: Path, embedder: Embedder) -> None:
    rows = [{**row, "run": BAD, "task": BAD, "model": BAD, "topic": BAD if n % 2 else "x", "scores": {BAD: 1.0 * n}}
            for n, row in enumerate(conversations(12))]  # fmt: skip
    twins = [
        {"id": rows[0]["id"], "kept": rows[1]["id"], "similarity": 1, "kind": BAD},
        {"id": BAD, "kept": BAD, "similarity": 0, "kind": "b"},
    ]
    funnel = [{"step": BAD, "unit": BAD, "in": 12, "out": 6, "reasons": {BAD: 6}}]
    mixture = {"unit": BAD, "parts": {BAD: {"available": 3, "taken": 3, "share": 1.0, "short": True}}}
    folder = write_export(tmp_path / "bad", rows, [], twins, runs=[BAD], models=[BAD], keep=f"{BAD} > 1", funnel=funnel, mixture=mixture,
                          statistics={BAD: {BAD: 1.0}})  # fmt: skip
    make_map(folder, embedder, model=BAD, most=10, layout="pca")
    page, console = browse(write_selection_report(folder))
    assert console == []
    assert page.count("<script") == 1 and "<img" not in page


@pytest.mark.parametrize("name", ["duplicates.jsonl", "map.json", "part-00000.parquet"])
def test_a_damaged_file_is_named(tmp_path: Path, name: str) -> None:
    folder = write_export(tmp_path / "damaged", conversations(3))
    (folder / name).write_text("{")
    with pytest.raises(UserError, match=re.escape(name)):
        write_selection_report(folder)


def test_an_export_of_a_scored_run_draws_it_all(tmp_path: Path) -> None:
    """Through the command line: the selection of three formats, with a map by the topics that the task knows."""
    write_scored(tmp_path / "outputs/chat", scored(40))
    root = Path(__file__).parent.parent

    def run(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "factory", *words], cwd=tmp_path, capture_output=True, text=True, timeout=120,
                              env={**os.environ, "PYTHONPATH": str(root)})  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(
        "export",
        "run=chat",
        "keep=execution == 1 and (reward >= q75 or judge == max)",
        "embedding.model=hashing",
        "map.draw=true",
    )
    folder = tmp_path / "outputs/chat/export/sft"
    page = (folder / "report.html").read_text()
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    quantile = manifest["statistics"]["chat"]["q75(reward)"]
    assert f"one way in: ≥ q75 ({quantile:.4g})" in page
    assert "<span>topic</span>" in section(page, "map") and "number theory" in text_of(section(page, "map"))
    assert "report.html" in run("report", "out=outputs/chat/export/sft")
    assert (folder / "report.html").read_text() == page, "drawn again from what lies there, it is the same"
    run("export", "run=chat", "format=preference")
    assert 'id="pairs"' in (tmp_path / "outputs/chat/export/preference/report.html").read_text()
    assert not (tmp_path / "outputs/chat/export/preference/map.json").exists()
    run("export", "run=chat", "format=reward")
    assert "Answers to a prompt" in (tmp_path / "outputs/chat/export/reward/report.html").read_text()


def test_a_model_for_the_map_that_is_none_is_told_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(settings: EmbeddingSettings) -> Embedder:
        raise ConfigError(f"embedding.model={settings.model}: is no model")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("factory.export.open_embedder", missing)
    write_scored(tmp_path / "outputs/chat", scored(3))
    composed, problems = compose_config("export", ["run=chat", "embedding.model=nonsense", "map.draw=true"])
    assert problems == []
    settings = ExportSettings.model_validate({key: value for key, value in composed.items() if key != "hydra"})
    with pytest.raises(ConfigError, match=r"embedding\.model=nonsense: is no model$"):
        export(settings)
    assert not (tmp_path / "outputs/chat/export/sft").exists()
