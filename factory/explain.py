"""One record's whole story for the terminal: where it came from, what was asked and answered, why it was kept or not.

What models wrote is shown as it is, except that it may neither speak rich's markup nor steer the terminal: control
characters are shown as symbols.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from factory.errors import EXIT_DONE, EXIT_USAGE, UserError
from factory.journal import Fate, Journal
from factory.outputs import final_fates
from factory.records import Record, Score
from factory.report.charts import duration, number
from factory.report.collect import load_manifest, open_journal

_MOST = 20  # records listed where a prefix fits several, and ancestors of a record
_CLIP = 400  # characters of an ancestor's instruction


@dataclass(frozen=True)
class Found:
    """A record in one run, under the configuration that decided it."""

    run_dir: Path
    config: int
    fate: Fate


def explain(prefix: str, run_dirs: Sequence[Path], console: Console) -> int:
    """Print the story of the record whose id begins with `prefix`; its exit status.

    Where several records fit they are listed and the status is 2. Raises `UserError` where none does.
    """
    prefix = prefix.strip().lower()
    found = list(_search(prefix, run_dirs))
    if not found:
        raise UserError(_not_found(prefix, run_dirs))
    if len({item.fate.record.id for item in found}) > 1:
        _list(prefix, found, console)
        return EXIT_USAGE
    first, *others = found
    with open_journal(first.run_dir) as journal:
        for part in _story(first, journal):
            console.print(part)
    for other in others:
        where = f"{other.run_dir}, configuration {other.config}"
        console.print(Text(f"Also in {where}: {_fate(other.fate)}", style="dim"))
    return EXIT_DONE


def _search(prefix: str, run_dirs: Sequence[Path]) -> Iterator[Found]:
    if not prefix:
        return
    for run_dir in run_dirs:
        if (run_dir / "journal.db").is_file():
            with open_journal(run_dir) as journal:
                for config, fate in journal.find_record(prefix):
                    yield Found(run_dir, config, _final(run_dir, journal, config, fate))


def _final(run_dir: Path, journal: Journal, config: int, fate: Fate) -> Fate:
    """The fate after duplicates and surplus, which only the whole run decides; looked for only where there are any."""
    current = journal.current_config()
    if not fate.record.kept or current is None or current[0] != config:
        return fate
    try:
        manifest = load_manifest(run_dir)
    except UserError:  # the run is still going: nothing is decided yet
        return fate
    if not any(reason.startswith(("duplicate", "surplus")) for reason in manifest.get("reasons") or ()):
        return fate
    place = (fate.seed_index, fate.sample)
    fates = final_fates(journal, config, manifest.get("wanted"))
    return next((other for other in fates if (other.seed_index, other.sample) == place), fate)


def _not_found(prefix: str, run_dirs: Sequence[Path]) -> str:
    searched = ", ".join(str(run_dir) for run_dir in run_dirs if (run_dir / "journal.db").is_file())
    if not searched:
        where = ", ".join(str(run_dir) for run_dir in run_dirs) or "no folder at all"
        return f"no journal.db was found in {where}: give the run's folder with run=NAME or out=DIR, or generate first."
    if not prefix or set(prefix) - set("0123456789abcdef"):
        return f"{prefix!r} is no record id: they are hexadecimal, such as 3fa9c0; searched {searched}. See its report."
    return (
        f"no record's id begins with {prefix!r} in {searched}. Give fewer characters, name the run with run=NAME, or "
        "copy an id from the run's report.html or the `id` column of its Parquet files."
    )


def _list(prefix: str, found: Sequence[Found], console: Console) -> None:
    table = Table("Record", "Run", "Fate", box=None, header_style="bold")
    shown = {item.fate.record.id: item for item in reversed(found)}
    for item in list(shown.values())[:_MOST]:
        table.add_row(clean(item.fate.record.id), clean(str(item.run_dir)), _fate(item.fate))
    more = "" if len(shown) < _MOST else " (there may be more)"
    console.print(Text(f"{len(shown)} records begin with {prefix!r}{more}; give more characters of the id:"))
    console.print(table)


def clean(text: str, style: str = "") -> Text:
    """Text of a model's making: no markup, no control sequence reaches the terminal."""
    shown = "".join(
        char if char in "\n\t" or unicodedata.category(char) not in ("Cc", "Cf") else _symbol(char) for char in text
    )
    return Text(shown, style=style)


def _symbol(char: str) -> str:
    """␛ for the escape character; nothing for invisible marks, some of which turn the direction of writing."""
    code = ord(char)
    return chr(0x2400 + code) if code < 32 else "␡" if code == 127 else ("" if char in "\u00ad\u200d" else "�")


def _fate(fate: Fate) -> Text:
    record = fate.record
    if record.kept:
        return Text("kept", style="bold green")
    open_ = "" if fate.final else " (not final: a new run of the same command tries again)"
    return Text.assemble(("rejected", "bold red"), ": ", clean(record.reason or "no reason given"), open_)


# ---- the story


def _story(found: Found, journal: Journal) -> Iterator[RenderableType]:
    fate = found.fate
    record = fate.record
    yield _heading(f"Record {record.id}", "bold")
    yield _facts(found)
    yield from _lineage(record, journal)
    for turn, key in enumerate(fate.story.get("exchanges") or (), start=1):
        yield from _exchange(turn, str(key), journal)
    attempts = record.meta.get("attempts")
    if isinstance(attempts, Sequence) and not isinstance(attempts, str) and attempts:
        yield _heading("Attempts")
        for place, attempt in enumerate(attempts, start=1):
            yield from _attempt(place, attempt, str(record.meta.get("language") or "text"))
    if record.messages:
        yield _heading("Conversation, as it is exported")
        yield from (_said(message.role, message.content) for message in record.messages)
    if record.scores:
        yield _heading("Scores")
        yield _scores(record.scores)
    rest = {key: value for key, value in record.meta.items() if key not in ("attempts", "seed", "lineage")}
    if rest:
        yield _heading("Metadata")
        yield from _metadata(rest, [message.content for message in record.messages])
    yield _heading("See more")
    yield _more(found)


def _heading(title: str, style: str = "") -> Rule:
    return Rule(clean(title, style or "bold cyan"), align="left", style="dim")


def _facts(found: Found) -> Table:
    fate, record = found.fate, found.fate.record
    usage = record.usage
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_row("Fate", _fate(fate))
    table.add_row("Task", clean(record.task))
    table.add_row("Run", clean(str(found.run_dir)))
    table.add_row(
        "Seed item",
        clean(f"number {fate.seed_index}, digest {fate.story.get('item', 'unknown')}, record {fate.sample} of it"),
    )
    seed = record.meta.get("seed")
    if isinstance(seed, Mapping):
        table.add_row("", clean(_json(seed)))
    tokens = f"{number(usage.prompt_tokens)} tokens in, {number(usage.completion_tokens)} out"
    table.add_row("Cost", f"{usage.requests} requests, {tokens}, {duration(usage.seconds)} of waiting")
    for parent in record.parents:
        table.add_row("Made from", clean(parent))
    return table


def _lineage(record: Record, journal: Journal) -> Iterator[RenderableType]:
    """What the record was made from, the oldest first: each ancestor in this journal with what became of it."""
    steps: list[RenderableType] = []
    seen, parents = {record.id}, record.parents
    while parents and parents[0] not in seen and len(steps) < _MOST:
        seen.add(parents[0])
        found = journal.find_record(parents[0])
        if not found:
            steps.append(clean(f"{parents[0]}: not in this journal", "dim"))
            break
        fate = found[0][1]
        steps.append(Group(_step(fate), _indented(clean(_asked(fate.record)))))
        parents = fate.record.parents
    if steps:
        yield _heading("Lineage")
        yield from (_indented(step) for step in reversed(steps))
        yield _indented(clean(f"{_turn(record)}this record"))


def _step(fate: Fate) -> Text:
    return Text.assemble(clean(_turn(fate.record)), clean(fate.record.id[:12], "bold"), " ", _fate(fate))


def _turn(record: Record) -> str:
    """The round and the operation of an evolution, where the record tells them."""
    number, operation = record.meta.get("round"), record.meta.get("operation")
    return "" if number is None else f"round {number}{f', {operation}' if operation else ''}: "


def _asked(record: Record) -> str:
    text = next((message.content for message in record.messages if message.role == "user"), "")
    text = str(record.meta.get("instruction") or text)
    return text if len(text) <= _CLIP else f"{text[:_CLIP]}…"


def _metadata(meta: Mapping[str, Any], said: Sequence[str]) -> Iterator[RenderableType]:
    """Long texts as texts, unless the conversation has them already; the rest as JSON."""
    texts = {key: value for key, value in meta.items() if isinstance(value, str) and "\n" in value.strip()}
    short = {key: value for key, value in meta.items() if key not in texts}
    if short:
        yield _indented(clean(_json(short)))
    for key, value in texts.items():
        shown = any(value.strip() in text for text in said)
        yield _said(key, "(in the conversation above)" if shown else value)


def _exchange(turn: int, key: str, journal: Journal) -> Iterator[RenderableType]:
    try:
        exchange = journal.exchange(key)
    except ValueError:  # not a key at all
        exchange = None
    if exchange is None:
        yield _heading(f"{turn}. Asked")
        yield _indented(clean(f"The journal no longer holds the response {key}.", "dim"))
        return
    tokens = f"{number(exchange['prompt_tokens'])} tokens in, {number(exchange['completion_tokens'])} out"
    yield _heading(f"{turn}. Asked: {exchange['label']} · {tokens} · {duration(exchange['seconds'])}")
    request, response = exchange["request"], exchange["response"]
    settings = {**request.get("sampling", {}), "seed": request.get("seed")}
    yield _indented(clean(", ".join(f"{name} {value}" for name, value in settings.items()), "dim"))
    for message in request.get("messages") or [{"role": "prompt", "content": request.get("prompt", "")}]:
        yield _said(str(message["role"]), str(message["content"]))
    if request.get("schema"):
        yield _said("schema", _json(request["schema"]))
    finish = response.get("finish_reason", "stop")
    yield _said("answer" if finish == "stop" else f"answer, ended by {finish}", str(response.get("text", "")), "green")


def _said(who: str, text: str, style: str = "cyan") -> RenderableType:
    return _indented(Group(clean(who, f"{style} bold"), _indented(clean(text))))


def _indented(content: RenderableType) -> Padding:
    return Padding(content, (0, 0, 0, 2))


def _attempt(place: int, attempt: Any, language: str) -> Iterator[RenderableType]:
    if not isinstance(attempt, Mapping):
        yield _said(f"attempt {place}", str(attempt))
        return
    verdict = attempt.get("verdict", "no verdict")
    if isinstance(verdict, Mapping):
        verdict = ", ".join(f"{name} {value}" for name, value in verdict.items() if not isinstance(value, list | dict))
    good = str(verdict).startswith("pass")
    yield _indented(Text.assemble((f"attempt {place}: ", "bold"), clean(str(verdict), "green" if good else "red")))
    code = str(clean(str(attempt.get("code") or "")))
    if code:
        yield Padding(Syntax(code, language, word_wrap=True, background_color="default"), (0, 0, 0, 4))
    for test in attempt.get("tests") or ():
        yield Padding(clean(f"test: {test}", "dim"), (0, 0, 0, 4))
    if attempt.get("feedback"):
        yield Padding(clean(str(attempt["feedback"]), "yellow"), (0, 0, 0, 4))


def _scores(scores: Mapping[str, Score]) -> Table:
    table = Table("Score", "Value", "Reason", "Detail", box=None, header_style="dim")
    for name, score in scores.items():
        detail = ", ".join(f"{key} {value}" for key, value in score.detail.items())
        table.add_row(clean(name), number(round(score.value, 4)), clean(score.reason), clean(detail, "dim"))
    return table


def _json(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS, default=str).decode()


def _more(found: Found) -> Text:
    lines = [
        f"{found.run_dir / 'report.html'} shows it among the others (python -m factory report run={found.run_dir.name})"
    ]
    lines += [f"python -m factory explain {parent[:12]}  (made from)" for parent in found.fate.record.parents]
    return clean("\n".join(lines))
