"""Log-probabilities of the scored tokens only, without the T x V logits: TRL's kernel at places known beforehand."""

from __future__ import annotations

import types
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.kernels import ChunkedLogProbFunction
from trl.trainer.utils import maybe_gather_lm_head_ctx

_VOCABULARY_CHUNK = 32_768  # of the head's columns at once, as TRL has it


def add_scoring_head(model: PreTrainedModel) -> None:
    """`model(..., scored=places, targets=tokens)` gives log p of each target at its place in the one row, (N,) float32.

    Inside `forward`, so that wrappers (DDP, FSDP, PEFT) see a forward pass like any other. TRL's own head finds the
    scored places itself, for which it waits for the device, and on a CPU it projects all of them.
    """
    original, scale, cap = model.forward, logit_scale(model), softcap(model)

    def forward(
        self: Any, *args: Any, scored: torch.Tensor | None = None, targets: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        if scored is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state[0, scored]
        weight, bias = head_weights(self)
        with maybe_gather_lm_head_ctx(weight, bias):
            logps = ChunkedLogProbFunction.apply(
                hidden, weight, bias, targets, 1.0, _VOCABULARY_CHUNK, cap, scale, ("log_probs",)
            )[0]
        return {"logps": logps}

    model.forward = types.MethodType(forward, model)


def head_weights(model: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The vocabulary's projection, whole where FSDP has it in shards."""
    head = model.get_output_embeddings()
    weight, bias = head.weight, getattr(head, "bias", None)
    if isinstance(weight, DTensor):
        weight = weight.full_tensor()
        bias = bias.full_tensor() if bias is not None else None
    return weight, bias


def softcap(model: Any) -> float | None:
    """Gemma's bound on the logits."""
    found: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return found


def logit_scale(model: Any) -> float:
    """What logits are multiplied by, under the names that model families have for it."""
    config = model.config.get_text_config()
    for name in ("logit_scale", "lm_head_multiplier"):  # Cohere; Falcon-H1
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    divisor = getattr(config, "logits_scaling", None)  # Granite
    return 1.0 if divisor is None else 1.0 / float(divisor)
