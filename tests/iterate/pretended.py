"""A program that stands for `python -m factory` in a loop: it writes what each command leaves behind, and a line of what it
was told. `PRETEND_FAIL` names a stage's folder that ends with status 1, `PRETEND_SLOW` seconds that each stage takes,
`PRETEND_KEPT` how many records are kept, `PRETEND_STATUS` what `PRETEND_WHICH` (`generate`) ends with,
`PRETEND_STOPPED` what broke it off.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path


def main(words: list[str]) -> int:
    command, options = words[0], dict(word.lstrip("+").split("=", 1) for word in words[1:])
    out = Path(options["to" if command == "export" else "out"].strip("'"))
    with Path(os.environ["PRETEND_LOG"]).open("a") as file:
        file.write(json.dumps([command, str(out), options]) + "\n")
    time.sleep(float(os.environ.get("PRETEND_SLOW", "0")))
    out.mkdir(parents=True, exist_ok=True)
    if os.environ.get("PRETEND_FAIL", "?") in str(out):
        print("error: pretended\nand told at length")
        return 1
    stopped = os.environ.get("PRETEND_STOPPED")
    if command == "generate" and stopped != "the disk is full":
        kept = int(os.environ.get("PRETEND_KEPT", "500"))
        (out / "manifest.json").write_text(
            json.dumps(
                {
                    "kept": kept,
                    "records": 900,
                    "seeds": 300,
                    "reasons": {"execution: wrong": 900 - kept},
                    "stopped": stopped,
                }
            )
        )
    if command == "train":
        (out / "model").mkdir(exist_ok=True)
        (out / "devices").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))
        steps = 7 if options.get("steps") is None else int(options["steps"])
        (out / "manifest.json").write_text(json.dumps({"steps": steps}))
    if command == "evaluate":
        results = {"suite": "s", "metrics": [], "measures": [], "answers": 100, "errors": {}, "complete": not stopped}
        (out / "results.json").write_text(json.dumps(results))
        (out / "items.jsonl").write_text("")
    return int(os.environ.get("PRETEND_STATUS", "0")) if command == os.environ.get("PRETEND_WHICH", "generate") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
