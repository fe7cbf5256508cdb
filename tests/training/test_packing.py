"""Documents in one row without padding: attention, log-probabilities, and which examples a step takes."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.training.runs import causal, documents, plain_logps, train, trainer_of, work_for
from tests.training.tiny import make_model, make_tokenizer
from training.attention import documents_attention
from training.batches import Steps, collate, micro_batch
from training.errors import TrainingError
from training.plan import Part, Plan, chunks, spread
from training.template import PREFERENCE, SCORED
from training.trainer import per_document, token_logps

quick = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])

# ---- attention


def eager(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scale: float, window: int | None) -> torch.Tensor:
    """Causal attention over one document, written out: (H, T, D) each, heads already repeated."""
    length = q.shape[1]
    place = torch.arange(length)
    distance = place[:, None] - place[None]
    seen = (distance >= 0) & (distance < (window or length))
    weights = (q @ k.transpose(1, 2) * scale).masked_fill(~seen, -torch.inf).softmax(-1)
    return weights @ v


@quick
@given(
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    st.sampled_from([None, 1, 3, 50]),
    st.sampled_from([None, 0.7]),
)
def test_each_document_attends_to_itself_alone(
    lengths: list[int], heads: tuple[int, int], window: int | None, scale: float | None
) -> None:
    many, few = heads
    torch.manual_seed(0)
    total, width = sum(lengths), 8
    q, k, v = (torch.randn(1, count, total, width, dtype=torch.float64) for count in (many, few, few))
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    found, _ = documents_attention(
        torch.nn.Module(), q, k, v, None, scale, cu_seq_lens_q=offsets, max_length_q=64, sliding_window=window
    )
    assert found.shape == (1, total, many, width)
    for start, end in pairwise(offsets.tolist()):
        alone = [
            t[0, :, start:end] for t in (q, k.repeat_interleave(many // few, 1), v.repeat_interleave(many // few, 1))
        ]
        expected = eager(alone[0], alone[1], alone[2], scale or width**-0.5, window)
        torch.testing.assert_close(found[0, start:end].transpose(0, 1), expected)


def test_what_the_kernels_cannot_do_is_refused() -> None:
    q = torch.randn(1, 2, 4, 8)
    for options in ({"softcap": 30.0}, {"dropout": 0.1}, {"s_aux": torch.zeros(2)}):
        with pytest.raises(TrainingError, match="attention="):
            documents_attention(torch.nn.Module(), q, q, q, None, **options)  # type: ignore[arg-type]
    two = q.repeat(2, 1, 1, 1)
    with pytest.raises(TrainingError, match="one row"):
        documents_attention(torch.nn.Module(), two, two, two, None)


KINDS: dict[str, dict[str, Any]] = {
    "grouped heads": {},
    "own head": {"tie_word_embeddings": False},
    "a head width of its own": {"head_dim": 16},
}


@pytest.mark.parametrize("kind", KINDS)
def test_packed_log_probabilities_are_those_of_plain_forward_passes(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(tmp_path / "model", **KINDS[kind])
    work = work_for("dpo", model, tmp_path)
    trainer, _ = trainer_of(work, monkeypatch)
    places = np.array([3, 0, 7])
    batch = micro_batch(work.data.select_columns(["ids", "mask", "lengths", "rewards"]).with_format("numpy"), places, 0)
    with torch.no_grad():
        logps = token_logps(trainer.model.eval(), batch)
    plain, docs = causal(model), documents(work)
    flat = [document for place in places for document in docs[place]]
    expected = [plain_logps(plain, **document, bit=SCORED) for document in flat]
    torch.testing.assert_close(logps, torch.cat(expected).float(), atol=2e-5, rtol=1e-5)
    preferred = per_document(logps * batch["preferred"], batch)
    sums = [plain_logps(plain, **document, bit=PREFERENCE).sum() for document in flat]
    torch.testing.assert_close(preferred, torch.stack(sums).float(), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen2"])
def test_other_families_score_as_they_do_alone(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sliding window (Mistral), softcapped attention and logits (Gemma 2), biases (Qwen 2)."""
    import transformers

    tokenizer = make_tokenizer(tmp_path / "model")
    soft = {
        "sliding_window": 8, "head_dim": 8, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 0.5,
        "final_logit_softcapping": 2.0, "initializer_range": 0.3,
    }  # fmt: skip
    kinds = {
        "mistral": (transformers.MistralConfig, {"sliding_window": 8}),
        "gemma2": (transformers.Gemma2Config, soft),
        "qwen2": (transformers.Qwen2Config, {}),
    }
    kind, own = kinds[family]
    torch.manual_seed(0)
    config = kind(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id, **own,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    work = work_for("sft", tmp_path / "model", tmp_path)
    trainer, _ = trainer_of(work, monkeypatch)
    batch = micro_batch(
        work.data.select_columns(["ids", "mask", "lengths", "rewards"]).with_format("numpy"), np.arange(3), 0
    )
    with torch.no_grad():
        logps = token_logps(trainer.model.eval(), batch)
    plain, docs = causal(tmp_path / "model"), documents(work)
    expected = [plain_logps(plain, **docs[place][0], bit=SCORED) for place in range(3)]
    torch.testing.assert_close(logps, torch.cat(expected).float(), atol=2e-5, rtol=1e-5)


# ---- what a batch holds


def test_nothing_is_scored_that_nothing_comes_before() -> None:
    example = {
        "ids": np.array([5, 6, 7, 8]),
        "mask": np.array([3, 1, 3, 3]),
        "lengths": np.array([2, 2]),
        "rewards": [],
    }
    batch = collate([example], [9], filler=0)
    assert batch["scored"].tolist() == [0, 2]
    assert batch["targets"].tolist() == [6, 8]
    assert batch["document"].tolist() == [0, 1]
    assert batch["preferred"].tolist() == [False, True]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]
    assert batch["last"].tolist() == [1, 3]
    assert batch["index"].tolist() == [9]


@pytest.mark.parametrize("stage", ["sft", "dpo", "rpo", "reward"])
def test_a_process_without_examples_passes_something_through_that_counts_nothing(
    stage: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = work_for(stage, tiny, tmp_path)
    trainer, told = trainer_of(work, monkeypatch)
    empty = micro_batch(work.data.with_format("numpy"), np.zeros(0, np.int64), 0, told.get("reference"))
    full = micro_batch(
        work.data.select_columns(["ids", "mask", "lengths", "rewards"]).with_format("numpy"), np.arange(4), 0,
        told.get("reference"),
    )  # fmt: skip
    trainer.set_steps(None, [], work.data["where"])
    loss = trainer.step_loss(trainer.model, empty, {"examples": 8, "scored": 100})
    names = set(trainer.tally._sums)
    loss.backward()
    assert loss.item() == 0
    assert all(not p.grad.any() for p in trainer.model.parameters() if p.grad is not None)
    assert all(not value for value in trainer.tally._sums.values())
    trainer.step_loss(trainer.model, full, {"examples": 8, "scored": 100})
    assert set(trainer.tally._sums) == names  # every process adds up the same


# ---- which examples a step takes

lengths = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(np.array)


def plan_of(tokens: np.ndarray, batch: int, **said: Any) -> Plan:
    known: dict[str, Any] = {"epochs": 1, "steps": None, "seed": 0, "parts": [Part(0, len(tokens))], **said}
    return Plan(tokens, known.pop("parts"), batch=batch, **known)


def taken(plan: Plan) -> list[int]:
    return [int(index) for step in range(plan.steps) for index in plan.examples(step)]


@quick
@given(lengths, st.integers(1, 50), st.integers(1, 3), st.integers(0, 5))
def test_every_example_comes_once_an_epoch(tokens: np.ndarray, batch: int, epochs: int, seed: int) -> None:
    plan = plan_of(tokens, batch, epochs=epochs, seed=seed)
    assert plan.steps == ceil(len(tokens) * epochs / batch)
    row = taken(plan)
    for epoch in range(epochs):
        assert sorted(row[epoch * len(tokens) : (epoch + 1) * len(tokens)]) == list(range(len(tokens)))
    assert len(row) == len(tokens) * epochs
    assert plan.epoch(plan.steps) == epochs
    assert all(len(plan.examples(step)) == batch for step in range(plan.steps - 1))


@quick
@given(lengths, st.integers(1, 9), st.floats(0.05, 3.3))
def test_an_epoch_may_be_a_fraction(tokens: np.ndarray, batch: int, epochs: float) -> None:
    plan = plan_of(tokens, batch, epochs=epochs)
    row = taken(plan)
    assert abs(len(row) - len(tokens) * epochs) <= 1 or len(row) == 1
    assert set(Counter(row).values()) <= {int(epochs), int(epochs) + 1, ceil(epochs) + 1} - {0}
    assert plan.epoch(plan.steps) == pytest.approx(len(row) / len(tokens))


@quick
@given(lengths, st.integers(1, 9), st.integers(0, 5), st.data())
def test_a_step_is_a_function_of_its_number(tokens: np.ndarray, batch: int, seed: int, data: Any) -> None:
    """So a run that goes on at any step takes what it would have taken."""
    whole = plan_of(tokens, batch, epochs=3, seed=seed)
    row = [whole.examples(step).tolist() for step in range(whole.steps)]
    step = data.draw(st.integers(0, whole.steps - 1))
    fresh = plan_of(tokens, batch, epochs=3, seed=seed)
    assert fresh.examples(step).tolist() == row[step]
    assert fresh.examples(max(step - 1, 0)).tolist() == row[max(step - 1, 0)]


def test_another_seed_is_another_order() -> None:
    tokens = np.ones(50, int)
    assert taken(plan_of(tokens, 7, seed=0)) != taken(plan_of(tokens, 7, seed=1))
    two = taken(plan_of(tokens, 50, epochs=2))
    assert two[:50] != two[50:]


@quick
@given(
    st.lists(st.tuples(st.integers(1, 40), st.one_of(st.none(), st.floats(0.05, 1))), min_size=1, max_size=4),
    st.integers(1, 9),
)
def test_weights_give_shares_within_one(kinds: list[tuple[int, float | None]], batch: int) -> None:
    ends = np.cumsum([size for size, _ in kinds])
    parts = [Part(int(end - size), int(end), weight) for end, (size, weight) in zip(ends, kinds, strict=True)]
    plan = plan_of(np.ones(int(ends[-1]), int), batch, parts=parts, epochs=3)
    row = taken(plan)
    epochs = [row[epoch * plan.epoch_size : (epoch + 1) * plan.epoch_size] for epoch in range(3)]
    weighted = [(part.weight, part.end - part.start) for part in parts if part.weight is not None]
    weight, size = max(weighted, default=(1.0, 0))  # the heaviest is taken once an epoch
    for part in parts:
        for epoch in epochs:
            count = sum(part.start <= index < part.end for index in epoch)
            wanted = part.end - part.start if part.weight is None else size * part.weight / weight
            assert abs(count - wanted) <= (part.weight is not None)
        # Over the epochs, too, no example comes twice more often than another.
        mine = Counter(index for index in row if part.start <= index < part.end)
        assert max(mine.values()) - min(mine.get(index, 0) for index in range(part.start, part.end)) <= 1


@quick
@given(lengths, st.data())
def test_what_is_left_out_is_never_taken(tokens: np.ndarray, data: Any) -> None:
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)).filter(any)))
    assert sorted(taken(plan_of(tokens, 3, keep=keep))) == np.flatnonzero(keep).tolist()


@quick
@given(lengths, st.integers(1, 5), st.integers(1, 200), st.sampled_from([spread, chunks]))
def test_examples_lie_in_one_micro_batch_each(tokens: np.ndarray, processes: int, capacity: int, share: Any) -> None:
    shares = share(tokens, processes, capacity)
    assert len(shares) == processes
    assert len({len(batches) for batches in shares}) == 1  # processes step together
    assert sorted(int(place) for batches in shares for places in batches for place in places) == list(
        range(len(tokens))
    )
    for batches in shares:
        for places in batches:
            assert tokens[places].sum() <= capacity or len(places) == 1


def test_nothing_at_all_is_spread_over_processes_too() -> None:
    assert [len(batches) for batches in chunks(np.zeros(0, int), 3, 100)] == [1, 1, 1]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_any_number_of_processes_takes_the_same_step(processes: int, tiny: Path, tmp_path: Path) -> None:
    work = work_for("rpo", tiny, tmp_path)
    shares = [
        Steps(work.data, work.plan, work.scored, rank=rank, processes=processes, capacity=200, filler=0)[2]
        for rank in range(processes)
    ]
    rows = [index for share in shares for batch in share["micro"] for index in batch["index"].tolist()]
    assert sorted(rows) == sorted(work.plan.examples(2).tolist())
    for share in shares:
        assert share["examples"] == 8
        assert share["tokens"] == work.plan.tokens[rows].sum()
        assert share["scored"] == sum(len(batch["scored"]) for each in shares for batch in each["micro"])


def test_a_model_that_cannot_be_trained_so_says_it(tiny: Path, tmp_path: Path) -> None:
    work = work_for("sft", tiny, tmp_path, attention="nonsense")
    with pytest.raises(TrainingError, match="nonsense"):
        train(work)
