"""Sums of what a step measures, over micro-batches and processes, without waiting for the device in between."""

from __future__ import annotations

from typing import Any

import torch


class Tally:
    """Adds numbers by name on the device; `take` gives the sums over all processes and begins anew."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}

    def add(self, **values: torch.Tensor | float) -> None:
        """Each a scalar tensor or a number. Every process must add the same names."""
        for name, value in values.items():
            kept = value.detach().double() if isinstance(value, torch.Tensor) else torch.tensor(float(value)).double()
            before = self._sums.get(name)
            self._sums[name] = kept if before is None else before.to(kept.device) + kept

    def take(self, accelerator: Any) -> dict[str, float]:
        if not self._sums:
            return {}
        names = sorted(self._sums)
        values = torch.stack([self._sums[name].to(accelerator.device) for name in names])
        self._sums = {}
        summed = accelerator.reduce(values, reduction="sum")
        return dict(zip(names, summed.tolist(), strict=True))


def correlation(sums: dict[str, float], count: float) -> float | None:
    """Pearson's, from sums of x, y, xx, yy and xy; None where one of the two does not vary."""
    if count < 2:
        return None
    x, y = sums["x"] / count, sums["y"] / count
    cov = sums["xy"] / count - x * y
    var_x, var_y = sums["xx"] / count - x * x, sums["yy"] / count - y * y
    if var_x <= 1e-12 * abs(sums["xx"]) or var_y <= 1e-12 * abs(sums["yy"]):
        return None
    return float(cov / (var_x * var_y) ** 0.5)
