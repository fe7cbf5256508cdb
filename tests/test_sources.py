"""Where rows come from: every format gives the same rows, and one bad row is one lost record."""

from __future__ import annotations

import csv
import datetime
import decimal
import itertools
import json
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet
import pytest

from factory.errors import RecordError, Stopped
from factory.sources import Item, Source, SourceSettings

ROWS = [{"instruction": f"say {word}", "topic": topic} for word, topic in (("ä", "a"), ("b, c", "b"), ('"d"\n', "c"))]


def source(path: Path | None = None, seed: int = 0, **fields: Any) -> Source:
    return Source(SourceSettings(path=str(path) if path else None, **fields), seed)


def rows(of: Source, count: int | None = None) -> list[Any]:
    return [dict(item.row) for item in itertools.islice(of.items(), count)]


def loss(item: Item) -> str:
    with pytest.raises(RecordError) as caught:
        item.row  # noqa: B018
    return str(caught.value)


def write(path: Path, made: list[dict[str, Any]]) -> Path:
    if path.suffix in (".jsonl", ".ndjson"):
        path.write_bytes(b"\n\n".join(map(orjson.dumps, made)))
    elif path.suffix == ".json":
        path.write_text(json.dumps(made))
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.Table.from_pylist(made), path)
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, made[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(made)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "json", "csv", "tsv", "parquet"])
def test_every_format_gives_the_rows(tmp_path: Path, suffix: str) -> None:
    of = source(write(tmp_path / f"rows.{suffix}", ROWS))
    assert of.check() == []
    assert of.columns() == {"instruction", "topic"}
    assert rows(of) == ROWS
    assert not of.endless
    digests = [item.digest for item in of.items()]
    assert len(set(digests)) == 3
    assert digests == [item.digest for item in source(tmp_path / f"rows.{suffix}").items()]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows.{suffix}", ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert rows(source(path)) == ROWS


def test_a_saved_data_set_and_a_folder_of_parquet(tmp_path: Path) -> None:
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "saved"))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "splits"))
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "part.parquet", ROWS)
    assert rows(source(tmp_path / "saved")) == ROWS
    assert rows(source(tmp_path / "splits", split="test")) == ROWS[:1]
    assert rows(source(tmp_path / "folder")) == ROWS


@pytest.mark.parametrize("card", [False, True])
def test_a_folder_that_was_written_again_gives_what_it_holds_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, card: bool
) -> None:
    """`datasets` keeps what it read of a folder with a card, and gave the old rows for ever: an export made anew, say."""
    monkeypatch.chdir(tmp_path)
    Path("made").mkdir()
    if card:
        files = [{"config_name": "default", "data_files": [{"split": "train", "path": "*.parquet"}]}]
        Path("made/README.md").write_text(f"---\nconfigs: {json.dumps(files)}\n---\n")
    for count in (2, 1):
        write(Path("made/part-00000.parquet"), ROWS[:count])
        assert rows(source(Path("made"))) == ROWS[:count]


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "two.md").write_text("zweitens: ü", encoding="utf-8")
    (tmp_path / "one.txt").write_text("first")
    (tmp_path / "three.bin").write_bytes(b"\xff\xfe\x00")
    of = source(tmp_path)
    assert of.check() == []
    items = list(of.items())
    assert [dict(item.row) for item in items[:2]] == [
        {"text": "zweitens: ü", "path": "deep/two.md"},
        {"text": "first", "path": "one.txt"},
    ]
    assert "three.bin cannot be read as text" in loss(items[2])


def test_values_that_json_has_not_become_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    row = {
        "when": datetime.datetime(2024, 5, 1, 12), "price": decimal.Decimal("1.50"), "raw": b"\xff\x00", "none": None,
        "nested": {"days": [datetime.date(2024, 5, 1)]}, "nan": float("nan"), "took": datetime.timedelta(hours=1),
    }  # fmt: skip
    pyarrow.parquet.write_table(pa.Table.from_pylist([row]), path)
    (found,) = rows(source(path))
    assert orjson.loads(orjson.dumps(found)) == found
    assert found["when"] == "2024-05-01T12:00:00"
    assert found["price"] == "1.50"
    assert found["raw"] == "/wA="
    assert found["nested"] == {"days": ["2024-05-01"]}
    assert found["nan"] is None


def test_a_bad_row_is_an_item_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1, 2]\n{"a": 4}\n')
    items = list(source(path).items())
    assert [item.index for item in items] == [0, 1, 2, 3]
    assert dict(items[3].row) == {"a": 4}
    assert "rows.jsonl, row 2, is not JSON" in loss(items[1])
    assert "row 3, is not an object with named columns" in loss(items[2])
    table = tmp_path / "rows.csv"
    table.write_text("a,b\n1,2\n1,2,3\n")
    assert "more cells than the header" in loss(list(source(table).items())[1])


def test_a_cell_may_hold_a_book(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", [{"text": "word " * 60_000}])
    assert len(rows(source(path))[0]["text"]) == 300_000


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_file_that_breaks_off_stops_the_run_where_it_does(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"rows.{suffix}", [{"a": f"row {number}"} for number in range(5000)])
    if suffix == "csv":
        path.write_bytes(path.read_bytes() + b"\xff\xff\n")
    else:
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path), path, row_group_size=1000, compression="gzip")
        data = bytearray(path.read_bytes())
        middle = len(data) // 2
        data[middle : middle + 400] = bytes(400)
        path.write_bytes(bytes(data))
    of = source(path)
    assert of.check() == []
    seen: list[int] = []
    with pytest.raises(Stopped, match="cannot be read after item"):
        seen.extend(item.index for item in of.items())
    assert len(seen) >= 1000


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("missing.jsonl", None, "no such file"),
        ("empty.jsonl", b"", "is empty"),
        ("empty.csv", b"a,b\n", "is empty"),
        ("one.json", b'{"a": 1}', "must hold a list of rows"),
        ("broken.json", b"[1, 2", "cannot be read"),
        ("broken.parquet", b"no parquet", "cannot be read"),
        ("latin.csv", "a\nfa\xe7ade\n".encode("latin-1"), "cannot be read"),
        ("no-such-data-set", None, "no name of a dataset"),
    ],
)
def test_a_source_that_cannot_be_is_told_beforehand(
    tmp_path: Path, name: str, content: bytes | None, told: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    (problem,) = source(path).check()
    assert told in problem
    assert str(path) in problem


def test_nothing_named_is_told() -> None:
    assert "source.path is not set" in source().check()[0]


def test_a_list_in_the_configuration() -> None:
    of = source(items=("x", {"instruction": "y"}))
    assert rows(of) == [{"item": "x"}, {"instruction": "y"}]


def test_repeating_goes_on_for_ever_in_new_orders_that_the_seed_decides() -> None:
    of = source(items=tuple("abcdef"), repeat=True)
    assert of.endless
    drawn = [row["item"] for row in rows(of, 600)]
    rounds = ["".join(drawn[start : start + 6]) for start in range(0, 600, 6)]
    assert {"".join(sorted(each)) for each in rounds} == {"abcdef"}
    assert len(set(rounds)) > 50
    assert drawn == [row["item"] for row in rows(source(items=tuple("abcdef"), repeat=True), 600)]
    assert drawn != [row["item"] for row in rows(source(items=tuple("abcdef"), repeat=True, seed=1), 600)]
    digests = [item.digest for item in itertools.islice(of.items(), 600)]
    assert len(set(digests)) == 600, "the same seed drawn again is another question"


def test_repeating_nothing_ends(tmp_path: Path) -> None:
    assert rows(source(tmp_path, kind="texts", repeat=True)) == []


def test_a_limit_is_a_limit(tmp_path: Path) -> None:
    assert len(rows(source(write(tmp_path / "rows.jsonl", ROWS), limit=2))) == 2
    assert len(rows(source(items=("a",), repeat=True, limit=9))) == 9


def test_snippets_are_lines_of_the_files(tmp_path: Path) -> None:
    for name in ("one.py", "two.py", "three.txt"):
        (tmp_path / name).write_text("".join(f"{name} line {number}\n" for number in range(40)))
    (tmp_path / "empty.py").write_text("\n\n")
    of = source(tmp_path, kind="snippets", max_lines=5)
    assert of.endless
    found = rows(of, 100)
    assert {row["path"] for row in found} == {"one.py", "two.py"}
    for row in found:
        lines = row["snippet"].split("\n")
        assert 1 <= len(lines) <= 5
        assert lines[0] == f"{row['path']} line {row['line'] - 1}"
    assert found == rows(source(tmp_path, kind="snippets", max_lines=5), 100)


def test_a_million_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 1000)
    items = source(path).items()
    next(items)
    path.write_bytes(b"")  # what was not read yet is not in memory: at most a buffer of the file is
    assert sum(1 for _ in items) < 1000


def test_a_list_in_yaml(tmp_path: Path) -> None:
    path = tmp_path / "seeds.yaml"
    path.write_text("- one\n- instruction: two\n  level: 3\n- 4\n")
    of = source(path)
    assert of.check() == []
    assert rows(of) == [{"item": "one"}, {"instruction": "two", "level": 3}, {"item": 4}]
    path.write_text("a: b")
    assert "must hold a list of seeds" in source(path).check()[0]
    path.write_text("- [")
    assert "is not YAML" in source(path).check()[0]


def test_one_text_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("A note.")
    assert rows(source(tmp_path / "note.md")) == [{"text": "A note.", "path": "note.md"}]


def test_another_runs_records_are_seeds_and_parents(tmp_path: Path) -> None:
    from tests.factory_run import run_task
    from tests.model_server import ModelServer, Reply, last_text
    from tests.records import fates

    with ModelServer(lambda body: Reply("x" * 50 if "long" in last_text(body) else "short")) as server:
        first = ("source.items=[{instruction: a},{instruction: long},{instruction: c}]", "scorers.rules.max_chars=20")
        run_task(tmp_path, server, "respond", *first, "run=first")
        of = source(tmp_path / "outputs/first")
        assert of.kind == "run"
        assert of.check() == []
        kept = [(row["instruction"], row["messages"][1]["content"]) for row in rows(of)]
        assert kept == [("a", "short"), ("c", "short")]
        assert [row["instruction"] for row in rows(source(tmp_path / "outputs/first", lost=True))] == ["a", "c", "long"]
        run_task(tmp_path, server, "respond", f"source.path={tmp_path}/outputs/first", "run=second")
    ids = [record.id for record in fates(tmp_path, "first") if record.kept]
    assert [record.parents for record in fates(tmp_path, "second")] == [(identity,) for identity in ids]
    assert [record.messages[0].content for record in fates(tmp_path, "second")] == ["a", "c"]


SOURCE = '''
import math
import numpy
from pathlib import Path as P
from . import near

LIMIT = 3

def plain(x):
    """Twice."""
    return 2 * x

def rooted(x: float) -> float:
    return math.sqrt(x) + P("a").suffix.__len__()

def limited(x):
    return min(x, LIMIT)

def other(x):
    return plain(x)

def outside(x):
    return numpy.array(x)

def relative(x):
    return near.thing(x)

async def later(x):
    return x

@property
def marked(self):
    def inner(y):
        return [z for z in y]
    try:
        return inner(self)
    except ValueError as error:
        return error
'''


def test_functions_that_run_by_themselves(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(SOURCE)
    (tmp_path / "two.py").write_text("def broken(:\n")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden/three.py").write_text("def hidden(x):\n    return x\n")
    of = source(tmp_path, kind="functions")
    assert of.check() == []
    found = {row["name"]: row for row in rows(of)}
    assert set(found) == {"plain", "rooted", "marked"}
    assert found["plain"]["code"] == 'def plain(x):\n    """Twice."""\n    return 2 * x'
    assert found["rooted"]["code"].startswith("import math\nfrom pathlib import Path as P\n\n\ndef rooted")
    assert found["marked"]["code"].startswith("@property\ndef marked")
    assert (found["plain"]["path"], found["plain"]["line"]) == ("one.py", 9)
    for row in (found["plain"], found["rooted"]):
        exec(row["code"], {})
    (tmp_path / "one.py").write_text("x = 1\n")
    assert "no Python function that runs by itself" in of.check()[0]


def tree(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_who_imports_whom(tmp_path: Path) -> None:
    from factory.sources_code import importers

    root = tree(tmp_path / "pack", {
        "__init__.py": "", "core.py": "x = 1", "deep/__init__.py": "from pack import core", "deep/one.py": "from ..core import x",
        "deep/two.py": "import pack.core as c", "deep/three.py": "def f():\n    from pack.core import x", "four.py": "from . import core",
        "five.py": "import core", "six.py": "import core_other\nfrom x import core", "seven.py": "from .deep import one, nothing",
        "core_other.py": "", "broken.py": "import core\n)",
    })  # fmt: skip
    found = importers(root)
    assert found["core.py"] == ["deep/__init__.py", "deep/one.py", "deep/three.py", "deep/two.py", "five.py", "four.py"]
    assert found["deep/one.py"] == ["seven.py"]
    assert found["deep/__init__.py"] == ["seven.py"]
    assert found["core_other.py"] == ["six.py"]
    of = source(root, kind="repository")
    assert of.check() == []
    assert rows(of) == [{"repository": str(root), "removed": "core.py", "dependents": found["core.py"]}]
    digest = next(of.items()).digest
    (root / "core.py").write_text("x = 22")
    assert next(of.items()).digest != digest
    assert "that 7 others import" in source(root, kind="repository", least_importers=7).check()[0]
