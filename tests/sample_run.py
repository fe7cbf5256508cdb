"""A run folder as the pipeline leaves it, with every kind of fate, made through the journal's own interface."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from factory.engine.request import Request, Response
from factory.journal import Fate, Journal
from factory.outputs import carried_columns, final_fates, write_data
from factory.records import Message, Record, Score, Usage, content_hash

HOSTILE = (
    "Of course!</script><script>document.title='PWNED';window.pwned=1</script>"
    "<img src=x onerror=\"document.title='PWNED'\">"
    "<!-- <script> \u2028 [bold red]not markup[/] {{ 7*7 }} ```\n"
)
TOPICS = (
    "strings",
    "sorting",
    "dates",
    "graphs",
    "number theory",
    "parsing",
    "dynamic programming",
    "matrices",
    "sets",
)
_PROBLEMS = (
    ("Return the longest run of equal characters in a string as (character, length).", "longest_run", "text"),
    ("Merge overlapping closed intervals and return them sorted by start.", "merge_intervals", "intervals"),
    ("Count the vowels of each word and return a dictionary from word to count.", "vowel_counts", "sentence"),
    ("Return the n-th Fibonacci number modulo m in logarithmic time.", "fibonacci_mod", "n"),
    ("Flatten a nested list of integers, depth first, without recursion.", "flatten", "nested"),
)
# (share of records, reason; "" is kept)
CODE_FATES = (
    (0.52, ""),
    (0.09, "execution: wrong"),
    (0.07, "execution: exception"),
    (0.02, "execution: timeout"),
    (0.08, "test_strength: weak_tests"),
    (0.06, "parse: no code block"),
    (0.03, "parse: no tests"),
    (0.04, "rules: solution is shorter than 3 lines"),
    (0.03, "judge: the tests repeat the problem's example"),
    (0.02, "request: the answer was cut at max_tokens"),
    (0.02, "duplicate: same solution as an earlier record"),
    (0.02, "sandbox: memory"),
)
RESPOND_FATES = ((0.7, ""), (0.12, "judge: too vague"), (0.1, "rules: refusal"), (0.08, "parse: empty answer"))


def _solution(name: str, argument: str, number: int) -> str:
    return (
        f"def {name}({argument}):\n"
        f'    """Variant {number}: one pass, constant memory."""\n'
        f"    best, current = None, {number % 7}\n"
        f"    for position, item in enumerate({argument}):\n"
        f"        if item == best and position > {number % 5}:  # a run goes on\n"
        "            current += 1\n"
        "        else:\n"
        "            best, current = item, 1\n"
        "    return best, current\n"
    )


def _scores(reason: str, draw: random.Random) -> dict[str, Score]:
    stage = reason.partition(":")[0]
    why = reason.partition(": ")[2]
    if stage in ("parse", "request", "sandbox"):
        return {}
    if stage == "rules":
        return {"rules": Score(value=0, reason=why)}
    scores = {"rules": Score(value=1)}
    detail = {"status": "pass", "passed": 4, "total": 4, "trust": "isolated", "backend": "namespaces"}
    if stage == "execution":
        return scores | {"execution": Score(value=0, reason=why, detail=detail | {"status": why, "passed": 2})}
    strong = stage != "test_strength"
    share = round(min(1, draw.betavariate(6, 2)) * 0.4 + 0.6 if strong else draw.betavariate(2, 3) * 0.6, 3)
    scores["execution"] = Score(value=1, detail=detail)
    scores["test_strength"] = Score(
        value=share, reason="weak_tests", detail={"killed": round(share * 24), "mutants": 24}
    )
    if strong:
        low = stage == "judge"
        scores["judge"] = Score(value=draw.choice((1, 2) if low else (3, 4, 4, 5)), reason=why or "Clear and correct.")
    return scores


def _code_record(index: int, reason: str, draw: random.Random, hostile: str) -> Record:
    text, name, argument = _PROBLEMS[index % len(_PROBLEMS)]
    topic = TOPICS[min(int(draw.expovariate(0.35)), len(TOPICS) - 1)]
    problem = f"{text} Write `{name}({argument})`. Use variant {index}."
    solution = _solution(name, argument, index)
    tests = [f"assert {name}({value!r}) == {(value[0], 2)!r}" for value in ("aab", "bbc", "ddd", "zzy")]
    meta: dict[str, Any] = {"seed": {"topic": topic}}
    messages: tuple[Message, ...] = ()
    if not reason.startswith(("parse", "request", "sandbox")):
        attempts = [{"code": solution, "tests": tests, "verdict": "pass", "feedback": ""}]
        if index % 3 == 0:
            wrong = solution.replace("current += 1", "current -= 1")
            told = "AssertionError: longest_run('aab') gave ('a', 0), not ('a', 2)" + (
                hostile if index % 9 == 0 else ""
            )
            attempts.insert(0, {"code": wrong, "tests": tests, "verdict": "wrong", "feedback": told})
        if reason.startswith("execution"):
            attempts[-1] |= {"verdict": reason[11:], "feedback": "2 of 4 tests passed."}
        meta = {
            "language": "python", "topic": topic, "problem": problem, "solution": solution, "tests": tests,
            "attempts": attempts, "test_strength": 0.8,
        }  # fmt: skip
        answer = f"{hostile if index % 10 == 1 else 'One pass is enough.'}\n\n```python\n{solution}```\n"
        messages = (Message(role="user", content=problem), Message(role="assistant", content=answer))
    kept = not reason
    scores = _scores(reason, draw)
    identity = content_hash("code", index)
    parents = (content_hash("code", index - 1),) if index % 5 == 4 else ()
    usage = Usage(requests=3, prompt_tokens=900 + index % 90, completion_tokens=420 + index % 70, seconds=4.25)
    return Record(
        id=identity, task="code", messages=messages, meta=meta, scores=scores, kept=kept, reason=reason,
        parents=parents, usage=usage,
    )  # fmt: skip


def _respond_record(index: int, reason: str, draw: random.Random, hostile: str) -> Record:
    turns = (
        Message(role="system", content="You are brief."),
        Message(role="user", content=f"Name {index % 9 + 2} uses of a paper clip."),
        Message(role="assistant", content=f"1. A zipper pull.\n2. A bookmark.\n{hostile if index % 10 == 1 else ''}"),
    )
    return Record(
        id=content_hash("respond", index), task="respond", messages=turns,
        meta={"style": draw.choice(("list", "prose"))},
        scores={"judge": Score(value=draw.choice((4, 5)) if not reason else 2)},
        kept=not reason, reason=reason,
        usage=Usage(requests=1, prompt_tokens=40, completion_tokens=90, seconds=0.8),
    )  # fmt: skip


def records(count: int, task: str = "code", hostile: str = HOSTILE) -> list[Record]:
    """`count` records, the same ones every time."""
    draw = random.Random(7)
    shares = CODE_FATES if task == "code" else RESPOND_FATES
    make = _code_record if task == "code" else _respond_record
    reasons = draw.choices([reason for _, reason in shares], [share for share, _ in shares], k=count)
    return [make(index, reason, draw, hostile) for index, reason in enumerate(reasons)]


def manifest(made: Sequence[Record], **changes: Any) -> dict[str, Any]:
    """The manifest that belongs to these records."""
    task = made[0].task if made else "code"
    kept = sum(record.kept for record in made)
    reasons = Counter(record.reason for record in made if not record.kept)
    keep = "rules == 1 and execution == 1 and test_strength >= 0.6 and judge >= 3" if task == "code" else "judge >= 4"
    return {
        "task": task, "run": "code-demo", "wanted": kept or None, "seeds": len(made), "records": len(made),
        "kept": kept, "rejected": len(made) - kept, "reasons": dict(reasons), "keep": keep, "scores": {},
        "model": {"name": "smollm2", "path": "HuggingFaceTB/SmolLM2-135M-Instruct", "digest": "4f1c2d9ab0e35577"},
        "engine": {"kind": "vllm", "replicas": 4}, "templates": "9d1be0f2a7c4e613", "seed": 0,
        "tokens": {"prompt": 930 * len(made), "completion": 455 * len(made)}, "requests": 3 * len(made), "cost": 0.0,
        "seconds": 192.4, "versions": {"factory": "0.1.0", "python": "3.11.7", "vllm": "0.32.0"}, "finished": True,
        "stopped": None, "started_at": "2026-11-22T07:00:00Z", "ended_at": "2026-11-22T07:41:12Z",
    } | changes  # fmt: skip


async def _fill(journal: Journal, made: Sequence[Record], exchanges: bool) -> None:
    config = journal.config_id(
        "fixture", {"settings": {}, "templates": "9d1be0f2a7c4e613", "model": {"name": "smollm2"}}
    )
    draw, waiting = random.Random(1), []
    for index, record in enumerate(made):
        keys = []
        for label in ("problem", "solution", "tests") if exchanges else ():
            asked = f"{label} for seed {index}: {record.messages[0].content if record.messages else 'a topic'}"
            request = Request((Message(role="user", content=asked),), sampling={"temperature": 0.8}, seed=index)
            text = record.messages[-1].content if record.messages else "I cannot do that."
            slow = draw.lognormvariate({"problem": -0.4, "solution": 0.9, "tests": 0.3}[label], 0.5)
            keys.append(request.key(f"fixture/{label}"))
            response = Response(text, "stop", 300, 120 + index % 90, slow)
            waiting.append(asyncio.ensure_future(journal.add_response(keys[-1], label, request, response)))
        fate = Fate(index, 0, record, {"item": f"item-{index:05}", "exchanges": keys})
        journal.add_fates(config, f"item-{index:05}", [fate], [None])
        if len(waiting) > 4000:
            await asyncio.gather(*waiting)
            waiting.clear()
    await asyncio.gather(*waiting)
    journal.flush()


def write_run(folder: Path, made: Sequence[Record], *, exchanges: bool = True, **changes: Any) -> Path:
    """Journal and manifest of these records in `folder`; responses are spread over 40 minutes and a pause."""
    folder.mkdir(parents=True, exist_ok=True)
    with Journal(folder / "journal.db") as journal:
        asyncio.run(_fill(journal, made, exchanges))
    content = manifest(made, **({"run": folder.name} | changes))
    (folder / "manifest.json").write_bytes(orjson.dumps(content))
    _spread(folder / "journal.db", random.Random(3))
    return folder


def write_parquet(run_dir: Path) -> None:
    """The run's data files, as the command line writes them."""
    with Journal(run_dir / "journal.db") as journal:
        current = journal.current_config()
        assert current is not None
        names = {name for fate in journal.fates(current[0]) for name in fate.record.scores}
        columns = carried_columns(journal.fates(current[0]))
        write_data(run_dir, final_fates(journal, current[0], None), columns, sorted(names))


def _spread(path: Path, draw: random.Random) -> None:
    connection = sqlite3.connect(path)
    rows = [row for (row,) in connection.execute("SELECT rowid FROM responses ORDER BY rowid")]
    at, start = 0.0, time.time() - 9000
    for number, row in enumerate(rows):
        pace = 0.4 + min(number / max(len(rows), 1) * 6, 1.0)  # the servers warm up
        at += draw.expovariate(pace * len(rows) / 2400) + (3600 if number == int(len(rows) * 0.6) else 0)
        connection.execute("UPDATE responses SET made_at=? WHERE rowid=?", (start + at, row))
    connection.commit()
    connection.close()
