"""Duplicates: the same text, nearly the same words (MinHash), nearly the same meaning (embeddings).

Each takes records IN ORDER OF PREFERENCE, best first, and yields a `Duplicate` for each one to be dropped. It is greedy: a
record goes if it is too like one before it that STAYS, so that no chain of small steps empties a set, and so that the best
of a group is the one kept. Whatever grows with the number of records lies in files under the scratch folder, which have no
name there and vanish with the process however it ends.

    for duplicate in semantic(rows, embedder, SemanticSettings(), Path("scratch")):
        print(duplicate.id, "is like", duplicate.of, duplicate.similarity)
"""

from factory.duplicates.disk import Duplicate
from factory.duplicates.exact import ExactSettings, exact, fingerprint
from factory.duplicates.minhash import MinHashSettings, minhash
from factory.duplicates.semantic import SemanticSettings, Vectors, semantic, semantic_vectors

__all__ = [
    "Duplicate",
    "ExactSettings",
    "MinHashSettings",
    "SemanticSettings",
    "Vectors",
    "exact",
    "fingerprint",
    "minhash",
    "semantic",
    "semantic_vectors",
]
