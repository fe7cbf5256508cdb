"""Runs killed with SIGKILL at random moments and resumed: `python -m benchmarks.kill [runs] [task ...]`, 100 unless told.

Tasks: respond (unless told), and those whose later work builds on earlier results: self_instruct, topic_tree, evol_instruct.
Each scenario's answers, latencies and faults depend on the request alone. A run of it is killed one to three times and
then goes on to its end; the records must equal those of a run that was never killed, and no more requests may have been
repeated than were in flight when it was killed. Half of the scenarios have a judge as a second step, half want only
the first `n` records.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from benchmarks.pipeline import environment, rows_file
from factory.journal import Journal
from tests.model_server import ModelServer, Reply, key_of, last_text, lognormal, uniform

SETTINGS = {
    "respond": ["source.path=rows.jsonl"],
    "self_instruct": ["task.lag=8", "task.asked=4", "attempts=400"],
    "topic_tree": ["task.branches.general.breadth=[4,3]", "task.prompts=2", "task.types_each=1", "task.shares.coding=0",
                   "task.branches.maths.levels=[beginner]"],
    "evol_instruct": ["attempts=200"],
}  # fmt: skip
_VERBS = [
    "compare",
    "sort",
    "check",
    "explain",
    "plan",
    "shorten",
    "describe",
    "translate",
    "count",
    "invent",
    "correct",
    "rank",
]
_THINGS = [
    "letter",
    "recipe",
    "poem",
    "journey",
    "budget",
    "garden",
    "speech",
    "puzzle",
    "story",
    "timetable",
    "rule",
    "question",
    "proverb",
]


def imagined(body: dict[str, Any], draw: random.Random) -> str:
    """What a chat model might answer to any step of the tasks that build on earlier results, good and bad."""

    def phrase() -> str:
        words = [draw.choice(_VERBS).title(), "the", *(draw.choice(_THINGS) for _ in range(draw.randint(1, 4)))]
        return " ".join([*words, "for", draw.choice(_THINGS), str(draw.randint(1, 60))])

    schema = (body.get("response_format") or {}).get("json_schema", {}).get("schema", {})
    names = schema.get("properties", {})
    if "tasks" in names or "items" in names:
        (name,) = names
        count = names[name]["maxItems"] - (draw.random() < 0.1)
        return json.dumps({name: [phrase() for _ in range(count)]})
    if "instances" in names:
        keys = names["instances"]["items"]["properties"]
        cases = [{key: draw.choice(["", phrase()]) for key in keys} for _ in range(draw.randint(1, 5))]
        return json.dumps({"instances": cases})
    if "classification" in names or "equal" in names:
        return json.dumps({name: draw.random() < 0.3 if name != "reason" else "so it is" for name in names})
    for tag in ("instruction", "prompt"):
        if f"between <{tag}>" in last_text(body):
            return f"<{tag}>{phrase()}</{tag}>" if draw.random() > 0.1 else "I would rather not."
    return draw.choice(["Sorry.", "", phrase(), phrase(), phrase(), phrase()])


@dataclass(frozen=True)
class Scenario:
    """`seed` decides everything else that is drawn: latencies, failures, when the run is killed."""

    seed: int
    rows: int = 300
    concurrency: int = 16
    task: str = "respond"

    @property
    def judged(self) -> bool:
        return self.seed % 2 == 1

    @property
    def wanted(self) -> int | None:
        return self.rows // 3 if self.seed // 2 % 2 else None

    def answer(self, body: dict[str, Any]) -> Reply:
        key = key_of({"body": body, "seed": self.seed})
        chance, delay = uniform(key), lognormal(key[::-1], 0.02, 0.7)
        if self.task != "respond":
            if chance < 0.03:
                return Reply("scripted refusal", status=400, delay=delay)
            return Reply(imagined(body, random.Random(key)), delay=delay)
        if "response_format" in body:
            return Reply(f'{{"reason": "so it is", "score": {int(chance * 5) + 1}}}', delay=delay)
        if chance < 0.02:
            return Reply("scripted refusal", status=400, delay=delay)
        return Reply("" if chance < 0.1 else f"answer {key.hex()} to {last_text(body)}", delay=delay)

    def command(self, url: str) -> list[str]:
        words = [f"task={self.task}", "out=.", "engine=openai", f"engine.base_url={url}"]
        words += ["engine.identity=mock", "model=custom", "model.path=mock", f"engine.concurrency={self.concurrency}"]
        wanted = self.wanted or ("null" if self.task in ("respond", "topic_tree") else self.rows // 2)
        words += [*SETTINGS[self.task], f"n={wanted}", "engine.send_seed=true"]  # else two items may ask the very same
        words += [f"scorers.judge.enabled={str(self.judged).lower()}"] if self.task == "respond" else []
        return [sys.executable, "-m", "factory", "generate", *words]


@dataclass(frozen=True)
class Comparison:
    """What came of one scenario. `allowed`: requests in flight at the kills, which may be paid for twice."""

    kills: int
    requests: int
    repeated: int
    allowed: int
    same: bool
    seconds: float


async def compare(folder: Path, scenario: Scenario) -> Comparison:
    """Run the scenario in `folder/whole` undisturbed and in `folder/killed` killed, and compare."""
    started = time.perf_counter()
    whole, killed = folder / "whole", folder / "killed"
    for place in (whole, killed):
        place.mkdir(parents=True)
        rows_file(place, scenario.rows)
    with ModelServer(scenario.answer) as server:
        await _to_end(scenario, server, whole)
        needed = server.count
    draw = random.Random(scenario.seed)
    with ModelServer(scenario.answer) as server:
        kills = allowed = 0
        for _ in range(draw.randint(1, 3)):
            moment = draw.random() ** 2 * 1.2 * needed  # a few after the last request: while the report is written
            in_flight = await _killed(scenario, server, killed, int(moment), draw.random() * 0.05)
            kills += in_flight is not None
            allowed += in_flight or 0
        await _to_end(scenario, server, killed)
        return Comparison(
            kills,
            server.count,
            server.repeated - refused_again(scenario, server),
            allowed,
            outcome(whole) == outcome(killed),
            time.perf_counter() - started,
        )


def refused_again(scenario: Scenario, server: ModelServer) -> int:
    """Repeated requests whose answer was a refusal: it is no answer, so an item that went on after one hears it again."""
    refused = {key_of(body) for body in server.bodies if scenario.answer(body).status != 200}
    return sum(server.seen[key] - 1 for key in refused)


async def _start(scenario: Scenario, server: ModelServer, folder: Path) -> asyncio.subprocess.Process:
    silence = asyncio.subprocess.DEVNULL
    return await asyncio.create_subprocess_exec(
        *scenario.command(server.url), cwd=folder, env=environment(), stdout=silence, stderr=asyncio.subprocess.PIPE
    )


async def _to_end(scenario: Scenario, server: ModelServer, folder: Path) -> None:
    process = await _start(scenario, server, folder)
    _, said = await process.communicate()
    if process.returncode not in (0, 3):  # 3: too few of the answers were accepted, in either run
        raise SystemExit(f"seed {scenario.seed}: ended with {process.returncode}:\n{said.decode()}")


async def _killed(scenario: Scenario, server: ModelServer, folder: Path, after: int, later: float) -> int | None:
    """Kill the run once the server has got `after` requests; how many were in flight, or None if it was done before."""
    process = await _start(scenario, server, folder)
    goal = max(after, server.count)
    while server.count < goal and process.returncode is None:
        await asyncio.sleep(0.002)
    await asyncio.sleep(later)
    if process.returncode is not None:
        return None
    os.kill(process.pid, signal.SIGKILL)
    await process.communicate()
    while server.in_flight:  # what was sent is answered, to nobody
        await asyncio.sleep(0.01)
    return scenario.concurrency


def outcome(folder: Path) -> list[Any]:
    """Every needed record: id, fate, text, scores; and the rows of the data set, as written."""
    from pyarrow.parquet import read_table

    data = [row for file in sorted((folder / "data").glob("*.parquet")) for row in read_table(file).to_pylist()]
    kept: list[Any] = [(row["id"], row["messages"], row["parents"], row.get("scores")) for row in data]
    last = max((json.loads(row["meta"]).get("instruction", "") for row in data), default="")
    with Journal(folder / "journal.db") as journal:
        present = journal.current_config()
        assert present is not None
        wanted = json.loads((folder / "manifest.json").read_text())["wanted"]
        fates = [fate.record for fate in journal.fates(present[0])]
    tree = folder / "tree.json"
    kept.append(tree.read_text() if tree.exists() else "")
    # With an `n`, which seeds beyond the last one needed were tried is chance.
    rest = [] if wanted else [(r.id, r.kept, r.reason, orjson.dumps(r.model_dump(include={"scores"}))) for r in fates]
    return [kept, last, rest]


async def main(runs: int, task: str) -> None:
    found: list[Comparison] = []
    for seed in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            found.append(await compare(Path(folder), Scenario(seed, task=task)))
        if not found[-1].same or found[-1].repeated > found[-1].allowed:
            print(f"seed {seed}: {found[-1]}", flush=True)
    kills, repeated = sum(each.kills for each in found), sum(each.repeated for each in found)
    print(
        f"{task}: {runs} runs killed {kills} times: records equal to the undisturbed run's in {sum(f.same for f in found)}; "
        f"{repeated} of {sum(each.requests for each in found)} requests repeated, at most "
        f"{max(each.repeated for each in found)} in a run; within what was in flight in "
        f"{sum(each.repeated <= each.allowed for each in found)}; {sum(each.seconds for each in found):.0f} s"
    )


if __name__ == "__main__":
    for name in sys.argv[2:] or ["respond"]:
        asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, name))
