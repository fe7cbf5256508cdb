"""Texts in tokens, by a model's own tokenizer: exact counts, and chunks that never exceed a limit.

Only the tokenizer is loaded, never the model. Long texts are encoded window by window, so that memory does not grow with them.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from factory.errors import ConfigError, UserError

if TYPE_CHECKING:
    import tokenizers

# Where a chunk may end, the best place first: a paragraph, a line, a sentence, a word.
_PLACES = (re.compile(r"\n[ \t]*\n"), re.compile(r"\n"), re.compile(r"[.!?。！？]['\"”’)]*\s"), re.compile(r"\s"))
_SEARCHED = 0.25  # of a chunk, its last part, in which a better place is looked for
_CHARS_A_TOKEN = 8  # more than prose has; a window that proves too short is widened


class Tokens:
    """Counts and cuts texts. `name` is what a model's path is: a folder, a hub id, a `.gguf`, `package:NAME`; or a
    `tokenizer.json`."""

    def __init__(self, name: str) -> None:
        """Raises `ConfigError` with the remedy where there is no such tokenizer."""
        self._tokenizer = _load(name)

    def count(self, text: str) -> int:
        """Tokens of the text by itself, without marks of beginning and end. Exact."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))

    def chunks(self, text: str, limit: int) -> Iterator[str]:
        """The text in pieces of at most `limit` tokens each, counted for the piece by itself; joined they are the text."""
        start = 0
        while start < len(text):
            end = self._end(text, start, limit)
            yield text[start:end]
            start = end

    def _end(self, text: str, start: int, limit: int) -> int:
        """Where a chunk that begins at `start` ends."""
        width = limit * _CHARS_A_TOKEN
        while True:
            window = text[start : start + width]
            encoding = self._tokenizer.encode(window, add_special_tokens=False)
            if len(encoding) > limit or start + width >= len(text):
                break
            width *= 2
        if len(encoding) <= limit:
            return start + len(window)
        ends = [end for _, end in encoding.offsets]
        cut = _place(window, max(1, ends[limit - 1]))
        # By itself a piece may take a token more than as part of the window: then a little less of it.
        while cut > 1 and self.count(window[:cut]) > limit:
            fewer = max(1, bisect_right(ends, cut) - 2)
            cut = min(cut - 1, max(1, ends[fewer - 1]))
        return start + cut


def _place(window: str, most: int) -> int:
    """The best place to end within the last part of `most` characters."""
    least = int(most * (1 - _SEARCHED))
    for pattern in _PLACES:
        if ends := [found.end() for found in pattern.finditer(window, least, most)]:
            return ends[-1]
    return most


def _load(name: str) -> tokenizers.Tokenizer:
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "tokens are counted by the package tokenizers, which is missing: pip install tokenizers"
        ) from error
    path = Path(name).expanduser()
    try:
        if path.is_file() and path.suffix == ".json":
            return tokenizers.Tokenizer.from_file(str(path))
        if not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", name):
            return tokenizers.Tokenizer.from_pretrained(name)
        from factory.engine.models import resolve_model

        return tokenizers.Tokenizer.from_file(str(Path(resolve_model(name).path, "tokenizer.json")))
    except UserError as error:
        raise ConfigError(*error.problems) from error
    except Exception as error:  # the library's own, of one plain type
        raise ConfigError(
            f"no tokenizer: {name!r} cannot be loaded ({str(error).splitlines()[0][:120]}); name a model's folder, a hub id or a "
            "tokenizer.json"
        ) from error
