"""How many planted HumanEval problems are found, by what, and what is found where nothing is:
`python -m benchmarks.decontamination [--embedder minilm] [--unrelated 1000]`.

Each of the 164 problems is planted in several disguises, some harsher than a copy would ever be: a problem's text alone, its
solution alone, both; re-indented; with all identifiers renamed; with a docstring in other words (by rules, for all
problems; by hand, for the 20 of paraphrases.yaml). Unrelated are functions of Python's standard library and this
project's own prompts, seed tasks and examples.
"""

from __future__ import annotations

import argparse
import ast
import random
import re
import sysconfig
import textwrap
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from factory.decontamination import Contamination, DecontaminationSettings
from factory.decontamination.code import prose
from factory.decontamination.sets import read_problems
from factory.embedding import EmbeddingSettings, open_embedder

ROOT = Path(__file__).parent.parent
Problem = Mapping[str, Any]
_OTHER_WORDS = {
    "return": "give back", "returns": "gives back", "given": "supplied with", "list": "sequence", "string": "text", "integer": "whole number",
    "integers": "whole numbers", "number": "value", "numbers": "values", "function": "routine", "write": "implement", "find": "determine",
    "check": "verify", "create": "build", "calculate": "compute", "element": "entry", "elements": "entries", "array": "vector",
    "positive": "non-zero", "largest": "biggest", "smallest": "least", "word": "term", "words": "terms", "characters": "symbols",
    "letters": "characters", "empty": "without content", "takes": "accepts", "input": "argument", "two": "a pair of", "should": "must",
    "if": "in case", "otherwise": "else", "first": "leading", "all": "every one of the", "only": "solely", "order": "arrangement",
    "sum": "total", "contains": "holds", "between": "in the range of", "equal": "identical", "such": "of that kind", "that": "which",
}  # fmt: skip


def whole(problem: Problem) -> str:
    return str(problem["prompt"] + problem["canonical_solution"])


def reindented(code: str, unit: str, depth: int) -> str:
    lines = code.expandtabs(4).splitlines()
    return "\n".join(unit * (depth + (len(line) - len(line.lstrip())) // 4) + line.lstrip() for line in lines)


def in_class(problem: Problem) -> str:
    return "class Solution:\n" + reindented(whole(problem), "  ", 1)


def renamed(code: str) -> str:
    """Functions, parameters and variables called otherwise, in docstrings too; annotations gone."""
    tree = ast.parse(code)
    nodes = list(ast.walk(tree))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    new = {name: f"thing_{place}" for place, name in enumerate(sorted(bound))}
    for node in nodes:
        if isinstance(node, ast.Name):
            node.id = new.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg, node.annotation = new[node.arg], None
        elif isinstance(node, ast.FunctionDef):
            node.name, node.returns = new[node.name], None
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            # In prose a name is one only where it is called or could be nothing else.
            node.value = re.sub(r"\w+(?=\()|\w+_\w+", lambda match: new.get(match[0], match[0]), node.value)
    return ast.unparse(tree)


def with_docstring(code: str, docstring: str | None) -> str:
    """The last function's docstring replaced, or taken away."""
    tree = ast.parse(code)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    for function in functions if docstring is None else functions[-1:]:
        if ast.get_docstring(function) is not None:
            function.body = function.body[1:]
        if docstring is not None:
            function.body.insert(0, ast.Expr(ast.Constant(docstring)))
        function.body = function.body or [ast.Pass()]
    return ast.unparse(tree)


def reworded(text: str) -> str:
    """Other words for what there is one for, the sentences in another order, examples left out."""
    said = re.split(r"(?i)\bfor example\b|\bexamples?\s*:|>>>", prose(text))[0]
    sentences = [part.strip() for part in re.split(r"(?<=[.!?])\s+", " ".join(said.split())) if part.strip()]
    words = re.compile(r"[A-Za-z]+")
    return " ".join(
        words.sub(lambda found: _OTHER_WORDS.get(found[0].lower(), found[0]), one) for one in sentences[::-1]
    )


def disguises(by_hand: Mapping[str, str]) -> Iterator[tuple[str, Callable[[Problem], str | None]]]:
    """Name and how it is made; None where there is none of this problem."""

    def hand(problem: Problem) -> str | None:
        return by_hand.get(problem["task_id"])

    def of(
        make: Callable[[Problem, str], str], words: Callable[[Problem], str | None]
    ) -> Callable[[Problem], str | None]:
        return lambda problem: None if (text := words(problem)) is None else make(problem, text)

    def rules(problem: Problem) -> str:
        return reworded(problem["prompt"])

    yield "verbatim: problem", lambda problem: problem["prompt"]
    yield "verbatim: problem and solution", whole
    yield "verbatim: tests alone", lambda problem: problem["test"]
    yield "verbatim: solution without docstring", lambda problem: with_docstring(whole(problem), None)
    yield "re-indented: tabs", lambda problem: reindented(whole(problem), "\t", 0)
    yield "re-indented: in a class, by two", in_class
    yield "re-indented: problem alone, by three", lambda problem: reindented(problem["prompt"], "   ", 2)
    yield "renamed: problem and solution", lambda problem: renamed(whole(problem))
    yield "renamed: problem alone", lambda problem: renamed(problem["prompt"])
    yield "renamed: solution without docstring", lambda problem: with_docstring(renamed(whole(problem)), None)
    for how, words in (("by rules", rules), ("by hand", hand)):
        yield f"reworded {how}: with solution", of(lambda problem, text: with_docstring(whole(problem), text), words)
        yield (
            f"reworded {how}: signature alone",
            of(lambda problem, text: with_docstring(problem["prompt"], text), words),
        )
        yield (
            f"reworded {how}: renamed, with solution",
            of(lambda problem, text: with_docstring(renamed(whole(problem)), text), words),
        )
        yield f"reworded {how}: words alone", of(lambda problem, text: text, words)


def library_functions(count: int) -> list[str]:
    """Functions of more than three lines, from modules drawn by chance."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = [file for file in sorted(root.rglob("*.py")) if not {"site-packages", "test", "tests"} & set(file.parts)]
    draw = random.Random(0)
    draw.shuffle(files)
    found: list[str] = []
    for file in files:
        try:
            code = file.read_text(encoding="utf-8")
            nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in draw.sample(nodes, min(len(nodes), 20)):
            text = ast.get_source_segment(code, node) or ""
            if text.count("\n") > 2:
                found.append(textwrap.dedent(" " * node.col_offset + text))
        if len(found) >= count:
            break
    return found[:count]


def own_texts() -> list[str]:
    """Prompts whole, and each entry of the YAML files of seeds and examples."""
    texts = [file.read_text() for file in sorted((ROOT / "prompts").rglob("*.j2"))]
    for file in sorted((ROOT / "prompts").rglob("*.yaml")):
        data = yaml.safe_load(file.read_text())
        texts += [yaml.safe_dump(entry, allow_unicode=True) for entry in (data if isinstance(data, list) else [data])]
    return texts + [file.read_text() for file in sorted((ROOT / "factory").rglob("*.py"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--embedder", default=None, help="a name or folder of an embedding model, as minilm; none: no embeddings"
    )
    parser.add_argument("--unrelated", type=int, default=1000)
    chosen = parser.parse_args()
    warnings.simplefilter("ignore")
    embedder = open_embedder(EmbeddingSettings(model=chosen.embedder)) if chosen.embedder else None
    contamination = Contamination(DecontaminationSettings(), embedder)
    by_hand = yaml.safe_load((ROOT / "benchmarks/paraphrases.yaml").read_text())
    for name, disguise in disguises(by_hand):
        made = [(problem["task_id"], text) for problem in read_problems() if (text := disguise(problem)) is not None]
        hits = contamination.check_many([text for _, text in made])
        how = Counter(hit.how for hit in hits if hit)
        missed = [task.partition("/")[2] for (task, _), hit in zip(made, hits, strict=True) if hit is None]
        other = sum(hit is not None and hit.item != task for (task, _), hit in zip(made, hits, strict=True))
        ways = ", ".join(f"{way} {count}" for way, count in how.most_common(4))
        print(
            f"{name}: {len(made) - len(missed)} of {len(made)} ({ways}); named as another problem {other}", flush=True
        )
        if missed:
            print(f"    missed: {' '.join(missed)}")
    for name, texts in (
        ("the standard library's functions", library_functions(chosen.unrelated)),
        ("own prompts and code", own_texts()),
    ):
        began = time.process_time()
        false = [(hit, text) for hit, text in zip(contamination.check_many(texts), texts, strict=True) if hit]
        took = 1000 * (time.process_time() - began) / len(texts)
        print(
            f"unrelated, {name}: {len(false)} of {len(texts):,} called contaminated; {took:.2f} ms a text", flush=True
        )
        for hit, text in false[:5]:
            print(f"    {hit}: {text[:80]!r}")


if __name__ == "__main__":
    main()
