"""Reward models small enough to be made in a test, and what transformers itself says of a conversation."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.training.tiny import make_tokenizer

FIVE = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")


def make_reward_model(
    folder: Path, outputs: int = 1, *, names: Sequence[str] = (), seed: int = 0, kind: str = "Llama", **changes: Any
) -> Path:
    """A random decoder of two layers with a head of so many outputs, and its tokenizer."""
    import torch
    import transformers

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "num_labels": outputs,
        "initializer_range": 0.3, "pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    config = getattr(transformers, f"{kind}Config")(**{**shape, **changes})
    if names:
        config.id2label = dict(enumerate(names))
        config.label2id = {name: place for place, name in enumerate(names)}
    getattr(transformers, f"{kind}ForSequenceClassification")(config).save_pretrained(folder)
    return folder


@functools.cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    # The plainest form of attention, which leaves nothing out.
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, dtype="float32", attn_implementation="eager"
    ).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def bare_outputs(folder: Path, messages: Sequence[Mapping[str, str]]) -> list[float]:
    """The head's outputs for one conversation alone, by transformers' own forward pass and template."""
    import torch

    model, tokenizer = _loaded(folder)
    ids = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=True)["input_ids"]
    with torch.no_grad():
        found: list[float] = model(torch.tensor([ids])).logits[0].tolist()
    return found
