"""What each command does once its words are read: checks the settings, hands over to the package that does it, tells the end.

Nothing heavy is imported here: each command loads what it needs.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

from factory.errors import EXIT_DONE, ConfigError

Result = TypeVar("Result")


def run_configured(command: str, composed: dict[str, Any], problems: list[str], words: Sequence[str]) -> int:
    gc.enable()
    if command == "train":
        return _train(composed, problems, words)
    run = {"generate": _generate, "export": _export, "evaluate": _evaluate, "iterate": _iterate}
    return run[command](composed, problems)


def _train(composed: dict[str, Any], problems: list[str], words: Sequence[str]) -> int:
    from factory.train import train

    return train(composed, problems, words, lambda text: print(text, file=sys.stderr, flush=True))


def _generate(composed: dict[str, Any], problems: list[str]) -> int:
    from factory.plan import make_plan

    plan = make_plan(composed, problems)
    import uvloop  # and what else is heavy: a mistake is told before it is loaded

    from factory.generate import generate
    from factory.progress import Display

    display = Display()
    outcome = uvloop.run(_guarded(generate(plan, display)))
    display.summary(outcome.manifest, Path(plan.settings.out))
    if outcome.stopped is not None:
        raise outcome.stopped
    return outcome.status


async def _guarded(work: Coroutine[Any, Any, Result]) -> Result:
    """Work that a termination signal cancels, as Ctrl-C does."""
    # What is loaded by now stays: look at new objects only, and not too often.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _evaluate(composed: dict[str, Any], problems: list[str]) -> int:
    from rich.console import Console

    from factory.evaluation.plan import checked_settings, make_evaluation
    from factory.evaluation.results import results_table

    if composed.get("compare") is not None:
        from factory.config import fail_on
        from factory.evaluation.compare import compare, comparison_table

        settings = checked_settings(composed, problems)
        fail_on(problems)
        compared, where = compare(settings)
        Console().print(comparison_table(compared))
        print(f"results {where}/results.json    report {where}/report.html")
        return EXIT_DONE
    plan = make_evaluation(composed, problems)
    import uvloop

    from factory.evaluation.run import evaluate
    from factory.progress import Display

    outcome = uvloop.run(_guarded(evaluate(plan, Display())))
    Console().print(results_table(outcome.results))
    folder = plan.settings.folder
    print(f"results {folder}/results.json    report {folder}/report.html")
    if outcome.stopped is not None:
        raise outcome.stopped
    return outcome.status


def _iterate(composed: dict[str, Any], problems: list[str]) -> int:
    from factory.config import fail_on
    from factory.iterate.plan import checked_settings

    settings = checked_settings(composed, problems)
    fail_on(problems)
    assert settings is not None
    import uvloop

    from factory.iterate.run import iterate
    from factory.progress import Display

    return uvloop.run(_guarded(iterate(settings, composed, Display())))


def _export(composed: dict[str, Any], problems: list[str]) -> int:
    from factory.config import fail_on, validated
    from factory.export import ExportSettings, export

    data = {key: value for key, value in composed.items() if key != "hydra"}
    settings = validated(ExportSettings, data, "", problems)
    fail_on(problems)
    assert settings is not None
    print(export(settings))
    return EXIT_DONE


# ---- commands with a word or two


def _named_folder(words: Sequence[str]) -> Path:
    """The folder that `run=NAME` or `out=DIR` names, whatever it holds."""
    folder = Path("outputs/code")
    for word in words:
        key, _, value = word.partition("=")
        if key not in ("run", "out") or not value:
            raise ConfigError(f"{word!r} is not understood here: give run=NAME or out=DIR")
        folder = Path(value) if key == "out" else Path("outputs") / value
    return folder


def _run_folder(words: Sequence[str]) -> Path:
    """The folder of the run that made records."""
    folder = _named_folder(words)
    if not (folder / "journal.db").exists():
        from factory.outputs import no_run

        raise no_run(folder)
    return folder


def report(words: list[str]) -> int:
    from factory.report import write_report
    from factory.report.selection import is_export, write_selection_report
    from factory.report.training import write_training_report
    from factory.report.training_run import is_training

    folder = _named_folder(words)
    if (folder / "state.json").exists():
        from factory.iterate.summary import write_again

        print(write_again(folder))
        return EXIT_DONE
    if is_training(folder) and not (folder / "journal.db").exists():
        print(write_training_report(folder))
        return EXIT_DONE
    if is_export(folder):
        print(write_selection_report(folder))
        return EXIT_DONE
    print(write_report(_run_folder(words)))
    return EXIT_DONE


def explain(words: list[str]) -> int:
    from rich.console import Console

    from factory.explain import explain as tell

    ids = [word for word in words if "=" not in word]
    named = [word for word in words if "=" in word]
    if len(ids) != 1:
        raise ConfigError("explain needs one record id (or its first characters): python -m factory explain 3fa4")
    folders = [_run_folder(named)] if named else sorted(path.parent for path in Path("outputs").glob("*/journal.db"))
    if not folders:
        raise ConfigError(
            "there is no run in outputs/ yet; name one with out=DIR, or make one: python -m factory generate"
        )
    return tell(ids[0], folders, Console())


def doctor(words: list[str]) -> int:
    from factory.doctor import examine

    if words:
        raise ConfigError(f"doctor takes nothing, but was given {' '.join(words)}")
    return examine()


SIMPLE = {"report": report, "explain": explain, "doctor": doctor}  # by a word or two, without a configuration
