"""Settings of managed vLLM servers, and the command and environment that they become."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field, field_validator

from factory.engine.models import ResolvedModel
from factory.engine.server_plan import Placement
from factory.records import Frozen

# Ours to set: the key must not show in the process list, and the address is how the server is found.
_RESERVED = ("--api-key", "--host", "--port", "--uds", "--model", "--served-model-name")


class VllmSettings(Frozen):
    """`engine=vllm`, as in conf/engine/vllm.yaml, which says what each is for. Times in seconds, memory in GiB."""

    kind: Literal["vllm"] = "vllm"
    replicas: int | Literal["auto"] = "auto"
    tensor_parallel: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    gpu_memory: float = Field(default=0.9, gt=0, le=1)
    cpu_kvcache_gb: int = Field(default=2, ge=1)
    dtype: str = "bfloat16"
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = Field(default_factory=dict)
    start_timeout: float = Field(default=900, gt=0)
    hang_timeout: float = Field(default=120, gt=0)
    restarts: int = Field(default=3, ge=0)
    reloading: bool = False

    @field_validator("replicas")
    @classmethod
    def _at_least_one(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError('at least 1, or "auto"')
        return value

    @field_validator("extra_args")
    @classmethod
    def _not_reserved(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        taken = [part for part in value if part.partition("=")[0].replace("_", "-") in _RESERVED]
        if taken:
            raise ValueError(f"set by the factory itself: {', '.join(part.partition('=')[0] for part in taken)}")
        return value


CommandBuilder = Callable[[ResolvedModel, VllmSettings, Placement, int], list[str]]


def vllm_command(model: ResolvedModel, settings: VllmSettings, place: Placement, port: int) -> list[str]:
    """The server's command line for one placement and port; the key is not on it (`server_environment`)."""
    options: dict[str, str | None] = {
        "--model": model.path,
        "--served-model-name": model.served_name,
        "--host": "127.0.0.1",
        "--port": str(port),
        "--dtype": settings.dtype,
        "--enable-prefix-caching": None,  # records of one task share their instructions and examples
        "--disable-uvicorn-access-log": None,  # a line a request hides everything else
    }
    if model.revision:
        options |= {"--revision": model.revision, "--tokenizer-revision": model.revision}
    if settings.max_model_len:
        options["--max-model-len"] = str(settings.max_model_len)
    if settings.max_num_seqs:
        options["--max-num-seqs"] = str(settings.max_num_seqs)
    if place.gpus:
        options["--tensor-parallel-size"] = str(settings.tensor_parallel)
        options["--gpu-memory-utilization"] = str(place.gpu_memory)
        if place.kv_cache_bytes:
            options["--kv-cache-memory-bytes"] = str(place.kv_cache_bytes)
        if settings.reloading:
            options["--enable-sleep-mode"] = None
    else:
        options |= {"--enforce-eager": None, "--block-size": "32"}  # compiling for a CPU costs minutes
    if settings.reloading:
        options["--middleware"] = "factory.engine.server_guard.KeyOnEveryRoute"
    flags = [part for name, value in options.items() for part in ((name,) if value is None else (name, value))]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *flags, *settings.extra_args]


def server_environment(
    model: ResolvedModel, settings: VllmSettings, place: Placement, key: str, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The server's environment: `base`, loopback addresses (one host: name resolution may be absent and then hangs),
    the placement, `settings.env` over all that, and the run's key over everything."""
    env = {
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "VLLM_NO_USAGE_STATS": "1",
        **base,
        "PYTHONUNBUFFERED": "1",
    }
    if model.kind != "hub":
        env["HF_HUB_OFFLINE"] = "1"  # everything is on this disk: never wait for a network
    if settings.reloading:
        env["VLLM_SERVER_DEV_MODE"] = "1"  # the routes that load other weights
    if place.gpus:
        env |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": ",".join(place.gpus)}
    else:
        env |= {"CUDA_VISIBLE_DEVICES": "", "VLLM_CPU_KVCACHE_SPACE": str(settings.cpu_kvcache_gb)}
        if place.cores:
            env["VLLM_CPU_OMP_THREADS_BIND"] = place.cores
    return env | dict(settings.env) | {"VLLM_API_KEY": key}
