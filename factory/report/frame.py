"""The frame of a report: one self-contained document with its style and script, a bar of links, sections and facts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from factory.report.charts import bar, number, percent
from factory.report.html import Child, Html, h

_HERE = Path(__file__).parent
_FOOTER = "One self-contained file: no network, no tracking. Texts of models are shown as text, never run."


def document(
    name: str,
    kind: str,
    header: Html,
    sections: Sequence[tuple[str, str, Html]],
    *,
    skip: str | None = None,
    footer: str = _FOOTER,
    data: Html | None = None,
    style: str | None = None,
) -> str:
    """The whole document. Nothing is fetched: style and script are inside, allowed by their hashes alone.

    `sections` are (id, title, content); `skip` is the id to which the first link passes over the head (else the last
    section's); `data` is a block for the script to read; `style` is a file of more style, beside the common one.
    """
    look, script = ((_HERE / name).read_text("utf-8") for name in ("style.css", "script.js"))
    look += (_HERE / style).read_text("utf-8") if style else ""
    policy = (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(look)}'; "
        "base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
    head = h(
        "head",
        h("meta", charset="utf-8"),
        h("meta", http_equiv="Content-Security-Policy", content=policy),
        h("meta", name="viewport", content="width=device-width, initial-scale=1"),
        h("meta", name="color-scheme", content="light dark"),
        h("title", f"{name} · {kind}"),
        h("style", Html(look)),
    )
    skip = skip or (sections[-1][0] if sections else "tip")
    body = h(
        "body",
        h("a", f"Skip to the {skip}", href=f"#{skip}", class_="skip"),
        _bar_on_top(name, sections),
        header,
        h("main", [_section(*section) for section in sections]),
        h("footer", footer),
        h("div", id="tip", role="status", aria_live="polite", hidden=True),
        data,
        h("script", Html(script)),
    )
    return "<!doctype html>\n" + h("html", head, body, lang="en") + "\n"


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _section(name: str, title: str, content: Html) -> Html:
    return h("section", h("h2", title, id=f"{name}-title"), content, id=name, aria_labelledby=f"{name}-title")


def _bar_on_top(name: str, sections: Sequence[tuple[str, str, Html]]) -> Html:
    links = [h("a", title, href=f"#{place}") for place, title, _ in sections]
    theme = h("button", "Theme", type="button", id="theme", title="Light, dark or as the system has it")
    return h("nav", h("strong", name), h("div", links, class_="links"), theme, aria_label="Sections")


def fact(name: str, value: str, note: str, share: float | None = None) -> Html:
    """A number of the head; `share` is how much of what was wanted is there."""
    meter = bar([("kept", 0, share)], f"{percent(share, 1)} of what was wanted") if share is not None else None
    return h(
        "div", h("dt", name), h("dd", value, class_="value"), h("dd", note, class_="note"), meter and h("dd", meter)
    )


def short(value: float) -> str:
    """1.23 M rather than 1,234,567."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e4)):
        if value >= size:
            return f"{value / (size if unit != 'k' else 1e3):.3g} {unit}"
    return number(value)


def folded(facts: Mapping[str, Child], title: str = "How it was made") -> Html:
    """Names and values behind a line that opens; what is not known is left out."""
    rows = [h("div", h("dt", name), h("dd", value)) for name, value in facts.items() if value not in (None, "")]
    return h("details", h("summary", title), h("dl", rows, class_="made"))
