"""What came of the rounds, in numbers: `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from factory.iterate.settings import IterateSettings
from factory.outputs import write_atomically


def write_summary(settings: IterateSettings, state: Mapping[str, Any]) -> None:
    """Write `results.json` from the folders of the stages that are done."""
    root = Path(settings.out)
    found = {}
    for path in sorted(root.glob("**/results.json")):
        if path.parent != root:
            metrics = orjson.loads(path.read_bytes())["metrics"]
            found[str(path.parent.relative_to(root))] = {
                f"{metric['name']} {metric['group']}".strip(): metric["value"] for metric in metrics
            }
    write_atomically(root / "results.json", orjson.dumps({"evaluations": found}, option=orjson.OPT_INDENT_2) + b"\n")
