"""What a person sees while a run works: a live line in a terminal, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from factory.engine.client import EngineClient
    from factory.engine.limits import Spent
    from factory.pipeline import Progress

_LOG_EVERY = 10.0  # seconds between lines where there is no terminal
_DRAW_EVERY = 0.25


class Display:
    """Shows progress on standard error. `quiet` shows nothing but what is said."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.quiet = quiet
        self.engine: Callable[[], EngineClient | None] = lambda: None
        self._live: Live | None = None
        self._progress: Progress | None = None
        self._wanted: int | None = None
        self._spent: Spent | None = None
        self._status = ""
        self._said = 0.0
        self._drawn = self._started = time.monotonic()
        self._tokens_before = 0

    def say(self, text: str) -> None:
        """One line that stays, whole: it may be a command to be copied."""
        self.console.print(Text(text), soft_wrap=True)

    def status(self, text: str) -> None:
        """What is being waited for; the latest replaces the one before in a terminal."""
        self._status = text
        if self._live:
            self._draw()
        elif not self.quiet and time.monotonic() - self._said > _LOG_EVERY:
            self._said = time.monotonic()
            self.console.print(Text(text[:200], style="dim"))

    def begin(self, progress: Progress, wanted: int | None, spent: Spent) -> None:
        self._progress, self._wanted, self._spent = progress, wanted, spent
        self._tokens_before = spent.completion_tokens
        self._started = self._drawn = time.monotonic()
        if self.console.is_terminal and not self.quiet:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True, get_renderable=self._render)
            self._live.start()

    def progress(self, progress: Progress) -> None:
        """Called after every seed; draws now and then."""
        now = time.monotonic()
        self._status = ""
        if self.quiet or self._live or now - self._drawn < _LOG_EVERY:
            return
        self._drawn = now
        self.console.print(Text(self._line()))

    def end(self) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        now = time.monotonic()
        if self._live and now - self._drawn > _DRAW_EVERY:
            self._drawn = now
            self._live.refresh()

    def _line(self) -> str:
        assert self._progress is not None
        assert self._spent is not None
        frontier, seconds = self._progress.frontier, time.monotonic() - self._started
        wanted = f" of {self._wanted}" if self._wanted is not None else ""
        tokens = self._spent.completion_tokens - self._tokens_before
        parts = [
            f"{frontier.accepted_so_far}{wanted} kept",
            f"{frontier.done} seeds done",
            f"{self._progress.in_flight} under way",
        ]
        parts += [f"{tokens / max(seconds, 1e-9):,.0f} tokens/s", f"{seconds:.0f} s"]
        if self._spent.usd:
            parts.append(f"cost {self._spent.usd:.4g}")
        if (engine := self.engine()) is not None and (engine.limit < engine.capacity or engine.retries):
            parts.append(f"{engine.limit} at once ({engine.retries} tries repeated)")
        return " · ".join(parts)

    def _render(self) -> Table:
        table = Table.grid(padding=(0, 1))
        table.add_row(Text(self._line(), style="bold"))
        if self._status:
            table.add_row(Text(self._status, style="dim"))
        assert self._progress is not None
        worst = sorted(self._progress.reasons.items(), key=lambda entry: -entry[1])[:5]
        for reason, count in worst:
            table.add_row(Text(f"  {count:>6} lost: {reason[:90]}", style="dim"))
        return table

    def summary(self, manifest: Mapping[str, Any], folder: Path) -> None:
        """What came of the run, and where it lies."""
        table = Table.grid(padding=(0, 2))
        tokens = manifest["tokens"]
        wanted = f" of {manifest['wanted']} wanted" if manifest["wanted"] is not None else ""
        table.add_row("kept", Text(f"{manifest['kept']:,}{wanted}, from {manifest['seeds']:,} seeds", style="bold"))
        for reason, count in list(manifest["reasons"].items())[:6]:
            table.add_row(
                "lost" if reason == next(iter(manifest["reasons"])) else "", Text(f"{count:>6,}  {reason[:100]}")
            )
        cost = f", cost {manifest['cost']:.4g}" if manifest["cost"] else ""
        table.add_row("asked", f"{manifest['requests']:,} requests, {tokens['completion']:,} tokens generated{cost}")
        table.add_row("time", f"{manifest['seconds']:.1f} s")
        table.add_row("data", Text(f"{folder}/data    report {folder}/report.html"))
        self.console.print(table)
