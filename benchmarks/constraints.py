"""Our constraint checkers beside IFEval's own, as the package `if-verifiable` has them, type by type.

    python -m benchmarks.constraints                    # on random answers
    python -m benchmarks.constraints outputs/RUN/data   # on a run's real answers

Two of the public checkers need NLTK data that cannot be installed as a package. They get what NLTK has without data: for
sentences its Punkt tokenizer untrained, which knows no abbreviations; for words its word tokenizer, line by line.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from factory.constraints import KINDS, Constraint, check, sample
from factory.constraints.layout import ANSWERS

REQUEST = "Describe a day at the harbour."
SENTENCES = (
    "The harbour is quiet before six.", "I don't know why, but the well-known gulls come later!", "Who would have thought so?",
    "Every boat has its own small story, and most of them are very long.", "It costs 3.50 to cross, which is not much.",
    "There's a mirror in the old captain's cabin.", "People often walk along the wall with a basket of fish.",
    "Some say that the fog is good for you.", "First comes the ferry, then the post, then nothing for hours.",
    "The Ferry leaves at noon.", "A man called out to the girl on the pier.", "NASA never came here.", "Rain fell quietly.",
    "My uncle keeps a quiet little shop with a ladder, a lantern and a zinc box.", "Because of the tide, we had to wait.",
    "The market opens at nine; it closes whenever the fish is gone.", "Look at the bridge!", "What a view?",
)  # fmt: skip


@dataclass
class Row:
    """One type: how often it was asked, how often both said the same, and how often the public checker said yes."""

    asked: int = 0
    both: int = 0
    kept: int = 0
    examples: list[tuple[dict[str, Any], str, bool]] = field(default_factory=list)


def random_answers(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [_answer(rng) for _ in range(count)]


def _answer(rng: random.Random) -> str:
    lines = rng.choices(SENTENCES, k=rng.randint(1, 24))
    if rng.random() < 0.06:
        return json.dumps({"answer": " ".join(lines)}, indent=rng.choice((None, 1)))
    if rng.random() < 0.06:
        return rng.choice(ANSWERS)
    if rng.random() < 0.04:
        return f"{lines[0]}\n******\n{lines[-1]}"
    parts = [" ".join(lines[start : start + 3]) for start in range(0, len(lines), 3)]
    for index in range(len(parts)):
        if rng.random() < 0.3:
            words = parts[index].split()
            place = rng.randrange(len(words))
            words[place] = rng.choice(("*{}*", "**{}**", "[{}]")).format(words[place].strip("."))
            parts[index] = " ".join(words)
    if rng.random() < 0.4:
        mark = rng.choice("*-")
        parts.append("\n".join(f"{mark} {line}" for line in rng.choices(SENTENCES, k=rng.randint(2, 6))))
    if rng.random() < 0.25:
        word = rng.choice(("Section", "SECTION", "Part"))
        parts = [f"{word} {number}\n{part}" for number, part in enumerate(parts, 1)]
    if rng.random() < 0.2:
        parts.insert(0, rng.choice(("<<A day at sea>>", "# A day at sea")))
    if rng.random() < 0.4:
        parts.append(rng.choice(("P.S. Bring a coat.", "P.P.S. Bring two.", "That is all.", "I hope this helps.")))
    text = rng.choice(("\n\n", "\n\n", "\n***\n", "\n\n***\n\n", "\n******\n", "\n")).join(parts)
    text = f"{REQUEST} {text}" if rng.random() < 0.1 else text
    text = text.replace(",", "") if rng.random() < 0.2 else text
    text = rng.choice((str, str, str, str, str.upper, str.lower))(text)
    return f'"{text}"' if rng.random() < 0.15 else text


def _arguments(name: str, rng: random.Random, answer: str) -> Constraint:
    """Arguments near what the answer has, so that both verdicts occur."""
    (drawn,) = sample(rng, 1, request=REQUEST, kinds=[name])
    kwargs = dict(drawn.kwargs)
    words = [word for word in answer.split() if word.isalpha()] or ["sea"]
    near: dict[str, Any] = {
        "num_words": rng.randint(5, 200), "num_sentences": rng.randint(2, 20), "num_bullets": rng.randint(1, 5),
        "num_paragraphs": rng.randint(1, 5), "capital_frequency": rng.randint(1, 4), "let_frequency": rng.randint(1, 4),
        "language": rng.choice(("en", "en", "de")), "num_highlights": rng.randint(1, 3), "num_placeholders": rng.randint(1, 2),
        "frequency": rng.randint(1, 3), "first_word": words[0], "nth_paragraph": 1, "section_spliter": "Section",
        "num_sections": rng.randint(1, 4), "relation": rng.choice(("at least", "less than")),
    }  # fmt: skip
    if rng.random() < 0.5:
        near |= {"keywords": [rng.choice(words)], "forbidden_words": [rng.choice(words)], "keyword": rng.choice(words)}
    return Constraint(id=name, kwargs=kwargs | {key: value for key, value in near.items() if key in kwargs})


def compare(answers: Sequence[str], seed: int) -> dict[str, Row]:
    """Each answer against each type that both have, with random arguments; keyed by the type's name."""
    from if_verifiable.ifeval.instructions_registry import INSTRUCTION_DICT

    _without_nltk_data()
    rng = random.Random(seed)
    found = {name: Row() for name in INSTRUCTION_DICT if name in KINDS}
    for answer in answers:
        for name, row in found.items():
            constraint = _arguments(name, rng, answer)
            public = INSTRUCTION_DICT[name](name)
            public.build_description(**_plain(constraint))
            theirs = bool(answer.strip() and public.check_following(answer))
            ours = check(answer, [constraint])[0].kept
            row.asked, row.kept, row.both = row.asked + 1, row.kept + theirs, row.both + (ours == theirs)
            if ours != theirs:
                row.examples.append((dict(constraint.kwargs), answer, theirs))
    return found


def _plain(constraint: Constraint) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in constraint.kwargs.items()}


def _without_nltk_data() -> None:
    import functools

    import langdetect
    import nltk
    from if_verifiable.ifeval import instructions_util
    from nltk.tokenize.punkt import PunktSentenceTokenizer

    langdetect.DetectorFactory.seed = 0
    instructions_util._get_sentence_tokenizer = PunktSentenceTokenizer
    instructions_util.nltk.word_tokenize = functools.partial(nltk.word_tokenize, preserve_line=True)


def _run_answers(folder: str) -> list[str]:
    import pyarrow.parquet

    rows = pyarrow.parquet.read_table(folder, columns=["messages"]).to_pylist()
    return [row["messages"][-1]["content"] for row in rows if row["messages"]]


def main() -> None:
    answers = _run_answers(sys.argv[1]) if len(sys.argv) > 1 else random_answers(400, seed=0)
    found = compare(answers, seed=0)
    print(f"{len(answers)} answers\n{'type':55} same  public yes")
    for name, row in found.items():
        print(f"{name:55} {row.both / row.asked:5.1%} {row.kept / row.asked:5.1%}")
    asked, both = sum(row.asked for row in found.values()), sum(row.both for row in found.values())
    print(f"{'all':55} {both / asked:5.1%}")


if __name__ == "__main__":
    main()
