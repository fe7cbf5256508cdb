"""The report's page: sections in the order in which one asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from factory.report.agreement_sections import agreement, judging, ranking
from factory.report.charts import duration, number, percent
from factory.report.collect import Findings
from factory.report.compared import Compared
from factory.report.frame import document, fact, folded, short
from factory.report.html import Child, Html, h, json_script
from factory.report.sections import browser, funnel, groups, scores, time
from factory.report.topics import topics


def render(manifest: Mapping[str, Any], findings: Findings, compared: Compared, run: str) -> str:
    """The whole document."""
    sections = [
        (name, title, body)
        for name, title, body in (
            ("funnel", "Where records were lost", funnel(manifest, findings)),
            ("groups", *groups(findings)),
            ("topics", "Topics", topics(findings.topics)),
            ("time", "Tokens and time", time(findings)),
            ("scores", "Scores", scores(manifest, findings, compared)),
            ("right", "Which scorer is right", ranking(compared)),
            ("agreement", "Do the scorers agree", agreement(compared)),
            ("judging", "How judges behave", judging(compared, manifest.get("score_errors") or {})),
            ("records", "Records", browser(manifest, findings)),
        )
        if body is not None
    ]
    return document(
        run,
        "run report",
        header(manifest, findings, run),
        sections,
        data=json_script(findings.samples, "samples"),
    )


# ---- header


def header(manifest: Mapping[str, Any], findings: Findings, run: str) -> Html:
    model, engine = manifest.get("model") or {}, manifest.get("engine") or {}
    lead = [
        "Task ",
        h("b", manifest.get("task", "unknown")),
        " · model ",
        h("b", model.get("name", "unknown")),
        " · engine ",
        h("b", engine.get("kind", "unknown")),
    ]
    return h(
        "header",
        h("p", "Run report", class_="eyebrow"),
        h("div", h("h1", run), _state(manifest), class_="title"),
        h("p", lead, class_="lead"),
        h("dl", list(_facts(manifest, findings)), class_="facts"),
        h("p", manifest["stopped"], class_="notice") if manifest.get("stopped") else None,
        _moved_on(manifest, findings),
        _provenance(manifest, model, engine),
    )


def _state(manifest: Mapping[str, Any]) -> Html:
    if manifest.get("finished"):
        return h("span", "Finished", class_="chip good")
    return h("span", "Stopped" if manifest.get("stopped") else "Fewer than wanted", class_="chip warn")


def _facts(manifest: Mapping[str, Any], findings: Findings) -> Iterator[Html]:
    kept, made, wanted = manifest["kept"], manifest["records"], manifest.get("wanted")
    tokens, requests = manifest.get("tokens") or {}, manifest.get("requests", 0)
    read, written = tokens.get("prompt", 0), tokens.get("completion", 0)
    active = findings.timeline.active
    yield fact(
        "Kept",
        number(kept),
        f"of {number(wanted)} wanted" if wanted else "as many as there are",
        min(kept / wanted, 1) if wanted else None,
    )
    yield fact("Accepted", percent(kept, made), f"of {number(made)} made from {number(manifest.get('seeds', 0))} seeds")
    yield fact(
        "Tokens generated",
        short(written),
        f"{short(read)} read · {number(written / kept) if kept else '–'} per kept record",
    )
    yield fact("Requests", number(requests), f"{requests / made:.1f} per record" if made else "none yet")
    yield fact("Working time", duration(active), f"{duration(manifest.get('seconds', 0))} in the last invocation")
    cost = manifest.get("cost") or 0
    yield fact(
        "Cost", f"{cost:,.2f}" if cost else "n/a", "by the model's price" if cost else "no price is set for this model"
    )


def _moved_on(manifest: Mapping[str, Any], findings: Findings) -> Html | None:
    if (findings.records, findings.kept) == (manifest["records"], manifest["kept"]):
        return None
    return h(
        "p",
        f"The journal holds {number(findings.records)} records ({number(findings.kept)} kept) and the manifest "
        f"{number(manifest['records'])} ({number(manifest['kept'])} kept): the run has moved on since the manifest was "
        "written. Counts of losses are the manifest's, everything else is the journal's.",
        class_="notice",
    )


def _provenance(manifest: Mapping[str, Any], model: Mapping[str, Any], engine: Mapping[str, Any]) -> Html:
    facts: dict[str, Child] = {
        "Keep rule": manifest.get("keep") or "everything is kept",
        "Random seed": manifest.get("seed"),
        "Templates": manifest.get("templates"),
        "Model": " · ".join(str(model[key]) for key in ("name", "path", "digest") if model.get(key)),
        "Engine": " · ".join(f"{key} {value}" for key, value in engine.items() if isinstance(value, str | int | float)),
        "Asked beside it": " · ".join(
            f"{name}: {other['name']}, {other['engine']}, {number(other['requests'])} requests, cost {other['cost']:,.4g}"
            for name, other in (manifest.get("endpoints") or {}).items()
        ),
        "Started": manifest.get("started_at"),
        "Ended": manifest.get("ended_at"),
        "Versions": " · ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()),
    }
    return folded(facts)
