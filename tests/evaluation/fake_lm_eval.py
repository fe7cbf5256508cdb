"""A stand-in for the program `lm_eval`: it takes the real one's command line and leaves files of the same names and fields.

It is no harness: it asks the server one question a document, to show that address, model name and key reach it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in (
        "--model",
        "--model_args",
        "--tasks",
        "--output_path",
        "--num_fewshot",
        "--limit",
        "--gen_kwargs",
        "--seed",
    ):
        parser.add_argument(name)
    parser.add_argument("--log_samples", action="store_true")
    parser.add_argument("--apply_chat_template", action="store_true")
    given = parser.parse_args()
    if os.environ.get("FAKE_LM_EVAL") == "fail":
        sys.exit("ValueError: Tasks not found: nope")
    arguments = dict(word.split("=", 1) for word in given.model_args.split(","))
    folder = Path(given.output_path) / arguments["model"].replace("/", "__")
    folder.mkdir(parents=True)
    stamp, results = "2026-01-02T03-04-05.678901", {}
    for task in given.tasks.split(","):
        rows = []
        for document in range(int(given.limit or 4)):
            said = ask(arguments, f"{task} {document}", given.apply_chat_template)
            rows.append({"doc_id": document, "doc": {"q": 1}, "target": "x", "filter": "none", "metrics": ["acc"],
                         "resps": [[said]], "doc_hash": "ab", "acc": float(said == "yes")})  # fmt: skip
        results[task] = {"alias": task, "acc,none": sum(row["acc"] for row in rows) / len(rows), "acc_stderr,none": 0.1}
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"samples_{task}_{stamp}.jsonl").write_text(lines)
    (folder / f"results_{stamp}.json").write_text(json.dumps({"results": results, "config": {"model": given.model}}))


def ask(arguments: dict[str, str], text: str, chat: bool) -> str:
    body = {"model": arguments["model"], "max_tokens": 1}
    body |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    request = urllib.request.Request(
        arguments["base_url"],
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}"},
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        choice = json.load(answer)["choices"][0]
    return str(choice["message"]["content"] if chat else choice["text"])


if __name__ == "__main__":
    main()
