"""The model card: what it was made from, by digest, with what settings, and how it did on what was held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TITLES = {"sft": "Supervised fine-tuning", "reward": "A reward model", "dpo": "DPO", "rpo": "RPO"}
_USE = {
    "reward": (
        "Loads as `AutoModelForSequenceClassification`; apply the chat template to prompt and answer and read the "
        "head's output at the last token."
    ),
}


def write_card(out: Path, manifest: Mapping[str, Any]) -> None:
    """Write `model/README.md`."""
    settings = manifest["settings"]
    front = ["---", "library_name: transformers", f"pipeline_tag: {_tag(manifest)}", "tags: [synthetic, trl, "
             f"{manifest['stage']}]", "---"]  # fmt: skip
    model = manifest["model"]
    lines = [
        *front,
        f"# {manifest['run']}",
        "",
        f"{_TITLES[manifest['stage']]}, {manifest['steps']} steps of {settings['batch']} examples "
        f"({manifest['epochs']:.2g} epochs), from {model['name']}"
        + (f" (content digest `{model['digest']}`)." if model["digest"] else "."),
        "",
        _USE.get(manifest["stage"], "Loads as `AutoModelForCausalLM`, chat template included."),
        "",
        "## Data",
        "",
        "| source | digest | rows | examples | tokens | left out |",
        "|---|---|---|---|---|---|",
        *(_data_row(entry) for entry in manifest["data"]),
        "",
        "## Settings",
        "",
        *(f"- {name}: `{value}`" for name, value in _settings(settings)),
        "",
    ]
    if manifest.get("attributes"):
        lines += ["Reward = " + " + ".join(f"{weight:g} {name}" for name, weight in manifest["attributes"].items()), ""]
    if manifest.get("held_out"):
        lines += ["## On held-out prompts", ""]
        lines += [f"- {name.removeprefix('eval_')}: {value:.4g}" for name, value in manifest["held_out"].items()]
        lines += [""]
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    lines += [f"Made with {versions}.", ""]
    (out / "model" / "README.md").write_text("\n".join(lines))


def _tag(manifest: Mapping[str, Any]) -> str:
    return "text-classification" if manifest["stage"] == "reward" else "text-generation"


def _data_row(entry: Mapping[str, Any]) -> str:
    dropped = ", ".join(f"{count} {reason}" for reason, count in entry["dropped"].items()) or "none"
    name = Path(entry["path"]).as_posix().replace("|", "\\|")
    return f"| {name} | `{entry['digest'][:12]}` | {entry['rows']:,} | {entry['examples']:,} | {entry['tokens']:,} | {dropped} |"


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    shown = [(f"optimizer.{name}", value) for name, value in settings["optimizer"].items()]
    shown += [(f"stage.{name}", value) for name, value in settings["stage"].items() if name != "name"]
    return [*shown, *((name, settings[name]) for name in ("batch", "max_length", "precision", "seed"))]
