"""Lists of a wanted length: asked for as structured output; what is no list, too long or too short, or says a thing twice is
rejected and asked for again (Nemotron-4 340B report, section 3.2.1)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

from factory.engine.request import Sampling
from factory.engine.structured import NotJson, parse_json
from factory.errors import RecordError
from factory.generators.base import Context, chat
from factory.generators.instances import listing
from factory.records import Message

_SMALL_WORDS = {"the", "a", "an", "of", "and", "in", "for", "to"}


def normal(text: str) -> str:
    """What two entries of a list share that say the same: words without case, signs, articles and the s of a plural."""
    words = re.findall(r"\w+", unicodedata.normalize("NFKC", text).casefold())
    found = [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]
    return " ".join(word for word in found if word not in _SMALL_WORDS)


def entry(text: str) -> str:
    """An entry without its number or bullet."""
    return re.sub(r"^\s*(?:[-*•]|\d+[.)])\s+", "", text).strip()


class Distinct:
    """New entries: each says something else than those before it and than `there`, in `longest` characters."""

    def __init__(self, there: Iterable[str], longest: int) -> None:
        self.found: list[str] = []
        self.longest = longest
        self._seen = {normal(text) for text in there}

    def take(self, texts: Iterable[str], most: int) -> list[str]:
        """Take in what is new, until there are `most` new ones; returns what was not taken as it repeats another."""
        refused = []
        for text in map(entry, texts):
            key = normal(text)
            if not key or key in self._seen or len(text) > self.longest:
                refused.append(text)
            elif len(self.found) < most:
                self._seen.add(key)
                self.found.append(text)
        return refused


async def ask_list(
    prompt: str,
    wanted: int,
    context: Context,
    *,
    label: str,
    there: Iterable[str] = (),
    tries: int = 3,
    longest: int = 2000,
    sampling: Sampling | None = None,
) -> list[str]:
    """`wanted` different texts, none of which is `there` already; fewer after so many tries. Raises `RecordError` at none."""
    talk, distinct, problem = list(chat(prompt)), Distinct(there, longest), ""
    for attempt in range(tries):
        missing = wanted - len(distinct.found)
        schema = listing("items", {"type": "string"}, missing, missing)
        response = await context.ask(talk, label=label, sample=attempt, schema=schema, sampling=sampling)
        try:
            if response.truncated:
                raise NotJson("cut off at the token limit; raise max_tokens")
            refused = distinct.take(parse_json(response.text, schema)["items"], wanted)
            missing = wanted - len(distinct.found)
            if not missing:
                break
            problem = f"entries that say what others say already, or are too long: {'; '.join(refused)[:500]}"
            complaint = f"These {problem}. Give {missing} other{'' if missing == 1 else 's'}, in the same form."
        except NotJson as error:
            problem = str(error)
            complaint = f"That is not a list of {missing}: {error}. Answer again, in JSON only."
        talk += [Message(role="assistant", content=response.text), Message(role="user", content=complaint)]
    if not distinct.found:
        raise RecordError(f"{label}: {problem}")
    return distinct.found


async def continue_list(
    render: Callable[[Sequence[str]], str],
    wanted: int,
    context: Context,
    *,
    label: str,
    there: Iterable[str] = (),
    tries: int = 4,
    longest: int = 200,
    sampling: Sampling,
) -> list[str]:
    """The same from a model that continues text: entries in one line, parted by semicolons. `render` is given those that were
    found so far, which the prompt ends with; what goes on beyond `wanted` is left out."""
    distinct = Distinct(there, longest)
    for attempt in range(tries):
        prompt = render(distinct.found)
        response = await context.ask(prompt=prompt, label=label, sample=attempt, sampling=sampling)
        parts = response.text.strip().split("\n")[0].split(";")
        distinct.take((part.strip(" .") for part in (parts[:-1] if response.truncated else parts)), wanted)
        if len(distinct.found) == wanted:
            break
    if not distinct.found:
        raise RecordError(f"{label}: none could be read")
    return distinct.found
