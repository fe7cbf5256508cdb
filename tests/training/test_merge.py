"""`training.merge`: the formulas against float64, the files against the libraries that read them, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from training.errors import TrainingError
from training.merge import MergeSettings, merge
from training.merge_files import Entry, open_weights, shard_names, write_shard
from training.merge_math import average, from_start, merge_task_vectors, slerp_arc

ROOT = Path(__file__).parent.parent.parent
Array = np.ndarray[Any, np.dtype[np.float64]]

# ---- the formulas, again, in float64 and as the paper writes them


def reference_slerp(first: Array, second: Array, l: float) -> Array:  # noqa: E741
    cosine = (first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum())
    angle = np.arccos(cosine)
    return np.asarray((np.sin((1 - l) * angle) * first + np.sin(l * angle) * second) / np.sin(angle))


def reference(method: str, models: Sequence[Array], init: Array, *, l: float | None, eta: float) -> Array:  # noqa: E741
    if method == "average":
        return np.asarray(np.mean(models, axis=0))
    merged = models[0] - init
    for number, model in enumerate(models[1:], 2):
        merged = reference_slerp(merged, model - init, 1 / number if l is None else l)
    return (1 - eta) * init + eta * (init + merged)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3)
seeds = st.integers(0, 10**6)
fractions = st.floats(0, 1)
steady = settings(deadline=None, max_examples=60)  # timings say nothing on a shared machine


@steady
@given(seeds, shapes, st.lists(st.floats(0, 1e3), min_size=1, max_size=5).filter(any))
def test_the_average_of_equal_models_is_the_model(seed: int, shape: list[int], weights: list[float]) -> None:
    tensor = random(seed, *shape)
    assert torch.equal(average([tensor.clone() for _ in weights], weights), tensor)


@steady
@given(seeds, shapes, st.lists(st.floats(0.01, 10), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_average_is_the_weighted_mean_in_any_order(
    seed: int, shape: list[int], weights: list[float], shuffle: Any
) -> None:
    tensors = [random(seed + number, *shape) for number in range(len(weights))]
    expected = np.average([tensor.double().numpy() for tensor in tensors], axis=0, weights=weights)
    order = list(range(len(weights)))
    shuffle.shuffle(order)
    mean = average((tensors[place].clone() for place in order), [weights[place] for place in order])
    np.testing.assert_allclose(mean.numpy(), expected, atol=3e-6)


def test_a_model_of_weight_0_has_no_say() -> None:
    assert average([torch.tensor([7.0]), torch.tensor([2.0]), torch.tensor([4.0])], [0, 1, 1]).item() == 3


@steady
@given(seeds, shapes.filter(lambda shape: np.prod(shape) > 1), fractions)
def test_slerp_is_the_formula_and_begins_and_ends_at_its_ends(seed: int, shape: list[int], l: float) -> None:  # noqa: E741
    first, second = random(seed, *shape), random(seed + 1, *shape)
    ends = [merge_task_vectors([first.clone(), second.clone()], end)[0] for end in (0.0, 1.0)]
    torch.testing.assert_close(ends[0], first)
    torch.testing.assert_close(ends[1], second)
    merged, (arc,) = merge_task_vectors([first.clone(), second.clone()], l)
    if arc.angle is not None and np.sin(arc.angle) > 0.01:  # nearer to opposite, float32 itself is the limit
        expected = reference_slerp(first.double().numpy(), second.double().numpy(), l)
        np.testing.assert_allclose(merged.numpy(), expected, atol=1e-4)
        again = merge_task_vectors([second.clone(), first.clone()], 1 - l)[0]
        torch.testing.assert_close(again, merged, atol=1e-4, rtol=1e-4)


@steady
@given(seeds, st.integers(2, 40), fractions, st.floats(1e-6, 1e6))
def test_slerp_of_orthogonal_vectors_of_equal_norm_keeps_the_norm(seed: int, size: int, l: float, norm: float) -> None:  # noqa: E741
    """Trap 13. The mean would shrink it to 0.71 of that."""
    basis = torch.linalg.qr(random(seed, size, 2))[0] * norm
    merged, (arc,) = merge_task_vectors([basis[:, 0].clone(), basis[:, 1].clone()], l)
    assert arc.angle == pytest.approx(np.pi / 2, abs=1e-5)
    assert float(merged.norm()) == pytest.approx(norm, rel=1e-5)


@steady
@given(
    seeds, st.integers(2, 6), st.sampled_from(["parallel", "zero", "other zero", "both zero", "opposite"]), fractions
)
def test_slerp_without_an_angle_is_linear(seed: int, size: int, case: str, l: float) -> None:  # noqa: E741
    vector, zero = random(seed, size), torch.zeros(size)
    pairs = {"parallel": (vector, vector * 3), "zero": (zero, vector), "other zero": (vector, zero)}
    first, second = {**pairs, "both zero": (zero, zero), "opposite": (vector, -vector)}[case]
    merged, (arc,) = merge_task_vectors([first.clone(), second.clone()], l)
    assert arc.angle is None
    torch.testing.assert_close(merged, (1 - l) * first + l * second)


@pytest.mark.parametrize("angle", [0.9e-3, 1.1e-3])
def test_slerp_turns_linear_without_a_step(angle: float) -> None:
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([np.cos(angle), np.sin(angle)], dtype=torch.float32)
    arc = slerp_arc(first, second, 0.5)
    assert (arc.angle is None) == (angle < 1e-3)
    assert arc.first == pytest.approx(0.5, rel=2e-7)


@steady
@given(seeds, st.integers(3, 5))
def test_more_than_two_task_vectors_merge_one_after_the_other(seed: int, count: int) -> None:
    vectors = [random(seed + number, 30) for number in range(count)]
    arrays = [vector.double().numpy() for vector in vectors]
    expected = reference("slerp", arrays, np.zeros(30), l=None, eta=1.0)
    merged, arcs = merge_task_vectors((vector.clone() for vector in vectors), None)
    assert len(arcs) == count - 1
    np.testing.assert_allclose(merged.numpy(), expected, atol=1e-5)


def test_eta_is_the_share_of_the_way_that_is_kept() -> None:
    start, vector = torch.tensor([10.0]), torch.tensor([2.0])
    assert [from_start(start, vector.clone(), eta).item() for eta in (0.0, 0.25, 1.0)] == [10, 10.5, 12]


# ---- the file format, against the library that reads it

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64, "BOOL": torch.bool}
tensors = st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 3), max_size=3))


@settings(steady, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text('ab.é"\\', min_size=1, max_size=6), tensors, min_size=1, max_size=6), seeds)
def test_what_is_streamed_reads_back(tmp_path: Path, kinds: dict[str, tuple[str, list[int]]], seed: int) -> None:
    made = {name: (random(seed, *shape) * 9).to(DTYPES[dtype]) for name, (dtype, shape) in kinds.items()}
    entries = {name: Entry(dtype, tuple(shape)) for name, (dtype, shape) in kinds.items()}
    ((file, names),) = shard_names(entries, 1e9).items()
    path = tmp_path / file
    digest = write_shard(path, names, entries, made.__getitem__)
    assert digest == hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    with safe_open(path, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    length = int.from_bytes(path.read_bytes()[:8], "little")
    for name, place in json.loads(path.read_bytes()[8 : 8 + length]).items():
        assert name == "__metadata__" or (8 + length + place["data_offsets"][0]) % made[name].element_size() == 0
    read = load_file(path)
    assert read.keys() == made.keys()
    assert all(torch.equal(read[name], made[name]) and read[name].dtype == made[name].dtype for name in made)


# ---- whole models

TINY = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 32, "tie_word_embeddings": False,
}  # fmt: skip


def save_model(folder: Path, seed: int, *, dtype: str = "float32", shard: str = "1GB", **config: Any) -> Path:
    """A small Llama near the one of seed 0, as fine-tuning would leave it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**TINY, **config}))
    if seed:
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.02)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=shard)
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """`init` and three models from it, float32; read only."""
    folder = tmp_path_factory.mktemp("family")
    return {name: save_model(folder / name, seed) for seed, name in enumerate(("init", "a", "b", "c"))}


def quiet(text: str) -> None:
    """Tells nobody."""


def run(out: Path, *models: Path, say: Callable[[str], None] = quiet, **more: Any) -> dict[str, torch.Tensor]:
    """Merge, and load the result as anybody would."""
    from transformers import AutoModelForCausalLM

    assert merge(MergeSettings(models=models, out=out, **more), say) == out
    model, about = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not about["missing_keys"] and not about["unexpected_keys"]
    return dict(model.state_dict())


def problems(out: Path, *models: Path, **more: Any) -> list[str]:
    """What is refused, with nothing written."""
    before = sorted(out.parent.rglob("*"))
    with pytest.raises(TrainingError) as caught:
        merge(MergeSettings(models=models, out=out, **more), quiet)
    assert sorted(out.parent.rglob("*")) == before
    assert str(caught.value) == "\n".join(caught.value.problems)
    return list(caught.value.problems)


def weights(folder: Path) -> dict[str, Array]:
    opened = open_weights(folder)
    return {name: opened.read_float(name).double().numpy() for name in opened.entries}


@pytest.mark.parametrize(
    ("method", "names", "more"),
    [
        ("average", "ab", {}),
        ("average", "abc", {}),
        ("slerp", "ab", {"l": 0.3}),
        ("slerp", "abc", {}),
        ("warp", "ab", {"l": 0.5, "eta": 0.3}),
        ("warp", "abc", {}),
        ("warp", "a", {}),
    ],
)
def test_a_merged_model_has_the_expected_parameters(
    family: Mapping[str, Path], tmp_path: Path, method: str, names: str, more: dict[str, float]
) -> None:
    init = {"init": family["init"]} if method != "average" else {}
    models = [family[name] for name in names]
    merged = run(tmp_path / "out", *models, method=method, **init, **more)
    values, start = [weights(model) for model in models], weights(family["init"])
    assert merged.keys() == start.keys()
    eta = 0.3 if method == "warp" else 1.0
    for name, value in merged.items():
        expected = reference(method, [model[name] for model in values], start[name], l=more.get("l"), eta=eta)
        np.testing.assert_allclose(value.double().numpy(), expected, atol=1e-6, err_msg=name)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    if len(names) > 1 and method != "average":
        assert 80 < manifest["mean_angle_degrees"] < 100 and manifest["linear"] == 0


def test_weights_are_shares(family: Mapping[str, Path], tmp_path: Path) -> None:
    merged = run(tmp_path / "out", family["a"], family["b"], weights=(3, 1))
    a, b = weights(family["a"]), weights(family["b"])
    for name, value in merged.items():
        np.testing.assert_allclose(value.numpy(), 0.75 * a[name] + 0.25 * b[name], atol=1e-6)
    assert json.loads((tmp_path / "out/manifest.json").read_text())["shares"] == [0.75, 0.25]


def test_shards_in_and_shards_out(family: Mapping[str, Path], tmp_path: Path) -> None:
    plain = run(tmp_path / "plain", family["a"], family["b"])
    sharded = save_model(tmp_path / "sharded", 1, shard="8KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3 and not (sharded / "model.safetensors").exists()
    said: list[str] = []
    merged = run(tmp_path / "out", sharded, family["b"], max_shard_gb=8e-6, say=said.append)
    assert all(torch.equal(merged[name], plain[name]) for name in plain)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 3 and all(path.stat().st_size < 10_000 for path in files)
    assert [line for line in said if f"wrote {files[0].name} (1 of {len(files)})" in line]
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert {name for path in files for name in load_file(path)} == set(index["weight_map"])
    assert index["metadata"]["total_size"] == sum(value.numel() * 4 for value in plain.values())


def test_dtypes_may_differ_and_the_first_one_or_dtype_decides(family: Mapping[str, Path], tmp_path: Path) -> None:
    half, brain = save_model(tmp_path / "half", 1, dtype="float16"), save_model(tmp_path / "brain", 2, dtype="bfloat16")
    expected = {name: (value + weights(brain)[name]) / 2 for name, value in weights(half).items()}
    for dtype, kind in ((None, torch.float16), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        out = tmp_path / str(dtype)
        merged = run(out, half, brain, dtype=dtype)
        assert json.loads((out / "config.json").read_text())["dtype"] == str(kind).removeprefix("torch.")
        for name, value in merged.items():
            assert value.dtype == kind
            assert torch.equal(value, torch.tensor(expected[name], dtype=torch.float32).to(kind))


def test_the_result_says_what_it_was_made_from(family: Mapping[str, Path], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", 2)
    (other / "chat_template.jinja").write_text("another")
    said: list[str] = []
    run(tmp_path / "out", family["a"], other, method="warp", init=family["init"], say=said.append)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    for told in (*manifest["models"], manifest["init"]):
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= told["files"].keys()
        for name, digest in told["files"].items():
            assert digest == hashlib.blake2b((Path(told["folder"]) / name).read_bytes(), digest_size=16).hexdigest()
    there = {path.name for path in (tmp_path / "out").iterdir()}
    assert there == {*manifest["files"], "manifest.json", "README.md"}
    for name, digest in manifest["files"].items():
        assert digest == hashlib.blake2b((tmp_path / "out" / name).read_bytes(), digest_size=16).hexdigest()
    assert (tmp_path / "out/chat_template.jinja").read_text() == "{{ messages }}"
    assert [line for line in said if line.startswith("chat_template.jinja differs between")] == manifest["notes"]
    card = (tmp_path / "out/README.md").read_text()
    assert all(told["digest"] in card for told in (*manifest["models"], manifest["init"]))
    assert "eta: 0.3" in card and "2406.16768" in card and manifest["notes"][0] in card
    again = merge(MergeSettings(models=(family["a"], family["b"]), out=tmp_path / "again"), quiet)
    digests = [model["digest"] for model in json.loads((again / "manifest.json").read_text())["models"]]
    assert digests[0] == manifest["models"][0]["digest"] and digests[1] != manifest["models"][1]["digest"]


def test_the_example_of_the_documentation(
    family: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/merging.md").read_text(), re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("outputs").mkdir()
    for name, model in (("sft", "init"), ("dpo-1", "a"), ("dpo-2", "b")):
        Path("outputs", name).symlink_to(family[model])
    exec(example, {})
    assert load_file("outputs/merged/model.safetensors").keys() == weights(family["a"]).keys()


def test_configurations_of_two_releases_compare(family: Mapping[str, Path], tmp_path: Path) -> None:
    """A base model's file keeps the fields' older names, and says nothing of what is the default."""
    old = save_model(tmp_path / "old", 2)
    config = json.loads((old / "config.json").read_text())
    rope = config.pop("rope_parameters")
    for name in ("attention_bias", "mlp_bias", "head_dim"):
        del config[name]
    older = {**config, "rope_theta": rope["rope_theta"], "torch_dtype": config.pop("dtype"), "eos_token_id": 7}
    (old / "config.json").write_text(json.dumps(older))
    run(tmp_path / "out", family["a"], old)
    run(tmp_path / "cast", old, family["a"], dtype="bfloat16")
    assert json.loads((tmp_path / "cast/config.json").read_text())["torch_dtype"] == "bfloat16"


# ---- what is refused


def test_all_problems_are_told_at_once(family: Mapping[str, Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    told = problems(tmp_path / "out", family["a"], tmp_path / "nowhere", method="warp", l=1.5, eta=-0.1, max_shard_gb=0)
    assert len(told) == 6
    for part in (
        "init: missing",
        "l: 1.5",
        "eta: -0.1",
        "max_shard_gb: 0",
        "nowhere: no such folder",
        "holds notes.txt",
    ):
        assert sum(part in line for line in told) == 1, part


@pytest.mark.parametrize(
    ("names", "more", "part"),
    [
        ("a", {}, "models: 1 given"),
        ("ab", {"weights": (1,)}, "weights: 1 given for 2 models"),
        ("ab", {"weights": (1, -1)}, "not negative"),
        ("ab", {"weights": (0, 0)}, "one at least above 0"),
        ("ab", {"weights": (1, float("nan"))}, "not negative"),
        ("ab", {"l": 0.5}, "l: nothing reads it"),
        ("ab", {"method": "slerp", "init": True, "eta": 0.3}, "eta: nothing reads it"),
        ("ab", {"method": "slerp", "init": True, "weights": (1, 1)}, "weights: nothing reads it"),
        ("ab", {"init": True}, "init: nothing reads it"),
        ("ab", {"method": "warp", "init": True, "l": float("nan")}, "l: nan is out of range"),
        ("abc", {"method": "warp", "init": True, "l": 0.5}, "l: 0.5 is for two models and there are 3"),
        ("a", {"method": "warp", "init": True, "l": 0.5}, "l: 0.5 is for two models and there is 1"),
    ],
)
def test_settings_that_do_not_fit(
    family: Mapping[str, Path], tmp_path: Path, names: str, more: dict[str, Any], part: str
) -> None:
    more = {**more, **({"init": family["init"]} if "init" in more else {})}
    (told,) = problems(tmp_path / "out", *(family[name] for name in names), **more)
    assert part in told


def test_models_that_are_not_related(family: Mapping[str, Path], tmp_path: Path) -> None:
    other = save_model(tmp_path / "other", 1, vocab_size=60, num_hidden_layers=1)
    told = problems(tmp_path / "out", family["a"], other)
    assert all(line.startswith(str(other)) and "fine-tuned from one and the same" in line for line in told)
    text = "\n".join(told)
    for part in (
        "vocab_size=60, that of", "num_hidden_layers=1", "lacks model.layers.1.", "lacks 6 more tensors",
        "model.embed_tokens.weight has the shape [60, 16]", "lm_head.weight has the shape",
    ):  # fmt: skip
        assert part in text, part
    (told_init, *_) = problems(tmp_path / "out", family["a"], family["b"], method="warp", init=other)
    assert told_init.startswith(str(other))


def test_a_tied_model_beside_an_untied_one(family: Mapping[str, Path], tmp_path: Path) -> None:
    tied = save_model(tmp_path / "tied", 1, tie_word_embeddings=True)
    told = "\n".join(problems(tmp_path / "out", family["a"], tied))
    assert "tie_word_embeddings=True, that of" in told
    assert f"{tied}: lacks lm_head.weight" in told and "tied to model.embed_tokens.weight" in told
    merged = run(tmp_path / "both", tied, save_model(tmp_path / "too", 2, tie_word_embeddings=True))
    assert torch.equal(merged["lm_head.weight"], merged["model.embed_tokens.weight"])


def broken(family: Mapping[str, Path], folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_bytes((family["b"] / "config.json").read_bytes())
    values = load_file(family["b"] / "model.safetensors")
    change(values)
    save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_whole_numbers_must_be_the_same(family: Mapping[str, Path], tmp_path: Path) -> None:
    def add(*numbers: int) -> Callable[[dict[str, torch.Tensor]], object]:
        return lambda values: values.update(positions=torch.tensor(numbers), nothing=torch.zeros(0, 4))

    one, same, other = (
        broken(family, tmp_path / str(place), add(*numbers)) for place, numbers in enumerate([(1, 2), (1, 2), (1, 3)])
    )
    (told,) = problems(tmp_path / "out", one, other)
    assert f"{other}: positions (I64) differs" in told
    merge(MergeSettings(models=(one, same), init=same, method="slerp", out=tmp_path / "out"), quiet)
    merged = load_file(tmp_path / "out/model.safetensors")
    assert merged["positions"].tolist() == [1, 2] and merged["nothing"].shape == (0, 4)
    quantised = broken(
        family, tmp_path / "q", lambda v: v.update({"model.norm.weight": torch.ones(16, dtype=torch.int8)})
    )
    (told,) = problems(tmp_path / "out2", family["a"], quantised)
    assert "model.norm.weight is I8" in told and "quantised" in told
    double = broken(family, tmp_path / "d", lambda v: v.update({"model.norm.weight": torch.ones(16).double()}))
    assert "model.norm.weight is F64; save the model in bfloat16" in problems(tmp_path / "out2", family["a"], double)[0]


def test_values_that_are_no_numbers_leave_nothing_behind(family: Mapping[str, Path], tmp_path: Path) -> None:
    nan = broken(family, tmp_path / "nan", lambda values: values["lm_head.weight"].view(-1)[3].fill_(float("nan")))
    (told,) = problems(tmp_path / "out", family["a"], nan, method="warp", init=family["init"])
    assert told.startswith(f"{nan}: lm_head.weight holds NaN")
    large = broken(family, tmp_path / "large", lambda values: values["lm_head.weight"].fill_(1e6))
    (told,) = problems(tmp_path / "out", large, large, dtype="float16")
    assert "lm_head.weight has values too large for float16" in told


def test_folders_that_hold_no_safetensors(family: Mapping[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_bytes((family["b"] / "config.json").read_bytes())
    index = folder / "model.safetensors.index.json"

    def told() -> str:
        (line,) = problems(tmp_path / "out", family["a"], folder)
        assert line.startswith(f"models: {folder}")
        return line

    assert "holds neither model.safetensors nor" in told()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    assert "pickled weights only (pytorch_model.bin)" in told() and "save_pretrained" in told()
    (folder / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in told() and "merge_and_unload" in told()
    index.write_text("[]")
    assert "is no index of weights" in told()
    index.write_text('{"weight_map": {"w": "../a/model.safetensors"}}')
    assert "no file of this folder" in told()
    index.write_text('{"weight_map": {"w": "part.safetensors"}}')
    assert "part.safetensors is missing" in told()
    save_file({"v": torch.ones(2)}, folder / "part.safetensors")
    assert "places w in part.safetensors, which does not hold it" in told()
    whole = (family["b"] / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-1])
    assert "is no whole safetensors file" in told()
    (folder / "model.safetensors").write_bytes(whole)
    (folder / "config.json").write_text('{"model_type": "nonesuch"}')
    assert "transformers cannot read its config.json" in told()
    (folder / "config.json").unlink()
    assert "holds no config.json" in told()


def test_out_is_replaced_only_where_merge_made_all_of_it(family: Mapping[str, Path], tmp_path: Path) -> None:
    out, models = tmp_path / "out", (family["a"], family["b"])
    run(out, *models)
    first = load_file(out / "model.safetensors")
    run(out, *models, weights=(1, 3))
    second = load_file(out / "model.safetensors")
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (told,) = problems(out, family["a"], out)
    assert "is or holds the input" in told
    (told,) = problems(tmp_path, family["a"], out)
    assert "is or holds the input" in told
    (out / "scores.json").write_text("mine")
    (told,) = problems(out, *models)
    assert "holds scores.json, which merge did not write" in told
    (tmp_path / "file").write_text("")
    (told,) = problems(tmp_path / "file", *models)
    assert "is a file" in told


def test_a_result_that_does_not_fit_on_the_disk(
    family: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.statvfs(tmp_path)
    full = os.statvfs_result((*stat[:4], 1, *stat[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    (told,) = problems(tmp_path / "new/out", family["a"], family["b"])
    assert "GB free" in told


# ---- in a process of its own


def python(code: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip


KILLED = """
import os, signal, sys
from pathlib import Path
from transformers import AutoConfig  # once, for both children
from training.merge import MergeSettings, merge
a, b, *outs = map(Path, sys.argv[1:])
def say(text):
    if "(3 of" in text:
        os.kill(os.getpid(), signal.SIGKILL)
for out in outs:
    child = os.fork()
    if child == 0:
        merge(MergeSettings(models=(a, b), weights=(1, 3), out=out, max_shard_gb=8e-6), say)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
"""


def test_a_killed_merge_leaves_the_name_as_it_was(family: Mapping[str, Path], tmp_path: Path) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    before = run(old, family["a"], family["b"])
    done = python(KILLED, family["a"], family["b"], new, old)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.new", ".old.new", "old"]
    assert len(list((tmp_path / ".new.new").iterdir())) == 3, "it was killed in the middle"
    after = load_file(old / "model.safetensors")
    assert all(torch.equal(after[name], before[name]) for name in before)
    for out in (new, old):
        run(out, family["a"], family["b"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "old"]


MEASURED = """
import re, sys
from pathlib import Path
from training.merge import MergeSettings, merge
def resident(name):
    return int(re.search(name + r":\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
def run(folder):
    models = (folder / "a", folder / "b")
    merge(MergeSettings(models=models, init=folder / "init", method="warp", out=folder / "out"), lambda text: None)
small, large = map(Path, sys.argv[1:])
run(small)  # what the libraries take for themselves
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
before = resident("VmRSS")
run(large)
print(resident("VmHWM") - before)
"""


def save_blocks(folder: Path, config: Path, seed: int, count: int, size: int) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(config.read_bytes())
    entries = {f"block.{number:02d}": Entry("BF16", (size,)) for number in range(count)}
    block = random(seed, size).bfloat16()
    write_shard(folder / "model.safetensors", list(entries), entries, lambda name: block)


def test_memory_holds_a_few_tensors_and_never_a_model(family: Mapping[str, Path], tmp_path: Path) -> None:
    """Three models of 80 MB, in 40 tensors of 2 MB (4 MB in float32), of which three and a stored one are held."""
    config = family["a"] / "config.json"
    for seed, name in enumerate(("init", "a", "b")):
        save_blocks(tmp_path / "small" / name, config, seed, 2, 1000)
        save_blocks(tmp_path / "large" / name, config, seed, 40, 1_000_000)
    done = python(MEASURED, tmp_path / "small", tmp_path / "large")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "large/out/model.safetensors").stat().st_size > 80e6
    grown = float(done.stdout)
    assert 4 < grown < 40, f"{grown} MB more than before, for inputs of 240 MB"
