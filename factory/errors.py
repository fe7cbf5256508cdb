"""What can go wrong, by who can mend it.

A `UserError` is for the person at the keyboard: it ends the program with a short message and its exit status, never a
traceback. A `RecordError` is one record's misfortune: the pipeline writes its text down as that record's reason and
goes on. Anything else is a bug and keeps its traceback.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from difflib import get_close_matches

EXIT_DONE, EXIT_USAGE, EXIT_STOPPED, EXIT_INTERRUPTED = 0, 2, 3, 130


def near(word: str, words: Iterable[str]) -> str:
    """ "; did you mean X?" where one of `words` is spelt like `word`."""
    match = get_close_matches(word, list(words), 1, cutoff=0.6)
    return f"; did you mean {match[0]}?" if match else ""


class UserError(Exception):
    """Something that the user can put right. `problems` are listed one a line."""

    status = EXIT_USAGE

    def __init__(self, *problems: str) -> None:
        self.problems: Sequence[str] = problems
        super().__init__("\n".join(problems))


class ConfigError(UserError):
    """Wrong usage or configuration: each problem names the key, the wrong value and the allowed ones."""


class NoIsolation(UserError):
    """No sandbox backend passed its self-test here; carries what each one said and how to mend it."""


class Stopped(UserError):
    """The run ended before it was done: a budget, a dead engine, a full disk. What exists is kept and valid."""

    status = EXIT_STOPPED


class EngineGone(UserError):
    """No server of an endpoint can be reached: it was not there when the run first asked. Others may still answer."""


class EngineLost(EngineGone, Stopped):
    """The same for one that had answered before, or that takes no more requests from this account."""


class RecordError(Exception):
    """This record failed; its text is the reason, such as "parse: no code block".

    `final` is False where another run may well succeed (an engine or a machine that failed): it is then tried again.
    """

    final = True


class ScorerError(RecordError):
    """A scorer failed on this record: an error, never a score of zero."""


class GeneratorError(RecordError):
    """A generator failed on this record."""


@asynccontextmanager
async def boundary(kind: type[RecordError], name: str) -> AsyncIterator[None]:
    """Turn whatever plug-in code raises into a `kind` that names the plug-in, so that it is data of one record.

    `UserError` and `RecordError` pass through as they are; so does this task's cancellation, but not one that plug-in
    code let out of its own tasks.
    """
    try:
        yield
    except (UserError, RecordError):
        raise
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise kind(f"{name}: it cancelled itself") from error
    except Exception as error:
        raise kind(f"{name}: {type(error).__name__}: {error}") from error
