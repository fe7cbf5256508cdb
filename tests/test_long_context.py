"""`task=long_context`: chunks, questions, summaries, repositories; every record with its whole document."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from factory.errors import ConfigError
from factory.tokens import Tokens
from tests.factory_run import run_task
from tests.model_server import ModelServer, Reply, last_text
from tests.records import fates, manifest
from tests.test_tokens import tokenizer_file

TASK = "long_context"


def line(number: int) -> str:
    return f"On day {number} the keeper of the light wrote that ship number {number} passed in fog."


def document(lines: int) -> str:
    return "\n\n".join(map(line, range(lines)))


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    tokenizer = tokenizer_file(tmp_path)
    return (
        f"task.tokenizer={tokenizer}",
        "task.chunk_tokens=300",
        "task.buckets=[1000, 8000]",
        "model.prompt_form=chat",
    )


def rows(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return f"source.path={folder}/rows.jsonl"


def day(text: str) -> str:
    found = re.search(r"On day (\d+) the", text)
    assert found
    return found.group(1)


def script(body: dict[str, Any]) -> Reply:
    """Summaries name the first day of what they summarise; a question asks about the first day that it is shown."""
    text = last_text(body)
    if text.startswith("This is part"):
        return Reply(f"On day {day(text)} the fog came; " + "and so on, " * 2)
    if text.startswith("These are summaries"):
        return Reply(f"On day {day(text)} the fog came, and stayed.")
    number = day(text)
    evidence = (
        f"On day {number} the fog came"
        if "a summary of" in text
        else line(int(number)).replace("keeper of", "keeper  of")
    )
    return Reply(f"<question>Which ship passed on day {number}?</question><answer>Number {number}.</answer>"
                 f"<evidence>\"{evidence}\"</evidence>")  # fmt: skip


def test_questions_and_summaries_of_a_document(tmp_path: Path, words: tuple[str, ...]) -> None:
    text = document(60)
    with ModelServer(script) as server:
        assert run_task(tmp_path, server, TASK, rows(tmp_path, {"text": text, "name": "log"}), *words) == 0
        asked = [last_text(body) for body in server.bodies]
    found = fates(tmp_path, TASK)
    assert [record.meta["kind"] for record in found] == ["qa", "qa", "summary", "summary_qa"]
    assert all(record.kept for record in found), [record.reason for record in found]
    tokens = Tokens(words[0].removeprefix("task.tokenizer="))
    chunks = list(tokens.chunks(text, 300))
    assert len(chunks) > 5
    for record in found:
        user, answer = (turn.content for turn in record.messages)
        assert user.startswith(text), "the whole document is in the training text"
        assert record.meta["tokens"] == tokens.count(user) + tokens.count(answer)
        assert record.meta["bucket"] == (1000 if record.meta["tokens"] <= 1000 else 8000)
        assert record.meta["chunks"] == len(chunks)
        assert record.meta["seed"] == {"name": "log"}
    first, second = found[:2]
    assert first.meta["chunk"] != second.meta["chunk"]
    for record in (first, second):
        number = day(chunks[record.meta["chunk"]])
        assert record.messages[0].content.endswith(f"Which ship passed on day {number}?")
        assert record.messages[1].content == f"Number {number}."
    assert found[2].messages[0].content.endswith("Summarise the document above.")
    assert found[2].messages[1].content == "On day 0 the fog came, and stayed."
    # A summary for each chunk, merged in groups that fit into a chunk, until one is left.
    assert sum(text.startswith("This is part") for text in asked) == len(chunks)
    merges = [text for text in asked if text.startswith("These are summaries")]
    assert len(merges) > 2
    assert all(tokens.count("".join(re.findall(r"<part>\n(.*?)\n</part>", text, re.DOTALL))) <= 300 for text in merges)


def test_a_short_document_is_one_chunk_and_its_summary_needs_no_merging(tmp_path: Path, words: tuple[str, ...]) -> None:
    with ModelServer(script) as server:
        run_task(tmp_path, server, TASK, rows(tmp_path, {"text": document(3)}), *words, "task.kinds=[summary]")
        assert server.count == 1
    (record,) = fates(tmp_path, TASK)
    assert (record.kept, record.meta["chunks"], record.meta["bucket"]) == (True, 1, 1000)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("<question>Why?</question><answer>So.</answer><evidence>Nothing like it.</evidence>", "qa: the evidence is not in the text"),
        (f"<question>What does this part say?</question><answer>So.</answer><evidence>{line(1)}</evidence>",
         "qa: the question points at a part that a reader cannot see"),
        (f"<question>Why?</question><answer></answer><evidence>{line(1)}</evidence>", "qa: parse: an empty part"),
        ("No.", "qa: parse: no <question> block"),
    ],
)  # fmt: skip
def test_what_is_lost_says_why_and_costs_nothing_else(
    tmp_path: Path, words: tuple[str, ...], reply: str, reason: str
) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return script(body) if last_text(body).startswith("This is part") else Reply(reply)

    with ModelServer(answer) as server:
        kinds = ("task.kinds=[qa, summary]", "task.questions=1")
        run_task(tmp_path, server, TASK, rows(tmp_path, {"text": document(3)}), *words, *kinds)
    assert manifest(tmp_path, TASK)["reasons"] == {reason: 1}
    assert manifest(tmp_path, TASK)["kept"] == 1


def test_what_fits_into_no_bucket_is_lost(tmp_path: Path, words: tuple[str, ...]) -> None:
    with ModelServer(script) as server:
        source = rows(tmp_path, {"text": document(400)}, {"text": " "})
        run_task(tmp_path, server, TASK, source, *words, "task.kinds=[qa]", "task.questions=1")
    assert manifest(tmp_path, TASK)["reasons"] == {"length: over 8000 tokens": 1, "source: the document is empty": 1}


def test_a_failed_summary_costs_its_records_only(tmp_path: Path, words: tuple[str, ...]) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        cut = last_text(body).startswith("These are")
        return Reply("On and on", finish_reason="length") if cut else script(body)

    with ModelServer(answer) as server:
        run_task(tmp_path, server, TASK, rows(tmp_path, {"text": document(40)}), *words, "task.questions=1")
    assert manifest(tmp_path, TASK)["reasons"] == {
        "summary: answer: cut off at the token limit": 1, "summary_qa: answer: cut off at the token limit": 1,
    }  # fmt: skip


def test_a_small_model_continues_examples(tmp_path: Path, words: tuple[str, ...]) -> None:
    replies = {
        "Question:": " Who wrote of ship number 0?\nAnswer: the keeper of the light\n",
        "Summary:": " Ships pass in fog.\n",
    }

    def answer(body: dict[str, Any]) -> Reply:
        return Reply(next(text for end, text in replies.items() if body["prompt"].endswith(end)))

    with ModelServer(answer) as server:
        small = (*words, "task.questions=1", "task.kinds=[qa, summary]", "model.prompt_form=few_shot")
        run_task(tmp_path, server, TASK, rows(tmp_path, {"text": document(3)}), *small)
        replies["Question:"] = " Who?\nAnswer: somebody entirely different\n"
        (tmp_path / "other").mkdir()
        run_task(tmp_path / "other", server, TASK, rows(tmp_path, {"text": document(3)}), *small)
    asked, told = fates(tmp_path, TASK)
    assert asked.kept and told.kept
    assert asked.messages[0].content.endswith("\nWho wrote of ship number 0?")
    assert told.messages[1].content == "Ships pass in fog."
    assert manifest(tmp_path / "other", TASK)["reasons"] == {"qa: the answer is not in the text": 1}


@pytest.mark.parametrize(
    ("question", "summary", "reasons"),
    [
        (
            " What is ship number 0?\nAnswer: ship number 0\n",
            " Ships pass in fog.\n",
            ["qa: the answer only repeats the question"],
        ),
        (
            " Who wrote it?\nAnswer: the keeper\n",
            " An island's ferry runs twice daily.\n",
            ["summary: the answer is not in the text"],
        ),
        (" Who wrote it", "\n", ["qa: parse: not question and answer", "summary: answer: empty"]),
    ],
)
def test_what_a_small_model_gets_wrong_is_lost(
    tmp_path: Path, words: tuple[str, ...], question: str, summary: str, reasons: list[str]
) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return Reply(question if body["prompt"].endswith("Question:") else summary)

    with ModelServer(answer) as server:
        small = (*words, "task.questions=1", "task.kinds=[qa, summary]", "model.prompt_form=few_shot")
        run_task(tmp_path, server, TASK, rows(tmp_path, {"text": document(3)}), *small)
    assert list(manifest(tmp_path, TASK)["reasons"]) == reasons


# ---- repositories


def repository(folder: Path, files: int = 12, lines: int = 4) -> Path:
    root = folder / "repo"
    (root / "pack").mkdir(parents=True)
    (root / "pack/__init__.py").write_text("")
    (root / "pack/core.py").write_text("def shared(x):\n    return x + 1\n")
    for number in range(files):
        using = "from pack.core import shared\n" if number < 6 else "import os\n"
        body = "".join(f"VALUE_{row} = {row}\n" for row in range(lines))
        (root / f"pack/part{number:03}.py").write_text(using + body)
    return root


def test_a_missing_file_and_who_imports_it(tmp_path: Path, words: tuple[str, ...]) -> None:
    root = repository(tmp_path)
    with ModelServer() as server:
        assert run_task(tmp_path, server, TASK, "source.kind=repository", f"source.path={root}", *words) == 0
        assert server.count == 0, "the repository answers itself"
    (record,) = fates(tmp_path, TASK)
    user, answer = (turn.content for turn in record.messages)
    assert record.kept
    assert "def shared" not in user
    assert user.count("# file: ") == 13
    assert "`pack/core.py`, is missing" in user
    assert re.findall(r"- `(.*?)`", answer) == [f"pack/part{number:03}.py" for number in range(6)]
    assert "```python\ndef shared(x):\n    return x + 1\n```" in answer
    assert record.meta["bucket"] == 1000 or record.meta["tokens"] > 1000


def test_files_that_import_it_are_shown_first_and_others_as_room_is_left(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    root = repository(tmp_path, files=40, lines=30)
    buckets = "task.buckets=[4000]"
    with ModelServer() as server:
        run_task(tmp_path, server, TASK, "source.kind=repository", f"source.path={root}", *words, buckets)
        small = (*words, "task.buckets=[800]", "run=small")
        run_task(tmp_path, server, TASK, "source.kind=repository", f"source.path={root}", *small)
    (record,) = fates(tmp_path, TASK)
    shown = re.findall(r"# file: (\S+)", record.messages[0].content)
    assert set(record.meta["dependents"]) <= set(shown)
    assert 7 <= len(shown) < 41
    assert 2500 < record.meta["tokens"] <= 4000
    assert manifest(tmp_path, "small")["reasons"] == {"length: over 800 tokens": 1}


def test_what_is_wrong_is_told_beforehand(tmp_path: Path, words: tuple[str, ...]) -> None:
    for other, told in (
        (("task.tokenizer=scripted",), "task.tokenizer=scripted"),
        (("task.buckets=[9, 3]",), "rising order"),
        (("task.kinds=[]",), "needs one of qa"),
        (("source.items=[a]", "source.path=null"), "column `text`"),
    ):
        with ModelServer() as server, pytest.raises(ConfigError, match=re.escape(told)):
            run_task(tmp_path, server, TASK, rows(tmp_path, {"text": "a"}), *words, *other)


# ---- memory


def test_long_records_are_written_a_few_at_a_time(tmp_path: Path) -> None:
    """What is in memory before it is written is bounded in bytes, not in rows."""
    import pyarrow.parquet

    items = ",".join(f"{{instruction: q{number}}}" for number in range(20))
    with ModelServer(lambda body: Reply("All is well. " * 50_000)) as server:
        run_task(tmp_path, server, "respond", f"source.items=[{items}]", "scorers.rules.max_repetition=null")
    file = pyarrow.parquet.ParquetFile(tmp_path / "outputs/respond/data/part-00000.parquet")
    assert file.metadata.num_rows == 20
    assert file.metadata.num_row_groups >= 2


def test_a_repository_of_300_files(tmp_path: Path, words: tuple[str, ...]) -> None:
    """Found, shown and answered, file by file; the largest bucket bounds what is put together."""
    import tracemalloc

    from benchmarks.long_context import write_repository

    write_repository(tmp_path / "repo", 300)
    source = ("source.kind=repository", f"source.path={tmp_path}/repo", "task.buckets=[131072]", "n=3", "in_flight=1")
    tracemalloc.start()
    with ModelServer() as server:
        assert run_task(tmp_path, server, TASK, *source, *words[:1]) == 0
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    kept = [record for record in fates(tmp_path, TASK) if record.kept]
    assert len(kept) == 3
    for record in kept:
        assert len(record.meta["dependents"]) == 29
        assert record.meta["files"] >= 29
        assert 100_000 < record.meta["tokens"] <= 131_072
    assert most < 120e6, f"{most / 1e6:.0f} MB"
