"""Scores that could not be had: who gave none, and why. They are no scores, so the funnel alone does not show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from factory.report.charts import number
from factory.report.html import Html, h


def score_errors(manifest: Mapping[str, Any]) -> Html | None:
    """A table of the manifest's `score_errors`; None where every scorer that was asked gave a score."""
    found: Mapping[str, Mapping[str, int]] = manifest.get("score_errors") or {}
    if not found:
        return None
    heads = [h("th", name, scope="col", class_="n" if name == "Times" else None) for name in ("Scorer", "Why", "Times")]
    rows = [
        h("tr", h("th", scorer, scope="row"), h("td", why), h("td", number(count), class_="n"))
        for scorer, said in found.items()
        for why, count in said.items()
    ]
    note = (
        "A score that could not be had is an error of its record, never a zero. The keep rule decided without it; where it "
        "could not, the record was lost for this reason."
    )
    return h("div", h("p", note), h("table", h("thead", h("tr", heads)), h("tbody", rows), class_="score-errors"))
