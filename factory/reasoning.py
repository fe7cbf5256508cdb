"""Generated, exactly checkable tasks from the package `reasoning-gym`, with seeds that training and evaluation cannot share.

The library draws item i of a data set with seed s from a generator seeded with s + i, so data sets with neighbouring
seeds hold the same items, shifted. Here a split owns a range of those numbers and each seed a block of it:

    train  0 ...     2^31 - 1        eval  2^31 ... 3 * 2^30 - 1        hard  3 * 2^30 ... 2^32 - 1

in blocks of 65,536 items, so that no item of one split or seed is drawn by the state of another. (2^32 is where numpy's
seeds end, which some data sets use.) Small data sets can still repeat a question by chance: there are only so many sums
of two digits; decontaminate by text as well where that matters.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import orjson
from pydantic import Field

from factory.errors import RecordError, near
from factory.records import Frozen

Split = Literal["train", "eval", "hard"]
BLOCK = 1 << 16  # items of one seed, at most
_RANGES: Mapping[str, tuple[int, int]] = {"train": (0, 1 << 31), "eval": (1 << 31, 3 << 30), "hard": (3 << 30, 1 << 32)}
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_SECONDS = 10.0  # for the library to score one answer
_START_SECONDS = 120.0  # importing it takes two on an idle machine
_WORKER = (sys.executable, "-W", "ignore", "-m", "factory.reasoning_worker")
_INSTALL = 'the package reasoning-gym is not installed: pip install "synthesis-factory[evaluate]"'


class Tasks(Frozen):
    """`size` items of one data set; `config` is the data set's own configuration (digits, terms, board sizes, ...)."""

    dataset: str
    config: Mapping[str, Any] = Field(default_factory=dict)
    size: int = Field(50, ge=1, le=BLOCK)


def seed_of(split: Split, seed: int) -> int:
    """The library's seed for a split's own seed. Raises `ValueError` where the split has no such block."""
    start, end = _RANGES[split]
    blocks = (end - start) // BLOCK
    if not 0 <= seed < blocks:
        raise ValueError(f"seed={seed}: split={split} has the seeds 0 to {blocks - 1}")
    return start + seed * BLOCK


def check_tasks(tasks: Sequence[Tasks], split: Split, seed: int, where: str) -> list[str]:
    """What is wrong with a list of data sets, each with its key (`where` is the list's)."""
    if importlib.util.find_spec("reasoning_gym") is None:
        return [f"{where}: {_INSTALL}"]
    try:
        seed_of(split, seed)
    except ValueError as error:
        return [str(error)]
    from reasoning_gym.factory import DATASETS

    if not tasks:
        return [f"{where}: names no data set, as {where}='[{{dataset: chain_sum, size: 50}}]'"]
    problems = []
    for place, task in enumerate(tasks):
        key = f"{where}[{place}].dataset={task.dataset}"
        if task.dataset == "composite":
            problems.append(f"{key}: name its data sets one by one")
        elif task.dataset not in DATASETS:
            problems.append(f"{key}: no such data set{near(task.dataset, DATASETS)} (there are {len(DATASETS)})")
        else:
            problems += _check_config(task, f"{where}[{place}].config")
    twice = [name for name, group in itertools.groupby(sorted(task.dataset for task in tasks)) if len(list(group)) > 1]
    return problems + [f"{where}: {name} is named twice; its items would be the same ones" for name in twice]


def _check_config(task: Tasks, where: str) -> list[str]:
    reserved = {"seed", "size"} & set(task.config)
    if reserved:
        return [f"{where}: {', '.join(sorted(reserved))} is set by split, seed and size"]
    try:
        opened(task, "train", 0)
    except Exception as error:  # the library's own checks: assertions, type errors and the like
        return [f"{where}: the data set says: {type(error).__name__}: {error}"]
    return []


def opened(task: Tasks, split: Split, seed: int) -> Any:
    """The library's data set, for a process whose hash seed is fixed (`generate`); items are made when asked for."""
    import reasoning_gym

    return reasoning_gym.create_dataset(task.dataset, seed=seed_of(split, seed), size=task.size, **task.config)


class Entry(NamedTuple):
    """One generated item: its place in the data set, the question, and the library's own answer where it gives one."""

    place: int
    question: str
    answer: str | None


def generate(tasks: Sequence[Tasks], split: Split, seed: int) -> list[list[Entry]]:
    """The items of each data set, the same on every machine and in every process.

    Made in a process of its own: some data sets walk over Python sets, whose order differs from process to process
    unless the hash seed is fixed, so that the same seed would give other questions each time.
    """
    request = {"tasks": [task.model_dump(mode="json") for task in tasks], "split": split, "seed": seed}
    made = subprocess.run(
        _WORKER, input=orjson.dumps(request) + b"\n", env=_environment(), capture_output=True, check=False
    )
    if made.returncode:
        raise RuntimeError(f"reasoning-gym failed: {made.stderr.decode(errors='replace').strip()[-500:]}")
    return [[Entry(*entry) for entry in found] for found in orjson.loads(made.stdout.splitlines()[1])]


def final_answer(text: str) -> str | None:
    """The last <answer>...</answer> of a model's answer, stripped; to the end where it was cut off. None without one."""
    found = _TAG.findall(text)
    return found[-1].strip() if found else None


# ---- scoring: the library's own score_answer, in a process that can be ended

# These data sets hand the answer to `eval` (a list of lists or strings) or to sympy's parser, which is `eval`, too
# (a formula): a model's answer would be run. Only text that can do no more than spell such a value goes to them.
EVALUATES: Mapping[str, Literal["list", "formula"]] = {
    "binary_matrix": "list",
    "n_queens": "list",
    "spiral_matrix": "list",
    "string_insertion": "list",
    "countdown": "formula",
    "intermediate_integration": "formula",
    "polynomial_multiplication": "formula",
    "puzzle24": "formula",
    "simple_integration": "formula",
}
_FUNCTIONS = frozenset(
    {"sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "ln"}
    | {"sqrt", "pi", "Abs", "erf", "Ei", "Si", "Ci"}
)
_LIST = re.compile(r"[\[\]\w\s,'\"._\n-]*")
_FORMULA = re.compile(r"[\w\s+\-*/^().]*")


def harmless(dataset: str, answer: str) -> bool:
    """Whether the library may see this answer: nothing that it would evaluate can call, reach or grow anything."""
    kind = EVALUATES.get(dataset)
    if kind is None:
        return True
    if len(answer) > 2000:
        return False
    if kind == "list":  # no parentheses, no operators but a minus: names and literals only
        return _LIST.fullmatch(answer) is not None
    names = re.findall(r"[^\W\d]\w*", answer)
    attribute = re.search(r"[^\W\d]\w*\s*\.|\)\s*\.|\.\s*[^\W\d]", answer)
    powers = re.findall(r"(?:\*\*|\^)\s*\(?\s*-?\s*(\w*)", answer)
    return (
        _FORMULA.fullmatch(answer) is not None
        and not attribute
        and all(len(name) == 1 or name in _FUNCTIONS for name in names)
        and not any(len(digits) > 12 for digits in re.findall(r"\d+", answer))
        and all(len(power) <= 2 for power in powers)
        and len(powers) <= 12
    )


class Scorer:
    """Scores answers in a process like that of `generate`: the library may loop or fail on what a model wrote.

    Use as an async context manager. One answer at a time: scoring takes microseconds as a rule.
    """

    def __init__(self, seconds: float = _SECONDS) -> None:
        self.seconds = seconds
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Scorer:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._end()

    async def score(self, task: Tasks, split: Split, seed: int, place: int, answer: str) -> tuple[float, str]:
        """(the library's score from 0 to 1, why it is 0 where the library was not to blame).

        Raises `RecordError` where the process cannot be had at all.
        """
        if not harmless(task.dataset, answer):
            return 0.0, "not given to the data set's scorer, which would evaluate it: not a plain value"
        request = {"task": task.model_dump(mode="json"), "split": split, "seed": seed, "place": place, "answer": answer}
        async with self._turn:
            try:
                process = self._process or await self._start()
                async with asyncio.timeout(self.seconds):
                    line = await _exchange(process, orjson.dumps(request) + b"\n")
            except TimeoutError:
                await self._end()
                return 0.0, f"the data set's scorer found no end within {self.seconds:g} s"
            except BaseException:
                await self._end()  # what it would still say belongs to this answer
                raise
        if not line:
            await self._end()
            return 0.0, "the data set's scorer ended over it"
        said = orjson.loads(line)
        return float(said["score"]), str(said["why"])

    async def _start(self) -> asyncio.subprocess.Process:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *_WORKER, env=_environment(),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            async with asyncio.timeout(_START_SECONDS):
                ready = await _exchange(self._process, b"")
        except (OSError, TimeoutError) as error:
            raise RecordError(f"scorer: its process cannot be started: {error or type(error).__name__}") from error
        if not ready:
            raise RecordError("scorer: its process ended at once")
        return self._process

    async def _end(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _environment() -> dict[str, str]:
    """The worker's: nothing of ours but where Python finds its modules, and one order of sets for all."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path),
        "PYTHONHASHSEED": "0",
        "HOME": "/nonexistent",
    }


async def _exchange(process: asyncio.subprocess.Process, line: bytes) -> bytes:
    """The line that the process says next, after it was told one; empty where it ended."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(line)
        await process.stdin.drain()
    return await process.stdout.readline()
