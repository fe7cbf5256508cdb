"""What a user of the sandbox sees: forms of tests, exact types, feedback, runs, strength."""

from __future__ import annotations

import pytest

from factory.errors import UserError
from factory.sandbox import StdioTest
from tests.sandbox.conftest import Box

IDENTITY = "def same(x):\n    return x\n"


@pytest.mark.parametrize(
    "value",
    [
        "1", "-1", "0", "2**70", "-(2**70)", "1.5", "-0.0", "1e308", "True", "False", "None", "''", "'\\ud800'",
        "'é\\n\\0\"'", "b'\\x00\\xff'", "[]", "()", "{}", "set()", "[1, (2, [3])]", "{1: 'a', 'b': (None,)}",
        "{1, 2}", "frozenset([1])", "1j", "float('inf')", "range(3)", "{(1, 2): {3: {4}}}",
    ],
)  # fmt: skip
def test_plain_data_comes_back_as_it_went(value: str, box: Box) -> None:
    verdict = box.verify(IDENTITY, [f"assert same({value}) == {value}", f"assert type(same({value})) == type({value})"])
    assert verdict.status == "pass", verdict


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[1]", "(1,)"), ("(1,)", "[1]"), ("'1'", "1"), ("b'a'", "'a'"), ("{1}", "[1]"), ("None", "0"),
        ("float('nan')", "float('nan')"), ("[[1]]", "[(1,)]"), ("{1: 2}", "{'1': 2}"),
    ],
)  # fmt: skip
def test_types_are_kept_apart_as_python_does(given: str, expected: str, box: Box) -> None:
    assert box.verify(IDENTITY, [f"assert same({given}) == {expected}"]).status == "wrong"


@pytest.mark.parametrize(
    ("code", "call", "expected"),
    [
        ("from collections import Counter\ndef f(): return Counter('aab')", "f()", "{'a': 2, 'b': 1}"),
        ("from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(): return P(1, 2)", "f()", "(1, 2)"),
        ("from enum import IntEnum\nclass E(IntEnum):\n    A = 3\ndef f(): return E.A", "f()", "3"),
        ("from decimal import Decimal\ndef f(): return Decimal('1.5')", "f()", "Decimal('1.5')"),
        ("from fractions import Fraction\ndef f(): return Fraction(1, 2)", "f()", "Fraction(1, 2)"),
        ("from collections import deque\ndef f(): return deque([1, 2])", "f()", "deque([1, 2])"),
        ("def f(n):\n    yield from range(n)", "list(f(3))", "[0, 1, 2]"),
        ("def f(): return {'a': 1}.keys()", "sorted(f())", "['a']"),
        ("import math\ndef f(): return 2 * math.pi", "round(f(), 2)", "6.28"),
        ("import asyncio\nasync def g(): return 4\ndef f(): return asyncio.run(g())", "f()", "4"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\ndef f(): return P(3)", "f().x", "3"),
    ],
)
def test_what_honest_solutions_return(code: str, call: str, expected: str, box: Box) -> None:
    verdict = box.verify(code, [f"assert {call} == {expected}"])
    assert verdict.status == "pass", verdict


STACK = """
class EmptyStack(LookupError):
    pass
class Stack:
    def __init__(self, items=()):
        self.items = list(items)
    def push(self, item):
        self.items.append(item)
        return self
    def pop(self):
        if not self.items:
            raise EmptyStack("the stack is empty")
        return self.items.pop()
    def __len__(self):
        return len(self.items)
    def __iter__(self):
        return iter(self.items)
    def __eq__(self, other):
        return isinstance(other, Stack) and self.items == other.items
"""


@pytest.mark.parametrize(
    ("test", "status"),
    [
        ("s = Stack()\ns.push(1).push(2)\nassert s.pop() == 2\nassert len(s) == 1", "pass"),
        ("assert Stack([1, 2]).pop() == 2", "pass"),
        ("import pytest\nwith pytest.raises(EmptyStack):\n    Stack().pop()", "pass"),
        ("import pytest\nwith pytest.raises(LookupError, match='empty'):\n    Stack().pop()", "pass"),
        ("import pytest\nwith pytest.raises(ValueError):\n    Stack().pop()", "exception"),
        ("import pytest\nwith pytest.raises(EmptyStack):\n    Stack([1]).pop()", "wrong"),
        ("try:\n    Stack().pop()\n    assert False\nexcept EmptyStack:\n    pass", "pass"),
        ("try:\n    Stack().pop()\nexcept LookupError as error:\n    assert 'empty' in str(error)", "pass"),
        ("assert [x for x in Stack([1, 2])] == [1, 2]", "pass"),
        ("assert Stack([1]) == Stack([1])", "pass"),
        ("assert Stack([1]) != Stack([2])", "pass"),
        ("assert isinstance(Stack(), Stack)", "pass"),
        ("assert Stack([1]) == [1]", "wrong"),
        ("for n in range(5):\n    assert len(Stack(range(n))) == n", "pass"),
        ("assert all(Stack([n]).pop() == n for n in range(5))", "pass"),
        ("s = Stack()\ns.items = [7]\nassert s.pop() == 7", "pass"),
        ("assert nothing_of_the_kind() == 1", "exception"),
    ],
)
def test_arbitrary_tests_by_rpc(test: str, status: str, box: Box) -> None:
    verdict = box.verify(STACK, [test])
    assert verdict.status == status, verdict


def test_forms_mix_and_keep_their_order(box: Box) -> None:
    tests = [
        "import math",
        "assert same(2) == 2",
        "helper = [1, 2]\n",
        "assert same(helper) == [1, 2]",
        "this is no python",
        "assert math.isclose(same(0.1) + same(0.2), 0.3)",
    ]
    verdict = box.verify(IDENTITY, tests)
    assert [outcome.status for outcome in verdict.tests] == ["pass", "pass", "protocol", "pass"]
    assert verdict.trust == "rpc"
    assert verdict.status == "protocol"
    assert verdict.passed == 3
    assert verdict.total == 4
    assert verdict.share == 0.75


def test_humaneval_style_check(box: Box) -> None:
    tests = ["def check(candidate):\n    assert candidate(2) == 2\n    assert candidate('a') == 'a'", "check(same)"]
    assert box.verify(IDENTITY, tests, entry="same").status == "pass"
    assert box.verify("def same(x):\n    return 2\n", tests, entry="same").status == "wrong"
    assert box.verify(IDENTITY, ["assert candidate(3) == 3"], entry="same").status == "pass"


def test_imports_of_the_solution_are_understood(box: Box) -> None:
    assert box.verify(IDENTITY, ["from solution import same\nassert same(3) == 3"]).status == "pass"
    assert box.verify(IDENTITY, ["from your_module import same", "assert same(3) == 3"]).trust == "supervisor"


def test_feedback_is_fit_for_a_model(box: Box) -> None:
    code = "def f(x):\n    y = x + 1\n    return 1 / (y - 3)\n"
    verdict = box.verify(code, ["assert f(0) == -0.5", "assert f(2) == 7", "assert f(5) == 'no'"])
    assert "1 of 3 tests passed" in verdict.feedback
    assert "ZeroDivisionError" in verdict.feedback
    assert "line 3" in verdict.feedback
    assert "expected 'no', got 0.3333333333333333" in verdict.feedback
    assert len(verdict.feedback) < 2000
    broken = box.verify("def f(:\n", ["assert f(0) == 1", "assert f(1) == 2"])
    assert broken.status == "exception"
    assert "SyntaxError" in broken.feedback
    assert "line 1" in broken.feedback


def test_a_long_answer_is_capped_in_what_is_shown(box: Box) -> None:
    verdict = box.verify("def f():\n    return 'x' * 50_000\n", ["assert f() == 'y'"])
    assert verdict.status == "wrong"
    assert len(verdict.tests[0].got) < 500
    assert len(verdict.feedback) < 2000


def test_run(box: Box) -> None:
    done = box.run("import sys\nprint(input()[::-1], sys.argv[1:])\n", stdin="abc", args=["x"])
    assert (done.status, done.stdout, done.exit_code) == ("pass", "cba ['x']\n", 0)
    assert done.backend == box.backend
    assert done.seconds > 0
    failed = box.run("import sys\nprint('so far')\nsys.exit(3)\n")
    assert (failed.status, failed.stdout, failed.exit_code) == ("exception", "so far\n", 3)
    raised = box.run("def f():\n    raise ValueError('why')\nf()\n")
    assert raised.status == "exception"
    assert "ValueError: why" in raised.stderr
    assert "line 2" in raised.stderr
    assert box.run("import os\nos.abort()\n").status == "crash"
    assert box.run("import atexit\natexit.register(print, 'last')\nprint('first')").stdout == "first\nlast\n"


def test_stdin_and_stdout_of_python(box: Box) -> None:
    code = "n = int(input())\nfor i in range(n):\n    print(i * i)\n"
    tests = [StdioTest(stdin="3\n", expected_stdout="0\n1\n4\n"), StdioTest(stdin="0\n", expected_stdout="")]
    assert box.verify(code, tests).status == "pass"
    verdict = box.verify(code, [*tests, StdioTest(stdin="2", expected_stdout="0\n2\n"), StdioTest(stdin="x")])
    assert [outcome.status for outcome in verdict.tests] == ["pass", "pass", "wrong", "exception"]
    assert "ValueError" in verdict.feedback


def test_right_output_and_a_crash_is_no_pass(box: Box) -> None:
    code = "import os\nprint('4', flush=True)\nos.kill(os.getpid(), 9)\n"
    assert box.verify(code, [StdioTest(expected_stdout="4\n")]).status == "crash"


def test_several_at_once(bwrap: Box) -> None:
    import asyncio

    async def many() -> list[str]:
        jobs = [bwrap.sandbox.verify(IDENTITY, [f"assert same({n}) == {n}"]) for n in range(20)]
        return [verdict.status for verdict in await asyncio.gather(*jobs)]

    assert bwrap.runner.run(many()) == ["pass"] * 20


CLAMP = "def clamp(x, lo, hi):\n    if x < lo:\n        return lo\n    if x > hi:\n        return hi\n    return x\n"


def test_strength(box: Box) -> None:
    good = ["assert clamp(5, 0, 10) == 5", "assert clamp(-1, 0, 10) == 0", "assert clamp(11, 0, 10) == 10"]
    strong = box.strength(CLAMP, good)
    assert strong.baseline == "pass"
    assert strong.stub_fails
    assert strong.share > 0.7
    weak = box.strength(CLAMP, ["assert clamp(5, 0, 10) == 5"])
    assert weak.stub_fails
    assert weak.share < strong.share
    assert weak.survivors
    empty = box.strength(CLAMP, ["assert clamp(5, 0, 10) != 'a'"])
    assert not empty.stub_fails
    assert empty.share < 0.5
    assert box.strength(CLAMP, ["assert clamp(5, 0, 10) == 6"]).baseline == "wrong"
    assert box.strength(CLAMP, good) == strong, "the choice is deterministic"


def test_strength_counts_a_mutant_that_loops_as_killed(box: Box) -> None:
    code = "def count(n):\n    total = 0\n    while n > 0:\n        total += 1\n        n -= 1\n    return total\n"
    strength = box.strength(code, ["assert count(3) == 3", "assert count(0) == 0"])
    assert strength.killed >= strength.mutants - 1
    assert strength.mutants >= 6


def test_languages_other_than_python_need_programs(box: Box) -> None:
    with pytest.raises(UserError, match="StdioTest"):
        box.verify("1", ["assert f() == 1"], language="javascript")
    with pytest.raises(UserError, match="cobol"):
        box.verify("1", [StdioTest()], language="cobol")
    if box.backend == "landlock":
        with pytest.raises(UserError, match="bwrap"):
            box.verify("1", [StdioTest()], language="javascript")
