"""The machine of `iterate`: every stage once and in order, whatever ends it on the way. The commands are pretended here;
tests/iterate/test_smoke.py runs real ones."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from factory.compose import compose_config
from factory.config import options
from factory.errors import ConfigError, UserError
from factory.iterate.examples import shown_examples
from factory.iterate.plan import checked_settings
from factory.iterate.run import iterate
from factory.iterate.settings import IterateSettings
from factory.iterate.stages import Plan, Stage
from factory.iterate.state import State
from factory.iterate.words import merged, words
from factory.progress import Display
from factory.reasoning import final_answer

PROGRAM = (sys.executable, str(Path(__file__).with_name("pretended.py")))


class Engines:
    """Serves nothing, and remembers for whom."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.rests = 0

    async def serve(self, path: str) -> list[str]:
        self.served.append(path)
        return ["engine=openai"]

    async def rest(self) -> None:
        self.rests += 1

    def environment(self) -> dict[str, str]:
        return {"FACTORY_ITERATE_KEY": "k"}


def settings_of(*more: str) -> tuple[IterateSettings, dict[str, Any]]:
    composed, problems = compose_config("iterate", ["recipe=reasoning", "rounds=2", "seeds=[0,1]", *more])
    settings = checked_settings(composed, problems)
    assert problems == []
    assert settings is not None
    return settings, composed


SETTINGS, COMPOSED = settings_of()
ONE, ONE_COMPOSED = settings_of("seeds=[0]", "rounds=1")


def stages_of(settings: IterateSettings) -> list[Stage]:
    plan = Plan(settings)
    found = list(plan.start())
    for seed in settings.seeds:
        for round_ in range(1, settings.rounds + 1):
            found += plan.round(seed, round_)
        found += plan.controls(seed)
    return found


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PRETEND_LOG", str(tmp_path / "log"))


def told() -> list[list[Any]]:
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in Path("log").read_text().splitlines()]
    return []


def run(settings: IterateSettings, composed: dict[str, Any], engines: Engines | None = None) -> int:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Engines]:
        yield engines or Engines()

    examples = Path(settings.out, "examples.jsonl")
    examples.parent.mkdir(parents=True, exist_ok=True)
    examples.touch()  # made by reasoning-gym, which takes its time; test_the_examples_are_... makes them
    return asyncio.run(iterate(settings, composed, Display(quiet=True), program=PROGRAM, engines=opened()))


def test_every_stage_runs_once_each_seed_in_order_and_never_again() -> None:
    assert run(SETTINGS, COMPOSED) == 0
    ran = [out for _, out, _ in told()]
    assert sorted(ran) == sorted(str(stage.folder) for stage in stages_of(SETTINGS))
    for seed in (0, 1):
        own = [out for out in ran if f"seed-{seed}" in out]
        rounds = [stage for stage in stages_of(SETTINGS) if f"seed-{seed}/" in stage.key and "control" not in stage.key]
        chain = [
            str(stage.folder) for stage in rounds if stage.lane in ("engine", "train") and stage.command != "evaluate"
        ]
        assert [out for out in own if out in chain] == chain
        for stage in rounds:
            if stage.command == "evaluate":
                trained = str(stage.folder.parent / "dpo")
                assert own.index(trained) < own.index(str(stage.folder))
    assert run(SETTINGS, COMPOSED) == 0
    assert len(told()) == len(ran)


def test_the_next_round_does_not_wait_for_an_evaluation() -> None:
    run(ONE.model_copy(update={"rounds": 2}), ONE_COMPOSED)
    order = [out.removeprefix("outputs/reasoning/seed-0/") for _, out, _ in told()]
    assert order.index("round-2/generate") < order.index("round-1/evaluate-held_out") < order.index("round-2/dpo")


def test_each_round_starts_from_what_the_one_before_made() -> None:
    engines = Engines()
    run(ONE.model_copy(update={"rounds": 2}), ONE_COMPOSED, engines)
    by_folder = {out: options for _, out, options in told()}
    root = "outputs/reasoning/seed-0"
    assert by_folder[f"{root}/round-2/generate"]["model.path"] == f"'{root}/round-1/dpo/model'"
    assert "model.path" not in by_folder[f"{root}/round-2/sft"], "from the base again"
    assert by_folder[f"{root}/round-2/sft"]["data"] == f"['{root}/round-1/samples','{root}/round-2/samples']"
    assert by_folder[f"{root}/round-2/dpo"]["data"] == f"['{root}/round-2/pairs']"
    assert by_folder[f"{root}/round-1/generate"]["task.shots"] == "4"
    assert by_folder[f"{root}/round-2/generate"]["task.shots"] == "0"
    assert f"{root}/round-2/dpo/model" in engines.served


def test_rounds_after_the_last_sft_go_on_from_the_model_before() -> None:
    settings, composed = settings_of("recipe.sft.until=1", "rounds=3", "seeds=[0]")
    run(settings, composed)
    by_folder = {out: options for _, out, options in told()}
    root = "outputs/reasoning/seed-0"
    assert f"{root}/round-1/sft" in by_folder
    assert not {f"{root}/round-{number}/sft" for number in (2, 3)} & set(by_folder)
    for number in (2, 3):
        assert by_folder[f"{root}/round-{number}/dpo"]["model.path"] == f"'{root}/round-{number - 1}/dpo/model'"
        assert by_folder[f"{root}/round-{number}/dpo"]["data"] == f"['{root}/round-{number}/pairs']"
    controls = {Path(out).name: options for out, options in by_folder.items() if "/round-3/control-" in out}
    steps = {name: options.get("steps") for name, options in controls.items() if name.count("-") == 1}
    assert steps == {"control-unfiltered": "28", "control-seeds": "28", "control-no_nll": "7"}, (
        "sft, dpo, dpo, dpo: 7 each"
    )
    assert controls["control-no_nll"]["model.path"] == f"'{root}/round-2/dpo/model'"
    assert "model.path" not in controls["control-unfiltered"]


@pytest.mark.parametrize("recipe", options("recipe"))
def test_what_a_stage_reads_was_made_before_it(recipe: str) -> None:
    settings, _ = settings_of(f"recipe={recipe}", "recipe.reward.enabled=true", "recipe.rpo.enabled=true", "seeds=[0]")
    made = {f"outputs/{recipe}/examples.jsonl"}
    for stage in stages_of(settings):
        read = {path for word in stage.words for path in re.findall(rf"outputs/{recipe}/[\w./-]+", word)}
        read = {path.removesuffix("/model") for path in read} - {str(stage.folder)}
        assert read <= made, f"{stage.key} reads {read - made}"
        made.add(str(stage.folder))


def test_controls_train_for_as_many_steps() -> None:
    run(ONE, ONE_COMPOSED)
    steps = {Path(out).name: options.get("steps") for command, out, options in told() if command == "train"}
    assert steps == {"sft": None, "dpo": None, "control-unfiltered": "14", "control-seeds": "14", "control-no_nll": "7"}


def test_a_larger_number_of_rounds_goes_on() -> None:
    run(ONE, ONE_COMPOSED)
    before = len(told())
    more = ONE.model_copy(update={"rounds": 2})
    assert run(more, ONE_COMPOSED) == 0
    new = {out for _, out, _ in told()[before:]}
    assert new == {str(stage.folder) for stage in stages_of(more)} - {str(stage.folder) for stage in stages_of(ONE)}


def test_a_failed_stage_is_told_with_the_end_of_its_log_and_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_FAIL", "round-1/sft")
    with pytest.raises(UserError, match=r"(?s)seed-0/round-1/sft.*status 1.*and told at length"):
        run(ONE, ONE_COMPOSED)
    monkeypatch.delenv("PRETEND_FAIL")
    assert run(ONE, ONE_COMPOSED) == 0
    assert [out for _, out, _ in told()].count("outputs/reasoning/seed-0/round-1/sft") == 2
    assert [out for _, out, _ in told()].count("outputs/reasoning/seed-0/round-1/generate") == 1


@pytest.mark.parametrize("status", [0, 3], ids=["all that was to be tried", "stopped before n"])
def test_too_few_records_end_the_run(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_STATUS", str(status))
    monkeypatch.setenv("PRETEND_KEPT", "5")
    with pytest.raises(
        UserError, match="kept 5 records, fewer than recipe.generate.at_least=200; most .* execution: wrong"
    ):
        run(ONE, ONE_COMPOSED)
    generate = ONE.recipe.generate.model_copy(update={"at_least": 5})
    enough = ONE.model_copy(update={"recipe": ONE.recipe.model_copy(update={"generate": generate})})
    assert run(enough, ONE_COMPOSED) == 0, "all that there was, and enough"


@pytest.mark.parametrize("which", ["generate", "evaluate"])
@pytest.mark.parametrize("why", ["the engine is gone", "the disk is full"])
def test_what_was_broken_off_is_not_done_however_much_there_is(
    which: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost engine ends a command with the status that too few records have; what an earlier try wrote is none of this one's."""
    monkeypatch.setenv("PRETEND_WHICH", which)
    monkeypatch.setenv("PRETEND_STATUS", "3")
    monkeypatch.setenv("PRETEND_STOPPED", why)
    if (which, why) == ("generate", "the disk is full"):
        earlier = Path("outputs/reasoning/seed-0/round-1/generate/manifest.json")
        earlier.parent.mkdir(parents=True)
        earlier.write_text('{"kept": 500, "records": 900}')
        os.utime(earlier, (1, 1))
    with pytest.raises(UserError, match="ended with status 3"):
        run(ONE, ONE_COMPOSED)
    for name in ("PRETEND_STATUS", "PRETEND_STOPPED"):
        monkeypatch.delenv(name)
    assert run(ONE, ONE_COMPOSED) == 0


def test_the_servers_devices_are_not_the_trainings(monkeypatch: pytest.MonkeyPatch) -> None:
    from factory.iterate import engines

    async def serve(self: engines.Engines, path: str) -> list[str]:
        return ["engine=openai"]

    monkeypatch.setattr(engines.Engines, "serve", serve)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")  # put back afterwards; the machine sets it for itself
    for number, (devices, expected) in enumerate([(None, "0,1,2"), ("1", "1")]):
        where = ONE.model_copy(
            update={"engine_devices": "0", "train_devices": devices, "out": f"outputs/{number}", "run": f"run-{number}"}
        )
        Path(where.out).mkdir(parents=True)
        Path(where.out, "examples.jsonl").touch()
        assert asyncio.run(iterate(where, ONE_COMPOSED, Display(quiet=True), program=PROGRAM)) == 0
        assert Path(where.out, "seed-0/round-1/sft/devices").read_text() == expected
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")


def test_a_command_is_told_of_every_server_and_of_all_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that died since the last command is waited for, since a command asks only those that it is told of."""
    from factory.iterate import engines

    class Servers:
        api_key, placements = "k", ()

        def __init__(self, *_: Any, **__: Any) -> None:
            self.alive = [True, True]

        async def __aenter__(self) -> Servers:
            return self

        async def __aexit__(self, *_: object) -> None: ...

        def __len__(self) -> int:
            return 2

        async def wait_alive(self, index: int) -> None:
            self.alive[index] = True

        def endpoints(self) -> list[str]:
            return [f"http://127.0.0.1:{index}/v1" for index in range(2) if self.alive[index]]

    monkeypatch.setattr(engines, "ManagedServers", Servers)
    model = SimpleNamespace(digest="d", served_name="m", kind="folder", path="nowhere")
    monkeypatch.setattr(engines, "resolve_model", lambda *_, **__: model)
    settings = ONE.engine.model_copy(update={"patience": 601.0, "first_patience": 31.0, "backoff": 0.25})

    async def twice() -> list[str]:
        own: Any = engines.Engines(settings, Path("logs"), lambda text: None, None)
        await own.serve("m")
        own._servers.alive[1] = False
        return list(await own.serve("m"))

    told_words = asyncio.run(twice())
    assert "engine.base_url=['http://127.0.0.1:0/v1','http://127.0.0.1:1/v1']" in told_words
    assert {"engine.patience=601.0", "engine.first_patience=31.0", "engine.backoff=0.25"} <= set(told_words)


def test_two_controls_on_the_same_data_make_it_once() -> None:
    twice = "recipe.controls.again={data: unfiltered, options: {batch: 64}}"
    settings, composed = settings_of("seeds=[0]", "rounds=1", f"+{twice}")
    assert run(settings, composed) == 0
    made = [out for _, out, _ in told()]
    assert made.count("outputs/reasoning/seed-0/round-1/unfiltered") == 1
    assert "outputs/reasoning/seed-0/round-1/control-again" in made
    results = json.loads(Path("outputs/reasoning/results.json").read_text())
    assert results["finished"] and results["stages"]["done"] == results["stages"]["planned"] == len(made)


def test_what_is_kept_out_of_the_samples_is_kept_out_of_the_unfiltered_ones_too() -> None:
    settings, _ = settings_of("recipe=weak_to_strong")
    (line,) = (stage.line for stage in Plan(settings).controls(0) if stage.key == "seed-0/round-1/unfiltered")
    assert "decontamination.enabled=true" in line


def test_in_pieces_of_any_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in the middle of stages again and again, it ends with every stage done once to its end."""
    monkeypatch.setenv("PRETEND_SLOW", "0.2")
    piece = ONE.model_copy(update={"max_minutes": 0.9 / 60})
    statuses = [run(piece, ONE_COMPOSED) for _ in range(3)]
    assert set(statuses) == {3}
    assert run(ONE, ONE_COMPOSED) == 0
    state = json.loads(Path("outputs/reasoning/state.json").read_text())
    assert set(state["stages"]) == {stage.key for stage in stages_of(ONE)}


def test_the_end_of_a_piece_breaks_off_a_start_of_the_servers_too() -> None:
    class Slow(Engines):
        async def serve(self, path: str) -> list[str]:
            await asyncio.sleep(60)
            return await super().serve(path)

    began = time.monotonic()
    engines = Slow()
    assert run(ONE.model_copy(update={"max_minutes": 0.5 / 60}), ONE_COMPOSED, engines) == 3
    assert time.monotonic() - began < 30
    assert not engines.served


def test_killed_at_any_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL of the machine itself: the next one goes on from the stage that was under way."""
    import os
    import signal
    import subprocess

    monkeypatch.setenv("PRETEND_SLOW", "0.1")
    root = Path(__file__).parents[2]
    script = (
        f"import sys; sys.path[:0] = [{str(root)!r}]\n"
        "from tests.iterate.test_loop import ONE, ONE_COMPOSED, run\n"
        "sys.exit(run(ONE, ONE_COMPOSED))"
    )
    for seconds in (2.2, 2.9):
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
    state = json.loads(Path("outputs/reasoning/state.json").read_text())
    assert set(state["stages"]) == {stage.key for stage in stages_of(ONE)}


def test_engine_and_training_take_turns_without_overlap_and_share_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_SLOW", "0.15")

    def busy() -> float:
        """Seconds in which an engine's stage and a training one ran together."""
        rows = json.loads(Path("outputs/reasoning/state.json").read_text())["stretches"]
        engine = [(began, ended) for _, lane, began, ended in rows if lane == "engine"]
        train = [(began, ended) for _, lane, began, ended in rows if lane == "train"]
        return sum(max(0.0, min(b, d) - max(a, c)) for a, b in engine for c, d in train)

    engines = Engines()
    run(SETTINGS.model_copy(update={"overlap": False}), COMPOSED, engines)
    assert busy() < 0.05
    assert engines.rests, "the servers make room for the training"
    for path in sorted(Path("outputs").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    engines = Engines()
    run(SETTINGS.model_copy(update={"overlap": True}), COMPOSED, engines)
    assert busy() > 0.2
    assert not engines.rests


def test_as_many_trainings_as_are_asked_for_go_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETEND_SLOW", "0.15")
    run(SETTINGS.model_copy(update={"overlap": True, "trainings": 2}), COMPOSED)
    rows = json.loads(Path("outputs/reasoning/state.json").read_text())["stretches"]
    train = [(began, ended) for _, lane, began, ended in rows if lane == "train"]
    at_once = [sum(begin <= moment < end for begin, end in train) for moment, _ in train]
    assert max(at_once) == 2


def test_other_settings_in_the_same_folder_are_refused() -> None:
    run(ONE, ONE_COMPOSED)
    other, composed = settings_of("seeds=[0]", "rounds=1", "recipe.sft.options.epochs=9", "max_minutes=1")
    with pytest.raises(ConfigError, match=r"recipe\.sft\.options\.epochs"):
        run(other, composed)


def test_a_damaged_state_is_told() -> None:
    Path("outputs/reasoning").mkdir(parents=True)
    Path("outputs/reasoning/state.json").write_text("{")
    with pytest.raises(ConfigError, match=r"state\.json cannot be read"):
        run(ONE, ONE_COMPOSED)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["recipe.sft.enabled=false", "recipe.dpo.enabled=false"], "trains nothing"),
        (["recipe.evaluate.held_out.enabled=false", "recipe.evaluate.shown.enabled=false", "recipe.evaluate.harder.enabled=false", "recipe.evaluate.harder_shown.enabled=false"], "measures nothing"),
        (["recipe.merge.enabled=true", "recipe.merge.of=[rpo]"], "recipe.rpo is not enabled"),
        (["recipe.sft.options.epochz=1"], "epochz"),
        (["recipe.sft.until=0"], "recipe.sft.until"),
        (["recipe.sft.until=1", "recipe.dpo.enabled=false"], "the rounds after it train nothing"),
        (["recipe.sft.until=1", "recipe.merge.enabled=true"], "recipe.merge.of=sft"),
        (["recipe.sft.until=1", "recipe.students=[smollm2,gemma3_270m]"], "recipe.students: 2 of them"),
        (["recipe.generate.use.task=nothing"], "no such task"),
        (["seeds=[1,1]"], "different numbers"),
        (["rounds=0"], "rounds=0"),
        (["overlap=false", "trainings=2"], "trainings=2: needs overlap=true"),
        (["engine=openai", "engine.base_url=http://127.0.0.1:9/v1"], "serves its own models"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_runs(more: Sequence[str], said: str) -> None:
    composed, problems = compose_config("iterate", ["recipe=reasoning", *more])
    checked_settings(composed, problems)
    assert any(said in problem for problem in problems), problems


# ---- words

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=20)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z_]{1,6}", fullmatch=True), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@given(VALUE)
def test_hydra_reads_a_value_as_it_was_meant(value: Any) -> None:
    for word in words({}, {"key": {"inner": value}}):
        parsed = OverridesParser.create().parse_overrides([word])[0]
        wanted: Any = {"inner": value}
        for part in parsed.key_or_group.split(".")[1:]:
            wanted = wanted[part]
        found = parsed.value()
        assert json.loads(json.dumps(found, default=str)) == json.loads(json.dumps(wanted))


@given(st.dictionaries(TEXT, st.integers()), st.dictionaries(TEXT, st.integers()))
def test_later_options_win(first: dict[str, int], second: dict[str, int]) -> None:
    assert merged(first, second) == {**first, **second}
    assert merged({"a": first}, {"a": second}) == {"a": {**first, **second}}


def test_the_examples_are_what_the_first_round_shows() -> None:
    rows = shown_examples(next(Plan(ONE).round(0, 1)))
    assert len(rows) == 4 * 5
    for row in rows:
        assert [turn["role"] for turn in row["messages"]] == ["user", "assistant"]
        assert final_answer(row["messages"][1]["content"])
    with pytest.raises(ConfigError, match="shows none"):
        shown_examples(next(Plan(ONE).round(0, 2)))


def test_state_is_written_whole(tmp_path: Path) -> None:
    state = State(tmp_path, {"a": 1})
    state.finish("one", steps=3)
    again = State(tmp_path, {"a": 1})
    assert again.done("one")
    assert not again.done("two")
    assert again.facts("one")["steps"] == 3
