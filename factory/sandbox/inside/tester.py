"""The tests' side of the RPC: runs tests as they are written, with proxies where they name the solution.

The solution's code never enters this process. Each request carries a fresh random id and its answer must repeat it;
each verdict carries the nonce, which only this process and the supervisor know. A proxy never equals plain data, so an
object whose `__eq__` always agrees convinces nobody.
"""

from __future__ import annotations

import builtins
import math
import os
import sys
from types import ModuleType
from typing import Any, NoReturn

from factory.sandbox.inside import runner
from factory.sandbox.inside.plain import NotPlain, decode, encode, parse


class Unrelayable(BaseException):
    """The test hands the solution something that is not plain data."""


class CandidateGone(BaseException):
    """The solution's process ended, or answered what is no answer."""


class Remote:
    """The line to the candidate, kept by the supervisor."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.answers = os.fdopen(runner.RPC_FD, "rb")
        self.exceptions: dict[str, type[BaseException]] = {}

    def ask(self, operation: str, *arguments: Any) -> Any:
        """One operation in the candidate's process: its value, or its exception raised here."""
        identity = os.urandom(12).hex()
        try:
            parts = [encode(argument, self.limit, _reference) for argument in arguments]
        except NotPlain as problem:
            raise Unrelayable(str(problem)) from None
        runner.write_line(f"Q[{','.join([runner.quote(identity), runner.quote(operation), *parts])}]")
        reply = self.answers.readline()
        try:
            echoed, line = parse(reply)
            if echoed != identity:
                raise CandidateGone("an answer to another question")
            kind = line[0]
            if kind == "v":
                return decode(line[1], self.proxy)
        except (NotPlain, ValueError, TypeError, IndexError, KeyError) as error:
            raise CandidateGone(f"no answer ({type(error).__name__})") from None
        self.raise_remote(line)

    def proxy(self, rest: list[Any]) -> Any:
        """What an object of the candidate looks like here; its exception classes become classes that can be caught."""
        number, kind, classes = rest
        names = [str(name) for name in classes[1:]]
        if "BaseException" in names:
            return self.exception(names)
        return Proxy(self, int(number), str(kind))

    def exception(self, names: list[str]) -> type[BaseException]:
        """A local exception class for the remote one whose bases have these names, most derived first."""
        if not names:
            return Exception
        own = getattr(builtins, names[0], None)
        if isinstance(own, type) and issubclass(own, BaseException):
            return own
        if names[0] not in self.exceptions:
            base = next((name for name in names[1:] if isinstance(getattr(builtins, name, None), type)), "Exception")
            parent = self.exception(names[1:]) if len(names) > 1 else getattr(builtins, base)
            self.exceptions[names[0]] = type(names[0], (parent if parent is not object else Exception,), {})
        return self.exceptions[names[0]]

    def raise_remote(self, line: list[Any]) -> NoReturn:
        try:
            if line[0] == "e":
                _, _, text, _, classes = line
                kind = self.exception([str(name) for name in classes[1:] if name != "object"][:20])
                raised: BaseException = _make(kind, str(text))
            else:
                raised = CandidateGone(str(line[1]))
        except Exception:
            raised = CandidateGone("an answer that is none")
        if isinstance(raised, SystemExit | KeyboardInterrupt | GeneratorExit):
            raised = CandidateGone(f"the solution raised {type(raised).__name__}")
        raise raised


def _make(kind: type[BaseException], text: str) -> BaseException:
    try:
        return kind(text)
    except TypeError:  # UnicodeError and its like want more
        return Exception(f"{kind.__name__}: {text}")


class Proxy:
    """Stands for one object of the candidate: asks it for everything, except whether it equals plain data."""

    def __init__(self, remote: Remote, number: int, kind: str) -> None:
        object.__setattr__(self, "_held", (remote, number, kind))

    def __call__(self, *positional: Any, **keywords: Any) -> Any:
        return _ask(self, "call", list(positional), keywords)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Proxy) and bool(_ask(self, "eq", other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return int(_ask(self, "hash"))

    def __getattr__(self, name: str) -> Any:
        return _ask(self, "getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "setattr", name, value)

    def __delattr__(self, name: str) -> None:
        _ask(self, "delattr", name)

    def __instancecheck__(self, other: Any) -> bool:
        return isinstance(other, Proxy) and bool(_ask(other, "isinstance", self))

    def __enter__(self) -> Any:
        return _ask(self, "getattr", "__enter__")()

    def __exit__(self, *_: Any) -> bool:
        return bool(_ask(self, "getattr", "__exit__")(None, None, None))


def _ask(proxy: Proxy, operation: str, *arguments: Any) -> Any:
    remote = object.__getattribute__(proxy, "_held")[0]
    return remote.ask(operation, proxy, *arguments)


def _reference(value: Any) -> str:
    if type(value) is Proxy:
        return f'["o",{object.__getattribute__(value, "_held")[1]}]'
    raise NotPlain(f"a value of type {type(value).__name__} is not plain data")


def _forward(name: str, operation: str) -> None:
    def method(self: Proxy, *arguments: Any) -> Any:
        return _ask(self, operation, *arguments)

    setattr(Proxy, name, method)


for _name in [
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "xor",
    "neg",
    "pos",
    "invert",
    "lshift",
    "rshift",
    "matmul",
]:
    _forward(f"__{_name}__", _name)
for _name in ["getitem", "setitem", "delitem", "contains", "iadd", "isub", "imul"]:
    _forward(f"__{_name}__", _name)
for _name in ["len", "iter", "next", "str", "repr", "bool", "int", "float", "abs", "round", "reversed", "divmod"]:
    _forward(f"__{_name}__", _name)
_forward("__and__", "and_")
_forward("__or__", "or_")


class _Raises:
    def __init__(self, expected: Any, match: str | None) -> None:
        self.expected, self.match = expected, match
        self.value: BaseException | None = None

    def __enter__(self) -> _Raises:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> bool:
        if kind is None:
            raise AssertionError(f"{self.expected} was not raised")
        if not issubclass(kind, self.expected):
            return False
        self.value = error
        if self.match is not None:
            import re

            if not re.search(self.match, str(error)):
                raise AssertionError(f"{str(error)!r} does not match {self.match!r}")
        return True


def _raises(expected: Any, *call: Any, match: str | None = None, **keywords: Any) -> _Raises | None:
    context = _Raises(expected, match)
    if not call:
        return context
    with context:
        call[0](*call[1:], **keywords)
    return None


class _Approx:
    """`pytest.approx` for numbers, and lists and dictionaries of numbers."""

    def __init__(self, expected: Any, rel: float = 1e-6, abs: float = 1e-12) -> None:
        self.expected, self.rel, self.abs = expected, rel, abs

    def __eq__(self, other: object) -> bool:
        return self._near(other, self.expected)

    def _near(self, got: Any, wanted: Any) -> bool:
        if isinstance(wanted, dict):
            return (
                isinstance(got, dict)
                and got.keys() == wanted.keys()
                and all(self._near(got[k], wanted[k]) for k in got)
            )
        if isinstance(wanted, list | tuple):
            same = isinstance(got, list | tuple) and len(got) == len(wanted)
            return same and all(map(self._near, got, wanted))
        numbers = isinstance(got, int | float) and isinstance(wanted, int | float)
        return got == wanted or (numbers and math.isclose(got, wanted, rel_tol=self.rel, abs_tol=self.abs))


def _pytest() -> ModuleType:
    """The little of pytest that tests of one function use; the real one is not in the standard library."""
    module = ModuleType("pytest")
    module.__dict__.update(raises=_raises, approx=_Approx)
    return module


def _import(sources: list[str], namespace: dict[str, Any]) -> None:
    """The solution's own imports of the standard library, since tests often lean on them."""
    for source in sources:
        try:
            exec(compile(source, "<imports>", "exec", dont_inherit=True), namespace)
        except Exception:
            continue


def run_tests(body: dict[str, Any]) -> None:
    """Run the tests in order, one verdict line each: R[nonce, index, status, text]."""
    sys.modules["pytest"] = _pytest()
    namespace: dict[str, Any] = {"__name__": "tests", "math": math, "pytest": sys.modules["pytest"]}
    nonce = body.pop("nonce")
    remote = Remote(body["limit"])
    _import(body["imports"], namespace)
    status, text = "", ""
    try:
        namespace.update(remote.ask("names", *body["names"]))
    except BaseException as error:
        status, text = "gone", str(error)
    for index, source in enumerate(body["tests"]):
        if not status:
            outcome, words = _one(source, namespace)
            if outcome == "gone":
                status, text = outcome, words
        else:
            outcome, words = status, text
        runner.write_line(f"R[{runner.quote(nonce)},{index},{runner.quote(outcome)},{runner.quote(words)}]")


def _one(source: str, namespace: dict[str, Any]) -> tuple[str, str]:
    try:
        exec(compile(source, "<test>", "exec", dont_inherit=True), namespace)
    except AssertionError as error:
        return "wrong", str(error)
    except Unrelayable as error:
        return "refused", str(error)
    except CandidateGone as error:
        return "gone", str(error)
    except BaseException as error:
        return "exception", f"{type(error).__name__}: {error}"
    return "pass", ""
