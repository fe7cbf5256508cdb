"""Programs in other languages, compiled and run inside."""

from __future__ import annotations

import shutil

import pytest

from factory.sandbox import StdioTest, languages
from factory.sandbox.programs import RECIPES
from tests.sandbox.conftest import Box, Outside

DOUBLE = {
    "javascript": "const d = require('fs').readFileSync(0, 'utf8'); console.log(d.trim() * 2);",
    "bash": "read x; echo $((x * 2))",
    "c": '#include <stdio.h>\nint main(void) { long x; scanf("%ld", &x); printf("%ld\\n", x * 2); return 0; }',
    "cpp": "#include <iostream>\nint main() { long x; std::cin >> x; std::cout << x * 2 << std::endl; }",
}
LOOP = {
    "javascript": "while (true) {}",
    "bash": "while :; do :; done",
    "c": "int main(void) { for (;;); }",
    "cpp": "int main() { for (;;); }",
}
READ = {
    "javascript": "try {{ console.log(require('fs').readFileSync('{path}', 'utf8')) }} catch (e) {{ console.log('blocked') }}",
    "bash": "cat {path} 2>/dev/null || echo blocked",
    "c": '#include <stdio.h>\nint main(void) {{ puts(fopen("{path}", "r") ? "leak" : "blocked"); return 0; }}',
    "cpp": '#include <cstdio>\nint main() {{ puts(fopen("{path}", "r") ? "leak" : "blocked"); }}',
}
CONNECT = """#include <sys/socket.h>
#include <stdio.h>
int main(void) { puts(socket(AF_INET, SOCK_STREAM, 0) < 0 ? "blocked" : "leak"); return 0; }"""


@pytest.fixture(params=DOUBLE)
def language(request: pytest.FixtureRequest, bwrap: Box) -> str:
    name = str(request.param)
    if shutil.which(RECIPES[name].tool) is None:
        pytest.skip(f"{RECIPES[name].tool} is not installed")
    return name


def test_right_and_wrong(language: str, bwrap: Box) -> None:
    tests = [StdioTest(stdin="4\n", expected_stdout="8\n"), StdioTest(stdin="-1", expected_stdout="-2")]
    assert bwrap.verify(DOUBLE[language], tests, language=language).status == "pass"
    verdict = bwrap.verify(DOUBLE[language], [*tests, StdioTest(stdin="5", expected_stdout="11")], language=language)
    assert verdict.status == "wrong"
    assert verdict.passed == 2
    assert "10" in verdict.feedback


def test_endless_programs_meet_the_clock(language: str, bwrap: Box) -> None:
    assert bwrap.verify(LOOP[language], [StdioTest()], language=language, wall=1.0).status in ("timeout", "cpu")


def test_files_outside_are_not_there(language: str, bwrap: Box, outside: Outside) -> None:
    for path in (outside.key, "/etc/passwd"):
        source = READ[language].format(path=path)
        assert bwrap.verify(source, [StdioTest(expected_stdout="blocked")], language=language).status == "pass"


def test_broken_sources(language: str, bwrap: Box) -> None:
    verdict = bwrap.verify("this is ( not a program }", [StdioTest(expected_stdout="")], language=language)
    assert verdict.status == "exception", verdict
    assert verdict.feedback


def test_c_sockets_and_crashes(bwrap: Box) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    assert bwrap.run(CONNECT, language="c").stdout == "blocked\n"
    assert bwrap.run("int main(void) { return *(volatile int *)0; }", language="c").status == "crash"
    assert bwrap.run("int main(void) { return 3; }", language="c").exit_code == 3


def test_bash_fork_bomb_is_bounded(bwrap: Box) -> None:
    code = "for i in $(seq 40); do sleep 1 & done; wait; echo done"
    done = bwrap.run(code, language="bash")
    assert "Resource temporarily unavailable" in done.stderr or "Cannot fork" in done.stderr or "retry" in done.stderr
    assert bwrap.run("echo fine", language="bash").stdout == "fine\n"


def test_arguments_and_output_flood(bwrap: Box) -> None:
    assert (
        bwrap.verify('echo "$1-$2"', [StdioTest(args=("a b", "c"), expected_stdout="a b-c")], language="bash").status
        == "pass"
    )
    assert bwrap.run("while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxx; done", language="bash").status == "output"


def test_languages_say_why_not() -> None:
    for found in languages("landlock"):
        assert found.ok == (found.name == "python")
        assert found.why
