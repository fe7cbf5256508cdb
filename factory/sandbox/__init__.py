"""Runs untrusted, model-written code, and judges it without trusting anything that it says.

    async with open_sandbox(SandboxConfig(slots=4)) as sandbox:
        verdict = await sandbox.verify("def f(x): return x * 2", ["assert f(3) == 6"])

What it protects against, and what it does not, is in docs/sandbox.md.
"""

from factory.sandbox.backends import Probe, probe
from factory.sandbox.config import SandboxConfig
from factory.sandbox.programs import Language, languages
from factory.sandbox.rewrite import parse_tests
from factory.sandbox.sandbox import Sandbox, open_sandbox
from factory.sandbox.verdict import (
    STATUSES,
    Execution,
    Outcome,
    SandboxError,
    Status,
    StdioTest,
    Strength,
    Trust,
    Verdict,
)

__all__ = [
    "STATUSES",
    "Execution",
    "Language",
    "Outcome",
    "Probe",
    "Sandbox",
    "SandboxConfig",
    "SandboxError",
    "Status",
    "StdioTest",
    "Strength",
    "Trust",
    "Verdict",
    "languages",
    "open_sandbox",
    "parse_tests",
    "probe",
]
