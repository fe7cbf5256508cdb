"""Why a vLLM server did not start: what its log says, and what to do about it."""

from __future__ import annotations

import re

PORT_TAKEN = re.compile(r"address already in use|EADDRINUSE", re.IGNORECASE)

# The server is another program: its log is the only account of what went wrong. Each hint is an offer beside the
# log's own words, never a decision.
_HINTS = (
    (
        r"No module named '?vllm'?|cannot run .*python",
        'vLLM is not installed: pip install "synthesis-factory[cpu]" (without a GPU) or "synthesis-factory[vllm]"',
    ),
    (r"unrecognized arguments", "engine.extra_args has an option that this vLLM does not know"),
    (
        r"out of memory|OutOfMemoryError|No available memory for the cache|Cannot allocate memory|MemoryError"
        + r"|less than desired GPU memory utilization|less than requested memory",
        "out of memory: lower engine.gpu_memory, engine.replicas, engine.max_num_seqs or engine.max_model_len (on a"
        + " CPU engine.cpu_kvcache_gb), or end what else uses the memory",
    ),
    (
        r"KV cache is needed, which is larger than|larger than the maximum number of tokens that can be stored",
        "the context does not fit into the cache: lower engine.max_model_len, or raise engine.gpu_memory (on a CPU"
        + " engine.cpu_kvcache_gb)",
    ),
    (r"greater than the derived max_model_len", "engine.max_model_len is more than the model's own context"),
    (
        r"architectures .* (are|is) not supported|does not recognize this architecture|has no vLLM implementation",
        "this vLLM does not know the model's architecture: upgrade vllm, or choose another model",
    ),
    (
        r"quantization (method )?.*(not supported|is currently not supported)|Unknown quantization",
        "this quantisation does not run on this device (many need a GPU): choose the model's unquantised form",
    ),
    (
        r"GatedRepo|gated repo|401 Client Error|403 Client Error",
        "the model is gated: accept its terms and set HF_TOKEN",
    ),
    (
        r"couldn't connect to|LocalEntryNotFoundError|Temporary failure in name resolution",
        "the hub cannot be reached: use a local folder, a .gguf file or package:NAME as model.path",
    ),
    (r"No space left on device", "the disk is full"),
    (PORT_TAKEN.pattern, "the port was taken again and again: does something bind ports at random here?"),
)


def hint(log: str) -> str | None:
    """The remedy for the first cause recognised in a server's log."""
    for pattern, remedy in _HINTS:
        if re.search(pattern, log, re.IGNORECASE):
            return remedy
    return None


def last_lines(log: str, count: int = 25) -> list[str]:
    """The log's last lines that say something, each at most 300 characters."""
    return [line.rstrip()[:300] for line in log.replace("\r", "\n").splitlines() if line.strip()][-count:]
