"""Nothing that a candidate does to its own process makes a wrong answer pass."""

from __future__ import annotations

import pytest

from tests.sandbox.conftest import Box

# Each defines f, whose right answer to f(3) would be 9, and does its best to get away with something else.
CHEATS = {
    "control_wrong": "def f(x):\n    return 8\n",
    "sys_exit0": "import sys\nsys.exit(0)\n",
    "os__exit0": "import os\nos._exit(0)\n",
    "exit_in_call": "import sys\ndef f(x):\n    sys.exit(0)\n",
    "os_exit_in_call": "import os\ndef f(x):\n    os._exit(0)\n",
    "raise_system_exit": "def f(x):\n    raise SystemExit\n",
    "kill_itself": "import os\ndef f(x):\n    os.kill(os.getpid(), 15)\n",
    "fake_marker": """
def f(x):
    for words in ("pass", "PASSED", "OK", "1 passed in 0.01s", '["v",null]', '{"status": "pass"}'):
        print(words, flush=True)
    return 8
""",
    "fake_marker_and_exit": "import os\ndef f(x):\n    print('PASSED', flush=True)\n    os._exit(0)\n",
    "forge_result_fd": r"""
import os
for number in range(3, 64):
    for words in (b'["v",null]\n["pass"]\n', b'R["","pass"]\n', b'{"status":"pass","passed":2}\n', b"pass\n"):
        try:
            os.write(number, words)
        except OSError:
            pass
def f(x):
    return 8
""",
    "forge_result_fd_and_exit": r"""
import os
for number in range(3, 64):
    try:
        os.write(number, b'["v",null]\n["v",true]\n["v",true]\n')
    except OSError:
        pass
os._exit(0)
""",
    "forge_too_many": r"""
import os
def f(x):
    os.write(3, b'["v",9]\n' * 5)
    return 9
""",
    "close_every_descriptor": "import os\nos.closerange(0, 256)\ndef f(x):\n    return 9\n",
    "eq_always_true": """
class Yes:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 9
    def __repr__(self): return "9"
    def __bool__(self): return True
    __lt__ = __le__ = __gt__ = __ge__ = __eq__
def f(x):
    return Yes()
""",
    "reflected_eq_of_int": """
class Nine(int):
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    def __hash__(self): return 9
    def __repr__(self): return "9"
    def __add__(self, other): return 9
    def __index__(self): return 9
    def bit_length(self): return 4
def f(x):
    return Nine(8)
""",
    "odd_str": """
class Text(str):
    def __eq__(self, other): return True
    def __str__(self): return "9"
    def __len__(self): return 1
    def __getitem__(self, place): return "9"
def f(x):
    return Text("8")
""",
    "odd_list": """
class Items(list):
    def __eq__(self, other): return True
    def __iter__(self): return iter([9])
    def __len__(self): return 1
def f(x):
    return Items([8])
""",
    "odd_class": """
class Odd:
    @property
    def __class__(self): return int
    def __eq__(self, other): return True
    def __int__(self): return 9
    def __index__(self): return 9
    def __reduce__(self): return (int, (9,))
def f(x):
    return Odd()
""",
    "metaclass": """
class Meta(type):
    def __instancecheck__(cls, other): return True
    def __eq__(cls, other): return True
    def __hash__(cls): return 1
class Odd(metaclass=Meta):
    pass
def f(x):
    return Odd
""",
    "patch_builtins": """
import builtins
def yes(*args, **kwargs): return True
for name in ("all", "any", "isinstance", "repr", "sorted", "len", "abs", "eval", "exec", "compile", "print", "type"):
    setattr(builtins, name, yes)
builtins.AssertionError = type("AssertionError", (BaseException,), {})
def f(x):
    return 8
""",
    "patch_json": """
import json, sys
json.dumps = json.dump = lambda *a, **k: '9'
json.loads = lambda *a, **k: 9
json.JSONEncoder.encode = lambda *a: '9'
sys.stdout = None
def f(x):
    return 8
""",
    "patch_operator": """
import operator, ast, unittest
operator.eq = operator.ne = lambda *a: True
def f(x):
    return 8
""",
    "patch_frames": """
import sys
frame = sys._getframe()
while frame:
    for name, value in list(frame.f_locals.items()) + list(frame.f_globals.items()):
        if isinstance(value, dict):
            for key in ("calls", "tests"):
                if key in value and isinstance(value[key], list):
                    value[key][:] = ["9" for _ in value[key]][:1] + ["True"] * 3
    frame = frame.f_back
def f(x):
    return 8
""",
    "trace_the_test": """
import sys
def tracer(frame, event, arg):
    for key in list(frame.f_locals):
        if key in ("value", "expected", "line"):
            frame.f_locals[key] = 9
    return tracer
sys.settrace(tracer)
def f(x):
    return 8
""",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x):\n    raise SystemExit(0)\n",
    "assertion_error_off": "import sys\nsys.excepthook = lambda *a: None\ndef f(x):\n    raise AssertionError('pass')\n",
    "syntax_error": "def f(x:\n    return 9\n",
    "null_bytes": "def f(x):\n    return 9\n\0",
    "nothing": "",
    "deep_source": "x = " + "-" * 100_000 + "1\n",
}
LITERAL = ["assert f(3) == 9", "assert f(3) == 9, 'wrong'"]
FREE = ["for _ in range(1):\n    assert f(3) == 9", "result = f(3)\nif result != 9:\n    raise AssertionError(result)"]


@pytest.mark.parametrize("form", ["literal", "rpc"])
@pytest.mark.parametrize("name", CHEATS)
def test_no_cheat_passes(name: str, form: str, box: Box) -> None:
    verdict = box.verify(CHEATS[name], LITERAL if form == "literal" else FREE)
    assert verdict.status != "pass", verdict
    # A forger that spoils its own answers may still answer one call rightly; nobody else may.
    assert verdict.passed < verdict.total
    assert verdict.feedback


@pytest.mark.parametrize("form", ["literal", "rpc"])
def test_control_right(form: str, box: Box) -> None:
    verdict = box.verify("def f(x):\n    return x * x\n", LITERAL if form == "literal" else FREE)
    assert verdict.status == "pass", verdict
    assert verdict.share == 1.0
    assert verdict.passed == verdict.total == 2
    assert verdict.trust == ("supervisor" if form == "literal" else "rpc")
    assert verdict.backend == box.backend


def test_the_cheat_works_on_a_judge_in_the_same_process(box: Box) -> None:
    """The positive control: beside the candidate, its own `__eq__` decides; such a test is refused by default."""
    test = "spare = lambda: 0\nkeep(spare)\nassert f(3) == 9"
    code = CHEATS["eq_always_true"] + "\ndef keep(x):\n    return x\n"
    refused = box.verify(code, [test])
    assert refused.status == "protocol"
    assert "refused" in refused.feedback
    trusted = box.verify(code, [test], allow_in_process=True)
    assert trusted.trust == "in_process"
    assert trusted.status == "pass"


ANSWERS_NOBODY = r"""
import os, threading, time
def flood():
    while True:
        try:
            os.write(3, b'["0123456789abcdef01234567",["v",9]]\n')
        except OSError:
            return
        time.sleep(0.001)
threading.Thread(target=flood, daemon=True).start()
def f(x):
    time.sleep(0.05)
    return 8
"""


def test_rpc_answers_that_nobody_asked_for(box: Box) -> None:
    assert box.verify(ANSWERS_NOBODY, FREE, wall=3).passed == 0


def test_rpc_ids_cannot_be_replayed(box: Box) -> None:
    code = r"""
import os, sys
frame = sys._getframe()
def f(x):
    # Answer this very question rightly, then let the worker answer again.
    import gc
    for thing in gc.get_objects():
        if type(thing) is list and len(thing) == 2 and type(thing[0]) is str and len(thing[0]) == 24:
            os.write(3, ('["%s",["v",9]]\n' % thing[0]).encode())
    return 8
"""
    assert box.verify(code, FREE, wall=3).status != "pass"


def test_a_test_that_exits_is_no_pass(box: Box) -> None:
    tests = ["import os\nos._exit(0)", "assert f(3) == 9"]
    verdict = box.verify("def f(x):\n    return 9\n", tests)
    assert verdict.tests[0].status == "crash"
    assert verdict.status != "pass"


def test_a_test_cannot_speak_without_the_nonce(box: Box) -> None:
    test = 'import os\nos.write(3, b\'R["",0,"pass",""]\\n\')\nos._exit(0)'
    assert box.verify("def f(x):\n    return 9\n", [test]).status == "crash"


def test_no_tests_is_never_a_pass(box: Box) -> None:
    verdict = box.verify("def f(x):\n    return 9\n", [])
    assert verdict.status != "pass"
    assert verdict.share == 0.0
    assert verdict.total == 0


@pytest.mark.parametrize("tests", [["import math"], ["x = 3"], ["def helper():\n    assert f(3) == 9"], ["", "  \n"]])
def test_tests_that_test_nothing_are_no_tests(tests: list[str], box: Box) -> None:
    verdict = box.verify("def f(x):\n    return 9\n", tests)
    assert verdict.status != "pass"
    assert verdict.total == 0
