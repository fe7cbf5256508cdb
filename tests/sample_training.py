"""A training run's folder as the trainer leaves it, of any length, without training."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any


def entries(stage: str, steps: int, *, every: int = 0, epochs: float = 2.0, seed: int = 0) -> list[dict[str, float]]:
    """Lines of metrics with the shape of a real run's: a noisy loss that falls, and what a stage adds."""
    dice, found = random.Random(seed), list[dict[str, float]]()
    for step in range(1, steps + 1):
        t = step / steps
        tokens, seconds = 60_000 + dice.randrange(4_000), (9.0 if step == 1 else 0.25 + 0.01 * dice.random())
        grown = 1 - math.exp(-5 * t)
        stages: dict[str, dict[str, float]] = {
            "sft": {"loss": 1.1 + 3 * math.exp(-60 * t) + 0.35 * math.exp(-3 * t)},
            "dpo": {
                "loss": 0.7 - 0.35 * grown, "preference_loss": 0.69 - 0.35 * grown, "nll": 1.2 + 0.02 * dice.gauss(0, 1),
                "accuracy": min(1.0, max(0.0, 0.5 + 0.25 * grown + 0.06 * dice.gauss(0, 1))),
                "margin": 1.2 * grown + 0.1 * dice.gauss(0, 1), "chosen_reward": 0.25 * grown + 0.05 * dice.gauss(0, 1),
                "rejected_reward": -0.95 * grown + 0.05 * dice.gauss(0, 1), "chosen_logp": -210 - 8 * grown + 4 * dice.gauss(0, 1),
                "rejected_logp": -230 - 24 * grown + 4 * dice.gauss(0, 1), "length_correlation": 0.62 * grown + 0.1 * dice.gauss(0, 1),
            },
            "reward": {
                "loss": 0.69 - 0.3 * grown, "accuracy": min(1.0, 0.5 + 0.27 * grown + 0.04 * dice.gauss(0, 1)),
                "reward_mean": 0.1 * dice.gauss(0, 1), "reward_std": 0.1 + 1.6 * grown, "calibration_error": 0.03 + 0.02 * dice.random(),
            },
        }  # fmt: skip
        own = {**stages["dpo"], "reward_gap": 1.1} if stage == "rpo" else stages[stage]
        loss = own.pop("loss")
        entry = {
            "step": step, "loss": loss + 0.05 * dice.gauss(0, 1), "grad_norm": 0.8 + 0.2 * abs(dice.gauss(0, 1)) + 2 * math.exp(-80 * t),
            "learning_rate": 2e-5 * min(1, t / 0.03) * 0.5 * (1 + math.cos(math.pi * t)), **own, "tokens": tokens,
            "seconds": seconds, "tokens_per_second": tokens / seconds, "mfu": 0.31 * 0.25 / seconds, "memory_gb": 41.2,
            "epoch": round(epochs * t, 4), "time": round(1_790_000_000 + 0.26 * step, 3),
        }  # fmt: skip
        found.append(entry)
        if every and (step % every == 0 or step == steps):
            held = {f"eval_{name}": value for name, value in own.items()}
            found.append(
                {"step": step, "eval_loss": loss + 0.06, **held, "epoch": entry["epoch"], "time": entry["time"]}
            )
    return found


def settings(stage: str, **changes: Any) -> dict[str, Any]:
    return {
        "stage": {"name": stage}, "run": "demo", "seed": 0, "model": {"name": "SmolLM2-135M", "path": "models/smol"},
        "data": [{"path": "outputs/code/data", "weight": None, "rows": None}], "epochs": 2.0, "steps": None, "batch": 64,
        "optimizer": {"lr": 2e-5, "betas": [0.9, 0.95], "clip": None}, "save": {"every": None, "minutes": 10.0}, **changes,
    }  # fmt: skip


def manifest(stage: str, steps: int, **changes: Any) -> dict[str, Any]:
    data = {"path": "outputs/code/data", "digest": "a4698bf81d064243ed8f0a688cb7735e", "rows": 12_345, "examples": 12_001,
            "tokens": 7_654_321, "dropped": {"longer than 2,048 tokens": 310, "the same prompt twice": 34}, "weight": None}  # fmt: skip
    return {
        "stage": stage, "run": "demo", "data": [data], "steps": steps, "epochs": 2.0, "processes": 1,
        "settings": settings(stage), "versions": {"torch": "2.13.0", "trl": "1.16.0"}, "seconds": 1234.5, "capacity": 65_536,
        **changes,
    }  # fmt: skip


CALIBRATION = [
    {"pairs": float(240 - 20 * n), "confidence": 0.525 + 0.05 * n, "accuracy": min(0.5 + 0.047 * n, 1)}
    for n in range(10)
]


def write_training(
    folder: Path,
    lines: list[dict[str, float]],
    made: dict[str, Any] | None = None,
    said: dict[str, Any] | None = None,
    skip: int = 0,
) -> Path:
    """`made` is the manifest, `said` the settings; what is None is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if made is not None:
        (folder / "manifest.json").write_text(json.dumps(made))
    if said is not None:
        (folder / "train.json").write_text(json.dumps({"settings": said, "skip": skip}))
    return folder
