"""The report as a person's browser sees it: headless chromium opens the file, and what it says is compared."""

from __future__ import annotations

import html
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
from factory.errors import UserError
from factory.journal import Fate
from factory.records import Message, Record, Score, content_hash
from factory.report import write_report
from factory.report.html import Html, h, json_script
from factory.report.measures import Breakdown, Histogram, Step, Timeline, wilson
from factory.report.rules import Cut, cuts
from factory.report.samples import Samples, view
from tests.sample_run import HOSTILE, manifest, records, write_run

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--virtual-time-budget=3000", "--enable-logging=stderr", "--v=0"),
]


def browse(page: Path, fragment: str = "") -> tuple[str, list[str]]:
    """The page's DOM after its script ran, and what the console said."""
    if os.environ.get("FACTORY_NO_BROWSER") == "1":
        pytest.skip("FACTORY_NO_BROWSER=1")
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if browser is None:
        pytest.fail("no chromium: install one (apt-get install chromium), or set FACTORY_NO_BROWSER=1 to do without")
    profile = f"--user-data-dir={page.parent / 'profile'}"
    address = page.resolve().as_uri() + fragment
    done = subprocess.run(
        [browser, *_FLAGS, profile, "--dump-dom", address], capture_output=True, text=True, timeout=60
    )
    assert "</html>" in done.stdout, done.stderr
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def counted(page: str, attribute: str) -> dict[str, int]:
    """`data-count` of every element that has `attribute`, by its value."""
    found = {}
    for tag in re.findall(r"<li[^>]*>", page):
        name, count = re.search(rf'{attribute}="([^"]*)"', tag), re.search(r'data-count="(\d+)"', tag)
        if name and count:
            found[html.unescape(name[1])] = int(count[1])
    return found


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "code-demo", records(240))


@pytest.fixture(scope="module")
def opened(run_dir: Path) -> tuple[str, list[str]]:
    return browse(write_report(run_dir))


def test_the_console_is_silent_and_every_section_is_there(opened: tuple[str, list[str]]) -> None:
    page, console = opened
    assert console == []
    for title in ("Where records were lost", "Acceptance by topic", "Tokens and time", "Scores", "Records"):
        assert f">{title}</h2>" in page


def test_the_funnel_says_what_the_manifest_says(opened: tuple[str, list[str]]) -> None:
    page, told = opened[0], manifest(records(240))
    stages = counted(page, "data-stage")
    assert stages.pop("records") == told["records"]
    assert stages.pop("kept") == told["kept"]
    assert sum(stages.values()) == told["rejected"]
    assert counted(page, "data-why") == told["reasons"]
    # in the order in which records come to them
    order = list(stages)
    assert order.index("parse") < order.index("rules") < order.index("execution") < order.index("judge")
    assert order[-1] == "duplicate"


def test_the_script_lists_the_records_and_shows_one(run_dir: Path) -> None:
    lost = next(record for record in records(240) if record.reason == "execution: wrong")
    page, console = browse(write_report(run_dir), f"#{lost.id}")
    assert console == []
    assert page.count('role="option"') == 240
    shown = page[page.index('id="record"') :]
    assert lost.id in shown
    assert "execution: wrong" in shown
    assert f"python -m factory explain {lost.id[:12]}" in shown
    assert '<span class="k">def</span>' in shown, "code is coloured"
    assert "2 of 4 passed" in shown
    assert "Attempt 1: " in shown


_USER = """
(() => {
  const seen = [], $ = (id) => document.getElementById(id);
  const rows = () => $("list").children.length, shown = () => $("record").querySelector("code").textContent;
  const press = (key, at = document.body) => at.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  const first = shown();
  press("j"); seen.push(shown() !== first); press("k"); seen.push(shown() === first);
  $("next").click(); seen.push(shown() !== first); $("prev").click(); seen.push(shown() === first);
  for (const fate of ["lost", "kept"]) { document.querySelector(`input[value=${fate}]`).click(); seen.push(rows()); }
  document.querySelector('[data-reason="parse: no tests"]').click(); seen.push(rows(), $("reason").value);
  $("theme").click(); seen.push(document.documentElement.dataset.theme);
  const chart = document.querySelector(".canvas");
  press("ArrowRight", chart); seen.push(/^[\\d,.]+ tokens\\/s from /.test($("tip").textContent));
  $("reason").value = ""; $("search").value = "VARIANT 17."; $("search").oninput();
  setTimeout(() => {
    seen.push(rows());
    $("search").value = "nobody wrote this"; $("search").oninput();
    setTimeout(() => {
      seen.push(rows(), $("record").textContent);
      document.body.dataset.seen = JSON.stringify(seen);
    }, 300);
  }, 300);
})();
"""


def test_filters_search_and_keys_do_what_they_say(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("style.css", "script.js"):
        shutil.copy(Path(factory.report.__file__).with_name(name), tmp_path)
    with (tmp_path / "script.js").open("a") as script:
        script.write(_USER)
    monkeypatch.setattr("factory.report.frame._HERE", tmp_path)
    page, console = browse(write_report(run_dir))
    monkeypatch.undo()
    write_report(run_dir)
    seen = re.search(r'data-seen="([^"]*)"', page)
    assert console == []
    assert seen
    told = manifest(records(240))
    assert orjson.loads(html.unescape(seen[1])) == [
        *(True, True, True, True),
        *(told["rejected"], told["kept"]),
        *(told["reasons"]["parse: no tests"], "rparse: no tests"),
        *("dark", True),
        *(sum("17." in str(record.messages) for record in records(240)), 0, "No record fits these filters."),
    ]


def test_a_script_in_a_models_output_stays_text(run_dir: Path) -> None:
    hostile = next(record for i, record in enumerate(records(240)) if i % 90 == 81 and record.messages)
    page, console = browse(write_report(run_dir), f"#{hostile.id}")
    assert console == [], "neither a script ran nor one was refused"
    assert "<title>code-demo · run report</title>" in page
    shown = page[page.index('id="record"') : page.index('id="samples"')]
    assert "&lt;script&gt;document.title='PWNED'" in shown
    assert "<img" not in page
    assert page.count("<script") == 2


def test_hostile_names_everywhere(tmp_path: Path) -> None:
    bad = '"><script>document.title="PWNED"</script>'
    made = [
        Record(
            id=bad,
            task=bad,
            messages=(Message(role="user", content=bad),),
            meta={"topic": bad, bad: bad, "n": 1},
            kept=True,
        ),
        Record(
            id="b", task=bad, meta={"topic": "x"}, scores={bad: Score(value=0.5, reason=bad)}, reason=f"{bad}: {bad}"
        ),
    ]
    run = write_run(
        tmp_path / "run", made, run=bad, task=bad, keep=bad, stopped=bad, finished=False, versions={bad: bad}
    )
    page, console = browse(write_report(run))
    assert console == []
    assert page.count("<script") == 2
    assert "<title>&quot;&gt;&lt;script&gt;" in page or '<title>"&gt;&lt;script&gt;' in page


def test_the_policy_allows_this_pages_own_style_and_script_alone(run_dir: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy
    rules = html.unescape(policy[1])
    assert "default-src 'none'" in rules
    assert "unsafe" not in rules
    assert re.search(r"script-src 'sha256-[\w+/=]+';", rules)
    assert re.search(r"style-src 'sha256-[\w+/=]+';", rules)
    assert not re.search(r'(src|href)="(?!#)', page), "nothing is fetched"
    assert not re.search(r"\sstyle=", page.partition('id="samples"')[0])


def test_an_injected_script_is_refused(run_dir: Path, tmp_path: Path) -> None:
    page = write_report(run_dir).read_text("utf-8")
    broken = tmp_path / "broken.html"
    broken.write_text(page.replace("<main>", "<main><script>document.title='PWNED'</script>"), "utf-8")
    dom, console = browse(broken)
    assert "<title>code-demo · run report</title>" in dom
    assert any("Content Security Policy" in line for line in console), "the policy is in force"


def test_no_records(tmp_path: Path) -> None:
    page, console = browse(
        write_report(write_run(tmp_path / "empty", [], finished=False, stopped="budget: 0 requests"))
    )
    assert console == []
    assert "No record was made yet." in page
    assert "budget: 0 requests" in page


def test_a_record_that_lacks_everything(tmp_path: Path) -> None:
    run = write_run(tmp_path / "bare", [Record(id="", task="")], exchanges=False)
    page, console = browse(write_report(run))
    assert console == []
    assert "no reason given" in page
    assert "No response is in the journal." in page


def test_odd_shapes_of_metadata(tmp_path: Path) -> None:
    metas: list[dict[str, Any]] = [
        {"tests": "not a list", "attempts": {"no": "list"}, "solution": 3, "topic": ["x"]},
        {
            "tests": [1, None, {"a": 2}],
            "attempts": ["text", None, {"verdict": {"status": "wrong", "tests": [True, False, True]}}],
        },
        {"seed": "text", "topic": "", "language": None, "big": 10**15, "deep": {"a": [{"b": [1, {"c": {}}]}]}},
    ]
    made = [Record(id=content_hash(n), task="t", meta=meta, reason="odd") for n, meta in enumerate(metas)]
    page = write_report(write_run(tmp_path / "odd", made, exchanges=False))
    for record in made:
        assert browse(page, f"#{record.id}")[1] == []


def test_huge_texts_are_cut_and_say_so(tmp_path: Path) -> None:
    huge = Message(role="assistant", content="word " * 2_000_000)
    made = [Record(id=f"{n:032x}", task="t", messages=(huge,), kept=True) for n in range(3)]
    page = write_report(write_run(tmp_path / "huge", made, exchanges=False))
    assert page.stat().st_size < 300_000
    assert "more characters: see explain" in page.read_text("utf-8")


def test_the_sample_is_even_bounded_and_the_same_every_time(run_dir: Path) -> None:
    first = write_report(run_dir, limit=60).read_text("utf-8")
    assert write_report(run_dir, limit=60).read_text("utf-8") == first
    assert "Showing 60 of 240 records" in first
    block = re.search(r'id="samples">(.*?)</script>', first, re.DOTALL)
    assert block
    shown = orjson.loads(block[1])
    assert len(shown) == 60
    assert sum(record["kept"] for record in shown) == 30
    assert {record["reason"] for record in shown if not record["kept"]} == set(manifest(records(240))["reasons"])


def test_a_journal_that_moved_on_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", records(30), wanted=None, records=25, kept=10, reasons={"x": 15})
    page = write_report(run).read_text("utf-8")
    assert "the run has moved on" in page
    assert counted(page, "data-why") == {"x": 15}


@pytest.mark.parametrize("name", ["manifest.json", "journal.db"])
def test_what_is_missing_is_named(run_dir: Path, tmp_path: Path, name: str) -> None:
    for other in {"manifest.json", "journal.db"} - {name}:
        shutil.copy(run_dir / other, tmp_path)
    with pytest.raises(UserError, match=re.escape(name)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / name).exists()


# VmHWM and not ru_maxrss: the latter begins with what the parent process held.
_MEASURED = """
import re, sys, time
from pathlib import Path
from factory.report import write_report
start = time.process_time()
write_report(Path(sys.argv[1]))
print(time.process_time() - start, int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024)
"""


def measured(run: Path) -> tuple[float, float]:
    """Seconds of computing and peak megabytes of a report in a process of its own."""
    done = subprocess.run([sys.executable, "-c", _MEASURED, str(run)], capture_output=True, text=True, check=True)
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def test_memory_does_not_grow_with_the_run(tmp_path: Path) -> None:
    small = measured(write_run(tmp_path / "small", records(1_000), exchanges=False))
    large = measured(write_run(tmp_path / "large", records(12_000), exchanges=False))
    assert large[1] < small[1] + 45, "SQLite's own cache may fill up to its 32 MB; nothing else may grow"


def test_a_report_takes_as_long_as_it_has_records(tmp_path: Path) -> None:
    """Eight times the records, at most sixteen times the time: nothing compares each with each."""
    few, many = (write_run(tmp_path / str(count), records(count)) for count in (500, 4_000))
    floor = min(measured(few)[0] for _ in range(3))
    assert min(measured(many)[0] for _ in range(3)) < 16 * floor


# ---- the parts, where a page would not show a mistake


def test_a_histogram_stays_small_and_loses_nothing() -> None:
    found = Histogram(most=64)
    values = [(n * 7919 % 10_007) / 10.0 - 300 for n in range(10_000)]
    for n, value in enumerate([*values, float("nan"), float("inf")]):
        found.add(value, n % 4 == 0)
    assert len(found.bins) <= 64
    assert found.odd == 2
    bars = found.bars()
    assert sum(kept for *_, kept, _ in bars) == 2_500
    assert sum(lost for *_, lost in bars) == 7_500
    assert bars[0][0] <= min(values)
    assert bars[-1][1] >= max(values)


def test_few_values_have_a_bar_each() -> None:
    found = Histogram()
    for value in (1, 1, 3, 5):
        found.add(value, True)
    assert found.bars() == [(1, 1, 2, 0), (3, 3, 1, 0), (5, 5, 1, 0)]


def test_a_timeline_cuts_pauses_out_and_stays_small() -> None:
    line = Timeline(most=50)
    for n in range(5_000):
        line.add(1000.0 + n + (86_400 if n >= 2_500 else 0), 0.5, 10)
    assert line.pauses == 1
    assert line.paused == pytest.approx(86_400.5)
    assert line.active == pytest.approx(4_999.0)
    bins = line.series()
    assert len(bins) <= 50
    assert sum(bin_.responses for bin_ in bins) == 5_000
    assert sum(bin_.tokens for bin_ in bins) == 50_000


def test_latency_quantiles_are_within_five_percent() -> None:
    step = Step()
    for n in range(1, 1001):
        step.add(n / 100, 1, 1)
    for share in (0.5, 0.9, 0.99):
        assert step.quantile(share) == pytest.approx(share * 10, rel=0.05)


def test_a_breakdown_prefers_topics_and_drops_what_has_too_many_values() -> None:
    found = Breakdown(most=5)
    for n in range(100):
        found.add(iter([("seed", str(n)), ("style", "ab"[n % 2]), ("topic", "xyz"[n % 3])]), n % 2 == 0)
    assert "seed" in found.dropped
    best = found.best()
    assert best
    assert best[0] == "topic"
    assert sum(map(sum, best[1].values())) == 100


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_cuts_are_read_from_the_keep_rule() -> None:
    assert cuts("execution == 1 and (reward >= 0.5 or not judge < 3)") == {
        "execution": [Cut("=", 1.0)], "reward": [Cut("≥", 0.5, False)], "judge": [Cut("≥", 3.0, False)],
    }  # fmt: skip
    assert cuts("not python ((") == cuts(None) == {}


def test_text_cannot_leave_its_place() -> None:
    assert h("p", "<b>", Html("<i></i>"), title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i></i></p>'
    block = json_script([HOSTILE], "x")
    assert orjson.loads(block[len('<script type="application/json" id="x">') : -len("</script>")]) == [HOSTILE]
    assert block.count("<") == 2
    assert "\u2028" not in block


def test_samples_do_not_depend_on_the_order() -> None:
    fates = [Fate(n, 0, record, {}) for n, record in enumerate(records(300, hostile=""))]
    there, back = Samples(50), Samples(50)
    for fate in fates:
        there.add(fate)
    for fate in reversed(fates):
        back.add(fate)
    assert there.chosen() == back.chosen()
    assert len(there.chosen()) == 50


def test_a_view_has_no_text_twice() -> None:
    shown = view(Fate(0, 0, records(1)[0], {}))
    assert shown["solution"] is None, "the conversation has it"
    assert "problem" not in shown["meta"]
    assert [attempt.get("final", False) for attempt in shown["attempts"]] == [False, True]


# ---- the tree of topics


def test_the_tree_of_topics_is_drawn_with_what_became_of_each(tmp_path: Path) -> None:
    """Names are a model's, so hostile; counts of a node are those of all topics below it."""
    made = [record.model_copy(update={"meta": {"path": path}}) for record, path in zip(
        records(60), [["general", "Food", "bread"], ["general", "Food", HOSTILE], ["maths", "beginner", "sets"]] * 20, strict=True)]  # fmt: skip
    run_dir = write_run(tmp_path / "tree-demo", made)
    leaves = [{"name": "bread", "origin": "model"}, {"name": HOSTILE, "origin": "model", "problem": "too short"}]
    food = {"name": "Food", "origin": "manual", "asked": 2, "children": leaves}
    general = {"branch": "general", "name": "all", "origin": "root", "asked": 1, "children": [food]}
    maths = {"branch": "maths", "level": "beginner", "name": "maths (beginner)", "asked": 2, "open": True,
             "children": [{"name": "sets", "origin": "manual"}]}  # fmt: skip
    (run_dir / "tree.json").write_bytes(orjson.dumps({"complete": False, "roots": [general, maths]}))
    page, console = browse(write_report(run_dir))
    assert console == []
    assert "PWNED" not in re.search(r"<title>(.*?)</title>", page).group(1)  # type: ignore[union-attr]
    section = page[page.index('id="topics"') : page.index('id="time"')]
    assert "<script" not in section and "<img" not in section and "Of course!&lt;/script&gt;" in section
    assert "6 topics" in section and "Some were still to be asked for" in section
    rows = re.findall(r'class="name">([^<]{0,30}).*?class="n dim">([^<]*)<', section, re.DOTALL)
    told = dict(rows)
    kept = [record.kept for record in made]
    assert told["bread"] == f"{sum(kept[0::3])} of 20"
    assert told["Food"] == told["all"] == f"{sum(kept[0::3]) + sum(kept[1::3])} of 40"
    assert told["sets"] == told["maths (beginner)"] == f"{sum(kept[2::3])} of 20"


def test_a_run_without_a_tree_has_no_such_section_and_a_damaged_one_says_so(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "plain", records(10))
    assert 'id="topics"' not in write_report(run_dir).read_text()
    (run_dir / "tree.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot read .*tree\.json"):
        write_report(run_dir)


def test_a_large_tree_is_drawn_in_part(tmp_path: Path) -> None:
    run_dir = write_run(tmp_path / "large", records(10))
    many = [{"name": f"topic {number}", "origin": "model"} for number in range(9_000)]
    root = {"branch": "general", "name": "all", "origin": "root", "asked": 9_000, "children": many}
    (run_dir / "tree.json").write_bytes(orjson.dumps({"complete": True, "roots": [root]}))
    text = write_report(run_dir).read_text()
    assert "9,001 topics" in text and "The first 3,000 are drawn" in text
    assert len(text) < 2_000_000 and "topic 2998" in text and "topic 2999" not in text
