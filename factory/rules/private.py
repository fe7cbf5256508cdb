"""Personal data and secrets in an answer: what looks like one by form and checksum, and is none of the well-known examples.

A form alone proves little, so each kind asks for more: a valid numbering plan (phone), Luhn's sum and an issuer's prefix
(card), the remainder of 97 (IBAN), a public address (IP), enough disorder (secret). Only counts leave this file.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from factory.rules.settings import Personal, RulesSettings
from factory.rules.subject import Finding, Subject

_MOST = 1000  # candidates of a kind that are looked at: a text of a million digits must not take minutes
_OPERATOR = "=*/+^×÷<>≈±%"

# RFC 2606 and 6761, and addresses that belong to programs.
_EMAIL = re.compile(
    r"(?<![\w.+/-])[\w.+-]{1,64}@(?:[a-z0-9-]{1,63}\.){1,6}[a-z]{2,24}(?![\w@=(-]|\.\w|:\w)", re.IGNORECASE
)
_EXAMPLE_DOMAIN = re.compile(
    r"(?:^|[.])(?:example|test|invalid|localhost|local)$|(?:^|[.])(?:example|domain|yourdomain|mydomain|company|yourcompany|email|acme|site|website|foo|bar|abc|xyz)"
    r"\.(?:com|org|net|edu|co|io)$",
    re.IGNORECASE,
)
_NOBODY = re.compile(r"^(?:git|hg|noreply|no-reply|donotreply|user(?:name)?|your[\w.-]*|name|email|me|you|someone|somebody|(?:john|jane)[._]?doe|foo|bar|test|example|admin|root|info"
                     r"|support|contact|help|sales|hello|postmaster|webmaster|security|press|abuse)@", re.IGNORECASE)  # fmt: skip

_PHONE = re.compile(r"(?<![\w.+\-/(])(?:\+ ?)?\(?\d[\d ().\-/\u00a0]{5,20}\d(?![\w\-/]|\.\d)")
_GROUPED = re.compile(r"\(\d{2,5}\) ?\d{2,4}[-. ]?\d{2,4}|\d{2,4}[-.]\d{3,4}[-.]\d{3,4}")
_PHONE_CUE = re.compile(
    r"\b(?:phone|tel(?:ephone)?|call|fax|mobile|cell|whatsapp|sms|text|reach|contact|dial|hotline|ring|handy|telefon|téléphone|móvil|电话|手机)\b"
    r"[^\n\d]{0,30}$|[☎📞📱][^\n\d]{0,10}$",
    re.IGNORECASE,
)
_FICTIONAL = re.compile(r"555\D{0,2}01\d\d$|^\+?1?\D*555|555\D{0,2}\d{4}$|123\D{0,2}4567|1234567")

_CARD = re.compile(
    r"(?<![\w.+\-])(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{4,5}|\d{13,16})(?![\w\-]|[.,]\d)"
)
# Issuer's prefix and length (ISO/IEC 7812): Visa, Mastercard, American Express, Discover, Diners Club, JCB.
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}|6(?:011|5\d\d)\d{12}|3(?:0[0-5]|[68]\d)\d{11}"
    r"|35(?:2[89]|[3-8]\d)\d{12}"
)
# Published by payment services for tests.
_TEST_CARDS = frozenset(
    ("4111111111111111", "4242424242424242", "4012888888881881", "4000056655665556", "5555555555554444", "5105105105105100",
     "2223003122003222", "378282246310005", "371449635398431", "6011111111111117", "6011000990139424", "30569309025904",
     "38520000023237", "3530111333300000", "3566002020360505", "4222222222222")
)  # fmt: skip

_IPV4 = re.compile(r"(?<![\w.\-])\d{1,3}(?:\.\d{1,3}){3}(?![\w\-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:.])", re.IGNORECASE)
_VERSION_CUE = re.compile(
    r"(?:\bv|version|release|build|firmware|section|§|chapter|figure|clause|==|>=|<=|~=|\^|oid)[ .:]{0,2}$",
    re.IGNORECASE,
)
_RESOLVERS = frozenset(("8.8.8.8", "8.8.4.4", "1.1.1.1", "1.0.0.1", "9.9.9.9", "1.2.3.4", "4.3.2.1"))

_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
# Characters of a country's numbers (SWIFT's IBAN registry).
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "BA": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "KZ": 20, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MT": 31, "NL": 18, "NO": 15,
    "PL": 28, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip
_TEST_IBANS = frozenset(("GB82WEST12345698765432", "GB29NWBK60161331926819", "GB33BUKB20201555555555", "DE89370400440532013000",
                         "FR1420041010050500013M02606", "NL91ABNA0417164300", "ES9121000418450200051332", "CH9300762011623852957"))  # fmt: skip

_SECRET = re.compile(
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,}\b|\bgithub_pat_\w{60,}\b|\bglpat-[\w-]{20,}|\bxox[baprs]-[\w-]{20,}"
    r"|\bsk-(?:proj-|ant-|live-)?[\w-]{20,}|\b[sr]k_live_[A-Za-z0-9]{20,}|\bAIza[\w-]{35}|\bhf_[A-Za-z0-9]{30,}\b|\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,}"
    r"|\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,}|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----\s+(?:[\w-]+: [^\n]*\s+)*[A-Za-z0-9+/=\s]{100,}"
)
_PLACEHOLDER = re.compile(r"example|your|xxxx|placeholder|dummy|fake|sample|\.\.\.|1234567|abcdef", re.IGNORECASE)
_LEAST_DISORDER = 3.2  # bits a sign, of the sign's frequencies


def personal_data(subject: Subject, bounds: RulesSettings) -> Finding | None:
    """How many of each kind there are, for those kinds that are asked for."""
    if not bounds.personal_data:
        return None
    counts = {kind: sum(1 for _ in _FOUND[kind](subject, bounds)) for kind in bounds.personal_data}
    kinds = [kind for kind, count in counts.items() if count]
    return Finding(counts, f"personal data ({', '.join(kinds)})" if kinds else "")


def emails(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    """Addresses of somebody; those of programs, functions (info@) and example domains are nobody's."""
    for found in _each(_EMAIL, subject.text):
        address = found.group()
        if not _EXAMPLE_DOMAIN.search(address.partition("@")[2]) and not _NOBODY.match(address):
            yield address


def phones(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    """Numbers that a numbering plan admits: with "+", or of `phone_region` if grouped as numbers are or named as one."""
    import phonenumbers

    text = subject.text
    for found in _each(_PHONE, text):
        number = found.group()
        abroad = number.startswith("+")
        if _calculates(text, *found.span()) or _FICTIONAL.search(number):
            continue
        named = _PHONE_CUE.search(text[max(0, found.start() - 60) : found.start()])
        if not abroad and (bounds.phone_region is None or not (named or _GROUPED.fullmatch(number))):
            continue
        try:
            parsed = phonenumbers.parse(number, None if abroad else bounds.phone_region)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(parsed):
            yield number


def cards(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    for found in _each(_CARD, subject.text):
        digits = re.sub(r"\D", "", found.group())
        if (
            _ISSUER.fullmatch(digits)
            and luhn(digits)
            and digits not in _TEST_CARDS
            and not _calculates(subject.text, *found.span())
        ):
            yield digits


def addresses(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    """Public IP addresses; private ones, those for documentation, well-known resolvers and version numbers are none."""
    for pattern in (_IPV4, _IPV6):
        for found in _each(pattern, subject.text):
            try:
                address = ipaddress.ip_address(found.group())
            except ValueError:
                continue
            small = address.version == 4 and all(
                part < 20 for part in address.packed
            )  # a section's or a version's number
            before = subject.text[max(0, found.start() - 12) : found.start()]
            if address.is_global and not small and str(address) not in _RESOLVERS and not _VERSION_CUE.search(before):
                yield str(address)


def ibans(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    for found in _each(_IBAN, subject.text):
        number = found.group().replace(" ", "")
        number = number[: _IBAN_LENGTHS.get(number[:2], 0)]  # a capital word may follow
        if valid_iban(number) and number not in _TEST_IBANS:
            yield number


def secrets(subject: Subject, bounds: RulesSettings) -> Iterator[str]:
    """Keys and tokens by their prefixes. Placeholders are none: too even, without digits, or saying what they are."""
    for found in _each(_SECRET, subject.text):
        secret = found.group()
        if (
            not _PLACEHOLDER.search(secret)
            and sum(map(str.isdigit, secret)) >= 2
            and disorder(secret) >= _LEAST_DISORDER
        ):
            yield secret


_FOUND: Mapping[Personal, Callable[[Subject, RulesSettings], Iterator[str]]] = {
    "email": emails,
    "phone": phones,
    "card": cards,
    "ip": addresses,
    "iban": ibans,
    "secret": secrets,
}


def luhn(digits: str) -> bool:
    """Whether the last digit is the others' check digit (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return bool(digits) and total % 10 == 0


def valid_iban(number: str) -> bool:
    """Whether length and checksum are a country's (ISO 13616; ISO/IEC 7064, MOD 97-10)."""
    if len(number) != _IBAN_LENGTHS.get(number[:2], 0):
        return False
    return int("".join(str(int(sign, 36)) for sign in number[4:] + number[:4])) % 97 == 1


def disorder(text: str) -> float:
    """Shannon's entropy of the signs' frequencies, in bits a sign."""
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts)


def _each(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    for number, found in enumerate(pattern.finditer(text)):
        if number >= _MOST:
            return
        yield found


def _calculates(text: str, start: int, end: int) -> bool:
    """Whether a number stands in a formula: beside an operator, or in dollar signs of TeX."""
    before, after = text[max(0, start - 3) : start].rstrip(), text[end : end + 3].lstrip()
    return before[-1:] in [*_OPERATOR, "$", "{"] or after[:1] in [*_OPERATOR, "$", "}", "\\"]
