"""A tokenizer whose tokens can be told by hand, and a server that scores prompts by known log-probabilities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.model_server import Reply

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(folder: Path) -> Path:
    """Every byte a token, but for two words and the marks of turns; the folder looks like a model's."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: place for place, sign in enumerate([*alphabet, "he", "ll"])}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[("h", "e"), ("l", "l")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    fast.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    # What makes it a model's folder.
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def loss(token: int) -> float:
    """What the server says of a token, by the token alone."""
    return 0.5 + token % 7 / 4


def scoring(body: dict[str, Any]) -> Reply:
    prompt = body["prompt"]
    logprobs = [None, *({str(token): {"logprob": -loss(token), "rank": 1}} for token in prompt[1:])]
    choice = {"index": 0, "text": "x", "finish_reason": "length", "logprobs": None, "prompt_logprobs": logprobs}
    return Reply(
        body=json.dumps({"choices": [choice], "usage": {"prompt_tokens": len(prompt), "completion_tokens": 1}}).encode()
    )
