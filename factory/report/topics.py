"""The tree of topics of a run that grew one (`tree.json`), with what became of each topic's records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from factory.errors import UserError
from factory.records import Record
from factory.report.charts import bar, number
from factory.report.html import Html, h, join

_MOST = 3_000  # topics drawn; what lies below is summed up
_PATHS = 100_000  # topics whose records are told apart


@dataclass
class Topics:
    """The roots of the tree, and (kept, rejected) records by path."""

    roots: Sequence[Mapping[str, Any]]
    complete: bool
    counts: dict[tuple[str, ...], list[int]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        path = record.meta.get("path")
        if isinstance(path, list) and path:
            key = tuple(map(str, path))
            if key in self.counts or len(self.counts) < _PATHS:
                self.counts.setdefault(key, [0, 0])[not record.kept] += 1

    def below(self) -> dict[tuple[str, ...], list[int]]:
        """(kept, rejected) of every node, what lies below it among it."""
        sums: dict[tuple[str, ...], list[int]] = {}
        for path, (kept, lost) in self.counts.items():
            for length in range(1, len(path) + 1):
                entry = sums.setdefault(path[:length], [0, 0])
                entry[0] += kept
                entry[1] += lost
        return sums


def load_topics(run_dir: Path) -> Topics | None:
    """The tree of a run, or None where it has none. Raises `UserError` where the file is damaged."""
    path = run_dir / "tree.json"
    try:
        data = orjson.loads(path.read_bytes())
        return Topics([dict(root) for root in data["roots"]], bool(data["complete"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {path}: {error}. The run's `generate` command writes it anew.") from error


def topics(found: Topics | None) -> Html | None:
    """The trees, open down to their first level; a bar says how many of the records came from below a topic."""
    if found is None or not found.roots:
        return None
    sums = found.below()
    most = max((sum(entry) for path, entry in sums.items() if len(path) <= 2), default=1)
    left = [_MOST]
    roots = [_node(root, _root_path(root), sums, most, left, True) for root in found.roots]
    count = sum(1 for root in found.roots for _ in _walk(root))
    note = f"{number(count)} topics, in trees as the model and the user's own lists named them."
    if not found.complete:
        note += " Some were still to be asked for when the run ended."
    if left[0] < 0:
        note += f" The first {number(_MOST)} are drawn."
    legend = h("p", h("i", class_="kept"), "kept ", h("i", class_="lost"), "rejected", class_="legend")
    return join([legend, h("p", note, class_="note"), h("ul", roots, class_="topics")])


def _root_path(root: Mapping[str, Any]) -> tuple[str, ...]:
    level = root.get("level")
    return (str(root.get("branch", "")), str(level)) if level else (str(root.get("branch", "")),)


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    todo = [node]
    while todo:
        yield (here := todo.pop())
        todo += here.get("children") or []


def _node(
    node: Mapping[str, Any],
    path: tuple[str, ...],
    sums: Mapping[tuple[str, ...], Sequence[int]],
    most: int,
    left: list[int],
    open_: bool,
) -> Html | None:
    """One topic with those below it; None once `left` are drawn."""
    left[0] -= 1
    if left[0] < 0:
        return None
    name, (kept, lost) = str(node.get("name", "")), sums.get(path, (0, 0))
    marks = [h("span", "by hand", class_="tag")] if node.get("origin") == "manual" else []
    marks += [h("span", "to be asked for", class_="tag")] if node.get("open") else []
    marks += [h("span", str(node["problem"])[:200], class_="tag warn")] if node.get("problem") else []
    row = [
        h("span", name[:200], marks, class_="name"),
        bar([("kept", 0, kept / most), ("lost", kept / most, lost / most)]),
        h("span", f"{number(kept)} of {number(kept + lost)}" if kept + lost else "–", class_="n dim"),
    ]
    children = node.get("children") or []
    if not children:
        return h("li", h("div", row, class_="row leaf"))
    inner = [_node(child, (*path, str(child.get("name", ""))), sums, most, left, False) for child in children]
    return h("li", h("details", h("summary", row, class_="row"), h("ul", inner), open=open_))
