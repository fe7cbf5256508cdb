"""Drawing constraints that can be kept together and that none of the others makes needless."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence

from factory.constraints.base import MANY, Demands, Draw
from factory.constraints.registry import KINDS, Constraint, Constraints, parse
from factory.constraints.texts import has_word

# A set answer fits questions of yes or no only: drawn where it is named.
UNASKED = frozenset({"detectable_format:constrained_response"})
TRIES = 60  # for one constraint that fits the ones drawn already
# Two of these in one text are possible and absurd.
_ODD = (
    {"bullets", "numbers"}, {"bullets", "responses"}, {"numbers", "responses"}, {"table", "responses"},
    {"title", "responses"}, {"table", "case"}, {"sections", "sentence length"}, {"postscript", "responses"},
    {"paragraphs", "bullets"}, {"paragraphs", "numbers"}, {"paragraphs", "table"}, {"paragraphs", "sections"},
    {"sentence length", "numbers"}, {"sentence length", "table"},
)  # fmt: skip


def sample(
    rng: random.Random,
    count: int,
    *,
    request: str = "",
    kinds: Sequence[str] | None = None,
    without: Sequence[str] = (),
) -> list[Constraint]:
    """`count` constraints of different types for a request, without contradiction; fewer where no more go together.

    `kinds` are the types to draw from, by default all but those that need a special request; `without`
    leaves some of them out. Raises `ValueError` for a type that does not exist.
    """
    names = [name for name in KINDS if name not in UNASKED] if kinds is None else list(kinds)
    if unknown := [name for name in names if name not in KINDS]:
        raise ValueError(f"no constraint is named {unknown[0]!r}")
    names = [name for name in names if name not in without]
    drawn: list[Constraint] = []
    for _ in range(TRIES * count if names else 0):
        if len(drawn) == count:
            break
        candidate = Constraint.of(KINDS[rng.choice(names)].draw(Draw(rng, request)))
        if not contradiction([*drawn, candidate], request=request):
            drawn.append(candidate)
    return drawn


def contradiction(constraints: Constraints, *, request: str = "") -> str:
    """Why these constraints cannot all be kept, or why one makes another needless; nothing where they go together."""
    found = parse(constraints)
    demands = [item.kind.demands() for item in found]
    alone = [problem for item, demand in zip(found, demands, strict=True) for problem in _alone(demand, item.id)]
    for (one, first), (two, second) in itertools.combinations(zip(found, demands, strict=True), 2):
        if problem := next(itertools.chain(_between(first, second), _between(second, first)), ""):
            return f"{one.id} and {two.id}: {problem}"
    return _no_room(demands) or (alone[0] if alone else _against(demands, request))


def _no_room(demands: Sequence[Demands]) -> str:
    """What is needed in words and sentences, all together, against what is allowed."""
    words = min((demand.words[1] for demand in demands), default=MANY)
    sentences = min((demand.sentences[1] for demand in demands), default=MANY)
    length = min((demand.sentence_words for demand in demands), default=MANY)
    least = sum(demand.words[0] for demand in demands)
    # The first sentence may serve every constraint; whatever more each needs is its own.
    counted = [demand.sentences[0] for demand in demands if "sentences" in demand.claims]
    others = 1 + sum(max(0, demand.sentences[0] - 1) for demand in demands if "sentences" not in demand.claims)
    fewest = max(others, *counted) if counted else others
    if least > words:
        return f"at least {least} words are needed, {words} allowed"
    if fewest > sentences:
        return f"at least {fewest} sentences are needed, {sentences} allowed"
    if least > sentences * length:
        return f"at least {least} words are needed, {sentences * length} fit into the sentences allowed"
    return ""


def _alone(demand: Demands, name: str) -> Iterator[str]:
    if demand.words[0] > demand.words[1] or demand.sentences[0] > demand.sentences[1]:
        yield f"{name} contradicts itself"


def _between(one: Demands, two: Demands) -> Iterator[str]:
    """What speaks against two constraints together, seen from the first."""
    if both := one.claims & two.claims:
        yield f"both decide the {min(both)}"
    claims = one.claims | two.claims
    if odd := next((pair for pair in _ODD if pair <= claims and not pair <= one.claims), None):
        yield f"{' and '.join(sorted(odd))} do not go together"
    if one.foreign and two.english:
        yield "one is for English texts"
    needed = (*two.literals, *two.exact)
    for word in one.no_words:
        if any(has_word(text, word) for text in needed):
            yield f"{word!r} is wanted and forbidden"
    for character in one.no_characters:
        if any(character in text for text in needed):
            yield f"{character!r} is needed and forbidden"
    if "case" in one.claims and two.exact:
        yield "the case of the letters is given twice"
    if set(map(str.lower, one.literals)) & set(map(str.lower, two.literals)):
        yield "the same words are wanted twice"


def _against(demands: Sequence[Demands], request: str) -> str:
    """A request must not name what its own constraints forbid: nobody could answer it."""
    for demand in demands:
        for word in demand.no_words:
            if has_word(request, word):
                return f"the request itself speaks of {word!r}"
    return ""
