"""Counters over a stream of any length that stay small: each says what it keeps and what it lets go."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

Pair = list[int]  # how many were kept, how many rejected


class Histogram:
    """How many values lie where, kept and rejected apart, in at most `most` bins.

    Exact while there are few different values; then bins of a power of two that double as the range grows.
    """

    def __init__(self, most: int = 256) -> None:
        self.most, self.bins, self.width = most, dict[float, Pair](), 0.0
        self.low, self.high, self.count, self.odd = math.inf, -math.inf, 0, 0

    def add(self, value: float, kept: bool) -> None:
        if not math.isfinite(value):
            self.odd += 1
            return
        self.count += 1
        self.low, self.high = min(self.low, value), max(self.high, value)
        place = self.bins.setdefault(self._place(value), [0, 0])
        place[not kept] += 1
        if len(self.bins) > self.most:
            self._coarsen()

    def _place(self, value: float) -> float:
        return math.floor(value / self.width) * self.width if self.width else value

    def _coarsen(self) -> None:
        # frexp: the power of two just above the share of the range that a bin should have
        self.width = self.width * 2 or 2.0 ** math.frexp((self.high - self.low) * 2 / self.most)[1]
        old, self.bins = self.bins, {}
        for value, (kept, rejected) in old.items():
            place = self.bins.setdefault(self._place(value), [0, 0])
            place[0] += kept
            place[1] += rejected

    @property
    def discrete(self) -> bool:
        """Few enough different values for a bar each: grades or shares, not the measurements of a few records."""
        return not self.width and len(self.bins) <= 12 and few_kinds(list(self.bins), self.count)

    def bars(self, wanted: int = 20) -> list[tuple[float, float, int, int]]:
        """(from, to, kept, rejected), in order; `from` equals `to` where the bar is one value."""
        if self.discrete:
            return [(value, value, kept, lost) for value, (kept, lost) in sorted(self.bins.items())]
        width = max(nice((self.high - self.low) / wanted), self.width)
        first, last = math.floor(self.low / width), math.floor(self.high / width)
        if last > first and last * width == self.high:
            last -= 1  # the highest value belongs to the last bar, not to one of its own
        found: dict[int, Pair] = {number: [0, 0] for number in range(first, last + 1)}
        for value, (kept, rejected) in self.bins.items():
            bar = found[min(max(math.floor(value / width + 1e-9), first), last)]
            bar[0] += kept
            bar[1] += rejected
        return [(number * width, (number + 1) * width, kept, lost) for number, (kept, lost) in found.items()]


def few_kinds(different: Sequence[float], count: int) -> bool:
    """Whether these are all values that there can be, as grades are: each is there often, or they are small whole numbers."""
    whole = (
        all(value == int(value) for value in different) and max(different, default=0) - min(different, default=0) <= 20
    )
    return len(different) <= 2 or whole or count >= 5 * len(different)


def nice(value: float, steps: Sequence[float] = (1, 2, 5)) -> float:
    """The next of 1, 2, 5, 10, 20, ... at or above `value`."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    unit = 10.0 ** math.floor(math.log10(value))
    return next((unit * step for step in steps if unit * step >= value * 0.999999), unit * 10)


@dataclass
class Bin:
    """A slice of working time."""

    responses: int = 0
    tokens: int = 0


class Timeline:
    """Responses and generated tokens over working time, in at most `most` equal slices, which double as it goes on.

    A pause (nobody was waiting for an answer for two minutes, as between two invocations) is cut out and counted.
    """

    def __init__(self, most: int = 160, pause: float = 120.0) -> None:
        self.most, self.pause, self.width, self.bins = most, pause, 1.0, dict[int, Bin]()
        self.pauses, self.paused, self.started, self.ended = 0, 0.0, None, 0.0
        self._offset = 0.0

    started: float | None

    def add(self, made_at: float, seconds: float, tokens: int) -> None:
        sent = made_at - max(seconds, 0.0)
        if self.started is None:
            self.started, self.ended = sent, made_at
            self._offset = sent
        gap = sent - self.ended
        if gap > self.pause:
            self.pauses, self.paused = self.pauses + 1, self.paused + gap
            self._offset += gap
        self.ended = max(self.ended, made_at)
        number = max(0, int((made_at - self._offset) / self.width))
        while number >= self.most:
            self._halve()
            number //= 2
        place = self.bins.setdefault(number, Bin())
        place.responses += 1
        place.tokens += tokens

    def _halve(self) -> None:
        old, self.bins = self.bins, {}
        for number, content in old.items():
            place = self.bins.setdefault(number // 2, Bin())
            place.responses += content.responses
            place.tokens += content.tokens
        self.width *= 2

    @property
    def active(self) -> float:
        """Seconds of work, pauses left out."""
        return 0.0 if self.started is None else max(self.ended - self._offset, 0.0)

    def series(self) -> list[Bin]:
        """Every slice from the first to the last, the empty ones too."""
        return [self.bins.get(number, Bin()) for number in range(max(self.bins, default=-1) + 1)]


_STEP = 1.05  # a latency is known to 5 %


@dataclass
class Step:
    """What one labelled step of the generator asked for: its answers, tokens and waiting times."""

    responses: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    waits: dict[int, int] = field(default_factory=dict)

    def add(self, seconds: float, prompt_tokens: int, completion_tokens: int) -> None:
        self.responses += 1
        self.prompt_tokens += prompt_tokens
        self.completion_tokens += completion_tokens
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
        place = round(math.log(max(seconds, 0.0001), _STEP))
        self.waits[place] = self.waits.get(place, 0) + 1

    def quantile(self, share: float) -> float:
        """Seconds that this share of the answers took at most."""
        left = share * self.responses
        for place in sorted(self.waits):
            left -= self.waits[place]
            if left <= 1e-9:
                return min(_STEP**place, self.slowest)
        return self.slowest


class Breakdown:
    """Kept and rejected by one key of the metadata: by `topic` where there is one, else by one with few values.

    A key with more than `most` values is dropped, except a preferred one, whose later values count as "others".
    """

    PREFERRED = ("topic", "category", "kind", "difficulty", "language")
    OTHERS = "others"

    def __init__(self, most: int = 60, keys: int = 40) -> None:
        self.most, self.keys = most, keys
        self.found: dict[str, dict[str, Pair]] = {}
        self.dropped: set[str] = set()

    def add(self, meta: Iterator[tuple[str, str]], kept: bool) -> None:
        for key, value in meta:
            if key in self.dropped:
                continue
            values = self.found.get(key)
            if values is None:
                if len(self.found) + len(self.dropped) >= self.keys and key not in self.PREFERRED:
                    continue
                values = self.found[key] = {}
            if value not in values and len(values) >= (2000 if key in self.PREFERRED[:1] else self.most):
                if key not in self.PREFERRED[:1]:
                    del self.found[key]
                    self.dropped.add(key)
                    continue
                value = self.OTHERS
            values.setdefault(value, [0, 0])[not kept] += 1

    def best(self) -> tuple[str, dict[str, Pair]] | None:
        """The key to show, with its values; None where no key tells records apart."""
        shown = {key: values for key, values in self.found.items() if len(values) > 1}
        if not shown:
            return None
        rank = {key: number for number, key in enumerate(self.PREFERRED)}
        covered = {key: sum(map(sum, values.values())) for key, values in shown.items()}
        key = min(shown, key=lambda key: (rank.get(key, len(rank)), -covered[key], len(shown[key]), key))
        return key, shown[key]


def wilson(kept: float, total: float) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927): honest for few records too."""
    if not total:
        return 0.0, 1.0
    z2, share = 1.96**2, kept / total
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = 1.96 / (1 + z2 / total) * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2))
    return max(0.0, centre - half), min(1.0, centre + half)
