"""Which commit a hub id means, from the local hub cache where it can tell, else from the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from factory.errors import UserError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def hub_cache() -> Path:
    """The hub client's own cache folder (its documented environment variables, in its order)."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    if home := os.environ.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "huggingface" / "hub"


def hub_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of a downloaded revision that has at least its configuration, or None."""
    folder = hub_cache() / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    return folder if (folder / "config.json").is_file() else None


def resolve_revision(repo: str, wanted: str, say: Callable[[str], None]) -> str:
    """The commit (40 hexadecimal digits) of a branch or tag: the one downloaded already, else what the hub says.

    Raises `UserError` when the hub does not know the model, refuses it or cannot be reached.
    """
    if _COMMIT.fullmatch(wanted):
        return wanted
    known = hub_cache() / f"models--{repo.replace('/', '--')}" / "refs" / wanted
    if known.is_file():
        return known.read_text().strip()
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise UserError(
            f"model.path: {repo} is not in the hub cache {hub_cache()} and HF_HUB_OFFLINE is set: unset it, or name a"
            " local folder, a .gguf file or package:NAME"
        )
    say(f"model: asking the hub for {repo}")
    return _ask_hub(repo, wanted)


def _ask_hub(repo: str, wanted: str) -> str:
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
    except ImportError as error:
        raise UserError(f"model.path: {repo} is a hub id, which needs: pip install huggingface_hub") from error
    try:
        commit = HfApi().model_info(repo, revision=wanted, timeout=20).sha
    except GatedRepoError as error:
        raise UserError(f"model.path: {repo} is gated: accept its terms on the hub and set HF_TOKEN") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"model.path: {repo}@{wanted}: no such folder here and no such model on the hub (or a private one: set"
            " HF_TOKEN)"
        ) from error
    except Exception as error:  # whatever the HTTP library of the day raises when there is no way out
        raise UserError(
            f"model.path: {repo} is not in the hub cache {hub_cache()} and the hub did not answer"
            f" ({type(error).__name__}): check the network, or name a local folder, a .gguf file or package:NAME"
        ) from error
    if not commit:
        raise UserError(f"model.path: the hub names no commit for {repo}@{wanted}")
    return str(commit)
