"""Training speed on one GPU: this project's stages, stock TRL and a bare compiled loop over the same documents.

    python -m benchmarks.training --model FOLDER [--steps 24] [CASE ...]

Cases: sft dpo rpo (ours), bare, trl-sft:NAME, trl-dpo:NAME with the names below; without any, all of them. Each runs in a
process of its own and prints one line: real tokens a second (padding is not counted), and what it was. FOLDER holds a
config and a tokenizer; without weights they are random, which costs the same. The last line has the ratios.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

TOKENS = 65_536  # a step: 32 rows of 2,048
DOCUMENTS = 156  # about as many
SFT: dict[str, dict[str, Any]] = {
    "wrapped": {"packing": True, "packing_strategy": "wrapped", "per_device_train_batch_size": 32},
    "wrapped-compiled": {
        "packing": True,
        "packing_strategy": "wrapped",
        "per_device_train_batch_size": 32,
        "torch_compile": True,
    },
    "bfd-flex": {
        "packing": True,
        "packing_strategy": "bfd",
        "per_device_train_batch_size": 16,
        "attention": "flex_attention",
    },
    "padded": {"per_device_train_batch_size": 32},
    "grouped": {"per_device_train_batch_size": 32, "train_sampling_strategy": "group_by_length"},
}
DPO: dict[str, dict[str, Any]] = {
    "padded": {"per_device_train_batch_size": 16},
    "small": {"per_device_train_batch_size": 4},
    "precomputed": {"per_device_train_batch_size": 16, "precompute_ref_log_probs": True},
}
CASES = ("sft", "dpo", "rpo", "bare", *(f"trl-sft:{name}" for name in SFT), *(f"trl-dpo:{name}" for name in DPO))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--folder", default="outputs/benchmark-training")
    parser.add_argument("--gpus", type=int, default=1)
    parser.add_argument("--strategy", default="ddp")
    parser.add_argument("--batch", type=int, help="examples a step, in place of as many as a GPU is full with")
    parser.add_argument("cases", nargs="*")
    options = parser.parse_args()
    cases = options.cases or list(CASES)
    if len(cases) > 1:
        _each_in_its_own(cases)
        return
    case, folder = cases[0], Path(options.folder)
    folder.mkdir(parents=True, exist_ok=True)
    prepare(Path(options.model), folder)
    name, _, variant = case.partition(":")
    if name in ("sft", "dpo", "rpo"):
        speed, note = ours(name, folder, options)
    elif name == "bare":
        speed, note = bare(folder, options.steps)
    else:
        speed, note = trl(name, variant, folder, options.steps)
    print(json.dumps({"case": case, "gpus": options.gpus, "tokens_per_second": round(speed), "note": note}), flush=True)


def _each_in_its_own(cases: list[str]) -> None:
    words = [word for word in sys.argv[1:] if word not in cases]
    found: dict[str, float] = {}
    for case in cases:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training", *words, case], capture_output=True, text=True
        )
        line = next((line for line in done.stdout.splitlines() if line.startswith('{"case"')), None)
        if line is None:
            print(f"{case}: failed: {done.stderr.strip().splitlines()[-1:]}", flush=True)
            continue
        found[case] = json.loads(line)["tokens_per_second"]
        print(f"{case:24} {found[case]:>10,} tokens/s  {json.loads(line)['note']}", flush=True)
    _ratios(found)


def _ratios(found: dict[str, float]) -> None:
    stock_sft = max((speed for case, speed in found.items() if case.startswith("trl-sft")), default=math.nan)
    stock_dpo = max((speed for case, speed in found.items() if case.startswith("trl-dpo")), default=math.nan)
    ours_sft = found.get("sft", math.nan)
    print(
        f"sft: {ours_sft / stock_sft:.2f} of TRL's best, {ours_sft / found.get('bare', math.nan):.2f} of the bare loop; "
        f"dpo {found.get('dpo', math.nan) / stock_dpo:.2f} and rpo {found.get('rpo', math.nan) / stock_dpo:.2f} of TRL's best DPO"
    )


# ---- what is trained on


def prepare(model: Path, folder: Path) -> None:
    """A model folder with weights, and rows: conversations and pairs of log-normal length, 25 to 2,000 tokens."""
    if not (folder / "rows.jsonl").exists():
        rng = random.Random(0)
        words = [
            "".join(rng.choice("bcdfghlmnprst") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
            for _ in range(4000)
        ]

        def text(tokens: float) -> str:
            return " ".join(rng.choices(words, k=max(4, int(tokens / 2.6))))  # 2.6 tokens a word of this kind

        def length() -> float:
            return min(1600.0, max(32.0, rng.lognormvariate(math.log(400), 0.8)))

        with (folder / "rows.jsonl").open("w") as rows, (folder / "pairs.jsonl").open("w") as pairs:
            for _ in range(4000):
                size = length()
                asked = [{"role": "user", "content": text(0.15 * size)}]
                rows.write(
                    json.dumps({"prompt": asked, "completion": [{"role": "assistant", "content": text(0.85 * size)}]})
                    + "\n"
                )
                both = {
                    name: [{"role": "assistant", "content": text(0.85 * size * rng.uniform(0.6, 1.4))}]
                    for name in ("chosen", "rejected")
                }
                pairs.write(json.dumps({"prompt": asked, **both, "chosen_reward": 1.0, "rejected_reward": 0.2}) + "\n")
    if not (folder / "model" / "model.safetensors").exists():
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        has = list(model.glob("*.safetensors"))
        torch.manual_seed(0)
        made = (
            AutoModelForCausalLM.from_pretrained(model)
            if has
            else AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(model), dtype=torch.bfloat16)
        )
        made.save_pretrained(folder / "model")
        AutoTokenizer.from_pretrained(model).save_pretrained(folder / "model")


# ---- ours


def ours(stage: str, folder: Path, options: argparse.Namespace) -> tuple[float, str]:
    """The stage as `python -m factory train` runs it; the median of its logged windows of four steps after the first."""
    from training import phases
    from training.settings import TrainSettings

    losses = {"weight": 0.2, "per": "token"}
    shape: dict[str, Any] = {
        "sft": {},
        "dpo": {"beta": 0.1, "nll": losses},
        "rpo": {"beta": 0.1, "eta": 1.0, "nll": losses},
    }[stage]
    out = folder / f"ours-{stage}-{options.gpus}-{options.strategy}-{os.getpid()}"
    batch = DOCUMENTS if stage == "sft" else DOCUMENTS // 2
    settings = TrainSettings.model_validate(
        {
            "stage": {"name": stage, **shape},
            "run": "benchmark",
            "out": str(out),
            "seed": 0,
            "model": {"name": "benchmark", "path": str(folder / "model")},
            "data": str(folder / ("rows.jsonl" if stage == "sft" else "pairs.jsonl")),
            "epochs": 1,
            "steps": options.steps,
            "batch": options.batch or batch * options.gpus,
            "max_length": 2048,
            "optimizer": {"lr": 1e-5},
            "compile": True,
            "log_every": 4,
            "launch": {"gpus": options.gpus, "strategy": options.strategy},
        }
    )
    status = phases.train(settings, lambda text: print(text, file=sys.stderr, flush=True))
    if status:
        raise SystemExit(status)
    entries = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()][1:]
    speed = statistics.median(entry["tokens_per_second"] for entry in entries if "tokens_per_second" in entry)
    mfu = statistics.median(entry.get("mfu", 0.0) for entry in entries)
    memory = max(entry.get("memory_gb", 0.0) for entry in entries)
    losses_seen = [round(entry["loss"], 5) for entry in entries[:3]]
    return speed, f"MFU {mfu:.3f} of the datasheet's peak, {memory:.1f} GB, losses {losses_seen}"


# ---- a bare loop


def bare(folder: Path, steps: int) -> tuple[float, str]:
    """bfloat16 weights, causal attention over rows of 2,048, whole model compiled, fused AdamW, loss in checkpointed chunks."""
    import torch
    from torch.utils.checkpoint import checkpoint
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    rows = [json.loads(line) for line in (folder / "rows.jsonl").open()]
    texts = [tokenizer.apply_chat_template(row["prompt"] + row["completion"], tokenize=False) for row in rows]
    ids = torch.tensor(
        [token for encoded in tokenizer(texts, add_special_tokens=False)["input_ids"] for token in encoded]
    )
    batches = ids[: len(ids) // TOKENS * TOKENS].view(-1, 32, 2048).cuda()
    model = AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.bfloat16, attn_implementation="sdpa"
    ).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    body = torch.compile(model.model)

    def chunk_loss(hidden: Any, labels: Any) -> Any:
        logits = (hidden @ model.lm_head.weight.T).float()
        return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")

    compiled = torch.compile(chunk_loss)
    times = []
    for step in range(steps):
        batch = batches[step % len(batches)]
        started = time.perf_counter()
        hidden = body(input_ids=batch, use_cache=False).last_hidden_state[:, :-1].reshape(-1, model.config.hidden_size)
        labels = batch[:, 1:].reshape(-1)
        parts = zip(hidden.chunk(8), labels.chunk(8), strict=True)
        loss = sum(checkpoint(compiled, part, wanted, use_reentrant=False) for part, wanted in parts) / len(labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return TOKENS / statistics.median(times[3:]), "32 x 2048, bfloat16 weights, attention across documents"


# ---- stock TRL


def trl(name: str, variant: str, folder: Path, steps: int) -> tuple[float, str]:
    """TRL's trainer as it comes, bf16 over float32 weights, no checkpointing, fused AdamW."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    config, trainer_class = (SFTConfig, SFTTrainer) if name == "trl-sft" else (DPOConfig, DPOTrainer)
    variants: dict[str, dict[str, Any]] = SFT if name == "trl-sft" else DPO
    chosen = dict(variants[variant])
    attention = chosen.pop("attention", "sdpa")
    data = load_dataset(
        "json", data_files=str(folder / ("rows.jsonl" if name == "trl-sft" else "pairs.jsonl")), split="train"
    )
    if name == "trl-dpo":
        data = data.select_columns(["prompt", "chosen", "rejected"])
        chosen |= {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]}
    args = config(
        output_dir=str(folder / "trl"),
        max_steps=steps,
        bf16=True,
        max_length=2048,
        gradient_checkpointing=False,
        optim="adamw_torch_fused",
        learning_rate=1e-5,
        report_to="none",
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **chosen,
    )
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32, attn_implementation=attention)

    class Clock(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.seen: list[tuple[float, float]] = []

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            torch.cuda.synchronize()
            self.seen.append((time.perf_counter(), float(trainer._total_train_tokens)))

    clock = Clock()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    trainer = trainer_class(model=model, args=args, train_dataset=data, processing_class=tokenizer, callbacks=[clock])
    started = time.perf_counter()
    trainer.train()
    (first, before), (last, after) = clock.seen[3], clock.seen[-1]
    whole = after / (last - started)
    return (after - before) / (last - first), f"from the start, its preparations included: {whole:,.0f}"


if __name__ == "__main__":
    main()
