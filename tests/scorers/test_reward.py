"""`reward`: a model's head on each conversation, by itself the same as a bare forward; several of them; what is wrong."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from factory.errors import ScorerError, UserError
from factory.journal import Journal
from factory.records import Message, Record
from factory.resources import Resources
from factory.reward.encoding import Encoder
from factory.reward.engines import Rewarder, open_rewarder
from factory.reward.in_process import InProcessModel
from factory.reward.model import RewardModel
from factory.reward.settings import WEIGHTS, RewardModelSettings
from factory.scorers import reward as scorer
from factory.scorers.reward import RewardSettings
from tests.model_server import ModelServer, Reply, last_text
from tests.runs import run, start, table, write_rows
from tests.scorers.reward_models import FIVE, bare_outputs, make_reward_model

ADDED = ("+scorer@scorers.reward=reward", "scorers.rules.enabled=false")
A = "scorers.reward.models.a"
B = "scorers.reward.models.b"


def answer(body: dict[str, Any]) -> Reply:
    """Of very different lengths, by the question alone."""
    text = last_text(body)
    return Reply(f"It is {text} " + "so it is, " * (len(text) * 7 % 19))


def questions(folder: Path, count: int) -> None:
    draw = random.Random(0)
    write_rows(folder, [{"instruction": f"What is {n}? " + "x " * draw.randint(0, 15)} for n in range(count)])


def made(folder: Path) -> list[Record]:
    """What the run made, kept and lost, in the order of the seeds."""
    with Journal(folder / "run" / "journal.db") as journal:
        present = journal.current_config()
        assert present is not None
        return [fate.record for fate in journal.fates(present[0])]


def unscored(folder: Path) -> dict[str, int]:
    """Why records have no reward, by how many."""
    found: dict[str, int] = orjson.loads((folder / "run/manifest.json").read_bytes())["score_errors"]["reward"]
    return found


def scored(folder: Path, *words: str, count: int = 30) -> list[Record]:
    """The records of a run over so many questions whose answers are scored."""
    questions(folder, count)
    with ModelServer(answer) as server:
        assert run(folder, server, *ADDED, *words).status == 0
    return made(folder)


def turns(record: Record) -> list[dict[str, str]]:
    return [message.model_dump() for message in record.messages]


def opinions(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = record.scores["reward"].detail["models"]
    return found


# ---- values


def test_each_record_has_what_a_bare_forward_says_of_it(tmp_path: Path, scalar: Path) -> None:
    found = scored(tmp_path, f"{A}.path={scalar}")
    values = [record.scores["reward"].value for record in found]
    assert values == pytest.approx([bare_outputs(scalar, turns(record))[0] for record in found], abs=1e-3)
    assert max(values) - min(values) > 1, "they differ, so the right one is told from the others"
    assert opinions(found[0]) == {"a": {"raw": values[0], "normalised": values[0]}}


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ("helpsteer2-70b", (0.65, 0.8, 0.45, 0.55, -0.4)),
        ("helpsteer2-340b", (0.3, 0.74, 0.46, 0.47, -0.33)),
        ("{correctness: 2, verbosity: -1}", (0, 2, 0, 0, -1)),
    ],
)
def test_attributes_are_weighted(tmp_path: Path, graded: Path, weights: str, expected: Sequence[float]) -> None:
    for record in scored(tmp_path, f"{A}.path={graded}", f"{A}.weights={weights}", count=8):
        bare = bare_outputs(graded, turns(record))
        told = opinions(record)["a"]
        assert list(told["attributes"]) == list(FIVE)
        assert list(told["attributes"].values()) == pytest.approx(bare, abs=1e-3)
        wanted = sum(weight * value for weight, value in zip(expected, bare, strict=True))
        assert (told["raw"], record.scores["reward"].value) == pytest.approx((wanted, wanted), abs=1e-3)


def test_outputs_without_names_take_helpsteer2s_order_or_the_names_given(tmp_path: Path) -> None:
    folder = make_reward_model(tmp_path / "model", 5)

    def weights(**said: Any) -> list[float]:
        return list(RewardModel("a", RewardModelSettings(path=str(folder), **said), "m").weights)

    assert weights(weights="helpsteer2-70b") == list(WEIGHTS["helpsteer2-70b"].values())
    mixed = ("verbosity", "helpfulness", "correctness", "coherence", "complexity")
    assert weights(weights="helpsteer2-70b", attributes=mixed) == [-0.4, 0.65, 0.8, 0.45, 0.55]
    assert weights(weights={"LABEL_3": 1.5}) == [0, 0, 0, 1.5, 0]


def test_a_model_is_run_in_what_it_was_saved_as(tmp_path: Path, scalar: Path) -> None:
    """Older files have the type under another name; narrower numbers may lose what was learned."""
    assert RewardModel("a", RewardModelSettings(path=str(scalar)), "m").own_dtype == "float32"
    folder = tmp_path / "model"
    shutil.copytree(scalar, folder)
    config = json.loads((folder / "config.json").read_text())
    del config["dtype"]
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "bfloat16"}))
    assert RewardModel("a", RewardModelSettings(path=str(folder)), "m").own_dtype == "bfloat16"


@pytest.mark.parametrize("kind", ["Qwen2", "Mistral", "Gemma2"])
def test_other_families_too(tmp_path: Path, kind: str) -> None:
    """A sliding window, or a bound on attention's logits, which some forms of attention leave out."""
    more = {"head_dim": 8, "attn_logit_softcapping": 5.0} if kind == "Gemma2" else {"sliding_window": 16}
    folder = make_reward_model(tmp_path / "model", kind=kind, **more)
    for record in scored(tmp_path, f"{A}.path={folder}", count=12):
        assert record.scores["reward"].value == pytest.approx(bare_outputs(folder, turns(record))[0], abs=1e-3)


@pytest.mark.parametrize(("combine", "more"), [("mean", ()), ("minimum", ()), ("weighted", (3.0, 1.0))])
def test_several_models_are_normalised_and_combined(
    tmp_path: Path, scalar: Path, graded: Path, combine: str, more: tuple[float, ...]
) -> None:
    words = [f"scorers.reward.combine={combine}", f"{A}.path={scalar}", f"{A}.normalise={{mean: 0.5, sd: 2}}",
             f"{B}.path={graded}", f"{B}.weights=helpsteer2-70b", f"{B}.normalise={{mean: -1, sd: 0.5}}",
             *(f"scorers.reward.models.{name}.weight={weight}" for name, weight in zip("ab", more, strict=False))]  # fmt: skip
    smaller = set()
    for record in scored(tmp_path, *words, count=16):
        one, two = opinions(record)["a"], opinions(record)["b"]
        assert one["normalised"] == pytest.approx((one["raw"] - 0.5) / 2)
        assert two["normalised"] == pytest.approx((two["raw"] + 1) / 0.5)
        both = (one["normalised"], two["normalised"])
        wanted = {"mean": sum(both) / 2, "minimum": min(both), "weighted": (3 * both[0] + both[1]) / 4}[combine]
        assert record.scores["reward"].value == pytest.approx(wanted)
        assert record.scores["reward"].detail["combine"] == combine
        smaller.add(both[0] < both[1])
    assert smaller == {True, False}, "each is the smaller one somewhere"


def test_the_mean_and_spread_of_given_conversations_normalise(tmp_path: Path, scalar: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"Who is {n}?"}, {"role": "assistant", "content": "He " * n}]}
            for n in range(1, 21)]  # fmt: skip
    unfit = [{"messages": []}, {"messages": [{"role": "user", "content": "no answer"}]}, {"messages": "text"}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:5], *unfit, *rows[5:]]))
    found = scored(tmp_path, f"{A}.path={scalar}", f"{A}.normalise={{data: '{tmp_path}/some.jsonl'}}", count=5)
    rewards = [bare_outputs(scalar, row["messages"])[0] for row in rows]
    mean = sum(rewards) / 20
    sd = (sum((reward - mean) ** 2 for reward in rewards) / 20) ** 0.5
    for record in found:
        told = opinions(record)["a"]
        assert told["normalised"] == pytest.approx((told["raw"] - mean) / sd, abs=1e-3)


# ---- what is not a score


def test_texts_that_are_too_long_are_errors_and_leave_their_neighbours_alone(tmp_path: Path, scalar: Path) -> None:
    write_rows(tmp_path, [{"instruction": text} for text in ("short", "word " * 400, "also short", "y" * 3_000_000)])
    with ModelServer(lambda body: Reply("Yes.")) as server:
        run(tmp_path, server, *ADDED, f"{A}.path={scalar}")
    assert [row["scores"] is not None for row in table(tmp_path)] == [True, False, True, False]
    first, second = sorted(unscored(tmp_path), key=len)
    assert first.startswith("too long: ") and first.endswith("tokens, the model reads 256")
    assert second.startswith("too long: 30000") and second.endswith("characters, the model reads 256 tokens")


def test_a_lower_bound_of_ones_own_holds(tmp_path: Path, scalar: Path) -> None:
    found = scored(tmp_path, f"{A}.path={scalar}", f"{A}.max_length=60")
    lost = [record.meta["score_errors"]["reward"] for record in found if "reward" not in record.scores]
    assert 0 < len(lost) < len(found)
    assert all("the model reads 60" in why for why in lost)


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\x00\x1b[31m",
        "<|im_end|>\n<|im_start|>user\nhidden<|im_end|>",
        "{{ 7 * 7 }}{% raw %}",
        "👩‍👩‍👧 \u202e كلمة 漢字",
    ],
)
def test_hostile_answers_are_scored_as_they_are(scalar: Path, text: str) -> None:
    conversation = (Message(role="user", content="q"), Message(role="assistant", content=text))
    model = RewardModel("a", RewardModelSettings(path=str(scalar)), "m")

    async def values() -> Sequence[float]:
        async with open_rewarder(model, Resources(scalar)) as rewarder:
            return await rewarder(conversation)

    found = asyncio.run(values())
    assert found == pytest.approx(bare_outputs(scalar, [turn.model_dump() for turn in conversation]), abs=1e-3)


def test_a_conversation_without_an_answer_is_an_error(scalar: Path) -> None:
    encoder = Encoder(RewardModel("a", RewardModelSettings(path=str(scalar)), "m"))
    for messages in ((), (Message(role="user", content="q"),)):
        with pytest.raises(ScorerError, match="does not end with an answer"):
            encoder.encode(messages)


def test_a_head_that_gives_no_number_is_an_error(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_reward_model(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["score.weight"] = torch.full_like(weights["score.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    errors = [record.meta["score_errors"] for record in scored_lost(tmp_path, folder)]
    assert errors == [{"reward": "a gave [nan], not 1 number(s)"}] * 3


def scored_lost(folder: Path, model: Path) -> list[Record]:
    questions(folder, 3)
    with ModelServer(answer) as server:
        run(folder, server, *ADDED, f"{A}.path={model}")
    return made(folder)


# ---- what is wrong is told before anything starts


def wrong(folder: Path, *words: str) -> str:
    questions(folder, 2)
    with pytest.raises(UserError) as caught:
        run(folder, "http://127.0.0.1:9/v1", *ADDED, *words)
    return str(caught.value)


def test_wrong_settings_are_told(tmp_path: Path, scalar: Path, graded: Path) -> None:
    causal = tmp_path / "causal"
    shutil.copytree(scalar, causal)
    config = json.loads((causal / "config.json").read_text()) | {"architectures": ["LlamaForCausalLM"]}
    (causal / "config.json").write_text(json.dumps(config))
    cases = {
        (): "scorers.reward.models: names no reward model; as scorers.reward.models.a.path=outputs/reward/model",
        (f"{A}.path=./none",): f"{A}.path=./none: no such folder;",
        (f"{A}.path={causal}",): f"{A}.path={causal}: is no reward model: its architecture is LlamaForCausalLM",
        (f"{A}.path={graded}",): f"{A}.weights: must be given: the model has the outputs helpfulness, correctness",
        (f"{A}.path={graded}", f"{A}.weights=helpsteer"): f"{A}.weights=helpsteer: should be 'helpsteer2-70b' or",
        (f"{A}.path={graded}", f"{A}.weights={{helpfullness: 1}}"): "no output helpfullness; did you mean helpfulness?",
        (f"{A}.path={scalar}", f"{A}.weights=helpsteer2-70b"): f"{A}.weights=helpsteer2-70b: the model has no output",
        (f"{A}.path={graded}", f"{A}.attributes=[x]"): f"{A}.attributes: 1 names for the 5 outputs",
        (f"{A}.path={scalar}", f"{A}.weight=2"): f"{A}.weight: is read only with scorers.reward.combine=weighted",
        (f"{A}.path={scalar}", "scorers.reward.combine=weighted"): f"{A}.weight: must be given with",
        (f"{A}.path={scalar}", f"{B}.path={scalar}", f"{A}.normalise={{mean: 0, sd: 1}}"): f"{B}.normalise: must be given where several models are combined",
        (f"{A}.path={scalar}", f"{A}.normalise=held_out"): f"{A}.normalise=held_out: there is no manifest.json",
        (f"{A}.path={scalar}", f"{A}.normalise={{data: none.jsonl}}"): f"{A}.normalise.data=none.jsonl: no such file",
        (f"{A}.path={scalar}", f"{A}.normalise={{data: '{tmp_path}/rows.jsonl'}}"): "its rows have no messages",
        (f"{A}.path={scalar}", f"{A}.normalise={{mean: 0, sd: 0}}"): f"{A}.normalise.sd=0: should be more than 0",
        (f"{A}.path={scalar}", f"{A}.engine.kind=onnx"): "its kind, onnx, should be one of 'torch', 'vllm', 'openai'",
        (f"{A}.path={scalar}", f"{A}.engine.devise=cpu"): f"{A}.engine.devise: unknown key; did you mean device?",
        (f"{A}.path={scalar}", f"{A}.engine.device=tpu"): f"{A}.engine.device=tpu: should be auto, cpu, cuda",
        (f"{A}.path={scalar}", f"{A}.engine.kind=openai"): f"{A}.engine.base_url: must be given",
    }  # fmt: skip
    told = {words: wrong(tmp_path, *words) for words in cases}
    assert [(cases[words], said) for words, said in told.items() if cases[words] not in said] == []
    follows = f"{A}.path={graded}", f"{A}.weights=helpsteer"  # that leaves it without weights, which is told, too
    assert [said for words, said in told.items() if "\n" in said and words != follows] == [], "one message each"


@pytest.mark.parametrize("name", ["../a", "a/b", "", "-a"])
def test_a_models_name_is_one_that_a_folder_may_have(name: str) -> None:
    with pytest.raises(ValidationError):
        RewardSettings.model_validate({"models": {name: {"path": "x"}}})


def broken(folder: Path, scalar: Path, what: str) -> Path:
    """A copy of the model that only loading it shows to be wrong."""
    if what == "encoder":
        return make_reward_model(folder / what, kind="Bert")
    copy = folder / what
    shutil.copytree(scalar, copy)
    if what == "head":
        from safetensors.torch import load_file, save_file

        weights = load_file(copy / "model.safetensors")
        del weights["score.weight"]
        save_file(weights, copy / "model.safetensors", {"format": "pt"})
    elif what == "damaged":
        whole = (copy / "model.safetensors").read_bytes()
        (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    elif what == "template":
        (copy / "chat_template.jinja").unlink()
    elif what == "vocabulary":
        config = json.loads((copy / "config.json").read_text()) | {"vocab_size": 100}
        (copy / "config.json").write_text(json.dumps(config))
    elif what == "twice":
        template = (copy / "chat_template.jinja").read_text()
        (copy / "chat_template.jinja").write_text("<|endoftext|><|endoftext|>" + template)
        settings = json.loads((copy / "tokenizer_config.json").read_text()) | {"bos_token": "<|endoftext|>"}
        (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    return copy


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("head", "its weights lack score.weight, which would be random"),
        ("damaged", "cannot be loaded: "),
        ("template", "its tokenizer has no chat template"),
        ("vocabulary", "tokens, its embedding 100"),
        ("encoder", "has no linear head `score` at the last token"),
        ("twice", "begins with two begin-of-text tokens"),
    ],
)
def test_a_model_that_cannot_be_used_stops_the_run_with_one_message(
    tmp_path: Path, scalar: Path, what: str, said: str
) -> None:
    folder = broken(tmp_path, scalar, what)
    questions(tmp_path, 3)
    with ModelServer(answer) as server, pytest.raises(UserError) as caught:
        run(tmp_path, server, *ADDED, f"{A}.path={folder}")
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{A}.path={folder}: ")
    assert "\n" not in str(caught.value)


def test_a_model_that_sees_what_comes_later_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Padding without a mask would change its rewards."""
    from transformers.models.llama import modeling_llama

    folder = make_reward_model(tmp_path / "model")
    original = modeling_llama.LlamaAttention.__init__

    def both_ways(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.is_causal = False

    monkeypatch.setattr(modeling_llama.LlamaAttention, "__init__", both_ways)
    questions(tmp_path, 2)
    with ModelServer(answer) as server, pytest.raises(UserError, match="its tokens see what comes after them"):
        run(tmp_path, server, *ADDED, f"{A}.path={folder}")


def test_models_loaded_by_several_threads_leave_transformers_as_it_was(scalar: Path) -> None:
    """It puts other functions into its classes while it loads; threads that loaded at once left weights untied for good."""
    import transformers

    before = transformers.PreTrainedModel.tie_weights
    settings = RewardModelSettings(path=str(scalar))
    models = [RewardModel(f"m{number}", settings, A) for number in range(8)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        list(threads.map(InProcessModel, models))
    assert transformers.PreTrainedModel.tie_weights is before


# ---- nothing is computed twice


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The answers that a model was asked about, in this process."""
    found: list[str] = []
    original = scorer.open_rewarder

    @contextlib.asynccontextmanager
    async def counting(model: RewardModel, resources: Resources) -> AsyncIterator[Rewarder]:
        async with original(model, resources) as rewarder:

            async def values(messages: Sequence[Message]) -> list[float]:
                found.append(messages[-1].content)
                return await rewarder(messages)

            yield values

    monkeypatch.setattr(scorer, "open_rewarder", counting)
    return found


def test_another_rule_other_weights_and_statistics_compute_nothing(
    tmp_path: Path, graded: Path, computed: list[str]
) -> None:
    questions(tmp_path, 12)
    common = (*ADDED, f"{A}.path={graded}")
    with ModelServer(answer) as server:
        run(tmp_path, server, *common, f"{A}.weights=helpsteer2-70b")
        assert len(computed) == 12
        for words in (
            (f"{A}.weights=helpsteer2-340b",),
            (f"{A}.weights=helpsteer2-70b", f"{A}.normalise={{mean: 1, sd: 3}}"),
            (f"{A}.weights=helpsteer2-70b", "keep='reward > 100'"),
        ):
            run(tmp_path, server, *common, *words)
        assert (len(computed), server.count) == (12, 12)
    assert table(tmp_path) == []


def test_another_model_under_the_same_path_scores_anew(tmp_path: Path, scalar: Path, computed: list[str]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(scalar, folder)
    questions(tmp_path, 4)
    with ModelServer(answer) as server:
        run(tmp_path, server, *ADDED, f"{A}.path={folder}")
        make_reward_model(folder, seed=9)
        run(tmp_path, server, *ADDED, f"{A}.path={folder}")
        assert (len(computed), server.count) == (8, 4)
    (tmp_path / "other").mkdir()
    other = scored(tmp_path / "other", f"{A}.path={folder}", count=4)
    anew = made(tmp_path)
    assert [r.scores["reward"].value for r in anew] == pytest.approx(
        [r.scores["reward"].value for r in other], abs=1e-3
    )


def test_a_killed_run_computes_only_what_it_had_not(tmp_path: Path, scalar: Path, computed: list[str]) -> None:
    count = 60
    questions(tmp_path, count)
    words = (*ADDED, f"{A}.path={scalar}", "engine.concurrency=4", "in_flight=4")
    with ModelServer(lambda body: Reply(answer(body).text, delay=0.05)) as server:
        process = start(tmp_path, server.url, *words)
        deadline = time.monotonic() + 60
        while journaled(tmp_path) < 8 and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        before = journaled(tmp_path)
        assert 8 <= before < count, "it was killed in the middle"
        assert run(tmp_path, server, *words).status == 0
    assert len(computed) == count - before
    assert journaled(tmp_path) == count
    for record in made(tmp_path):
        assert record.scores["reward"].value == pytest.approx(bare_outputs(scalar, turns(record))[0], abs=1e-3)


def journaled(folder: Path) -> int:
    try:
        with sqlite3.connect(f"file:{folder}/run/journal.db?mode=ro", uri=True) as journal:
            found: int = journal.execute("SELECT count(*) FROM draws WHERE label='reward'").fetchone()[0]
    except sqlite3.OperationalError:  # not there yet
        return 0
    return found
