"""`report.html`: what a run did, in one self-contained page that may be mailed around.

Everything is written by hand and small: Python counts and draws (inline SVG, no chart library), the page's own script
browses the embedded records and colours their code. Neither plotly nor Pygments: the first weighs five megabytes a
report, the second needs seconds for a few hundred records (a third of a megabyte a second) that a page needs only for
the one that is looked at. A report without its records is under 100 KB.

Records are hostile. Python escapes every text, the script sets text only through `textContent`, the data block cannot
be ended by its content, and the policy allows this page's own style and script by their hashes and nothing else.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_report"]


def write_report(run_dir: Path, *, limit: int = 400) -> Path:
    """Write `report.html`, and its numbers about scorers as `agreement.json`, from the journal and the manifest in `run_dir`, with at most `limit` records to look at.

    Reads the journal once, in memory that does not grow with it. Raises `UserError` where either file is missing or the
    folder cannot be written.
    """
    # Here, so that a report of a training, which is drawn while it goes on, does without numpy.
    from factory.outputs import write_atomically, write_json
    from factory.report.collect import collect, load_manifest
    from factory.report.compared import as_json, compare
    from factory.report.page import render

    manifest = load_manifest(run_dir)
    findings = collect(run_dir, manifest, limit)
    run = str(manifest.get("run") or run_dir.resolve().name)
    compared = compare(findings.scoring, manifest.get("keep"))
    path = run_dir / "report.html"
    write_json(run_dir / "agreement.json", as_json(compared))
    write_atomically(path, render(manifest, findings, compared, run).encode())
    return path
