"""A `.gguf` file as a folder of bfloat16 safetensors: converted once, shared by every process, never half there."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from factory.engine.models_convert import CONVERTER
from factory.errors import UserError
from factory.records import content_hash

MARKER = "factory.json"  # written last into a converted folder; says what it was made from


def converted(sources: Sequence[Path], name: str, root: Path, say: Callable[[str], None]) -> tuple[Path, str, str]:
    """The folder, the digest and the served name of a `.gguf`, given whole or as parts in order.

    The digest is that of the source's content and the converter's version; the folder's name carries it. Converts in a
    process of its own (torch never enters this one), under a file lock, into a temporary folder renamed at the end.
    Raises `UserError` when the source is no GGUF, its architecture is unknown or a package is missing.
    """
    from factory.engine.models import file_digest

    with sources[0].open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"model.path: {name}: {sources[0]} is not a GGUF file (its first four bytes differ)")
    digest = content_hash("gguf", [file_digest(path, root) for path in sources], CONVERTER)
    stem = sources[0].name.partition(".gguf")[0]
    target = root / "models" / f"{stem}-{digest[:16]}"
    if not (target / MARKER).is_file():
        with _locked(target, say):
            if not (target / MARKER).is_file():  # another process may have made it while this one waited
                _convert(sources, name, target, say)
    return target, digest, stem


@contextlib.contextmanager
def _locked(target: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of one converted folder; the kernel releases it however the holder ends."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{target}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"model: another process is converting {target.name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        # The converter inherits the lock, so that a converter which outlives this process is not cleaned up under it.
        os.set_inheritable(lock.fileno(), True)
        yield


def _convert(sources: Sequence[Path], name: str, target: Path, say: Callable[[str], None]) -> None:
    missing = [package for package in ("torch", "transformers", "gguf") if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            f"model.path: {name}: converting a .gguf needs {', '.join(missing)}: pip install 'synthesis-factory[cpu]'"
            " (without a GPU) or 'synthesis-factory[vllm]'"
        )
    for leftover in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(leftover)  # an interrupted conversion's; its lock is ours now
    fresh = target.parent / f".{target.name}.{os.getpid()}"
    fresh.mkdir()
    size = sum(path.stat().st_size for path in sources) / 2**20
    say(f"model: converting {sources[0].name} ({size:.0f} MiB) to safetensors, once: half a minute for a small model")
    started = time.monotonic()
    try:
        _run_converter(sources, name, fresh)
        (fresh / MARKER).write_text(json.dumps({"source": sources[0].name, "converter": CONVERTER}))
        shutil.rmtree(target, ignore_errors=True)  # a folder without its marker is nobody's
        fresh.rename(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    say(f"model: converted in {time.monotonic() - started:.0f} s: {target}")


def _run_converter(sources: Sequence[Path], name: str, fresh: Path) -> None:
    script = Path(__file__).with_name("models_convert.py")
    quiet = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "TRANSFORMERS_VERBOSITY": "error"}
    command = [sys.executable, str(script), str(fresh), *map(str, sources)]
    with open(fresh / "converter.log", "w+b") as log:
        with subprocess.Popen(
            command, env={**os.environ, **quiet}, stdout=log, stderr=log, stdin=subprocess.DEVNULL, close_fds=False
        ) as process:
            try:
                code = process.wait()
            except BaseException:
                process.kill()
                raise
        if code:
            raise UserError(f"model.path: {name} could not be converted (exit status {code}): {_last_line(log)}")
    (fresh / "converter.log").unlink()


def _last_line(log: IO[bytes]) -> str:
    """What the converter said last: the error itself, after its traceback."""
    log.seek(0)
    text = log.read().decode(errors="replace").replace("\r", "\n")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
