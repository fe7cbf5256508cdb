"""The candidate's side: runs its code and answers with plain data. Holds inputs only, never what is expected.

Every line written to the result descriptor is one JSON list: ["v", value], ["n", type name, repr] for what is not
plain data, ["x", why] for what is too big, ["e", type name, message, line, mro names] for an exception. The first line
speaks of loading the code; then comes one line a call, in order. All of it is only what a hostile process says.
"""

from __future__ import annotations

import os
import sys

from factory.sandbox.inside.plain import NotPlain, encode

TYPE_CHECKING = False  # typing itself would cost a cold start several milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_Module = type(sys)
RESULT_FD, RPC_FD = 3, 4
_TEXT = 2000


def quote(text: str) -> str:
    """A JSON string of at most `_TEXT` characters."""
    return encode(text[:_TEXT], 8 * _TEXT)


def write_line(line: str, write: Callable[[int, bytes], int] = os.write) -> None:
    """One line to the supervisor."""
    data = line.encode("ascii") + b"\n"
    while data:
        data = data[write(RESULT_FD, data) :]


def _describe(value: object) -> str:
    try:
        return repr(value)[:200]
    except Exception:
        return f"<{type(value).__name__}>"


def exception_line(error: BaseException) -> str:
    """The exception as a line: its class, text, the last line number inside the solution, and its classes' names."""
    try:
        text = str(error)
    except Exception:
        text = ""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<solution>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.filename == "<solution>":
        line = error.lineno or 0
    classes = ",".join(quote(base.__name__) for base in type(error).__mro__)
    return f'["e",{quote(type(error).__name__)},{quote(text)},{int(line)},["l",{classes}]]'


def value_line(value: object, limit: int, reference: Callable[[Any], str] | None = None) -> str:
    """The value as a line, or the line that says why it cannot be one."""
    try:
        return f'["v",{encode(value, limit, reference)}]'
    except NotPlain as problem:
        if problem.size:
            return f'["x",{quote(str(problem))}]'
        return f'["n",{quote(type(value).__name__)},{quote(_describe(value))}]'


def _attempt(action: Callable[[], object], limit: int, reference: Callable[[Any], str] | None = None) -> str:
    try:
        return value_line(action(), limit, reference)
    except BaseException as error:
        try:
            return exception_line(error)
        except BaseException:
            return '["e","Exception","",0,["l"]]'


def load(code: str, limit: int) -> tuple[dict[str, Any], str]:
    """Execute the solution as a module named `solution`; its namespace and the line about it."""
    module = _Module("solution")
    sys.modules["solution"] = module
    namespace = module.__dict__

    def execute() -> None:
        exec(compile(code, "<solution>", "exec", dont_inherit=True), namespace)

    return namespace, _attempt(execute, limit)


def calls(body: dict[str, Any]) -> None:
    """Evaluate each call expression in the solution's namespace: one line each, whatever happens."""
    limit = body["limit"]
    namespace, line = load(body["code"], limit)
    write_line(line)
    if body["entry"] and body["entry"] in namespace:
        namespace.setdefault("candidate", namespace[body["entry"]])
    for source in body["calls"]:

        def evaluate(source: str = source) -> object:
            return eval(compile(source, "<test>", "eval", dont_inherit=True), namespace)

        write_line(_attempt(evaluate, limit))


def statements(body: dict[str, Any]) -> None:
    """Run whole tests beside the solution (trust `in_process`: the solution can fake these)."""
    namespace, line = load(body["code"], body["limit"])
    write_line(line)
    if body["entry"] and body["entry"] in namespace:
        namespace.setdefault("candidate", namespace[body["entry"]])
    for source in body["tests"]:

        def execute(source: str = source) -> None:
            exec(compile(source, "<test>", "exec", dont_inherit=True), namespace)

        write_line(_attempt(execute, body["limit"]))


def script(body: dict[str, Any]) -> int:
    """Run the code as a program (`__main__`); the exit status that Python would give."""
    sys.argv = ["main.py", *body["args"]]
    main = _Module("__main__")
    main.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main
    status = 0
    try:
        exec(compile(body["code"], "main.py", "exec", dont_inherit=True), main.__dict__)
    except SystemExit as stop:
        status = _exit_status(stop)
    except BaseException as error:
        import traceback

        first = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, first)
        status = 1
    return _shut_down(status)


def _exit_status(stop: SystemExit) -> int:
    if stop.code is None:
        return 0
    if isinstance(stop.code, int):
        return stop.code & 0xFF
    print(stop.code, file=sys.stderr)
    return 1


def _shut_down(status: int) -> int:
    """What the interpreter does at its end: join threads, run atexit functions, flush."""
    threading = sys.modules.get("threading")
    try:
        if threading is not None:
            threading._shutdown()
        import atexit

        atexit._run_exitfuncs()
        sys.stdout.flush()
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return status or 120
    return status


def serve(body: dict[str, Any]) -> None:
    """Answer the tester's requests about the solution, one line each."""
    from factory.sandbox.inside.remote import Served

    namespace, line = load(body["code"], body["limit"])
    write_line(line)
    served = Served(namespace, body["entry"], body["limit"])
    with os.fdopen(RPC_FD, "rb") as requests:
        for request in requests:
            write_line(served.answer(request))


def prepare_streams() -> None:
    """Text streams that take any text and any bytes; a warm interpreter does it once, its forks inherit it."""
    for stream, errors in (
        (sys.stdin, "surrogateescape"),
        (sys.stdout, "backslashreplace"),
        (sys.stderr, "backslashreplace"),
    ):
        stream.reconfigure(encoding="utf-8", errors=errors)  # type: ignore[union-attr]


def run(body: dict[str, Any]) -> int:
    """Do the job that `body` describes; the exit status for the process."""
    mode = body["mode"]
    if mode == "script":
        return script(body)
    if mode == "tester":
        from factory.sandbox.inside.tester import run_tests

        run_tests(body)
    else:
        {"calls": calls, "statements": statements, "serve": serve}[mode](body)
    return 0
