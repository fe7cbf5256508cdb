"""A map of an export: sampled records as points, near ones about like things, coloured by what they are.

`make_map` embeds and lays out, and writes `map.json` beside the rows; the report draws that, so that drawing it again needs
no model. The layout is principal components, or t-SNE (van der Maaten and Hinton 2008) where neighbourhoods matter more
than distances; both come with scikit-learn and numpy, which embeddings need anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from factory.embedding import Embedder
from factory.errors import UserError
from factory.outputs import write_json
from factory.report.charts import number, percent, plot
from factory.report.exported import Row, rows
from factory.report.html import Html, h, join
from factory.report.measures import Breakdown
from factory.report.samples import Reservoir, facets

if TYPE_CHECKING:
    import numpy as np

_COLOURS, _KEYS, _TEXT = 9, 4, 140  # the tenth colour is for the rest
_NOT = ("id", "model", "chosen_id", "rejected_id", "rejected_run", "rejected_model", "step", "reason", "duplicate_of")
_FIRST = ("topic", "coarse", "category", "kind", "task", "run")


def make_map(
    folder: Path,
    embedder: Embedder,
    *,
    model: str,
    most: int,
    layout: Literal["pca", "tsne"],
    about: Callable[[set[str]], Mapping[str, Mapping[str, str]]] = lambda ids: {},
) -> Path | None:
    """Write `map.json` of at most `most` rows in `folder`; `model` is what the embedder is called.

    `about` is given the ids of records and says what they may be coloured by beyond the rows' own columns, as their topic.
    None, and nothing written, where there are fewer than two rows.
    """
    sample = Reservoir(most)
    for row, written in rows(folder):
        sample.add("kept" if written else "left out", str(row["id"]), partial(_point, row, written))
    points: list[dict[str, Any]] = sample.chosen(most)
    if len(points) < 2:
        return None
    known = about({point["record"] for point in points})
    vectors = embedder.encode([point.pop("whole") for point in points])
    places, held = _laid_out(vectors, layout)
    for point, (x, y) in zip(points, places.tolist(), strict=True):
        point["at"] = [round(x, 4), round(y, 4)]
        point["about"] |= known.get(point.pop("record"), {})
    path = folder / "map.json"
    write_json(path, {"model": model, "layout": layout, "held": held, "points": points})
    return path


def topics_of(records: Iterable[Mapping[str, Any]], ids: set[str]) -> dict[str, dict[str, str]]:
    """What the records with these ids are about: as the topic scorer has it, else as the task knows."""
    found = {}
    for record in records:
        if record["id"] in ids:
            known = {key: value for key, value in facets(record["meta"]) if key in Breakdown.PREFERRED}
            told = (record["scores"].get("topic") or {}).get("detail") or {}
            found[record["id"]] = known | ({"topic": str(told["coarse"])[:60]} if told.get("coarse") else {})
    return found


def _point(row: Row, written: bool) -> dict[str, Any]:
    answer = row.get("chosen") or next(iter(row.get("responses") or ()), ())
    turns = [*(row.get("messages") or row.get("prompt") or ()), *answer]
    asked = next((turn["content"] for turn in turns if turn["role"] == "user"), "")
    about = {key: str(value)[:60] for key, value in row.items()
             if key not in _NOT and isinstance(value, str | bool | int) and value != "" and len(str(value)) <= 60}  # fmt: skip
    fate = {"fate": "written" if written else str(row.get("step") or "left out")[:60]}
    return {
        "id": str(row["id"])[:32],
        "record": str(row.get("chosen_id") or next(iter(row.get("response_ids") or ()), None) or row["id"]),
        "text": " ".join(asked.split())[:_TEXT],
        "whole": "\n".join(turn["content"] for turn in turns)[:8_000],
        "about": fate | about,
    }


def _laid_out(vectors: np.ndarray, layout: str) -> tuple[np.ndarray, float | None]:
    """N x D to N x 2 between 0 and 1, and for principal components the share of the spread that they hold."""
    import numpy as np

    held: float | None = None
    if layout == "tsne":
        from sklearn.manifold import TSNE

        perplexity = min(30.0, max(1.0, (len(vectors) - 1) / 3))
        places = TSNE(2, perplexity=perplexity, init="pca", random_state=0).fit_transform(vectors)
    else:
        centred = vectors - vectors.mean(axis=0)
        _, sizes, directions = np.linalg.svd(centred, full_matrices=False)
        places = centred @ directions[:2].T
        places *= np.where(
            np.abs(places).max(axis=0) == places.max(axis=0), 1, -1
        )  # a sign of its own, always the same
        total = float((sizes**2).sum())
        held = float((sizes[:2] ** 2).sum() / total) if total else None
    if places.shape[1] < 2:
        places = np.hstack([places, np.zeros((len(places), 2 - places.shape[1]))])
    low, high = places.min(axis=0), places.max(axis=0)
    return (places - low) / np.where(high > low, high - low, 1), held


# ---- drawing


def drawn_map(folder: Path) -> Html | None:
    """The map of `map.json`, None where there is none. Raises `UserError` where it is damaged."""
    path = folder / "map.json"
    try:
        data = orjson.loads(path.read_bytes())
        points = [
            (
                float(point["at"][0]),
                float(point["at"][1]),
                str(point["text"]),
                {str(key): str(value) for key, value in point["about"].items()},
            )
            for point in data["points"]
        ]
        return _draw(data, points)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"cannot read {path}: {error}. The `export` command writes it anew.") from error


Point = tuple[float, float, str, Mapping[str, str]]


def _draw(data: Mapping[str, Any], points: Sequence[Point]) -> Html:
    keys = _keys([about for *_, about in points])
    colours = {key: _colours(key, points) for key in keys}
    shapes = []
    for x, y, text, about in points:
        code = "".join(str(colours[key].get(about.get(key, ""), _COLOURS)) for key in keys)
        tip = " · ".join([*(about[key] for key in keys if key in about), text])
        at = {"cx": f"{2 + 96 * x:.1f}%", "cy": f"{98 - 96 * y:.1f}%"}
        shapes.append(h("circle", class_=f"hit pt c{code[:1] or _COLOURS}", r=3.5, data_c=code, data_tip=tip, **at))
    summary = f"{number(len(points))} records by what they are about."
    drawing = plot(h("svg", shapes), summary, (), (), "map-plot")
    choice = [
        h("label", h("input", type="radio", name="colour", value=place, checked=not place), h("span", key))
        for place, key in enumerate(keys)
    ]
    held = data.get("held")
    note = f"{number(len(points))} sampled records; those near each other are alike, as {data['model']} sees it. "
    note += (
        f"Principal components: the two that are drawn hold {percent(held, 1)} of the spread, so that far ones may seem near."
        if data["layout"] == "pca" and held is not None
        else "t-SNE: neighbours are near each other; distances between groups, and sizes, mean nothing."
    )
    legends = [_legend(place, key, colours[key], points) for place, key in enumerate(keys)]
    fates = h("fieldset", h("legend", "Colour by", class_="hide"), choice, class_="fates", id="colours")
    controls = h("div", "Colour by", fates, class_="controls") if len(keys) > 1 else None
    return join([h("p", note, class_="note"), controls, legends, drawing])


def _keys(about: Sequence[Mapping[str, str]]) -> list[str]:
    """What points may be coloured by: their fate, and what tells them apart without being different for each."""
    values: dict[str, set[str]] = {}
    for one in about:
        for key, value in one.items():
            values.setdefault(key, set()).add(value)
    common = {key for key in values if 2 * sum(key in one for one in about) >= len(about)}
    found = [key for key in common - {"fate"} if 1 < len(values[key]) <= max(12, len(about) // 4)]
    rank = {key: place for place, key in enumerate(_FIRST)}
    best = sorted(found, key=lambda key: (rank.get(key, len(rank)), key))[: _KEYS - 1]
    return best + (["fate"] if len(values.get("fate", ())) > 1 or not best else [])


def _colours(key: str, points: Sequence[Point]) -> dict[str, int]:
    counts = Counter(about[key] for *_, about in points if key in about)
    ranked = sorted(counts, key=lambda value: (-counts[value], value))
    return {value: place for place, value in enumerate(ranked[:_COLOURS])}


def _legend(place: int, key: str, colours: Mapping[str, int], points: Sequence[Point]) -> Html:
    counts = Counter(about.get(key, "") for *_, about in points)
    items = [(h("i", class_=f"c{colour}"), f"{value} ({number(counts[value])}) ") for value, colour in colours.items()]
    rest = sum(count for value, count in counts.items() if value not in colours)
    more = (h("i", class_=f"c{_COLOURS}"), f"others ({number(rest)})") if rest else None
    return h("p", items, more, class_="legend inline", data_key=place, hidden=place > 0)
