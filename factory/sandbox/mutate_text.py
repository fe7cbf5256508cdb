"""Mutants of a program in a language whose syntax tree we do not have: one token changed at a time.

Texts and comments are left alone. A mutant that does not compile says nothing about the tests and is left out of the
count by whoever runs it.
"""

from __future__ import annotations

import random
import re

from factory.sandbox.mutate import Mutant

_TOKEN = re.compile(
    r"(?P<skip>//[^\n]*|(?<![\w$\"'{])\#(?!include|define)[^\n]*|/\*.*?\*/|\#include[^\n]*|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`)"
    r"|(?P<word>-(?:lt|le|gt|ge|eq|ne)\b|\btrue\b|\bfalse\b)"
    r"|(?P<number>(?<![\w.$])\d+(?![\w.]))"
    r"|(?P<operator><<|>>|<=|>=|===|!==|==|!=|&&|\|\||\+\+|--|\+=|-=|->|=>|[-+*/%<>])",
    re.DOTALL,
)
_SWAPS = {
    "<": ("<=",), "<=": ("<",), ">": (">=",), ">=": (">",), "==": ("!=",), "!=": ("==",), "===": ("!==",), "!==": ("===",),
    "&&": ("||",), "||": ("&&",), "+": ("-",), "-": ("+",), "*": ("+",), "/": ("*",), "%": ("*",), "+=": ("-=",),
    "-=": ("+=",), "++": ("--",), "--": ("++",), "true": ("false",), "false": ("true",), "-lt": ("-le",), "-le": ("-lt",),
    "-gt": ("-ge",), "-ge": ("-gt",), "-eq": ("-ne",), "-ne": ("-eq",),
}  # fmt: skip


def text_mutants(code: str, *, limit: int, seed: int = 0) -> list[Mutant]:
    """Up to `limit` different mutants, the choice fixed by `seed`."""
    found: dict[str, Mutant] = {}
    for match in _TOKEN.finditer(code):
        token = match.group()
        if match.lastgroup == "skip":
            continue
        changed = (str(int(token) + 1),) if match.lastgroup == "number" else _SWAPS.get(token, ())
        for other in changed:
            mutant = code[: match.start()] + other + code[match.end() :]
            line = code.count("\n", 0, match.start()) + 1
            found.setdefault(mutant, Mutant(mutant, f"line {line}: {token} -> {other}"))
    everything = list(found.values())
    if len(everything) <= limit:
        return everything
    chosen = sorted(random.Random(seed).sample(range(len(everything)), limit))
    return [everything[place] for place in chosen]
