"""Attention over documents that lie one behind the other, without padding and without a mask.

A batch is one row of T tokens that holds B documents; `cu_seq_lens_q` (B+1 offsets, int32) says where each begins. A
token sees the earlier tokens of its own document only. On a GPU this is one call of flash attention's kernel for
variable lengths, which torch carries itself, so that nothing needs to be installed; elsewhere each document is one call
of `scaled_dot_product_attention`. Both cost what the documents cost, where a block mask over T x T (what transformers
builds for packed rows otherwise) costs eight times as much at 16 documents a row (docs/performance.md).
"""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10
    varlen_attn = None

NAME = "varlen"
# "Causal" is said by a flag (torch 2.10) or by a window (from 2.11); grouped heads by a flag (2.12) or not at all.
_PARAMETERS = set(inspect.signature(varlen_attn).parameters) if varlen_attn else set()


def register() -> None:
    """Make `attn_implementation="varlen"` known to transformers. It takes no mask: the offsets say everything."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, documents_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, _no_mask)


def has_flash(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch's own flash attention runs here: an NVIDIA GPU from Ampere on, and half precision."""
    return (
        varlen_attn is not None
        and device.type == "cuda"
        and torch.version.hip is None
        and dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(device) >= (8, 0)
    )


def documents_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each document.

    `query` is (1, Hq, T, D), `key` and `value` (1, Hkv, T, D); Hq is a multiple of Hkv. Returns (1, T, Hq, D). Without
    `cu_seq_lens_q` the whole row is one document. Raises ValueError for what the kernels cannot do.
    """
    if softcap is not None or dropout:
        raise ValueError(
            "attention=varlen knows neither softcapping nor dropout of attention; choose attention=eager or sdpa"
        )
    if query.shape[0] != 1:
        raise ValueError("attention=varlen takes one row that holds all documents")
    if cu_seq_lens_q is None or max_length_q is None:
        length = query.shape[2]
        cu_seq_lens_q = torch.tensor([0, length], dtype=torch.int32, device=query.device)
        max_length_q = length
    if query.is_cuda:
        return _flash(query, key, value, scaling, cu_seq_lens_q, max_length_q, sliding_window), None
    return _one_by_one(query, key, value, scaling, cu_seq_lens_q, sliding_window), None


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    offsets: torch.Tensor,
    longest: int,
    window: int | None,
) -> torch.Tensor:
    # T, H, D; rotary embeddings under autocast leave queries and keys in float32
    q, k, v = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    options: dict[str, Any] = {"scale": scaling} if "scale" in _PARAMETERS else {}
    if scaling is not None and not options:
        q = q * (scaling * q.shape[-1] ** 0.5)  # the kernel divides by the root of D itself
    if "window_size" in _PARAMETERS:
        options["window_size"] = (window - 1 if window else -1, 0)
    elif window and longest > window:
        raise ValueError("attention=varlen has no sliding window in this torch; choose attention=flash_attention_2")
    else:
        options["is_causal"] = True
    if "enable_gqa" in _PARAMETERS:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return varlen_attn(q, k, v, offsets, offsets, longest, longest, **options)[None]


def _one_by_one(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    offsets: torch.Tensor,
    window: int | None,
) -> torch.Tensor:
    parts = []
    bounds = offsets.tolist()
    for start, end in pairwise(bounds):
        if start == end:
            continue
        q, k, v = (tensor[:, :, start:end].to(value.dtype) for tensor in (query, key, value))
        mask = _window_mask(end - start, window, query.device) if window and end - start > window else None
        part = scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
        )
        parts.append(part)
    return torch.cat(parts, dim=2).transpose(1, 2)


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    place = torch.arange(length, device=device)
    distance = place[:, None] - place[None, :]
    return (distance >= 0) & (distance < window)


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None
