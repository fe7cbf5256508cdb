"""An export on the Hugging Face hub, where it was asked for: the folder as it is, private unless said otherwise."""

from __future__ import annotations

import os
from pathlib import Path

from factory.errors import UserError
from factory.export.settings import ExportSettings

TOKEN = "HF_TOKEN"


def lacking(settings: ExportSettings) -> list[str]:
    """What is missing for an upload; told before anything is read."""
    if settings.push_to_hub is None or os.environ.get(TOKEN):
        return []
    return [
        f"push_to_hub={settings.push_to_hub}: needs a token of yours with the right to write: export {TOKEN}=... (it is "
        "read from the environment only, and written nowhere)"
    ]


def push(folder: Path, settings: ExportSettings) -> str:
    """Upload the export in one commit and return its address. Raises `UserError`; the export itself is done by then."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(token=os.environ[TOKEN])
    name = str(settings.push_to_hub)
    try:
        api.create_repo(name, repo_type="dataset", private=settings.private, exist_ok=True)
        api.upload_folder(
            repo_id=name, repo_type="dataset", folder_path=folder, delete_patterns=["*.parquet", "**/*.parquet"],
            commit_message="Export of synthesis-factory",
        )  # fmt: skip
    except (HfHubHTTPError, OSError, ValueError) as error:
        said = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(f"push_to_hub={name}: {said}. The export itself is in {folder}.") from error
    return f"{api.endpoint}/datasets/{name}"
