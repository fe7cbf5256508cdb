"""`README.md` of a run: a dataset card that the Hugging Face hub and `datasets` read, and that a person can trust.

The front matter names the Parquet files, so that `load_dataset(run_dir)` gives the kept records and
`load_dataset(run_dir, "rejected")` the others. What was checked is said from the scores that the records carry; what
was not checked is said as plainly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from factory.outputs import final_fates, write_atomically
from factory.records import Record
from factory.report.charts import duration, number, percent
from factory.report.collect import load_manifest, open_journal

SIZES = (("n<1K", 1e3), ("1K<n<10K", 1e4), ("10K<n<100K", 1e5), ("100K<n<1M", 1e6), ("1M<n<10M", 1e7))
_SAMPLE = 4000  # characters shown of the one sample

_FIELDS = {
    "id": "Content hash of task, prompts, seed item, model and sampling: the same work has the same id",
    "task": "Name of the task that made the record",
    "messages": "The conversation: a list of `role` and `content`, as TRL and chat templates read it",
    "scores": "What each scorer said, by its name: `value`, `reason` and `detail` (JSON)",
    "meta": "Everything else that the task keeps, as JSON",
    "reason": "Why the record was rejected; empty for a kept one",
    "parents": "Ids of the records that this one was made from",
    "usage": "Requests, tokens and seconds that the record cost",
    "language": "Programming language of the solution",
    "topic": "Topic that the problem was asked for",
    "problem": "The problem as it was put to the model",
    "solution": "The solution, as it was run",
    "tests": "The tests that the solution was run against",
    "attempts": "Each attempt: code, tests, verdict and the feedback that led to the next",
    "test_strength": "Share of mutants of the solution that its tests notice, 0 to 1",
}
_VERIFIED = {
    "execution": "Every solution was run against its tests in a sandbox, and its score says with what result.",
    "test_strength": "Tests were tried on mutants of the solution: `test_strength` is the share that they notice.",
    "rules": "Every record was checked by rules of form.",
    "constraints": "Constraints that a program can check were checked.",
    "judge": "A language model judged the records. That is an opinion with the judge's biases, not a proof.",
    "reward": "A reward model scored the records. That is a preference it learned, not a proof.",
}
_UNVERIFIED = (
    "Whether statements in prose are true.",
    "Near duplicates, and overlap with evaluation sets: decontaminate before you report benchmark results.",
    "Personal data, harmful content, and passages that the model remembers from its own training data.",
)


def write_card(run_dir: Path) -> Path:
    """Write `README.md` from the manifest, the journal and the Parquet files in `run_dir`; raises `UserError`."""
    manifest = load_manifest(run_dir)
    sample = _first_kept(run_dir, manifest)
    parts = [
        _front_matter(run_dir, manifest),
        _introduction(manifest),
        _how_made(manifest),
        _funnel(manifest),
        _fields(run_dir),
        _sample(sample),
        _loading(run_dir),
        _limits(manifest, sample),
    ]
    path = run_dir / "README.md"
    write_atomically(path, ("\n\n".join(part.strip("\n") for part in parts) + "\n").encode())
    return path


def escape(text: Any) -> str:
    """Text that Markdown and HTML leave alone, on one line: fit for a paragraph or a table's cell."""
    line = " ".join(str(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]|~$])", r"\\\1", line)


def fenced(text: str, info: str = "text") -> str:
    """A code block that its content cannot end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{info}\n{text}\n{fence}"


def _first_kept(run_dir: Path, manifest: Mapping[str, Any]) -> Record | None:
    with open_journal(run_dir) as journal:
        current = journal.current_config()
        if current is None or not manifest["kept"]:
            return None
        fates = final_fates(journal, current[0], manifest.get("wanted"))
        return next((fate.record for fate in fates if fate.record.kept), None)


def _front_matter(run_dir: Path, manifest: Mapping[str, Any]) -> str:
    """JSON strings are YAML strings, so nothing in a name can break out of its place."""
    kept, task = manifest["kept"], str(manifest.get("task", "unknown"))
    size = next((name for name, most in SIZES if kept < most), "n>10M")
    lines = ["---", f"pretty_name: {json.dumps(manifest.get('run') or task)}"]
    lines.append("# license: choose one and say it here; see License below")
    if language := manifest.get("language"):
        lines.append(f"language: {json.dumps(language)}")
    lines += ["task_categories:", "- text-generation", "size_categories:", f"- {json.dumps(size)}", "tags:"]
    tags = ["synthetic", "synthesis-factory", f"task:{task}", *(["code"] if task.startswith("code") else [])]
    lines += [f"- {json.dumps(tag)}" for tag in tags]
    lines.append("configs:")
    for config, folder in _configs(run_dir):
        lines += [f"- config_name: {config}", "  data_files:", "  - split: train", f"    path: {folder}/*.parquet"]
        lines += ["  default: true"] if config == "default" else []
    return "\n".join([*lines, "---"])


def _configs(run_dir: Path) -> Iterator[tuple[str, str]]:
    for config, folder in (("default", "data"), ("rejected", "rejected")):
        if config == "default" or any((run_dir / folder).glob("*.parquet")):
            yield config, folder


def _introduction(manifest: Mapping[str, Any]) -> str:
    kept, made = manifest["kept"], manifest["records"]
    why = escape(manifest.get("stopped") or "fewer records than wanted")
    state = "" if manifest.get("finished") else f" The run stopped early: {why}."
    return (
        f"# {escape(manifest.get('run') or manifest.get('task'))}\n\n"
        f"{number(kept)} synthetic records of the task `{code(manifest.get('task'))}`, kept of {number(made)} that "
        f"were made ({percent(kept, made)}).{state} The rejected ones are here too, each with its reason, and "
        "`report.html` shows both.\n\n"
        "## License\n\n"
        "> **No license is set.** It is yours to choose: mind the license of the model that wrote these texts and of "
        "the seeds it was given, then fill in `license:` above."
    )


def code(text: Any) -> str:
    return str(text).replace("`", "'").replace("\n", " ")


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---:" if name in ("Records", "Share") else "---" for name in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _how_made(manifest: Mapping[str, Any]) -> str:
    model, engine = manifest.get("model") or {}, manifest.get("engine") or {}
    tokens = manifest.get("tokens") or {}
    named = [str(model[key]) for key in ("name", "path") if model.get(key)]
    facts = {
        "Model": ", ".join(dict.fromkeys(named)) + (f" (digest {model['digest']})" if model.get("digest") else ""),
        "Engine": engine.get("kind"),
        "Prompts": f"digest {manifest['templates']}" if manifest.get("templates") else None,
        "Seed items used": number(manifest.get("seeds", 0)),
        "Random seed": manifest.get("seed"),
        "Keep rule": manifest.get("keep") or "everything is kept",
        "Tokens": f"{number(tokens.get('prompt', 0))} read, {number(tokens.get('completion', 0))} generated",
        "Requests": number(manifest.get("requests", 0)),
        "Last invocation": duration(manifest.get("seconds") or 0),
        "Ended": manifest.get("ended_at"),
        "Versions": ", ".join(f"{name} {version}" for name, version in (manifest.get("versions") or {}).items()),
    }
    rows = [(name, escape(value)) for name, value in facts.items() if value not in (None, "")]
    return (
        "## How it was made\n\n" + table(("What", "Value"), rows) + "\n\n`config.yaml` holds the whole configuration."
    )


def _funnel(manifest: Mapping[str, Any]) -> str:
    made = manifest["records"]
    losses = sorted((manifest.get("reasons") or {}).items(), key=lambda item: (-item[1], item[0]))
    shown, rest = losses[:40], losses[40:]
    rows = [("**Made**", number(made), "")]
    lost = [(escape(reason[:160] or "no reason given"), count) for reason, count in shown]
    if rest:
        lost.append((f"{number(len(rest))} other reasons", sum(count for _, count in rest)))
    rows += [(name, number(-count), percent(count, made)) for name, count in lost]
    rows.append(("**Kept**", f"**{number(manifest['kept'])}**", percent(manifest["kept"], made)))
    return "## Where records were lost\n\n" + table(("Stage and reason", "Records", "Share"), rows)


def _fields(run_dir: Path) -> str:
    import pyarrow.parquet as parquet

    files = sorted((run_dir / "data").glob("*.parquet"))
    columns = parquet.read_schema(files[0]) if files else []
    rows = [
        (f"`{code(column.name)}`", escape(shown_type(str(column.type))), _meaning(column.name)) for column in columns
    ]
    return "## Fields\n\n" + (table(("Field", "Type", "Meaning"), rows) if rows else "No data file was written yet.")


def shown_type(name: str) -> str:
    return re.sub(r"\b(?:element|item): ", "", name)


def _meaning(column: str) -> str:
    return _FIELDS.get(column, "Carried along from the seed item, or kept by the task")


def _sample(record: Record | None) -> str:
    if record is None:
        return "## A sample\n\nNo record was kept."
    turns = "\n\n".join(f"[{message.role}]\n{message.content}" for message in record.messages)
    shown = turns[:_SAMPLE] + (f"\n… {number(len(turns) - _SAMPLE)} more characters" if len(turns) > _SAMPLE else "")
    return f"## A sample\n\nRecord `{code(record.id)}`, the first that was kept:\n\n{fenced(shown)}"


def _loading(run_dir: Path) -> str:
    lines = ["from datasets import load_dataset", "", 'kept = load_dataset("PATH_OR_HUB_NAME", split="train")']
    if len(list(_configs(run_dir))) > 1:
        lines.append('rejected = load_dataset("PATH_OR_HUB_NAME", "rejected", split="train")')
    run = code(run_dir.resolve().name)
    more = f"`python -m factory explain ID` tells one record's story from the journal of the run `{run}`."
    return "## How to load it\n\n" + fenced("\n".join(lines), "python") + "\n\n" + more


def _limits(manifest: Mapping[str, Any], sample: Record | None) -> str:
    names = set(manifest.get("scores") or ()) | set(sample.scores if sample else ())
    checked = [text for name, text in _VERIFIED.items() if name in names]
    checked += [f"The score `{code(name)}` was computed." for name in sorted(names - set(_VERIFIED))]
    unchecked = list(_UNVERIFIED)
    if "execution" in names:
        doubt = "Whether a problem and its tests mean the same: one model wrote both, and both can be wrong alike."
        unchecked.insert(0, doubt)
    else:
        unchecked.insert(0, "Whether code in the records runs: nothing was executed.")
    return (
        "## Limits\n\n**What was verified**\n\n"
        + "\n".join(f"- {text}" for text in checked or ["Nothing beyond the form of the records."])
        + "\n\n**What was not**\n\n"
        + "\n".join(f"- {text}" for text in unchecked)
    )
