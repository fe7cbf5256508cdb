"""The process that scores answers with reasoning-gym: a request a line on standard input, a score a line on standard output.

Alone so that an answer on which the library loops or eats memory costs this process and nothing else. It ends with its
standard input, and so with whoever started it.
"""

from __future__ import annotations

import resource
import sys
from typing import Any

import orjson

from factory.reasoning import Tasks, harmless, opened

_MEMORY = 4 << 30


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    out, sys.stdout = sys.stdout.buffer, sys.stderr  # data sets print
    known: dict[bytes, Any] = {}
    for line in sys.stdin.buffer:
        request = orjson.loads(line)
        name = orjson.dumps([request["task"], request["split"], request["seed"]])
        if name not in known:
            known[name] = opened(Tasks(**request["task"]), request["split"], request["seed"])
        score, why = _score(known[name], request["task"]["dataset"], request["place"], request["answer"])
        out.write(orjson.dumps({"score": score, "why": why}) + b"\n")
        out.flush()


def _score(data: Any, dataset: str, place: int, answer: str) -> tuple[float, str]:
    assert harmless(dataset, answer)
    try:
        return min(1.0, max(0.0, float(data.score_answer(answer, data[place])))), ""
    except Exception as error:  # an answer that the library cannot read is a wrong one
        return 0.0, f"the data set's scorer: {type(error).__name__}: {error}"[:300]


if __name__ == "__main__":
    main()
