"""The process that makes items and scores answers with reasoning-gym: a request a line comes in, an answer a line goes out.

Its first line says that it is ready. Alone so that the order of sets is fixed for it (`factory.reasoning`), and so that an answer on which the library loops or eats memory costs this process and nothing else. It ends with its
standard input, and so with whoever started it.
"""

from __future__ import annotations

import importlib
import resource
import sys
from typing import Any

import orjson

from factory.reasoning import Split, Tasks, harmless, opened

_MEMORY = 4 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    if sys.flags.hash_randomization:
        raise SystemExit("started without a fixed PYTHONHASHSEED: items would differ from process to process")
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # data sets print
    known: dict[bytes, Any] = {}
    importlib.import_module("reasoning_gym")
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        if "tasks" in request:
            made = [_entries(Tasks(**task), request["split"], request["seed"]) for task in request["tasks"]]
            out.write(orjson.dumps(made) + b"\n")
            out.flush()
            continue
        name = orjson.dumps([request["task"], request["split"], request["seed"]])
        if name not in known:
            known[name] = opened(Tasks(**request["task"]), request["split"], request["seed"])
        score, why = _score(known[name], request["task"]["dataset"], request["place"], request["answer"])
        out.write(orjson.dumps({"score": score, "why": why}) + b"\n")
        out.flush()


def _entries(task: Tasks, split: Split, seed: int) -> list[tuple[int, str, str | None]]:
    data, made = opened(task, split, seed), []
    for place in range(task.size):
        entry = data[place]
        answer = entry["answer"]
        made.append((place, str(entry["question"]), answer if isinstance(answer, str) and answer else None))
    return made


def _score(data: Any, dataset: str, place: int, answer: str) -> tuple[float, str]:
    assert harmless(dataset, answer)
    try:
        return min(1.0, max(0.0, float(data.score_answer(answer, data[place])))), ""
    except Exception as error:  # an answer that the library cannot read is a wrong one
        return 0.0, f"the data set's scorer: {type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    main()
