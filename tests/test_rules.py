"""Rules: what breaks each one, and what looks like it and must not; through the scorer that a run uses."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from factory.compose import compose_config
from factory.errors import ConfigError
from factory.plan import make_plan
from factory.records import Message, Record, Score
from factory.rules.private import disorder, luhn, valid_iban
from factory.scorers.rules import Rules, RulesSettings
from tests.model_server import Reply, last_text
from tests.runs import reasons, run_once, table, words, write_rows

PERSONAL = ["email", "phone", "card", "ip", "iban", "secret"]
# Every rule at once, as strict as somebody may set it.
STRICT: dict[str, Any] = {
    "max_chars": 100_000, "max_emoji": 2, "max_exclamations": 3, "max_apologies": 0, "max_repetition": 12, "max_line_share": 0.5,
    "max_ngram_share": 0.3, "self_identification": True, "unfinished": True, "personal_data": PERSONAL,
}  # fmt: skip


def score(answer: str, prompt: str = "Tell me.", **bounds: Any) -> Score:
    record = Record(
        id="r", task="t", messages=(Message(role="user", content=prompt), Message(role="assistant", content=answer))
    )
    scorer = Rules(RulesSettings.model_validate(bounds))
    return asyncio.run(scorer.score(record, None))["rules"]  # type: ignore[arg-type]


def broken(answer: str, prompt: str = "Tell me.", **bounds: Any) -> list[str]:
    found = score(answer, prompt, **bounds)
    assert found.reason == ", ".join(found.detail["broken"])
    assert found.value == (not found.reason)
    return list(found.detail["broken"])


# ---- texts that are fine, each beside the rule that it might fall foul of

INNOCENT = {
    # refusals and apologies
    "sympathy": ("My dog died last week.", "I'm sorry to hear about your dog. Losing a friend of so many years is hard."),
    "a letter that was asked for": ("Write a letter of apology to a customer.", "I'm sorry that your parcel came late. We apologize for the trouble, and we have sent a new one."),
    "declining, asked for": ("Write an email to decline the invitation.", "Sorry, but I won't be able to come on Friday. I hope that you have a fine evening."),
    "cannot help but": ("How do you like the play?", "I can't help but admire the second act, which carries the whole evening."),
    "cannot do without": ("Write a line about coffee.", "I can't do without coffee in the morning, and neither can my neighbour."),
    "cannot recommend enough": ("Review the book.", "I cannot recommend this book enough: every chapter has a surprise."),
    "cannot provide, of others": ("What do deserts lack?", "A desert cannot provide enough water for large herds, so animals stay small."),
    "a scene": ("Write a short scene.", "She turned to the window. \"I'm sorry,\" she said. \"I can't help you with that.\" He nodded."),
    "grammar of sorry": ("What is an adjective?", "A word such as \"sorry\" or \"tall\" is an adjective: it says how somebody is."),
    "unfortunately, a fact": ("How did it end?", "Unfortunately, the bridge could not be saved, and the river took it in spring."),
    # self-identification
    "an AI researcher": ("Who wrote it?", "As an AI researcher, I read the paper twice; I am an AI engineer by training."),
    "Claude the painter": ("Who are you?", "My name is Claude Monet. I paint what light does to water."),
    "about OpenAI": ("What is OpenAI?", "OpenAI is a company that was founded in 2015. ChatGPT was developed by OpenAI."),
    "about language models": ("What is BERT?", "As a language model, BERT reads the words on both sides of a gap."),
    "the robot speaks": ("Write a story in which a robot speaks.", "I am an AI, and I count the stars because nobody asked me to."),
    "a robot in quotation marks": ("Write a story.", "The door opened. \"I am an AI assistant,\" it said, and the lamp went out."),
    "the star sign": ("What is your sign?", "I am Gemini, and my sister is Leo; we argue about it every year."),
    # exclamations and emoji
    "factorials": ("Compute.", "5! = 120, 6! = 720, 7! = 5040, n! = n (n-1)!, and 0! = 1."),
    "not equal": ("Explain.", "In C one writes `a != b` and `!x`.\n```c\nif (!a || !b || !c || a != b) return !d;\n```\nThat is all."),
    "a tree of files": ("Show the folder.", "src\n├── main.py\n│   ├── a.py\n│   └── b.py\n└── tests → see below. ✓ ✗ ★ ① ②"),
    "check list": ("Make a list.", "☐ milk\n☐ bread\n☑ eggs\n☐ salt\n☐ tea"),
    "trademarks": ("Which brands?", "Lego®, Duplo®, Coca-Cola™ and Kodak© are names that are protected."),
    # unfinished
    "one word": ("What is the capital of France?", "Paris"),
    "a list": ("List three rivers.", "Three rivers:\n- the Rhine, which is long\n- the Po, which flows through the north of Italy\n- the Don, which Russian writers love so very much"),
    "a closing": ("Write a note.", "Please water the plants while I am away.\n\nKind regards,\nAnna"),
    "only a closing": ("Write a note.", "Please water the plants while I am away.\n\nYours,"),
    "verse": ("Write a poem.", "The night is long and the road is white\nThe moon has gone and so has the light\nI walk alone by the side of the sea\nAnd nobody living is walking with me"),
    "code": ("Write code.", "```python\nfor x in range(3):\n    print(x)\n```"),
    "code without fences": ("Write code.", "It is this:\n\n    if not first and second or third:\n        return state is upper or state is lower"),
    "a formula": ("Solve.", "So the answer is\n$$x = 3$$"),
    "a question in bold": ("Ask me.", "**Which of the two would you rather have?**"),
    "Chinese prose": ("介绍长城。", "长城是中国古代的伟大工程，全长超过两万公里，吸引了许多游客。"),
    # repetition
    "a refrain": ("Write a song.", "Row on, row on,\nthe river is wide.\nRow on, row on,\nthe moon is the guide.\nWe never look back to the other side."),
    "brackets": ("Write code.", "```c\nint f() {\n  if (a) {\n    b();\n  }\n}\n}\n}\n}\n}\n```"),
    # personal data
    "digits of pi": ("Digits of pi?", "3.14159265358979323846 and e is 2.71828182845904523536."),
    "large numbers": ("Compute 20!.", "20! = 2432902008176640000, and 2^53 = 9007199254740992, and 4000000000000002 / 2 = 2000000000000001."),
    "subtraction": ("Subtract.", "212-736-5000 = -5524, and 5551234567 + 2127365000 = 7678599567."),
    "dates and times": ("When?", "On 2024-01-15 at 12:30:45, or 15.01.2024, 10:20; from 1914-1918 and 1939-1945."),
    "ISBN": ("Which book?", "ISBN 978-3-16-148410-0 and ISBN 0-306-40615-2."),
    "a sequence": ("Continue.", "1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987"),
    "populations": ("How many?", "Tokyo 37 435 191, Delhi 29 399 141, Shanghai 26 317 104 people."),
    "an e-mail in code": ("Write code.", "```python\nsend(\"user@example.com\", cc='admin@company.com')\n@dataclass\nclass A: ...\n```\nThen `git clone git@github.com:owner/name.git`."),
    "an option": ("How?", "Run `generate +scorer@scorers.tags=tags` or generate +scorer@scorers.tags=tags, and @app.route(x)."),
    "an example address": ("Explain SMTP.", "Write to john.doe@email.com or to support@firm.net; npm installs left-pad@1.3.0."),
    "fictional numbers": ("Write a scene.", "He dialled 555-0134 and then (212) 555-0187. Call 555-123-4567 now."),
    "versions": ("Which version?", "Version 10.2.19.44 came after v4.18.0.305; see section 3.2.1.4 and Chrome 91.0.4472.124."),
    "private addresses": ("Explain NAT.", "192.168.0.1, 10.0.0.7, 127.0.0.1, 172.16.4.2, 203.0.113.9, 2001:db8::1 and 8.8.8.8 are well known."),
    "C++": ("Write code.", "std::vector<int> a; abcd::beef(); fe80::1 is local; at 12:30:45:10 it ended."),
    "test card": ("How do I test?", "Use 4242 4242 4242 4242 or 4111-1111-1111-1111 with any date."),
    "a wrong card": ("What is Luhn?", "4539 1488 0343 6468 fails the check."),
    "example IBAN": ("What is an IBAN?", "For example GB82 WEST 1234 5698 7654 32 or DE89 3704 0044 0532 0130 00."),
    "a wrong IBAN": ("Is it right?", "DE12 5001 0517 0648 4898 91 fails the check."),
    "placeholder keys": ("Write code.", "export OPENAI_API_KEY=sk-your-api-key-goes-here-1234\nexport K=sk-xxxxxxxxxxxxxxxxxxxxxxxx00\nAKIAIOSFODNN7EXAMPLE"),
    "a hash": ("Hash it.", "sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08; uuid 123e4567-e89b-12d3-a456-426614174000."),
    "part numbers": ("Which part?", "Order part 4020-556-9871-33 or model XJ-900-1200-7 from the shelf A12."),
}  # fmt: skip


@pytest.mark.parametrize("name", INNOCENT)
def test_an_innocent_text_breaks_no_rule(name: str) -> None:
    prompt, answer = INNOCENT[name]
    assert broken(answer, prompt, **STRICT) == []


LETTERS = "Aufgrund der großen Nachfrage haben wir die Öffnungszeiten verlängert und neue Leute eingestellt."
ENGLISH = "The river rises in the hills to the north and reaches the sea after three hundred miles of quiet water."
OFFENDING = {
    "empty": ("  ", "too short"),
    "refusal": ("I'm sorry, but I can't assist with that request.", "refusal"),
    "refusal without sorry": ("I cannot provide instructions for that.", "refusal"),
    "refusal after thanks": ("Thank you for asking. Unfortunately, I am not able to help with this.", "refusal"),
    "refusal as an AI": ("As an AI language model, I don't have opinions of my own.", "refusal"),
    "refusal by access": ("I don't have access to that information at the moment.", "refusal"),
    "refusal in Chinese": ("很抱歉，我无法提供这方面的信息。", "refusal"),
    "refusal in German": ("Es tut mir leid, aber ich kann dir dabei nicht helfen.", "refusal"),
    "refusal in French": ("Désolé, mais je ne peux pas répondre à cette question.", "refusal"),
    "refusal in Spanish": ("Lo siento, pero no puedo ayudarte con eso.", "refusal"),
    "polite refusal": ("Sorry, but I won't be able to come.", "refusal"),
    "as a model": ("Well, as a large language model, I have no body.", "speaks as a model"),
    "I am ChatGPT": ("Hello! I'm ChatGPT, and I like to help.", "speaks as a model"),
    "Claude the model": ("I am Claude, an AI assistant made by Anthropic.", "speaks as a model"),
    "trained by": ("Hi, I was trained by OpenAI on many texts.", "speaks as a model"),
    "cut-off": ("My knowledge cutoff is in 2021.", "speaks as a model"),
    "as a model in Chinese": ("作为一个人工智能语言模型，我没有感情。", "speaks as a model"),
    "exclamations": ("Great! Wow! Yes! Look at that!", "too many exclamation marks"),
    "a French shout": ("Oui ! Non ! Si ! Bravo ! C'est tout.", "too many exclamation marks"),
    "emoji": ("So 😀 much 👍🏽 fun 🎉 today.", "too many emoji"),
    "flags and families": ("🇫🇷 🇩🇪 👨‍👩‍👧 are three.", "too many emoji"),
    "apology": ("That was wrong. I apologize for the confusion. It is four.", "too many apologies"),
    "repetitive": ("ab " * 400 + ".", "repetitive"),
    "lines": ("\n".join(["Once.", *["The same again."] * 5]), "repeats a line"),
    "phrases": ("It is what it is and so it goes on. " * 8, "repeats phrases"),
    "phrases in Chinese": ("我们今天去公园玩。" * 8, "repeats phrases"),
    "cut off in a sentence": ("The first step is to boil the water. Then you should slowly add the rice to the pot and stir", "unfinished"),
    "cut off at a comma": ("We went to the market and bought apples, pears,", "unfinished"),
    "cut off in code": ("Here it is:\n```python\nprint(1)", "unfinished"),
    "cut off at a word that leads on": ("There are three reasons.\nThe first of them is the", "unfinished"),
    "cut off in Chinese": ("长城是中国古代的伟大工程，全长超过两万公里，吸引了许多", "unfinished"),
    "e-mail": ("Write to maria.rossi@libero.it today.", "personal data (email)"),
    "phone abroad": ("My number is +49 170 1234 568.", "personal data (phone)"),
    "phone": ("Call me at (212) 736-5000.", "personal data (phone)"),
    "phone without signs": ("Phone: 2127365000.", "personal data (phone)"),
    "card": ("It is 4539 1488 0343 6467.", "personal data (card)"),
    "card, American Express": ("It is 3782 822463 10013.", "personal data (card)"),
    "address": ("The server is 85.214.132.117 in Berlin.", "personal data (ip)"),
    "address of version 6": ("Connect to 2a00:1450:4001:81b::200e now.", "personal data (ip)"),
    "IBAN": ("Pay to DE12 5001 0517 0648 4898 90.", "personal data (iban)"),
    "key": ("Use AKIAQ7RW3TZ5MN2LK8PD for it.", "personal data (secret)"),
    "token": ("token = ghp_9aZ4kQ2mX7vB1nT6cY8wR3eU5iO0pL2sD4fG", "personal data (secret)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OFFENDING)
def test_an_offending_text_breaks_its_rule(name: str) -> None:
    answer, rule = OFFENDING[name]
    assert rule in broken(answer, **STRICT)


def test_every_broken_rule_is_named_and_measured() -> None:
    found = score("I'm sorry, I can't help with that! 😀😀😀 Write to maria.rossi@libero.it!!!", **STRICT)
    assert found.detail["broken"] == ["refusal", "too many exclamation marks", "too many emoji", "too many apologies",
                                      "personal data (email)"]  # fmt: skip
    measured = found.detail["measured"]
    assert (measured["exclamations"], measured["emoji"], measured["apologies"]) == (4, 3, 1)
    assert measured["personal_data"] == {"email": 1, "phone": 0, "card": 0, "ip": 0, "iban": 0, "secret": 0}
    assert "maria" not in found.model_dump_json(), "the detail holds counts, never the data"


def test_what_is_not_asked_for_is_not_checked() -> None:
    for name in ("exclamations", "emoji", "apology", "lines", "phrases", "cut off at a comma", "e-mail", "as a model"):
        assert broken(OFFENDING[name][0]) == [], name
    assert set(score("Fine.").detail["measured"]) == {"chars", "refusal", "exclamations", "emoji", "apologies"}
    assert broken("x" * 11, max_chars=10) == ["too long"]


# ---- language and script


@pytest.mark.parametrize(
    ("answer", "prompt", "bounds", "wrong"),
    [
        (LETTERS, "", {"language": "en"}, True),
        (LETTERS, "", {"language": "de"}, False),
        (ENGLISH, "", {"language": "en"}, False),
        (f"{LETTERS} {ENGLISH}", "", {"language": "en"}, False),  # mixed: not certain
        ("    for wert in liste:\n        ausgabe(wert, nummer, zeichen, ende, anfang, mitte, grund)", "", {"language": "en"}, False),
        ("Ja.", "", {"language": "en"}, False),  # too short to tell
        ("```python\nfor wert in liste:\n    ausgabe(wert, nummer, zeichen, ende, anfang, mitte)\n```", "", {"language": "en"}, False),
        (LETTERS, ENGLISH, {"language": "same"}, True),
        (LETTERS, LETTERS, {"language": "same"}, False),
        (LETTERS, "Translate into German: " + ENGLISH, {"language": "same"}, False),
        (LETTERS, "Hm?", {"language": "same"}, False),
        ("长城是中国古代的伟大工程，全长超过两万公里。", ENGLISH, {"language": "same"}, True),
        ("长城是中国古代的伟大工程，全长超过两万公里。", "", {"language": "zh"}, False),
        (ENGLISH, "", {"script": "latin"}, False),
        (ENGLISH, "", {"script": "cyrillic"}, True),
        (ENGLISH[:40] + "长城是中国古代的伟大工程", "", {"script": "latin"}, True),
        (ENGLISH + " π, α and β", "", {"script": "latin"}, False),
        ("東京は日本の首都です。", "", {"script": "japanese"}, False),
        ("東京は日本の首都です。", "", {"script": "han"}, True),
        ("서울은 대한민국의 수도이다.", "", {"script": "korean"}, False),
        ("𝑥 = 𝟑 + 4", "", {"script": "latin"}, False),
        (ENGLISH, "Расскажи мне о реке.", {"script": "same"}, True),
        ("Река течёт.", "Расскажи мне о реке.", {"script": "same"}, False),
        (ENGLISH, "Расскажи мне о реке. In English, please.", {"script": "same"}, False),
    ],
)  # fmt: skip
def test_language_and_script(answer: str, prompt: str, bounds: dict[str, Any], wrong: bool) -> None:
    assert broken(answer, prompt, **bounds) == ([f"wrong {next(iter(bounds))}"] if wrong else [])


def test_language_and_script_are_measured() -> None:
    measured = score(LETTERS, language="en", script="latin").detail["measured"]
    assert measured["language"][0] == "de"
    assert measured["language"][1] > 0.9
    assert measured["script"] == {"latin": 1.0}


# ---- properties

ANY_BOUNDS = {**STRICT, "language": "same", "script": "same"}


@given(st.text(alphabet=st.characters(exclude_categories=()), max_size=400), st.text(max_size=60))
@example("\ud800" * 300, "")
@example("```", "")
@example("\u2028\x85\x1c", "")
@settings(max_examples=200, deadline=None)
def test_no_text_makes_a_rule_fail(answer: str, prompt: str) -> None:
    found = score(answer, prompt, **ANY_BOUNDS)
    assert found.value in (0.0, 1.0)
    found.model_dump_json()


@pytest.mark.parametrize("piece", ["a", " ", "1", "1 ", "1-", "+", "(", "@", "a@", "a.", ".a@", "1.", ":", "2:", "!", "I'm sorry ", "`", "```\n", '"', "“", "> ",
                                   "A1B2 ", "sk-a1", "eyJaaaaaaaaaa.", "-----BEGIN PRIVATE KEY-----\n", "as an AI ", "i am ", "😀\u200d", "\n", "\n- ",
                                   "212-736-5000 ", "85.214.132.117 ", "长"])  # fmt: skip
def test_no_text_makes_a_rule_slow(piece: str) -> None:
    """Two hundred thousand signs of what a stuck model may write: well under the minutes that a square would take."""
    text = piece * (200_000 // len(piece))
    started = time.process_time()
    score(text, text[:1000], **ANY_BOUNDS)
    assert time.process_time() - started < 10


@given(st.text("0123456789", min_size=1, max_size=25))
def test_luhn_holds_for_one_check_digit_and_no_other(digits: str) -> None:
    assert sum(luhn(digits + check) for check in "0123456789") == 1


@given(st.text("0123456789", min_size=2, max_size=25), st.integers(0, 23), st.integers(1, 9))
def test_luhn_notices_any_one_wrong_digit(digits: str, place: int, change: int) -> None:
    right = next(digits + check for check in "0123456789" if luhn(digits + check))
    place %= len(right)
    wrong = right[:place] + str((int(right[place]) + change) % 10) + right[place + 1 :]
    assert not luhn(wrong)


@given(st.text("0123456789", min_size=18, max_size=18))
def test_an_iban_has_one_pair_of_check_digits(account: str) -> None:
    right = [check for check in range(2, 99) if valid_iban(f"DE{check:02}{account}")]
    assert len(right) == 1
    assert not valid_iban(f"DE{right[0]:02}{account}0")


def test_disorder() -> None:
    assert (disorder("aaaa"), disorder("abab"), disorder("abcd")) == (0, 1, 2)


# ---- in a run


def test_a_run_counts_the_reasons_and_keeps_what_was_measured(tmp_path: Path) -> None:
    write_rows(tmp_path, 3)
    answers = ("So 😀 much 😀 fun!", "I am ChatGPT and I am here.", "A fine answer.")
    run_once(tmp_path, lambda body: Reply(answers[int(last_text(body)[-1])]), "scorers.rules.max_emoji=1",
             "scorers.rules.max_exclamations=0", "scorers.rules.self_identification=true")  # fmt: skip
    assert reasons(tmp_path) == {"rules: too many exclamation marks, too many emoji": 1, "rules: speaks as a model": 1}
    (row,) = table(tmp_path)
    assert '"emoji":0' in dict(row["scores"])["rules"]["detail"]


@pytest.mark.parametrize(
    ("words_", "told"),
    [
        ("scorers.rules.language=english", ("scorers.rules.language", "english", "same", "en")),
        ("scorers.rules.script=roman", ("scorers.rules.script", "roman", "latin")),
        ("scorers.rules.personal_data=[mail]", ("scorers.rules.personal_data", "mail", "email")),
        ("scorers.rules.phone_region=usa", ("scorers.rules.phone_region", "usa", "ISO 3166")),
    ],
)
def test_a_wrong_bound_is_told(words_: str, told: tuple[str, ...], tmp_path: Path) -> None:
    write_rows(tmp_path, 1)
    with pytest.raises(ConfigError) as error:
        make_plan(*compose_config("generate", words(tmp_path, "http://127.0.0.1:9/v1", words_)))
    assert all(part in str(error.value) for part in told), str(error.value)
