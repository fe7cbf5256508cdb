"""An export's folder as `factory export` leaves it: rows, what was left out, duplicates, a funnel."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pyarrow
import pyarrow.parquet

from factory.records import content_hash
from tests.sample_run import HOSTILE, TOPICS

Row = dict[str, Any]


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def pairs(count: int, seed: int = 1, fond: float = 0.0) -> list[Row]:
    """Preference rows; `fond` is how much the margin grows with the difference in length."""
    draw, made = random.Random(seed), []
    for number in range(count):
        longer = draw.randrange(-60, 90)
        margin = abs(draw.gauss(0.8, 0.5)) + fond * longer / 60
        topic = TOPICS[number % len(TOPICS)]
        made.append({
            "id": content_hash("pair", number), "run": "chat", "task": "respond", "model": "smollm2",
            "prompt": [turn("user", f"Tell me about {topic}, number {number}.")],
            "chosen": [turn("assistant", "x" * (200 + longer))],
            "rejected": [turn("assistant", "y" * 200)],
            "chosen_reward": 1 + margin, "rejected_reward": 1.0, "source": ("verifier", "reward model")[number % 3 > 0],
            "chosen_id": content_hash("c", number), "rejected_id": content_hash("r", number),
            "rejected_run": "chat", "rejected_model": "smollm2",
            "chosen_scores": {"judge": float(3 + number % 3)}, "rejected_scores": {"judge": float(1 + number % 4)},
        })  # fmt: skip
    return made


def conversations(count: int, prefix: str = "sft", seed: int = 2) -> list[Row]:
    draw, made = random.Random(seed), []
    for number in range(count):
        topic = TOPICS[number % len(TOPICS)]
        words = " ".join(draw.choice((topic, "explain", "list", "why", "short", "example")) for _ in range(14))
        made.append({
            "id": content_hash(prefix, number), "run": ("chat", "code")[number % 4 == 0], "task": "respond", "model": "smollm2",
            "messages": [turn("user", f"{topic}: {words} {HOSTILE if number % 11 == 0 else ''}"), turn("assistant", "Done.")],
            "scores": {"reward": round(draw.gauss(0, 1), 4), "judge": float(draw.randrange(1, 6))}, "topic": topic,
        })  # fmt: skip
    return made


def write_rows(folder: Path, rows: list[Row]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "part-00000.parquet")


def write_export(
    folder: Path, rows: list[Row], left_out: list[Row] = (), duplicates: list[Row] = (), **changes: Any
) -> Path:  # type: ignore[assignment]
    write_rows(folder, rows)
    if left_out:
        write_rows(folder / "rejected", [{"step": "keep", "reason": "not (reward >= q75)", **row} for row in left_out])
    if duplicates:
        (folder / "duplicates.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in duplicates))
    total = len(rows) + len(left_out)
    lost = {"not (reward >= q75)": len(left_out)} if left_out else {}
    funnel = [{"step": "keep", "unit": "records", "in": total, "out": len(rows), "reasons": lost},
              {"step": "held_out", "unit": "records", "in": len(rows), "out": len(rows), "reasons": {}}]  # fmt: skip
    manifest = {
        "format": "preference" if rows and "chosen" in rows[0] else "sft", "runs": ["chat"], "models": ["smollm2"],
        "keep": "judge >= 2 and (reward >= q75 or judge == max)", "statistics": {"chat": {"q75(reward)": 0.5, "max(judge)": 5.0}},
        "order": None, "reward": None, "per_group": None, "min_gap": 0.2, "max_pairs": 1, "seed": 0,
        "rows": len(rows), "records": total, "splits": {"train": len(rows)},
        "tokens": {"total": 40 * len(rows), "counted_by": "four bytes a token"}, "funnel": funnel,
        "mixture": {"unit": "rows", "parts": {"chat": {"available": len(rows), "taken": len(rows), "share": 1.0, "short": False}}},
    } | changes  # fmt: skip
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
    return folder
