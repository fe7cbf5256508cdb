"""What a step of training costs in arithmetic, and what the machine could do."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

# Dense bfloat16 products, by the makers' datasheets: the highest that is ever seen is about 0.8 of it.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "4090": 165e12,
    "3090": 71e12,
}


def peak_flops() -> float | None:
    """Of one GPU; None where nothing is known of it (and on a CPU)."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((value for part, value in PEAK_FLOPS.items() if part in name), None)


class Cost:
    """Floating-point operations of forward and backward for documents of given lengths.

    A product of weights costs 2 a weight and token forward, twice that backward; frozen weights have no gradient of
    their own and cost 4. Causal attention over a document of n tokens costs 2 n^2 d a layer and head forward (half of
    the full square). The embedding's look-up is free; the head's product is counted for the scored tokens only.
    """

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        layers = config.num_hidden_layers
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self._attention = 6 * layers * config.num_attention_heads * width
        head = config.hidden_size * config.vocab_size
        inside = matrices = 0
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and not any(part in name for part in ("embed", "lm_head", "score")):
                inside += parameter.numel() * (6 if parameter.requires_grad else 4)
                matrices += parameter.numel()
        self._token, self._scored = inside, 6 * head if not hasattr(model, "score") else 0
        self.parameters = matrices

    def of(self, lengths: np.ndarray, scored: int) -> float:
        squares = float((lengths.astype(np.float64) ** 2).sum())
        return float(self._token * lengths.sum() + self._scored * scored + self._attention * squares)
