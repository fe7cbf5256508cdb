"""Verifiable constraints: what keeps each and what breaks it, and that those drawn together can be kept together."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.constraints import KINDS, Constraint, check, contradiction, describe, sample
from factory.constraints.texts import sentences, words

ENGLISH = "The old boat went out on the grey water and came home again with nothing but rain."
# (type, arguments, texts that keep it, texts that break it)
CASES: list[tuple[str, dict[str, Any], list[str], list[str]]] = [
    ("keywords:existence", {"keywords": ["sea", "salt"]}, ["Salt of the SEA."], ["the seaside has salt", "sea"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, ["sea, Sea"], ["sea seas"]),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, ["sea"], ["sea sea"]),
    ("keywords:forbidden_words", {"forbidden_words": ["sea"]}, ["the seaside"], ["the Sea."]),
    ("keywords:letter_frequency", {"letter": "q", "let_frequency": 2, "let_relation": "at least"}, ["Qq"], ["q"]),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, ["don't give up"], ["well-known fact"]),
    ("length_constraints:words_between", {"least": 2, "most": 3}, ["one two", "one two three"], ["one", "a b c d"]),
    ("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"}, ["A dog. A cat!"],
     ["Dr. Smith paid 3.50 at 5 p.m. sharp, i.e. too much."]),
    ("length_constraints:words_per_sentence", {"most": 3}, ["One two three. Four five!"], ["One two three four."]),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, ["a\n***\nb", "a\n\n***\n\nb\n***"],
     ["a\n\nb", "a\n***\n\n***\nb", "***a***\nb"]),
    ("length_constraints:plain_paragraphs", {"num_paragraphs": 2}, ["a\n\nb", "a\n \n\nb\n"], ["a\nb", "a\n\nb\n\nc"]),
    ("length_constraints:nth_paragraph_first_word", {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "rain"},
     ["a\n\n**Rain**, then sun"], ["a\n\nThe rain", "rain\n\na", "a\n\nrain\n\nb"]),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, ["* a\n- b", "Say:\n  * a\n  * b\nend"],
     ["* a", "**a**\n- b", "---\n- b", "-5 degrees\n- b"]),
    ("detectable_format:numbered_list", {"num_items": 2}, ["1. a\n2. b", "1) a\n\n2) b"], ["1. a", "1. a\n3. b", "1 a 2 b"]),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, ["*a* and **b c**"],
     ["* a\n* b", "*a*", "** ** and *a*", "2 * 3 * 4"]),
    ("detectable_format:multiple_sections", {"section_spliter": "Section", "num_sections": 2},
     ["Section 1\na\nSection 2\nb", "# Section 1: a\n## Section 2: b"], ["Section 1", "see Section 1 and Section 2"]),
    ("detectable_format:title", {}, ["<<a>>\ntext"], ["<a>", "<< >>", "<<a\n>>"]),
    ("detectable_format:table", {"num_columns": 2}, ["|a|b|\n|--|:-:|\n|1|2|", "x\n\na | b\n--- | ---\n1 | 2"],
     ["|a|b|\n|1|2|", "|a|b|c|\n|-|-|-|\n|1|2|3|", "a\n---\nb"]),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, ["[name] at [place]"], ["[name]", "[] [x"]),
    ("detectable_format:json_format", {}, ['{"a": 1}', '```json\n[1]\n```', "3"], ["{'a': 1}", 'So: {"a": 1}', "[" * 9999]),
    ("detectable_format:json_keys", {"keys": ["a", "b"]}, ['{"b": 1, "a": [2]}'], ['{"a": 1}', '["a", "b"]', "{}", "a b"]),
    ("detectable_format:constrained_response", {}, ["My answer is yes."], ["Yes.", "My answer is yes. My answer is no."]),
    ("combination:two_responses", {}, ["a\n******\nb", "******a******b******"], ["a", "a******a", "a******b******c"]),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say hi."}, ["say hi. Hi!"], ["Hi! Say hi."]),
    ("startend:start_phrase", {"start_phrase": "In short"}, ['"In short, yes.', "**In short** no"], ["Yes, in short"]),
    ("startend:end_checker", {"end_phrase": "That is all."}, ["So. that is all.\n", '"That is all."'], ["That is all. Bye"]),
    ("startend:quotation", {}, ['"a"', ' "a b" '], ['"a" b', "'a'", '"']),
    ("startend:question", {}, ["Is it?", "Is it?**"], ["Is it? Yes."]),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, ["a\nP.S. b", "a p.s. b"], ["maps.s", "postscript: b"]),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, ["a\nP.P.S. b", "P. P. S b"], ["a\nP.S. b"]),
    ("change_case:english_capital", {}, [ENGLISH.upper()], [ENGLISH, "DAS ALTE BOOT FUHR HINAUS AUF DAS GRAUE WASSER"]),
    ("change_case:english_lowercase", {}, [ENGLISH.lower()], [ENGLISH, "das alte boot fuhr hinaus auf das graue wasser"]),
    ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"}, ["I SAY so"],
     ["SAY so", "Say So"]),
    ("punctuation:no_comma", {}, ["a; b"], ["a, b"]),
    ("punctuation:exclamation_marks", {"count": 2, "relation": "at least"}, ["a! b!"], ["a!"]),
    ("detectable_content:no_digits", {}, ["three"], ["3", "x²٣"]),
    ("language:response_language", {"language": "de"}, ["Das alte Boot fuhr am Morgen wieder hinaus auf das Meer."],
     [ENGLISH, "1 2 3"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kwargs", "kept", "broken"), CASES, ids=[case[0] for case in CASES])
def test_what_keeps_and_what_breaks_it(name: str, kwargs: dict[str, Any], kept: list[str], broken: list[str]) -> None:
    constraint = {"id": name, "kwargs": kwargs}
    for text in kept:
        (verdict,) = check(text, [constraint])
        assert (verdict.kept, verdict.why) == (True, ""), text
    for text in [*broken, "", " \n"]:
        (verdict,) = check(text, [constraint])
        assert not verdict.kept and verdict.why, text


def test_every_type_has_its_cases() -> None:
    assert {case[0] for case in CASES} == set(KINDS)
    assert len(KINDS) >= 25


def test_a_loose_check_forgives_an_introduction_and_asterisks() -> None:
    constraint = {"id": "detectable_format:json_format"}
    text = 'Here you are:\n{"a": 1}\nAnything else?'
    assert not check(text, [constraint])[0].kept
    assert check(text, [constraint], loose=True)[0].kept
    assert check('**"so it is"**', [{"id": "startend:quotation"}], loose=True)[0].kept
    failed = check("a\nb", [{"id": "startend:quotation"}], loose=True)[0]
    assert failed.why == check("a\nb", [{"id": "startend:quotation"}])[0].why, "the text's own fault, not a reading's"


@pytest.mark.parametrize(
    ("constraint", "told"),
    [
        ({"id": "keywords:existance"}, "did you mean keywords:existence"),
        ({"id": "keywords:existence"}, "keywords"),
        ({"id": "keywords:existence", "kwargs": {"keywords": [" "]}}, "is empty"),
        ({"id": "length_constraints:words_between", "kwargs": {"least": 9, "most": 3}}, "must not be above"),
        ({"id": "length_constraints:number_words", "kwargs": {"num_words": 9, "relation": "about"}}, "less than"),
        ({"id": "language:response_language", "kwargs": {"language": "xx"}}, "should be one of"),
        ({"id": "punctuation:no_comma", "kwargs": {"hard": True}}, "hard"),
    ],
)
def test_what_is_no_constraint_is_told(constraint: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        check("text", [constraint])


def test_arguments_of_null_are_not_given() -> None:
    """IFEval's own data set gives every argument of every type, most of them null."""
    padded = {"num_words": 2, "relation": "at least", "keyword": None, "language": None}
    assert check("one two", [{"id": "length_constraints:number_words", "kwargs": padded}])[0].kept


@given(st.text(), st.integers(0, 10_000))
def test_checking_any_text_gives_a_verdict(text: str, seed: int) -> None:
    constraints = sample(random.Random(seed), 3, request="Describe the sea.")
    assert [verdict.id for verdict in check(text, constraints, loose=bool(seed % 2))] == [c.id for c in constraints]


@pytest.mark.parametrize(
    "text", ["*" * 50_000, "[" * 50_000, "a.\n" * 20_000, "| " * 30_000, "<<" * 30_000, "1. " * 30_000, " \n" * 30_000]
)
def test_a_hostile_text_takes_no_time(text: str) -> None:
    import time

    start = time.perf_counter()
    for name, kwargs, _, _ in CASES:
        if "language" not in name and "english" not in name:
            check(text, [{"id": name, "kwargs": kwargs}])
    assert time.perf_counter() - start < 5


def test_what_a_sentence_is() -> None:
    assert len(sentences("He said so. She didn't! Why? Well…")) == 4
    assert len(sentences('"Stop." He ran. (It was late.) Then he slept.')) == 4
    assert sentences("1. Wash it.\n2. Dry it.\n\nDone") == ["1. Wash it.", "2. Dry it.", "Done"]
    assert len(sentences("See www.site.org or mail a.b@c.de at 3.5 per cent.")) == 1
    assert len(sentences("J. R. Smith et al. found it, e.g. here, etc. and so on.")) == 1
    assert len(sentences("It closes at 5 p.m. The rest is dark.")) == 2
    assert len(sentences("雨が降る。行こう！")) == 2
    assert sentences("...") == []


# ---- drawing


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_constraints_drawn_together_can_be_kept_together(seed: int, count: int) -> None:
    """Proof by example: a text that keeps all of them is written."""
    request = "Describe the harbour of a small town."
    rng = random.Random(seed)
    kinds = [
        name for name in KINDS if name not in ("language:response_language", "detectable_format:constrained_response")
    ]
    constraints = sample(rng, count, request=request, kinds=kinds)
    assert constraints
    assert len({constraint.id for constraint in constraints}) == len(constraints)
    text = Writer(constraints).text()
    # Of a few words, made to fit, no detector can tell the language; every other constraint is kept by any text.
    few = len(words(text)) < 45
    broken = [
        verdict
        for verdict in check(text, constraints)
        if not verdict.kept and not (few and verdict.why == "not English")
    ]
    assert broken == [], f"{[dict(c.kwargs) | {'id': c.id} for c in constraints]}\n{text}"


class Writer:
    """Writes plain English that keeps constraints, if any text can."""

    LINES = ("the grey boat came in with the tide", "two men sat near the wall and ate bread",
             "dogs ran around the barrels", "the light on the stones turned green", "gulls cried and the rain began")  # fmt: skip

    def __init__(self, constraints: list[Constraint]) -> None:
        self.of = {item.id.split(":")[1]: item.kind for item in constraints}

    def text(self) -> str:
        of: Any = self.of
        needed: list[str] = [*(of["existence"].keywords if "existence" in of else ())]
        if "frequency" in of:
            needed += [of["frequency"].keyword] * of["frequency"].frequency
        if "letter_frequency" in of and of["letter_frequency"].let_relation == "at least":
            # One word again and again would not be read as English.
            with_letter = {"j": "jars join jets juice", "k": "keeps books dark oak", "q": "quiet queens quite quickly",
                           "v": "vines have seven waves", "x": "boxes next six foxes", "z": "haze dozen size breeze"}  # fmt: skip
            there = itertools.cycle(with_letter[of["letter_frequency"].letter].split())
            needed += itertools.islice(there, of["letter_frequency"].let_frequency)
        if "json_keys" in of:
            return json.dumps(dict.fromkeys(of["json_keys"].keys, " ".join(needed)))
        if "json_format" in of:
            return json.dumps(needed)
        return self._dressed(self._body(needed))

    def _sizes(self) -> tuple[int, int]:
        """(words to have at least, words of a sentence)."""
        of: Any = self.of
        least = 40 if {"english_capital", "english_lowercase"} & set(of) else 14
        if "number_sentences" in of and of["number_sentences"].relation == "less than" and "words_per_sentence" in of:
            least = 8
        if "number_words" in of:
            most = min(least, of["number_words"].num_words - 16)
            least = of["number_words"].num_words if of["number_words"].relation == "at least" else max(8, most)
        if "words_between" in of:
            least = of["words_between"].least
        return least, of["words_per_sentence"].most if "words_per_sentence" in of else 10**6

    def _body(self, needed: list[str]) -> list[str]:
        """Paragraphs, lists and the like, in order."""
        of: Any = self.of
        least, longest = self._sizes()
        fixed, parts = self._fixed(), self._paragraphs()
        spent = sum(len(sentences(line)) for line in fixed)
        spent += len({"end_checker", "postscript", "repeat_prompt"} & set(of))
        count = of.get("number_sentences")
        number = parts
        if count and count.relation == "at least":
            number = max(parts, count.num_sentences - spent)
        filler = [word for line in self.LINES * 60 for word in line.split()]
        plain = [*needed, *self._marks()]
        used = sum(len(words(line)) for line in fixed)
        while len(plain) + used < least or len(plain) < 2 * number:
            plain.append(filler[len(plain) % len(filler)])
        longest -= 5 if {"start_phrase", "nth_paragraph_first_word"} & set(of) else 0
        number = max(number, -(-len(plain) // longest))
        cuts = [len(plain) * n // number for n in range(number + 1)]
        lines = [" ".join(plain[start:end]) + "." for start, end in itertools.pairwise(cuts)]
        return [" ".join(lines[: number - parts + 1]), *lines[number - parts + 1 :], *fixed]

    def _marks(self) -> list[str]:
        """Words that are marked as something."""
        of: Any = self.of
        found = ["<<oats>>"] if "title" in of else []
        for name, mark in (("number_highlighted_sections", "*oats*"), ("number_placeholders", "[oats]")):
            if name in of:
                found += [mark] * next(iter(of[name].model_dump().values()))
        return found + ["OATS"] * (
            of["capital_word_frequency"].capital_frequency if "capital_word_frequency" in of else 0
        )

    def _paragraphs(self) -> int:
        for name in ("number_paragraphs", "plain_paragraphs", "nth_paragraph_first_word"):
            if name in self.of:
                return int(self.of[name].num_paragraphs)  # type: ignore[attr-defined]
        return 2 if "two_responses" in self.of else 1

    def _fixed(self) -> list[str]:
        of: Any = self.of
        found = []
        if "number_bullet_lists" in of:
            found.append("\n".join(["* oats here"] * of["number_bullet_lists"].num_bullets))
        if "numbered_list" in of:
            found.append("\n".join(f"{n}. oats here" for n in range(1, of["numbered_list"].num_items + 1)))
        if "table" in of:
            columns = of["table"].num_columns
            found.append("\n".join("|" + f"{cell}|" * columns for cell in ("oats", "---", "bread")))
        return found

    def _dressed(self, parts: list[str]) -> str:
        of: Any = self.of
        if "nth_paragraph_first_word" in of:
            kind = of["nth_paragraph_first_word"]
            parts[kind.nth_paragraph - 1] = f"{kind.first_word} {parts[kind.nth_paragraph - 1]}"
        if "exclamation_marks" in of:
            parts[0] = parts[0].rstrip(".") + "!" * of["exclamation_marks"].count
        if "start_phrase" in of:
            parts[0] = f"{of['start_phrase'].start_phrase} {parts[0]}"
        if "repeat_prompt" in of:
            parts[0] = f"{of['repeat_prompt'].prompt_to_repeat} {parts[0]}"
        if "multiple_sections" in of:
            kind = of["multiple_sections"]
            heads = [f"{kind.section_spliter} {n}" for n in range(1, kind.num_sections + 1)]
            # Headings without a stop join the text before them: no further sentences.
            parts[0] = parts[0] + "".join(f"\n{head} oats" for head in heads)
        if "end_checker" in of:
            parts[-1] += f"\n{of['end_checker'].end_phrase}" if self._fixed() else f" {of['end_checker'].end_phrase}"
        if "question" in of:
            parts[-1] = parts[-1].rstrip(".") + "?"
        if "postscript" in of:
            parts[-1] = parts[-1].rstrip(".") + "."
            parts[-1] += f"\n{of['postscript'].postscript_marker} oats are fine"
        joint = {"number_paragraphs": "\n***\n", "two_responses": "\n******\n"}
        text = next((mark for name, mark in joint.items() if name in of), "\n\n").join(parts)
        text = text.upper() if "english_capital" in of else text.lower() if "english_lowercase" in of else text
        return f'"{text}"' if "quotation" in of else text


def one(name: str, **kwargs: Any) -> Constraint:
    return Constraint(id=name, kwargs=kwargs)


@pytest.mark.parametrize(
    ("constraints", "told"),
    [
        ((one("change_case:english_capital"), one("change_case:english_lowercase")), "both decide the case"),
        ((one("length_constraints:number_words", num_words=40, relation="less than"),
          one("length_constraints:number_sentences", num_sentences=12, relation="at least")), "words are needed"),
        ((one("length_constraints:number_sentences", num_sentences=3, relation="less than"),
          one("length_constraints:plain_paragraphs", num_paragraphs=4)), "sentences are needed"),
        ((one("length_constraints:number_sentences", num_sentences=3, relation="less than"),
          one("length_constraints:words_per_sentence", most=10),
          one("length_constraints:number_words", num_words=200, relation="at least")), "words are needed"),
        ((one("keywords:existence", keywords=["very"]), one("keywords:forbidden_words", forbidden_words=["very"])),
         "wanted and forbidden"),
        ((one("keywords:existence", keywords=["sea"]),
          one("keywords:frequency", keyword="sea", frequency=2, relation="at least")), "wanted twice"),
        ((one("detectable_content:no_digits"), one("detectable_format:numbered_list", num_items=3)), "needed and forbidden"),
        ((one("detectable_format:json_keys", keys=["a", "b"]), one("punctuation:no_comma")), "both decide the comma"),
        ((one("detectable_format:multiple_sections", section_spliter="Section", num_sections=2),
          one("change_case:english_lowercase")), "case of the letters"),
        ((one("language:response_language", language="fr"), one("startend:end_checker", end_phrase="That is all.")),
         "for English texts"),
        ((one("startend:quotation"), one("startend:question")), "both decide the end"),
        ((one("keywords:forbidden_words", forbidden_words=["sea"]),), "request itself"),
        ((one("keywords:letter_frequency", letter="k", let_frequency=1, let_relation="less than"),
          one("startend:end_checker", end_phrase="Thank you for reading.")), "needed and forbidden"),
    ],
)  # fmt: skip
def test_contradictions_are_seen(constraints: tuple[Constraint, ...], told: str) -> None:
    assert told in contradiction(constraints, request="Describe the sea.")
    assert told in contradiction(constraints[::-1], request="Describe the sea.")


def test_every_type_is_drawn_and_none_asks_for_what_the_request_says_anyway() -> None:
    rng = random.Random(1)
    seen = set()
    for _ in range(3000):
        request = "Write about a garden, a mirror and the weather in the village."
        for constraint in sample(rng, 2, request=request):
            seen.add(constraint.id)
            if constraint.id == "keywords:existence":
                assert not set(constraint.kwargs["keywords"]) & {"garden", "mirror", "weather", "village"}
    assert seen == set(KINDS) - {"detectable_format:constrained_response"}


def test_drawing_depends_on_chance_alone_and_kinds_narrow_it() -> None:
    assert sample(random.Random(5), 3) == sample(random.Random(5), 3) != sample(random.Random(6), 3)
    only = ["punctuation:no_comma", "startend:quotation"]
    assert {constraint.id for constraint in sample(random.Random(5), 4, kinds=only)} == set(only)
    with pytest.raises(ValueError, match="no constraint is named 'punctuation:comma'"):
        sample(random.Random(5), 1, kinds=["punctuation:comma"])


@pytest.mark.parametrize("name", KINDS)
def test_every_wording_says_its_arguments(name: str) -> None:
    rng = random.Random(3)
    for _ in range(20):
        (constraint,) = sample(rng, 1, request="Describe the sea.", kinds=[name])
        assert describe(constraint) == describe(constraint, random.Random(0)) or describe(constraint)
        for wording in constraint.kind.wordings():
            for value in constraint.kwargs.values():
                if isinstance(value, int) and value > 1:
                    assert str(value) in wording
                elif isinstance(value, tuple | list):
                    assert all(part in wording for part in value)


# ---- beside the public checkers


def test_the_public_checkers_say_the_same() -> None:
    """At least 95% for every type that both have, on random answers; docs/constraints.md has the differences."""
    pytest.importorskip("if_verifiable")
    from benchmarks.constraints import compare, random_answers

    found = compare(random_answers(300, seed=7), seed=7)
    assert len(found) == 25
    for name, row in found.items():
        assert row.both / row.asked >= 0.95, f"{name}: {row}"
        assert row.kept >= 5 and row.asked - row.kept >= 5, f"{name}: answers of one kind only say nothing: {row}"
