"""The evidence that a text holds a problem of an evaluation set, and when it is enough.

One of these is enough:
- `ngram`: a run of n words in common (13 as for GPT-3: Brown et al. 2020, arXiv:2005.14165, appendix C), or the whole question
  where it is shorter;
- `structure`: a function whose syntax tree is the solution's but for names, texts and layout, or holds most of its pieces;
- `examples`: two calls with the same arguments and results (four where they are as plain as f(1) == 1), whatever the function is
  called;
- `embedding`: a question that means the same (where an embedder is given).

What says little by itself is enough together with a second of another kind: the function's name, its parameters (so that the same signature is enough), the
structure of a short function, one example, its docstring where it is short, the words of the question, an embedding that is a little less near.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import Field

from factory.decontamination.code import Function, examples, functions, prose
from factory.decontamination.sets import EvaluationSet, Item, read_items
from factory.embedding import Embedder
from factory.generators.novelty import bigrams
from factory.records import Frozen

_SHORTEST = 6  # words of a question that are looked for whole
_PIECE = 12  # nodes in a row of a syntax tree
_PIECES = 24  # that a solution must have, so that most of them say something
_LONG = 16  # nodes of a function whose structure is enough by itself
_SHORT = 5  # nodes of a function whose structure says a little
_SAID = 3  # words of a docstring that says a little when it is the same
_COMMON = frozenset(
    bigrams(
        "a an and are as at be by for from if in is it its of on or return returns given that the then this to which with you"
        " your function write python list string number numbers integer integers input output value values example examples"
        " def int str should not no each all any true false none two one implement task"
    )
)


class DecontaminationSettings(Frozen):
    """`sets` by the names that hits are reported under; `ngram` words in a row; `structure`: the share of a solution's pieces;
    `words`: the share of a question's own words that says a little; `embedding` and `embedding_hint`: cosines that are
    enough, and that say a little, where an embedder is given (they belong to the model: these are for `minilm`)."""

    sets: Mapping[str, EvaluationSet] = Field(default_factory=lambda: {"humaneval": EvaluationSet(kind="humaneval")})
    ngram: int = Field(13, ge=5)
    structure: float = Field(0.8, gt=0, le=1)
    words: float = Field(0.5, gt=0, le=1)
    embedding: float = Field(0.75, gt=0, le=1)
    embedding_hint: float = Field(0.6, gt=0, le=1)


class Hit(NamedTuple):
    """`how`: the evidence, as `structure` or `name+words`; `score`: the share or cosine of the strongest, from 0 to 1."""

    set: str
    item: str
    how: str
    score: float


class Contamination:
    """The problems of all sets, read once and indexed in memory; a check costs as much as reading the text."""

    def __init__(self, settings: DecontaminationSettings, embedder: Embedder | None = None) -> None:
        self.settings, self._embedder = settings, embedder
        self.items: list[Item] = [item for name, chosen in settings.sets.items() for item in read_items(name, chosen)]
        self._index = _Index(self.items, settings)
        self._vectors = None
        if embedder is not None:
            self._vectors = embedder.encode([_question(item) for item in self.items])

    def check(self, text: str) -> Hit | None:
        """The problem that most points to among those that the text holds; None where it holds none."""
        return self.check_many([text])[0]

    def check_many(self, texts: Sequence[str]) -> list[Hit | None]:
        """The same for several texts, whose embeddings are computed together."""
        near = self._near(texts)
        return [self._decide(self._index.evidence(text), cosines) for text, cosines in zip(texts, near, strict=True)]

    def _near(self, texts: Sequence[str]) -> Iterable[np.ndarray | None]:
        if self._embedder is None or self._vectors is None:
            return [None] * len(texts)
        return list(self._embedder.encode([prose(text) for text in texts]) @ self._vectors.T)

    def _decide(self, evidence: Mapping[int, Mapping[str, float]], cosines: np.ndarray | None) -> Hit | None:
        found = {item: dict(kinds) for item, kinds in evidence.items()}
        if cosines is not None:
            for item in np.flatnonzero(cosines >= self.settings.embedding_hint):
                found.setdefault(int(item), {})["embedding"] = float(cosines[item])
        best: tuple[float, Hit] | None = None
        for place in sorted(found):
            kinds = found[place]
            enough = [kind for kind, score in kinds.items() if self._is_enough(kind, score)]
            weight = sum(kinds.values()) + len(enough)
            if (enough or len(kinds) > 1) and (best is None or weight > best[0]):
                how = max(enough, key=lambda kind: kinds[kind]) if enough else "+".join(sorted(kinds))
                score = max(kinds[kind] for kind in (enough or kinds))
                item = self.items[place]
                best = weight, Hit(item.set, item.name, how, round(min(1.0, score), 4))
        return best and best[1]

    def _is_enough(self, kind: str, score: float) -> bool:
        return kind in ("ngram", "structure", "examples") or (kind == "embedding" and score >= self.settings.embedding)


class _Index:
    """What each problem is known by."""

    def __init__(self, items: Sequence[Item], settings: DecontaminationSettings) -> None:
        self.settings = settings
        self.grams: dict[int, set[int]] = defaultdict(set)
        self.runs: dict[int, tuple[int, int]] = {}  # of a problem: words a run, runs
        self.docstrings: dict[Sequence[str], set[int]] = defaultdict(set)
        self.pieces: dict[int, set[int]] = defaultdict(set)
        self.totals: dict[int, int] = {}
        self.shapes: dict[Sequence[str], set[int]] = defaultdict(set)
        self.names: dict[str, set[int]] = defaultdict(set)
        self.signatures: dict[int, set[tuple[str, Sequence[str]]]] = defaultdict(set)
        self.parameters: dict[tuple[str, ...], set[int]] = defaultdict(set)
        self.examples: dict[str, set[int]] = defaultdict(set)
        self.words: dict[str, set[int]] = defaultdict(set)
        self.sizes: list[int] = []
        for place, item in enumerate(items):
            self._add(place, item)

    def _add(self, place: int, item: Item) -> None:
        words = bigrams(item.question)
        size = min(self.settings.ngram, len(words))
        if size >= _SHORTEST:
            grams = _grams(words, size)
            self.runs[place] = size, len(grams)
            for gram in grams:
                self.grams[gram].add(place)
        for example in {**examples(item.tests), **examples(item.question)}:
            self.examples[example].add(place)
        for function in functions(item.question):
            if len(said := tuple(bigrams(prose(function.docstring)))) >= _SAID:
                self.docstrings[said].add(place)
        own = _own_words(_question(item))
        self.sizes.append(len(own))
        for word in own:
            self.words[word].add(place)
        solved = functions(item.solution or item.question)
        pieces = set[int]()
        for function in solved:
            if function.name in item.question:
                self.names[function.name].add(place)
                self.signatures[place].add((function.name, function.parameters))
                if _distinct(function.parameters):
                    self.parameters[function.parameters].add(place)
            if len(function.structure) >= _SHORT:
                self.shapes[function.structure].add(place)
            pieces |= _pieces(function)
        if len(pieces) >= _PIECES:
            self.totals[place] = len(pieces)
            for piece in pieces:
                self.pieces[piece].add(place)

    def evidence(self, text: str) -> Mapping[int, Mapping[str, float]]:
        """Of each problem that anything points to: kind of evidence -> score."""
        found: dict[int, dict[str, float]] = defaultdict(dict)
        words = bigrams(text)
        for size in {size for size, _ in self.runs.values()}:
            shared = Counter(place for gram in _grams(words, size) for place in self.grams.get(gram, ()))
            for place, count in shared.items():
                found[place]["ngram"] = count / self.runs[place][1]
        self._code(text, found)
        self._examples(text, found)
        shared = Counter(place for word in _own_words(text) for place in self.words.get(word, ()))
        for place, count in shared.items():
            if self.sizes[place] >= 4 and count / self.sizes[place] >= self.settings.words:
                found[place]["words"] = count / self.sizes[place]
        return found

    def _examples(self, text: str, found: dict[int, dict[str, float]]) -> None:
        """Two that say something are enough, or four that do not; one of them, or two of the others, are a hint."""
        telling, others = Counter[int](), Counter[int]()
        for example, tells in examples(text).items():
            (telling if tells else others).update(self.examples.get(example, ()))
        for place in {*telling, *others}:
            if telling[place] > 1 or others[place] > 3:
                found[place]["examples"] = 1.0
            elif telling[place] or others[place] > 1:
                found[place]["example"] = 1.0

    def _code(self, text: str, found: dict[int, dict[str, float]]) -> None:
        for function in functions(text):
            for place in self.names.get(function.name, ()):
                found[place]["name"] = 1.0
                if (function.name, function.parameters) in self.signatures[place]:
                    found[place]["parameters"] = 1.0
            for place in self.parameters.get(function.parameters, ()):
                found[place]["parameters"] = 1.0
            for place in self.docstrings.get(tuple(bigrams(prose(function.docstring))), ()):
                found[place]["docstring"] = 1.0
            shape = function.structure
            for place in self.shapes.get(shape, ()):
                found[place]["structure" if len(shape) >= _LONG else "short structure"] = 1.0
            shared = Counter(place for piece in _pieces(function) for place in self.pieces.get(piece, ()))
            for place, count in shared.items():
                if count / self.totals[place] >= self.settings.structure:
                    found[place]["structure"] = max(found[place].get("structure", 0), count / self.totals[place])


def _question(item: Item) -> str:
    return prose(item.question)


def _grams(words: Sequence[str], size: int) -> set[int]:
    """Hashes of the runs of `size` words; of this process only."""
    return {hash(tuple(words[at : at + size])) for at in range(len(words) - size + 1)}


def _pieces(function: Function) -> set[int]:
    """Runs of nodes with all numbered names alike, so that one more variable does not change the rest."""
    plain = ["v" if token[0] == "v" and token[1:].isdigit() else token for token in function.structure]
    return _grams(plain, _PIECE)


def _own_words(text: str) -> set[str]:
    return {word for word in bigrams(text) if len(word) > 2 and word not in _COMMON and not word.isdigit()}


def _distinct(parameters: Sequence[str]) -> bool:
    """Whether the parameters' names say anything: `l`, `n` or `x, y` do not."""
    return sum(len(name) > 3 for name in parameters) >= 2
