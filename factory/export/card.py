"""`README.md` of an export: a card that the Hugging Face hub and `datasets` read, and that a person can trust.

The front matter names the files of each split, so that `load_dataset(folder)` gives `train` (and `held_out`), and
`load_dataset(folder, "rejected")` what was left out, with the reasons.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.card import SIZES, code, escape, fenced, shown_type, table
from factory.export.write import HELD_OUT, TRAIN
from factory.outputs import write_atomically
from factory.report.charts import number, percent

_TITLES = {
    "sft": "Conversations for supervised fine-tuning",
    "preference": "Preference pairs",
    "reward": "Ranked answers for a reward model",
}
_MEANINGS = {
    "id": "Content hash of what the row is made of: the same row has the same id in every export",
    "run": "The run that the record is from",
    "task": "Name of the task that made the record",
    "model": "The model that wrote it",
    "messages": "The conversation: a list of `role` and `content`, as TRL and chat templates read it",
    "scores": "What each scorer said, by its name",
    "tags": "What the prompt is about, by its tags",
    "prompt": "The conversation before the answer",
    "chosen": "The better answer",
    "rejected": "The worse answer",
    "chosen_reward": "What the better answer is worth to whoever decided",
    "rejected_reward": "What the worse answer is worth to whoever decided",
    "source": "Who decided: `verifier`, `reward model` or `judge`",
    "level": "How many of the configured gaps the rewards' difference reaches",
    "responses": "Answers to the prompt, the best first",
    "rewards": "What each response is worth",
    "ranks": "The place of each response, 1 for the best; equal ones share a place",
    "attributes": "Grades of each response",
    "response_ids": "The record of each response",
    "response_models": "The model that wrote each response",
    "copy": "0 for a row's first time, 1 for its second, where a small part was repeated",
}


def write_card(folder: Path, manifest: Mapping[str, Any], schema: Any) -> None:
    """Write `README.md` from the manifest and the columns (an Arrow schema) of an export that lies in `folder`."""
    parts = [
        _front_matter(manifest),
        _introduction(manifest),
        _funnel(manifest),
        _mixture(manifest),
        _fields(schema),
        _loading(manifest),
        _limits(manifest),
    ]
    text = "\n\n".join(part.strip("\n") for part in parts if part) + "\n"
    write_atomically(folder / "README.md", text.encode())


def _front_matter(manifest: Mapping[str, Any]) -> str:
    """JSON strings are YAML strings, so nothing in a name can break out of its place."""
    size = next((name for name, most in SIZES if manifest["rows"] < most), "n>10M")
    lines = ["---", f"pretty_name: {json.dumps(' + '.join(manifest['runs']))}"]
    lines += ["# license: choose one and say it here; mind the license of the model that wrote these texts"]
    lines += ["task_categories:", "- text-generation", "size_categories:", f"- {json.dumps(size)}", "tags:"]
    lines += [f"- {tag}" for tag in ("synthetic", "synthesis-factory", manifest["format"])]
    lines += ["configs:", "- config_name: default", "  data_files:"]
    for split, path in _splits(manifest):
        lines += [f"  - split: {split}", f"    path: {json.dumps(path)}"]
    lines += ["  default: true", "- config_name: rejected", "  data_files:", "  - split: train"]
    return "\n".join([*lines, '    path: "rejected/*.parquet"', "---"])


def _splits(manifest: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if HELD_OUT in manifest["splits"]:
        yield from ((split, f"{split}/*.parquet") for split in (TRAIN, HELD_OUT))
    else:
        yield TRAIN, "*.parquet"


def _introduction(manifest: Mapping[str, Any]) -> str:
    splits = ", ".join(f"{number(rows)} in `{split}`" for split, rows in manifest["splits"].items())
    facts = {
        "Runs": ", ".join(manifest["runs"]),
        "Models": ", ".join(manifest["models"]),
        "Keep rule": manifest["keep"] or "as each run decided",
        "Statistics": "; ".join(f"{run}: {', '.join(f'{key} = {value:g}' for key, value in found.items())}"
                                for run, found in manifest["statistics"].items() if found),
        "Reward": manifest["reward"] if manifest["format"] != "sft" or manifest["per_group"] else None,
        "Order": manifest["order"] or "by id",
        "Tokens": f"{number(manifest['tokens']['total'])} ({manifest['tokens']['counted_by']})",
    }  # fmt: skip
    rows = [(name, escape(value)) for name, value in facts.items() if value not in (None, "")]
    return (
        f"# {escape(' + '.join(manifest['runs']))}: {_TITLES[manifest['format']].lower()}\n\n"
        f"{number(manifest['rows'])} rows ({splits}), selected from {number(manifest['records'])} synthetic records. What "
        "was left out is in `rejected/`, each with its reason; `manifest.json` has every setting, `report.html` the "
        "pictures.\n\n> **No license is set.** It is yours to choose: mind the license of the model that wrote these texts "
        "and of the seeds it was given.\n\n## How it was selected\n\n" + table(("What", "Value"), rows)
    )


def _funnel(manifest: Mapping[str, Any]) -> str:
    rows: list[tuple[str, ...]] = []
    for step in manifest["funnel"]:
        rows.append((f"**{escape(step['step'])}** ({escape(step['unit'])})", number(step["in"]), number(step["out"])))
        losses = sorted(step["reasons"].items(), key=lambda entry: (-entry[1], entry[0]))
        rows += [(f"… {escape(why[:160])}", number(-count), percent(count, step["in"])) for why, count in losses[:20]]
        if rest := losses[20:]:
            lost = sum(count for _, count in rest)
            rows.append((f"… {number(len(rest))} other reasons", number(-lost), percent(lost, step["in"])))
    return "## Step by step\n\n" + table(("Step", "In, or lost", "Out, or share"), rows)


def _mixture(manifest: Mapping[str, Any]) -> str | None:
    mixture = manifest["mixture"]
    if mixture is None:
        return None
    names = ("Part", "Rows", f"Share of {mixture['unit']}", "Short of what was wanted")
    rows = [(escape(name), number(part["rows"]), percent(part["share"], 1), "yes" if part["short"] else "")
            for name, part in mixture["parts"].items()]  # fmt: skip
    return "## Mixture\n\n" + table(names, rows)


def _fields(schema: Any) -> str:
    rows: Sequence[tuple[str, ...]] = [
        (f"`{code(column.name)}`", escape(shown_type(str(column.type))), _meaning(column.name)) for column in schema
    ]
    return "## Fields\n\n" + table(("Field", "Type", "Meaning"), rows)


def _meaning(column: str) -> str:
    side, _, rest = column.partition("_")
    if side in ("chosen", "rejected") and rest in ("id", "run", "model", "scores"):
        return f"{_MEANINGS[rest].split(':')[0] if rest != 'id' else 'The record'} of the {side} answer"
    return _MEANINGS.get(column, "Carried along from the seed item")


def _loading(manifest: Mapping[str, Any]) -> str:
    lines = ["from datasets import load_dataset", "", 'train = load_dataset("PATH_OR_HUB_NAME", split="train")']
    if HELD_OUT in manifest["splits"]:
        lines.append('held_out = load_dataset("PATH_OR_HUB_NAME", split="held_out")')
    lines.append('rejected = load_dataset("PATH_OR_HUB_NAME", "rejected", split="train")')
    return "## How to load it\n\n" + fenced("\n".join(lines), "python")


def _limits(manifest: Mapping[str, Any]) -> str:
    steps = {step["step"] for step in manifest["funnel"]}
    lines = [
        "Scores of a judge or a reward model are opinions, with their biases; a check in code is right about what it checks."
    ]
    if not steps & {"minhash", "semantic"}:
        lines.append("Near duplicates were not looked for.")
    if "decontamination" not in steps:
        lines.append(
            "Overlap with evaluation sets was not looked for: decontaminate before you report benchmark results."
        )
    lines.append("Personal data and harmful content were not looked for beyond what the keep rule says.")
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines)
