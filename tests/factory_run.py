"""Runs `generate` in this process against a scripted server, as the command line would."""

from __future__ import annotations

import asyncio
from pathlib import Path

from factory.compose import compose_config
from factory.generate import generate
from factory.plan import make_plan
from factory.progress import Display
from tests.model_server import ModelServer


def run_task(folder: Path, server: ModelServer, task: str, *overrides: str) -> int:
    """The exit status of `generate task=...` with its outputs in `folder`."""
    words = [f"task={task}", "engine=openai", f"engine.base_url={server.url}", "model=custom", "model.path=scripted"]
    composed, problems = compose_config("generate", [*words, f"out='{folder}/outputs/${{run}}'", *overrides])
    plan = make_plan(composed, problems)
    return asyncio.run(generate(plan, Display(quiet=True))).status
