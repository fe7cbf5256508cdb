"""Dequantise a GGUF model: `python models_convert.py OUT GGUF [PART ...]`, run by `models_gguf.py` as its own process.

Writes bfloat16 safetensors, tokenizer, chat template and generation configuration into the existing folder OUT.
Imports the heavy libraries inside its functions: the module's constant is read by processes that must not load them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

CONVERTER = "1"  # raise it whenever the output changes: it is part of the model's identity
_PROBE = "In 2024, it's 3.5 apples:\n\n    def f(x):\n\treturn x"


def convert(out: Path, sources: list[Path]) -> None:
    """Write the model of a GGUF file (or of its parts, in order) into `out`; raises on anything doubtful."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    source = sources[0] if len(sources) == 1 else _joined(out / "joined.gguf", sources)
    metadata = _metadata(source)
    folder, file = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The tokenizer as read has no limit (1e30), which lets a trainer build inputs longer than the model's positions.
    tokenizer.model_max_length = model.config.max_position_embeddings
    _set_ends(tokenizer, model.config.bos_token_id, model.config.eos_token_id)
    _set_bos(tokenizer, bool(metadata.get("tokenizer.ggml.add_bos_token", False)))
    stops = [model.config.eos_token_id, metadata.get("tokenizer.ggml.eot_token_id")]
    ids = sorted({int(stop) for stop in stops if stop is not None})
    model.generation_config.eos_token_id = ids[0] if len(ids) == 1 else ids
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    _check(out, tokenizer, model.config.eos_token_id)
    if len(sources) > 1:
        source.unlink()


def _joined(path: Path, parts: list[Path]) -> Path:
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, whole, 2**20)
    return path


def _metadata(source: Path) -> dict[str, Any]:
    """The scalar tokenizer fields of the GGUF header (its vocabulary is large and read elsewhere)."""
    from gguf import GGUFReader

    fields = GGUFReader(source).fields
    wanted = ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.eot_token_id")
    return {name: fields[name].contents() for name in wanted if name in fields}


def _set_ends(tokenizer: Any, bos: int | None, eos: int | None) -> None:
    """Give the tokenizer the model's own first and last tokens: some releases (5.17) guess others from its class."""
    if eos is not None and tokenizer.eos_token_id != eos:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(eos)
    if bos is not None and tokenizer.bos_token_id != bos:
        tokenizer.bos_token = tokenizer.convert_ids_to_tokens(bos)


def _set_bos(tokenizer: Any, wanted: bool) -> None:
    """Make plain text begin with the bos token exactly if the GGUF says so.

    The conversion drops the flag, and a model such as Gemma writes noise without its bos.
    """
    bos = tokenizer.bos_token_id
    if not wanted or bos is None or tokenizer(_PROBE).input_ids[:1] == [bos]:
        return
    from tokenizers.processors import TemplateProcessing

    token = tokenizer.bos_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{token} $A", pair=f"{token} $A {token}:1 $B:1", special_tokens=[(token, bos)]
    )
    tokenizer.add_bos_token = True


def _check(out: Path, tokenizer: Any, eos: int) -> None:
    """Raise unless what was written reads back as the same tokenizer, with the model's own end of text."""
    from transformers import AutoTokenizer, __version__

    again = AutoTokenizer.from_pretrained(out)
    before, after = tokenizer(_PROBE).input_ids, again(_PROBE).input_ids
    if before != after:
        raise ValueError(
            f"transformers {__version__} does not read this tokenizer as it wrote it; another release may "
            f"(Gemma's: 5.19 does, 5.17 does not): {before} became {after}"
        )
    if again.eos_token_id != eos:
        raise ValueError(f"the tokenizer ends text with {again.eos_token_id}, the model with {eos}")
    if again.chat_template != tokenizer.chat_template:
        raise ValueError("the chat template reads back differently")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
