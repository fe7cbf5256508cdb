"""One pass over a run's journal, in bounded memory: everything that the report shows, as numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from factory.errors import UserError
from factory.journal import Fate, Journal
from factory.outputs import final_fates
from factory.report.measures import Breakdown, Histogram, Step, Timeline
from factory.report.samples import Samples, facets, group_of
from factory.report.scoring import Scoring
from factory.report.topics import Topics, load_topics

_MOST = 300  # different scores, steps and stages told apart


@dataclass
class Findings:
    """What a journal says. `depth` is, by stage of loss, (records, scores they had): how far they came."""

    records: int = 0
    kept: int = 0
    scores: dict[str, Histogram] = field(default_factory=dict)
    breakdown: Breakdown = field(default_factory=Breakdown)
    depth: dict[str, list[int]] = field(default_factory=dict)
    timeline: Timeline = field(default_factory=Timeline)
    steps: dict[str, Step] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    scoring: Scoring = field(default_factory=Scoring)
    topics: Topics | None = None

    def add(self, fate: Fate) -> None:
        record = fate.record
        self.records += 1
        self.kept += record.kept
        for name, score in record.scores.items():
            if name in self.scores or len(self.scores) < _MOST:
                self.scores.setdefault(name, Histogram()).add(score.value, record.kept)
        self.scoring.add(fate.seed_index, record)
        self.breakdown.add(facets(record.meta), record.kept)
        if self.topics is not None:
            self.topics.add(record)
        stage = group_of(record.reason)
        if not record.kept and (stage in self.depth or len(self.depth) < _MOST):
            depth = self.depth.setdefault(stage, [0, 0])
            depth[0] += 1
            depth[1] += len(record.scores)

    def add_times(self, rows: Iterable[tuple[float, float, int, int, str]]) -> None:
        for made_at, seconds, prompt_tokens, completion_tokens, label in rows:
            self.timeline.add(made_at, seconds, completion_tokens)
            known = label if label in self.steps or len(self.steps) < _MOST else "others"
            self.steps.setdefault(known, Step()).add(seconds, prompt_tokens, completion_tokens)


def load_manifest(run_dir: Path) -> dict[str, Any]:
    """`manifest.json` of a run. Raises `UserError` where there is no finished or stopped run in the folder."""
    path = run_dir / "manifest.json"
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(
            f"{run_dir} has no manifest.json, so no run ended there. Give the run's `generate` command again "
            "(it goes on where it stopped), or name another run with run=NAME."
        ) from None
    except (orjson.JSONDecodeError, OSError) as error:
        raise UserError(f"cannot read {path}: {error}. The run's `generate` command writes it anew.") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{path} is not a manifest. The run's `generate` command writes it anew.")
    return manifest


def open_journal(run_dir: Path) -> Journal:
    """The run's journal. Raises `UserError` where there is none, rather than make an empty one."""
    path = run_dir / "journal.db"
    if not path.is_file():
        raise UserError(f"{path} does not exist: the journal is what reports and explanations are made of.")
    return Journal(path)


def collect(run_dir: Path, manifest: Mapping[str, Any], limit: int) -> Findings:
    """Stream the journal of `run_dir` once; at most `limit` records are held."""
    findings, samples = Findings(topics=load_topics(run_dir)), Samples(limit)
    with open_journal(run_dir) as journal:
        current = journal.current_config()
        if current is not None:
            for fate in final_fates(journal, current[0], manifest.get("wanted")):
                findings.add(fate)
                samples.add(fate)
        findings.add_times(journal.timeline())
    findings.samples = samples.chosen()
    return findings
