"""OSS-Instruct (Wei et al. 2023, Magicoder): 1 to 15 consecutive lines from a random place of a source file inspire a problem
and its solution, both in one answer at temperature 0.

What is unfinished is lost, and so is what does not parse where a parser is at hand (Python); of records that share their
snippet, their problem or their solution the first is kept. Nothing is executed: see task=code for that.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any, ClassVar

from pydantic import Field

from factory.engine.request import Sampling
from factory.errors import RecordError
from factory.generators.base import Context, GeneratorSettings, chat
from factory.generators.few_shot import load_data
from factory.generators.parsing import ParseSettings, fenced_code, parse_answer
from factory.prompts import Templates
from factory.records import Record, content_hash
from factory.sources import Item

LANGUAGES = {
    ".py": "python", ".js": "javascript", ".ts": "typescript", ".java": "java", ".c": "c", ".h": "c", ".cpp": "cpp",
    ".cc": "cpp", ".hpp": "cpp", ".rs": "rust", ".go": "go", ".rb": "ruby", ".php": "php", ".sh": "bash", ".swift": "swift",
    ".cs": "csharp", ".kt": "kotlin", ".scala": "scala", ".jl": "julia", ".r": "r", ".lua": "lua", ".sql": "sql",
}  # fmt: skip
EXAMPLES = "oss_instruct/few_shot/examples.yaml"
_PARTS = ParseSettings(kind="blocks", names=("problem", "solution"))
_MENTIONS = re.compile(r"\b(?:fragment|snippet|(?:given|above|following|provided) code)\b", re.IGNORECASE)


class OssSettings(GeneratorSettings):
    """`language` of the problems; null: that of the snippet's file. `least_chars` is the shortest problem."""

    language: str | None = None
    least_chars: int = Field(40, ge=1)
    few_shot_sampling: Sampling = Sampling()


class OssInstruct:
    """One snippet gives one record."""

    Settings: ClassVar[type[GeneratorSettings]] = OssSettings
    uses_sandbox = False
    carries_columns = False

    def __init__(self, settings: OssSettings, templates: Templates, prompt_form: str) -> None:
        self.settings, self._templates, self.prompt_form = settings, templates, prompt_form
        self.template = f"oss_instruct/{prompt_form}/attempt.j2"
        self.templates: Sequence[str] = (self.template, *([EXAMPLES] if prompt_form == "few_shot" else []))

    def check(self, columns: set[str] | None) -> list[str]:
        problems = self._templates.check(self.template)
        if self.prompt_form == "few_shot" and self.settings.language not in (None, "python"):
            problems.append(f"task.language={self.settings.language}: the few-shot prompts are for python")
        if columns is not None and "snippet" not in columns:
            problems.append(
                "task=oss_instruct needs seeds with a column `snippet`: source.kind=snippets source.path=FOLDER"
            )
        return problems

    def fingerprint(self, record: Record) -> Sequence[str]:
        """The seed, the problem and the solution, each by itself, layout aside."""
        keys = ("snippet", "problem", "solution")
        return [content_hash(key, "".join(str(record.meta[key]).split())) for key in keys]

    async def generate(self, item: Item, context: Context) -> Sequence[Record]:
        row = item.row
        snippet, path = str(row.get("snippet") or "").strip("\n"), str(row.get("path", ""))
        if not snippet.strip():
            raise RecordError("source: the snippet is empty")
        language = self.settings.language or LANGUAGES.get(PurePath(path).suffix, "python")
        if self.prompt_form == "few_shot":
            problem, answer, code = await self._continue(snippet, context)
        else:
            problem, answer, code = await self._ask(snippet, language, context)
        if reason := self._lost(problem, code, snippet, language):
            raise RecordError(reason)
        meta = {"language": language, "problem": problem, "solution": code, "snippet": snippet, "seed": dict(row)}
        return [context.record(chat(problem, answer), meta)]

    async def _ask(self, snippet: str, language: str, context: Context) -> tuple[str, str, str]:
        question = context.render(self.template, snippet=snippet, language=language)
        answer = await context.ask(chat(question), label="attempt")
        if answer.truncated:
            raise RecordError("unfinished: cut off at the token limit")
        parts = parse_answer(answer.text, _PARTS)
        if parts["solution"].count("```") % 2:
            raise RecordError("unfinished: a code block does not end")
        code = fenced_code(parts["solution"], (language,)) or fenced_code(parts["solution"])
        if not code:
            raise RecordError("parse: no code block")
        return parts["problem"], parts["solution"], code

    async def _continue(self, snippet: str, context: Context) -> tuple[str, str, str]:
        """Problem and solution out of one continuation. The prompt ends inside the problem's sentence."""
        examples: list[dict[str, Any]] = load_data(self._templates, EXAMPLES)
        prompt = context.render(self.template, examples=examples, snippet=snippet)
        answer = await context.ask(prompt=prompt, label="attempt", sampling=self.settings.few_shot_sampling)
        problem, mark, code = (prompt.rsplit("# Exercise\n", 1)[1] + answer.text).partition("\n# Answer\n")
        if not mark:
            raise RecordError("parse: not problem and answer")
        problem, code = problem.strip(), code.strip()
        if answer.truncated:
            raise RecordError("unfinished: cut off at the token limit")
        if problem in (example["problem"] for example in examples) or code in (e["solution"].strip() for e in examples):
            raise RecordError("copy: repeats an example of the prompt")
        named = re.search(r"`(\w+)\(", problem)
        if not named or not re.search(rf"^def {named.group(1)}\(", code, re.MULTILINE):
            raise RecordError("solution: does not define what the problem names")
        return problem, f"```python\n{code}\n```", code

    def _lost(self, problem: str, code: str, snippet: str, language: str) -> str:
        if len(problem) < self.settings.least_chars:
            return "problem: too short"
        if _MENTIONS.search(problem):
            return "problem: speaks of the snippet"
        if code.strip() == snippet.strip():
            return "solution: is the snippet"
        if language == "python":
            try:
                ast.parse(code)
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                return f"parse: {type(error).__name__}"
        return ""
