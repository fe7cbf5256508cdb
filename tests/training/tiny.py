"""A model and data small enough that a whole training takes a second."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = [
    f"What is {a} plus {b}? It is {a + b}. Think again: yes, I am sure, or so." for a in range(9) for b in range(9)
]


def make_tokenizer(folder: Path, template: str | None = CHATML, **names: Any) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXTS, trainer)
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", **names}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=512, **{name: token for name, token in named.items() if token}
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random Llama of two layers with its tokenizer, in a folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(folder)
    torch.manual_seed(seed)
    shape = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
        "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id,
    }  # fmt: skip
    LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).save_pretrained(folder)
    return folder


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def sft_rows(count: int = 48) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s{n}",
            "messages": [
                turn("user", f"What is {n} plus {n % 7}?"),
                turn("assistant", f"It is {n + n % 7}." + " Yes." * (n % 4)),
            ],
        }
        for n in range(count)
    ]


def pair_rows(count: int = 48) -> list[dict[str, Any]]:
    return [
        {
            "id": f"p{n}",
            "prompt": [turn("user", f"What is {n} plus {n % 7}?")],
            "chosen": [turn("assistant", f"It is {n + n % 7}.")],
            "rejected": [turn("assistant", f"It is {n}, or so. I am sure." + " Yes." * (n % 3))],
            "chosen_reward": 1.0,
            "rejected_reward": (n % 4) / 4,
        }
        for n in range(count)
    ]


def ranking_rows(count: int = 24) -> list[dict[str, Any]]:
    return [
        {
            "id": f"k{n}",
            "prompt": [turn("user", f"What is {n} plus 1?")],
            "responses": [[turn("assistant", f"It is {n + k}.")] for k in range(1, 2 + n % 3 + 1)],
            "rewards": [float(1 - k) for k in range(1, 2 + n % 3 + 1)],
        }
        for n in range(count)
    ]


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


STAGES: dict[str, dict[str, Any]] = {
    "sft": {"name": "sft"},
    "dpo": {"name": "dpo", "beta": 0.1, "nll": {"weight": 0.2, "per": "token"}},
    "rpo": {"name": "rpo", "beta": 0.1, "eta": 1.0, "nll": {"weight": 1e-5, "per": "sequence"}},
    "reward": {"name": "reward"},
}
ROWS = {"sft": sft_rows, "dpo": pair_rows, "rpo": pair_rows, "reward": pair_rows}


def settings_for(stage: str, model: Path, folder: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a short training in `folder`, over rows that are written there."""
    folder.mkdir(parents=True, exist_ok=True)
    data = changes.pop("data", None) or str(write_rows(folder / "rows.jsonl", ROWS[stage]()))
    said = {
        "stage": {**STAGES[stage], **changes.pop("stage", {})},
        "run": "short",
        "out": str(folder / "out"),
        "seed": 0,
        "model": {"name": "tiny", "path": str(model), "digest": "tiny"},
        "data": data,
        "epochs": 1,
        "batch": 8,
        "max_length": 256,
        "optimizer": {"lr": 1e-2},
    }
    return {**said, **changes}
