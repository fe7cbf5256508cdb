"""The report's page: sections in the order in which one asks, put together with its style and script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.report.charts import bar, duration, number, percent
from factory.report.collect import Findings
from factory.report.html import Child, Html, h, json_script
from factory.report.sections import browser, funnel, groups, scores, time
from factory.report.topics import topics

_HERE = Path(__file__).parent


def render(manifest: Mapping[str, Any], findings: Findings, run: str) -> str:
    """A run's whole document. Nothing is fetched: style and script are inside, allowed by their hashes alone."""
    sections = [
        (name, title, body)
        for name, title, body in (
            ("funnel", "Where records were lost", funnel(manifest, findings)),
            ("groups", *groups(findings)),
            ("topics", "Topics", topics(findings.topics)),
            ("time", "Tokens and time", time(findings)),
            ("scores", "Scores", scores(manifest, findings)),
            ("records", "Records", browser(manifest, findings)),
        )
        if body is not None
    ]
    return document(run, header(manifest, findings, run), sections, samples=findings.samples, kind="run report")


def document(
    name: str,
    head: Html,
    sections: Sequence[tuple[str, str, Html]],
    *,
    samples: Sequence[Any] = (),
    kind: str = "evaluation",
) -> str:
    """A page with a header and sections of (id, title, content); `samples` are for the browser of records."""
    style, script = ((_HERE / file).read_text("utf-8") for file in ("style.css", "script.js"))
    policy = (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    top = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{name} · {kind}"),
        h("style", Html(style)),
    )
    last = sections[-1][0] if sections else ""
    body = h(
        "body",
        h("a", f"Skip to the {last}", href=f"#{last}", class_="skip"),
        _bar_on_top(name, [(place, title) for place, title, _ in sections]),
        head,
        h("main", [_section(place, title, content) for place, title, content in sections]),
        h("footer", "One self-contained file: no network, no tracking. Texts of models are shown as text, never run."),
        h("div", id="tip", role="status", aria_live="polite", hidden=True),
        json_script(samples, "samples"),
        h("script", Html(script)),
    )
    return "<!doctype html>\n" + h("html", top, body, lang="en") + "\n"


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(name: str, title: str, content: Html) -> Html:
    return h("section", h("h2", title, id=f"{name}-title"), content, id=name, aria_labelledby=f"{name}-title")


def _bar_on_top(run: str, places: list[tuple[str, str]]) -> Html:
    links = [h("a", title, href=f"#{name}") for name, title in places]
    theme = h("button", "Theme", type="button", id="theme", title="Light, dark or as the system has it")
    return h("nav", h("strong", run), h("div", links, class_="links"), theme, aria_label="Sections")


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
        _short(written),
        f"{_short(read)} read · {number(written / kept) if kept else '–'} per kept record",
    )
    yield fact("Requests", number(requests), f"{requests / made:.1f} per record" if made else "none yet")
    yield fact("Working time", duration(active), f"{duration(manifest.get('seconds', 0))} in the last invocation")
    cost = manifest.get("cost") or 0
    yield fact(
        "Cost", f"{cost:,.2f}" if cost else "n/a", "by the model's price" if cost else "no price is set for this model"
    )


def fact(name: str, value: str, note: str, share: float | None = None) -> Html:
    """A number at the top of the page, with what it says; `share` draws a meter below it."""
    meter = bar([("kept", 0, share)], f"{percent(share, 1)} of what was wanted") if share is not None else None
    return h(
        "div", h("dt", name), h("dd", value, class_="value"), h("dd", note, class_="note"), meter and h("dd", meter)
    )


def _short(value: float) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / (size if unit != 'k' else 1e3):.3g} {unit}"
    return number(value)


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
        "Started": manifest.get("started_at"),
        "Ended": manifest.get("ended_at"),
        "Versions": " · ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()),
    }
    return provenance(facts)


def provenance(facts: Mapping[str, Child]) -> Html:
    """Facts on how something was made, folded up; those without a value are left out."""
    rows = [h("div", h("dt", name), h("dd", value)) for name, value in facts.items() if value not in (None, "")]
    return h("details", h("summary", "How it was made"), h("dl", rows, class_="made"))
