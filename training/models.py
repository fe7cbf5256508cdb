"""Loads the model that a stage trains, makes it fast, and saves it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from training import attention
from training.errors import TrainingError
from training.settings import TrainSettings

# Compiling one layer costs about ten seconds; below this many tokens it is not earned back.
COMPILE_FROM_TOKENS = 3_000_000


def device() -> torch.device:
    """This process's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def compute_dtype(settings: TrainSettings) -> torch.dtype:
    """What a forward pass computes in: bfloat16 where the GPU has it, float32 elsewhere."""
    if settings.precision == "auto":
        return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32
    return torch.float32 if settings.precision == "fp32" else torch.bfloat16


def weight_dtype(settings: TrainSettings) -> torch.dtype:
    """What weights are held in: float32, so that small updates are not rounded away; frozen ones may be narrower."""
    frozen = settings.lora.enabled and settings.lora.after == 0
    return compute_dtype(settings) if settings.precision == "pure_bf16" or frozen else torch.float32


def choose_attention(settings: TrainSettings, config: Any) -> str:
    """The fastest implementation that is right for documents in one row; what the settings name goes first."""
    if settings.attention != "auto":
        return settings.attention
    here, config = device(), config.get_text_config()
    if attention.can(config) and (here.type == "cpu" or attention.has_flash(here, compute_dtype(settings))):
        return attention.NAME
    from transformers.utils import is_flash_attn_2_available

    if is_flash_attn_2_available():
        return "flash_attention_2"
    # transformers' own forms make a block mask of T x T from the positions: slow, and right. SDPA knows no softcap.
    return "eager" if getattr(config, "attn_logit_softcapping", None) else "sdpa"


def load(settings: TrainSettings, tokenizer: Any, *, labels: int | None = None) -> PreTrainedModel:
    """The model to train; with `labels`, one with a linear head of that many numbers in place of the vocabulary's.

    Raises `TrainingError` where it cannot be loaded or knows another vocabulary than its tokenizer.
    """
    attention.register()
    kind: Any = AutoModelForCausalLM if labels is None else AutoModelForSequenceClassification
    extra = {} if labels is None else {"num_labels": labels, "problem_type": "regression"}
    source = settings.model
    transformers.utils.logging.disable_progress_bar()
    try:
        config = transformers.AutoConfig.from_pretrained(source.path, revision=source.revision)
        model: PreTrainedModel = kind.from_pretrained(
            source.path,
            revision=source.revision,
            dtype=weight_dtype(settings),
            attn_implementation=choose_attention(settings, config),
            use_safetensors=True,
            **extra,
        )
    except (OSError, ValueError) as error:
        raise TrainingError(f"model={source.name}: cannot be loaded: {str(error).splitlines()[0]}") from error
    vocabulary = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > vocabulary:
        raise TrainingError(
            f"model={source.name}: its tokenizer has {len(tokenizer)} tokens, its embedding {vocabulary}; they do not "
            "belong together"
        )
    model.config.use_cache = False
    model.config.pad_token_id = tokenizer.pad_token_id
    if getattr(model, "generation_config", None) is not None:
        _end_with(model, tokenizer)
    return model


def _end_with(model: PreTrainedModel, tokenizer: Any) -> None:
    """Let generation stop at the token that the training texts end with."""
    config = model.generation_config
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    config.eos_token_id = list(dict.fromkeys([tokenizer.eos_token_id, *(end for end in ends if end is not None)]))
    config.pad_token_id = tokenizer.pad_token_id


def add_adapters(model: PreTrainedModel, settings: TrainSettings) -> Any:
    """The model with low-rank adapters, its own weights frozen."""
    from peft import LoraConfig, get_peft_model

    lora = settings.lora
    targets = lora.targets if isinstance(lora.targets, str) else list(lora.targets)
    kind = "CAUSAL_LM" if settings.stage.name != "reward" else "SEQ_CLS"
    config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, task_type=kind
    )
    torch.manual_seed(settings.seed)  # they begin at random, the same in every process
    try:
        return get_peft_model(model, config)
    except ValueError as error:
        raise TrainingError(f"lora.targets={lora.targets}: {str(error).splitlines()[0]}") from error


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The repeated blocks of a transformer: what its longest list of equal modules holds."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) > 0]
    found = max(lists, key=lambda module: sum(p.numel() for p in module.parameters()), default=None)
    return list(found) if found is not None else []


def compile_layers(model: torch.nn.Module) -> None:
    """Compile each decoder layer: all share one graph, so a model of any depth compiles in the time of one layer.

    Shapes are dynamic: every micro-batch has its own number of tokens and documents, and no recompilation. It is `forward`
    that is compiled, not the call: FSDP gathers a layer's weights in hooks around it, which cannot be compiled.
    """
    torch._dynamo.config.cache_size_limit = max(torch._dynamo.config.cache_size_limit, 64)
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, dynamic=True)


def wants_compile(settings: TrainSettings, tokens: int) -> bool:
    if settings.compile != "auto":
        return bool(settings.compile)
    return torch.cuda.is_available() and tokens >= COMPILE_FROM_TOKENS


def save(model: Any, state: Mapping[str, torch.Tensor], tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write a whole model folder and only then give it its name; adapters are merged into the weights before."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    state = _narrowed(state, dtype)
    model.config.use_cache = True
    implementation, model.config._attn_implementation = model.config._attn_implementation, "sdpa"
    try:
        model.save_pretrained(fresh, state_dict=state, safe_serialization=True)
    finally:
        model.config.use_cache = False
        model.config._attn_implementation = implementation
    # What it writes there is what the model computed in, not what the weights are saved as.
    config = json.loads((fresh / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (fresh / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(fresh)
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)


def _narrowed(state: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in `dtype`; tied ones stay one tensor, so that they are saved once."""
    made: dict[tuple[int, torch.Size], torch.Tensor] = {}
    for value in state.values():
        key = (value.data_ptr(), value.shape)
        if key not in made:
            made[key] = value.to(dtype) if value.is_floating_point() else value
    return {name: made[value.data_ptr(), value.shape] for name, value in state.items()}
