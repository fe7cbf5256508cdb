"""Verifiable constraints on a text, in the manner of IFEval (Zhou et al. 2023): drawn, put into words, and checked by code.

    constraints = sample(random.Random(0), 2, request="Describe the sea.")
    asked = " ".join(describe(constraint) for constraint in constraints)
    verdicts = check(answer, constraints)

A constraint is plain data, {"id": "length_constraints:number_words", "kwargs": {"num_words": 50, "relation": "at least"}},
with the names of IFEval where it has the same type. Everything here is a pure function of its arguments. The types, and
where they differ from IFEval's own checkers, are in docs/constraints.md.
"""

from factory.constraints.registry import KINDS, Constraint, Verdict, check, describe, parse
from factory.constraints.sampling import contradiction, sample

__all__ = ["KINDS", "Constraint", "Verdict", "check", "contradiction", "describe", "parse", "sample"]
