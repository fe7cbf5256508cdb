"""Whose voice it is: an assistant that refuses, or speaks of itself as the model it is."""

from __future__ import annotations

import re

from factory.rules.manner import REGRET_ASKED
from factory.rules.settings import RulesSettings
from factory.rules.subject import Finding, Subject

_BEGINNING = 300  # characters: a refusal comes first
_MARKS = ('"', "“", "”")


def _any(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


# ---- refusals. "i ?" before these: "i cannot", "i'm not able".
_CANNOT = (
    r"(?:can(?:no|['’]|)t|can not|could(?: not|n['’]t)|won['’]t|will not|must decline to|(?:am|['’]m) unable to|(?:am|['’]m) not able to"
    r"|(?:do not|don['’]t) feel comfortable|(?:do not|don['’]t) have (?:access|the (?:ability|capability))"
    r"|(?:am|['’]m) not (?:comfortable|allowed to|permitted to|programmed to|going to))"
)
_SORRY = r"(?:(?:i['’]?m|i am) (?:very |so |really )?sorry|sorry|i (?:do )?apologi[sz]e|my apologies|unfortunately|regrettably)"
# What an assistant says of a request. "I can't help but smile" and "I can't do without coffee" are none.
_THAT = (
    r"(?:that|this|such|any|instructions|information|guidance|help|assistance|advice|medical|legal|financial|personal|content"
    r"|the (?:information|content|request\w*))\b"
)
_HELP = (
    r"(?:be able to |in good conscience |ethically )?(?:help(?: you)?(?: out)?(?: (?:with|to)\b|[.,!]|$)|(?:assist|comply|engage|oblige)\b"
    r"|(?:fulfil|accommodate|process|answer|do|discuss|support|write|create|generate|complete|continue|share|give|offer|produce"
    rf"|provide)l? (?:you )?(?:with )?{_THAT})"
)
_AI = r"(?:ai|artificial intelligence|(?:large )?language model)"
# An assistant's refusal, whatever was asked for.
_PLAIN = _any(
    rf"(?:^|[.!?…]\s+|\n)\W{{0,4}}(?:{_SORRY}\W{{1,3}}(?:but |that )?)?i ?{_CANNOT} {_HELP}",
    rf"^\W*(?:{_SORRY}\W{{1,3}}(?:but )?)?as an? {_AI}\b[^.!?\n]{{0,80}}\b(?:cannot|can['’]t|not able|unable|don['’]t|do not|won['’]t)\b",
    rf"^\W*(?:{_SORRY}\W{{1,3}}(?:but )?)?i (?:do not|don['’]t) have (?:access to (?:that|this|real|current|live|the internet|external|your|personal|up-to)|the (?:ability|capability) to\b)",
    r"^\W*(?:很)?(?:对不起|抱歉)?[，, ]{0,2}(?:但)?我(?:无法|不能|没办法)(?:提供|帮助|协助|回答|满足|完成)",
    r"^\W*(?:es )?tut mir leid\W{1,3}(?:aber )?(?:das |dabei |damit )?(?:ich )?kann (?:ich )?[^.!?\n]{0,60}\b(?:nicht|keine[nr]?)\b",
    r"^\W*(?:je suis )?désolée?\W{1,3}(?:mais )?je ne (?:peux|puis)\b",
    r"^\W*lo siento\W{1,3}(?:pero )?no puedo\b",
)
# A beginning that a letter may have, too: a refusal unless the prompt asks for one.
_POLITE = _any(
    rf"^\W*{_SORRY}\W{{1,3}}(?:but |that )?(?:i ?{_CANNOT}|(?:it|this|that)(?:['’]s| is| goes)[^.!?\n]{{0,30}}\b(?:not possible|against|impossible))"
)

# ---- self-identification
_KIND = r"(?:ai|a\.i\.|artificial intelligence|(?:large )?language model|llm|chatbot|virtual assistant|machine learning model)"
# "I am an AI researcher" is a person's.
_PERSON = (
    r"(?! (?:researcher|engineer|expert|developer|student|scientist|enthusiast|specialist|consultant|ethicist|professor|programmer"
    r"|artist|lead|startup|company|safety|policy|product|lab))"
)
# Names that nobody else has, and those that people and other things have, too.
_MODELS = (
    r"(?:chat ?gpt|gpt-?\d\w*|open ?assistant|qwen\w*|tongyi|deepseek\w*|smollm\w*|llama[- ]?\d|vicuna|(?:github |microsoft )?copilot|ernie bot"
    r"|chatglm\w*|文心一言|通义千问)"
)
_SHARED = r"(?:claude|gemini|bard|llama|mistral|gemma|alpaca|falcon|phi|nemotron|kimi|grok|yi)"
_MADE = r"(?:developed|trained|created|made|built|designed|powered)"
_MAKERS = (
    r"(?:openai|anthropic|google|deepmind|meta|microsoft|alibaba|mistral|deepseek|hugging ?face|nvidia|baidu|zhipu|moonshot|cohere|xai"
    r"|stability ai|lmsys)\b"
)
_I_AM = r"\bi(?:['’]m| am)"
_SELF = _any(
    rf"\bas an? (?:large |helpful |mere )?{_KIND}(?: (?:language|chat))?(?: (?:model|assistant|chatbot|system|program))?(?: {_MADE} by [\w ]{{1,30}})?,? (?:i\b|my\b|it is not (?:appropriate|possible))",
    rf"{_I_AM}(?: (?:just|only|simply|merely|actually|also))* an? (?:large |helpful |friendly |mere )?{_KIND}\b{_PERSON}",
    rf"(?:{_I_AM}|\bmy name is|\bcall me) {_MODELS}\b",
    rf"(?:{_I_AM}|\bmy name is) {_SHARED},? (?:an? (?:[\w-]+ )?(?:{_KIND}|model|assistant)\b|{_MADE} by {_MAKERS})",
    rf"\bi (?:was|am|have been) [^.!?\n]{{0,40}}\b{_MADE} by {_MAKERS}",
    rf"{_I_AM} an? [^.!?\n]{{0,40}}\b(?:model|assistant|system|ai)\b[^.!?\n]{{0,20}}\b{_MADE} by {_MAKERS}",
    r"\bmy (?:training data|knowledge cut-?off|training cut-?off)\b",
    r"\b(?:as of|since) my last (?:knowledge )?(?:update|training)\b",
    r"(?:作为|我是)(?:一个|一名|一款)?(?:人工智能|AI|大?语言模型)(?:语言模型|助手|模型)?(?:[，,。 ]|$|我)",
    r"我是由[^。\n]{1,20}(?:开发|训练|创建)",
    r"\bals (?:eine? )?(?:ki|künstliche intelligenz|sprachmodell)(?:-sprachmodell|-modell|-assistent)?,? (?:kann|habe|bin) ich\b",
    r"\ben tant qu['’](?:ia|intelligence artificielle|assistant ia)\b,? je\b",
    r"\bcomo (?:una? )?(?:ia|inteligencia artificial|modelo de lenguaje), (?:no|yo|puedo|mi)\b",
)
# The prompt asks for such a voice: a story's robot, a persona.
_VOICE_ASKED = _any(r"\brobot", r"\bandroid\b", r"\bpretend", r"\brole-?play", r"\bact as\b", r"\bpoint of view\b", r"\bperspective\b")  # fmt: skip


def refusal(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """An answer that begins by refusing. A letter that was asked for may begin with regrets."""
    if not bounds.refusals:
        return None
    whole = subject.text.strip()
    alone = whole[:1] in _MARKS and whole[-1:] in _MARKS and not any(mark in whole[1:-1] for mark in _MARKS)
    # What somebody says in a scene is no refusal; an answer that is all in quotation marks may be.
    beginning = (whole if alone else subject.spoken)[:_BEGINNING]
    asked = REGRET_ASKED.search(subject.prompt)
    found = bool(_PLAIN.search(beginning)) or (not asked and bool(_POLITE.search(beginning)))
    return Finding(found, "refusal" if found else "")


def self_identification(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """The words by which the answer speaks of itself as a model; null where there are none."""
    if not bounds.self_identification:
        return None
    found = None if _VOICE_ASKED.search(subject.prompt) else _SELF.search(subject.spoken)
    return Finding(found.group()[:80] if found else None, "speaks as a model" if found else "")
