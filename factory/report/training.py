"""`report.html` of a training run: its curves, its data, its settings; of one in progress, too.

Reads the run's files only and needs none of the libraries that train.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from factory.outputs import write_atomically
from factory.report.charts import duration, number, percent
from factory.report.frame import document, fact, folded, short
from factory.report.html import Child, Html, h, join
from factory.report.training_charts import HELD, LEARNED, LOSS, OPTIMIZER, SPEED, calibration, draw, pair
from factory.report.training_run import TrainingRun, listed, mapping, read_run, real, whole

STAGES = {"sft": "Supervised fine-tuning", "reward": "Reward model", "dpo": "DPO", "rpo": "RPO"}
_LONG = 0.5  # correlation with length beyond which it is said


def write_training_report(folder: Path) -> Path:
    """Write `report.html` from what `folder` holds. Raises `UserError` where it is no training run's folder."""
    path = folder / "report.html"
    write_atomically(path, render(read_run(folder)).encode())
    return path


def render(run: TrainingRun) -> str:
    """The whole document."""
    found = (
        ("loss", "Loss", _loss(run)),
        (
            "learned",
            "What is learnt" if run.stage != "reward" else "How well rewards tell answers apart",
            _learned(run),
        ),
        ("optimizer", "Steps of the optimiser", _figures(run, OPTIMIZER)),
        ("speed", "Speed", _figures(run, SPEED)),
        ("data", "Data", _data(run)),
        ("settings", "Settings and versions", _settings(run)),
    )
    sections = [(name, title, body) for name, title, body in found if body is not None]
    footer = "One self-contained file: no network, no tracking. Values are those of metrics.jsonl and manifest.json."
    return document(run.name, "training report", _header(run), sections, skip="loss", footer=footer)


# ---- header


def _header(run: TrainingRun) -> Html:
    model = mapping(run.phases[0].settings.get("model"))
    processes = whole(run.manifest.get("processes"))
    lead = [
        "Stage ",
        h("b", STAGES.get(run.stage, run.stage)),
        " · from ",
        h("b", model.get("name", "an unknown model")),
    ]
    if processes:
        lead += [" · ", h("b", number(processes)), " process" if processes == 1 else " processes"]
    chip = h("span", "Finished", class_="chip good") if run.finished else h("span", "Not finished", class_="chip warn")
    return h(
        "header",
        h("p", "Training report", class_="eyebrow"),
        h("div", h("h1", run.name), chip, class_="title"),
        h("p", lead, class_="lead"),
        h("dl", list(_facts(run)), class_="facts"),
        [h("p", notice, class_="notice") for notice in _notices(run)],
    )


def _facts(run: TrainingRun) -> Iterator[Html]:
    guessed = any(phase.guessed for phase in run.phases)
    of = (
        f"of {'about ' if guessed else ''}{number(run.planned)}" if run.planned else "how many are planned is not known"
    )
    epochs = [value for phase in run.phases for _, value in phase.points("epoch")[-1:]]
    if epochs:
        of += f" · {' + '.join(f'{value:.2g}' for value in epochs)} epoch{'s' if epochs != [1] else ''}"
    yield fact("Steps", number(run.done), of, min(run.done / run.planned, 1) if run.planned else None)
    loss, held = run.values("loss"), run.values(f"{HELD}loss")
    if held:
        note = (
            f"{_digits(loss[-1])} in training, {_digits(loss[0])} at its start"
            if loss
            else "nothing logged in training"
        )
        yield fact("Held-out loss", _digits(held[-1]), note)
    else:
        note = f"{_digits(loss[0])} at the start · nothing was held out so far" if loss else "nothing logged so far"
        yield fact("Loss", _digits(loss[-1]) if loss else "–", note)
    yield from _accuracy(run)
    seconds, windows = (
        run.values("seconds"),
        [v for phase in run.phases for _, v in phase.points("tokens_per_second")[1:]],
    )
    speeds = [value for value in windows if math.isfinite(value)]
    yield fact("Tokens trained", short(sum(run.values("tokens"))), _tokens_of(run))
    mfu = [value for phase in run.phases for _, value in phase.points("mfu")[1:] if math.isfinite(value)]
    note = f"MFU {percent(statistics.median(mfu), 1)}" if mfu else "MFU n/a: the device's peak is not known"
    note += f" · medians of {number(len(speeds))} windows, without the first" if speeds else ""
    yield fact("Tokens per second", number(round(statistics.median(speeds))) if speeds else "–", note)
    yield fact("Training time", duration(sum(seconds)), _when(run))


def _accuracy(run: TrainingRun) -> Iterator[Html]:
    trained, held = run.values("accuracy"), run.values(f"{HELD}accuracy")
    if not trained and not held:
        return
    margins = run.values(f"{HELD}margin") or run.values("margin")
    note = f"{percent(trained[-1], 1)} in the last step" if held and trained else "of the last step's pairs"
    note += f" · margin {_digits(margins[-1])}" if margins else ""
    yield fact("Held-out accuracy" if held else "Accuracy", percent((held or trained)[-1], 1), note)


def _digits(value: float) -> str:
    """Four digits: losses are compared by the third."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _tokens_of(run: TrainingRun) -> str:
    tokens = [whole(entry.get("tokens")) for phase in run.phases for entry in listed(phase.manifest.get("data"))]
    if not tokens or None in tokens:
        return "so far" if not run.finished else "by the metrics"
    return f"from data of {short(sum(filter(None, tokens)))}, what is held out included"


def _when(run: TrainingRun) -> str:
    times = run.values("time")
    if not times:
        return "not begun"
    try:
        first, last = (datetime.fromtimestamp(value, UTC) for value in (times[0], times[-1]))
    except (ValueError, OverflowError, OSError):
        return "the clock was wrong"
    same = first.date() == last.date()
    return f"{first:%Y-%m-%d %H:%M} to {last:{'%H:%M' if same else '%Y-%m-%d %H:%M'}} UTC"


def _notices(run: TrainingRun) -> Iterator[str]:
    if not run.finished:
        yield (
            "There is no manifest.json, so this training is still running or was stopped; shown is what is there. The same "
            "train command goes on from the newest checkpoint."
        )
    yield from run.problems
    broken = sum(phase.broken for phase in run.phases)
    if broken:
        lines = "one line" if broken == 1 else f"{number(broken)} lines"
        yield f"{lines} of metrics.jsonl could not be read and {'is' if broken == 1 else 'are'} left out (a kill cuts the last one off)."
    if run.odd:
        named = ", ".join(f"{name} at step {number(step)}" for step, name in run.odd[:4])
        more = f" and {number(len(run.odd) - 4)} more" if len(run.odd) > 4 else ""
        yield (
            f"Not a number: {named}{more}. The curves have a gap there, with a mark at the foot. Where it is the loss or the "
            "gradient, training has diverged: lower optimizer.lr, and look at the rows of that step."
        )
    yield from _by_length(run)


def _by_length(run: TrainingRun) -> Iterator[str]:
    held, trained = run.values(f"{HELD}length_correlation"), run.values("length_correlation")
    if not held and not trained:
        return
    found = held[-1] if held else statistics.median(trained[-max(len(trained) // 10, 1) :])
    if abs(found) <= _LONG:
        return
    way = "longer" if found > 0 else "shorter"
    yield (
        f"The model may be learning length: its margin is larger the {way} the chosen answer is beside the rejected one "
        f"(correlation {found:.2f} {'on held-out pairs' if held else 'in the last steps'}; beyond ±{_LONG:g} is much). "
        "Compare pairs of like length, or judge the model with lengths held equal."
    )


# ---- sections


def _loss(run: TrainingRun) -> Html:
    drawn = draw(run, [LOSS], "tall")
    if not drawn:
        return h("p", "No step was logged yet.", class_="empty")
    notes: list[str] = []
    if len(run.phases) > 1:
        parts = (f"{phase.name}, steps {number(phase.start + 1)} to {number(phase.start + phase.done)}"
                 for phase in run.phases if phase.done)  # fmt: skip
        notes.append(f"Phases, each from the model of the one before: {'; '.join(parts)}. ")
    held = [point for point in run.phases[-1].points(f"{HELD}loss") if math.isfinite(point[1])]
    if len(held) > 2:
        step, lowest = min(held, key=lambda point: point[1])
        if held[-1][1] > 1.02 * lowest > 0:
            notes.append(
                f"On held-out prompts the loss was lowest at step {number(step)} ({_digits(lowest)}) and is "
                f"{_digits(held[-1][1])} now: since then the model learns its data by heart. Fewer epochs, or a lower "
                "optimizer.lr, would stop there."
            )
    return join([*drawn, h("p", notes, class_="note") if notes else None])


def _learned(run: TrainingRun) -> Html | None:
    charts = [chart for chart in LEARNED if run.stage != "sft" or chart.lines[0][0] == "teacher_kl"]
    if run.stage == "sft" and run.points("teacher_kl"):
        charts += [chart for chart in LEARNED if chart.lines[0][0] == "nll"]
    found = draw(run, charts)
    known = [one for one in listed(run.manifest.get("calibration")) if _is_bin(one)]
    if not found and not known:
        return None
    return join([calibration(known) if known else None, _rewards(run), pair(found)])


def _is_bin(one: Mapping[str, Any]) -> bool:
    confidence, accuracy, pairs = (real(one.get(name)) for name in ("confidence", "accuracy", "pairs"))
    if confidence is None or accuracy is None or pairs is None:
        return False
    return 0.5 <= confidence <= 1 and 0 <= accuracy <= 1 and 0 < pairs < 1e15


def _rewards(run: TrainingRun) -> Html | None:
    """The distribution of a reward model's rewards in one line."""
    for held, where in ((HELD, "held-out answers"), ("", "the last step's answers")):
        mean, spread = run.values(f"{held}reward_mean"), run.values(f"{held}reward_std")
        if mean and spread:
            error = run.values(f"{held}calibration_error")
            text = f"Rewards of {where}: mean {_digits(mean[-1])}, standard deviation {_digits(spread[-1])}."
            text += f" Calibration error {_digits(error[-1])}." if error else ""
            return h("p", text, class_="note between")
    return None


def _figures(run: TrainingRun, charts: Any) -> Html | None:
    found = draw(run, charts)
    return pair(found) if found else None


def _data(run: TrainingRun) -> Html:
    several = len(run.phases) > 1
    names = [*(["Phase"] if several else []), "Source", "Digest", "Rows", "Examples", "Tokens", "Left out, and why"]
    plain = {"Phase", "Source", "Digest", "Left out, and why"}
    head = h("tr", [h("th", name, scope="col", class_=None if name in plain else "n") for name in names])
    rows, waiting = [], False
    for phase in run.phases:
        entries = listed(phase.manifest.get("data")) or listed(phase.settings.get("data"))
        waiting |= not phase.manifest
        for entry in entries:
            source = h("td" if several else "th", str(entry.get("path", "unknown")), _share(entry), class_="path",
                       scope=None if several else "row")  # fmt: skip
            counts = [h("td", _count(entry.get(name)), class_="n") for name in ("rows", "examples", "tokens")]
            digest = str(entry.get("digest") or "")
            cells = [source, h("td", h("code", digest[:12] or "–", title=digest or None)), counts]
            cells.append(h("td", _dropped(entry) if phase.manifest else "–"))
            rows.append(h("tr", h("th", phase.name, scope="row") if several else None, cells))
    if not rows:
        return h("p", "What it is trained on is not known.", class_="empty")
    note = "Digests and counts are written when the training is finished." if waiting else ""
    table = h("div", h("table", h("thead", head), h("tbody", rows), class_="data"), class_="scroll")
    return join([table, h("p", note, class_="note") if note else None])


def _count(value: Any) -> str:
    found = whole(value)
    return "–" if found is None else number(found)


def _share(entry: Mapping[str, Any]) -> Html | None:
    weight = real(entry.get("weight"))
    return h("small", f" {percent(weight, 1)} of the examples", class_="dim") if weight is not None else None


def _dropped(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{_count(count)} {reason}" for reason, count in mapping(entry.get("dropped")).items()) or "none"


def _settings(run: TrainingRun) -> Html:
    several = len(run.phases) > 1
    folds = []
    for phase in run.phases:
        facts: dict[str, Child] = {name: value for name, value in _flat(phase.settings) if not name.startswith("data.")}
        if phase.manifest.get("capacity"):
            facts["tokens in one forward pass"] = _count(phase.manifest["capacity"])
        folds.append(folded(facts, f"Settings of phase {phase.name}" if several else "Settings"))
    versions = mapping(run.manifest.get("versions"))
    told = " · ".join(f"{name} {version}" for name, version in versions.items()) or "written when it is finished"
    return join([*folds, h("p", "Versions: ", told, class_="note between")])


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`optimizer.lr` and its value, as the command line has them."""
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
            continue
        text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        yield f"{prefix}{key}", text if len(text) <= 400 else f"{text[:400]}… ({number(len(text))} characters)"
