"""`python -m factory COMMAND KEY=VALUE ...`: reads the command line, hands over, and turns errors into exit statuses.

Nothing heavy is imported here: the list of commands must come at once.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factory import __version__
from factory.commands import SIMPLE, run_configured
from factory.errors import EXIT_DONE, EXIT_INTERRUPTED, ConfigError, UserError, near

if TYPE_CHECKING:
    from omegaconf import DictConfig

# What each command takes, and what it does.
COMMANDS = {
    "generate": ("KEY=VALUE ...", "make records, score them, keep the good ones"),
    "export": ("KEY=VALUE ...", "write a run's records for a trainer"),
    "train": ("KEY=VALUE ...", "train a model on them: stage=sft, reward, dpo, rpo or merge"),
    "iterate": ("KEY=VALUE ...", "rounds of both: each model makes the next one's data"),
    "evaluate": ("KEY=VALUE ...", "measure what a model can do, or compare two"),
    "report": ("run=NAME", "draw a run's report again"),
    "explain": ("RECORD_ID", "tell one record's whole story"),
    "doctor": ("", "say what this machine can do, and how to mend what it cannot"),
}
_CONFIGURED = ("generate", "export", "train", "iterate", "evaluate")
_HEAVY = {
    "generate": ("factory.plan", "factory.generate", "uvloop"),
    "export": ("factory.export", "pyarrow.json"),
    "train": ("factory.train", "training.settings"),
    "iterate": ("factory.iterate.run", "uvloop"),
    "evaluate": ("factory.evaluation.plan", "factory.evaluation.run", "uvloop"),
}
_HELP = ("--help", "-h")
# What Hydra does itself: show the configuration, sweep over values.
_HYDRA_FLAGS = (
    *_HELP,
    "--hydra-help",
    "--multirun",
    "-m",
    "--cfg",
    "-c",
    "--info",
    "-i",
    "--resolve",
    "--package",
    "-p",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    gc.disable()  # until everything is imported: collecting while classes are made is a fifth of the start
    try:
        status = _dispatch(words)
    except UserError as error:
        _complain(error)
        status = error.status
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted; what was answered is kept, and the same command goes on from there", file=sys.stderr)
        status = EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = EXIT_DONE
    sys.exit(status)


def _complain(error: UserError) -> None:
    marker = "error: " if len(error.problems) == 1 else "  - "
    if len(error.problems) > 1:
        print(f"{len(error.problems)} problems:", file=sys.stderr)
    for problem in error.problems:
        print(f"{marker}{problem}", file=sys.stderr)


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in (*_HELP, "help"):
        print(_overview())
        return EXIT_DONE
    if words[0] == "--version":
        print(__version__)
        return EXIT_DONE
    if words[0].startswith(("-sc", "--shell-completion", "--shell_completion")):
        return _complete(words)
    command, rest = words[0], words[1:]
    if command not in COMMANDS:
        raise ConfigError(f"no command {command!r}{near(command, COMMANDS)} (there is {', '.join(COMMANDS)})")
    if command in _CONFIGURED:
        if any(word.split("=")[0] in _HYDRA_FLAGS for word in rest):
            return _through_hydra(command, rest)
        return _compose_and_run(command, rest)
    if set(rest) & set(_HELP):
        usage, text = COMMANDS[command]
        print(f"python -m factory {command} {usage}".rstrip() + f"\n{text}")
        return EXIT_DONE
    gc.enable()
    return SIMPLE[command](rest)


def _overview() -> str:
    from factory.prompts import search_path

    def names(group: str) -> str:
        found = {file.stem for folder in search_path("conf") for file in (folder / group).glob("*.yaml")}
        return ", ".join(sorted(found))

    commands = "\n".join(f"  {name:<10}{usage:<15}{text}" for name, (usage, text) in COMMANDS.items())
    return (
        f"A factory for post-training data.\n\npython -m factory COMMAND ...\n{commands}\n\n"
        f"  tasks     {names('task')}\n  models    {names('model')}\n  engines   {names('engine')}\n"
        f"  scorers   {names('scorer')}\n  stages    {names('stage')}\n  suites    {names('suite')}\n  recipes   {names('recipe')}\n\n"
        "python -m factory COMMAND --help tells its keys. The first thing to try: python -m factory generate task=code"
    )


# ---- commands that Hydra configures


def _compose_and_run(command: str, overrides: list[str]) -> int:
    composed, problems = _compose_beside(command, overrides, _HEAVY[command])
    return run_configured(command, composed, problems, overrides)


def _compose_beside(command: str, overrides: list[str], modules: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Compose in a forked child while this process imports `modules`: each is half a second of a command's start."""
    import orjson

    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            from factory.compose import compose_config

            try:
                answer: dict[str, Any] = dict(
                    zip(("composed", "problems"), compose_config(command, overrides), strict=True)
                )
            except ConfigError as error:
                answer = {"raised": error.problems}
            with open(writer, "wb") as pipe:
                pipe.write(orjson.dumps(answer))
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)  # nothing of the parent's is to be ended here
    os.close(writer)
    for module in modules:
        importlib.import_module(module)
    with open(reader, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise SystemExit(1)
    answer = orjson.loads(data)
    if "raised" in answer:
        raise ConfigError(*answer["raised"])
    return answer["composed"], answer["problems"]


def _through_hydra(command: str, words: list[str]) -> int:
    """Help, sweeps and configuration dumps: Hydra's own command line, with the same settings behind it."""
    import hydra
    from hydra._internal.utils import get_args_parser
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from factory.compose import added, first_line, register_user_conf, resolve, rewrite_overrides
    from factory.config import fail_on
    from factory.prompts import data_dir

    register_user_conf()
    arguments = get_args_parser().parse_intermixed_args(words)
    flags = [word for word in words if word not in arguments.overrides]
    overrides, problems = rewrite_overrides(arguments.overrides, sweep=arguments.multirun)
    fail_on(problems)
    statuses = []

    def job(config: DictConfig) -> None:
        if arguments.multirun:
            _name_run(command, config)
        try:
            statuses.append(run_configured(command, resolve(config, []), [], overrides))
        except UserError as error:  # this run's end, not the sweep's
            _complain(error)
            statuses.append(error.status)

    sys.argv = [f"python -m factory {command}", *flags, *map(added, overrides)]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us as they are
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=command)(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(first_line(error)) from error
    return max(statuses, default=EXIT_DONE)


def _name_run(command: str, config: DictConfig) -> None:
    """Give each run of a sweep a folder of its own, named by the values that it alone has."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.core.override_parser.overrides_parser import OverridesParser

    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    swept = {
        entry.key_or_group for entry in OverridesParser.create().parse_overrides(words) if entry.is_sweep_override()
    }
    own = [word.lstrip("+") for word in HydraConfig.get().overrides.task if word.lstrip("+").split("=")[0] in swept]
    if command != "export" and not {"run", "out"} & {word.lstrip("+").split("=")[0] for word in words}:
        first = {
            "generate": lambda: [config.task.name],
            "train": lambda: [config.stage.name],
            "iterate": lambda: [config.recipe.name],
            "evaluate": lambda: [config.suite.name, config.model.name],
        }[command]()
        config.run = re.sub(r"[^\w.=,+@-]+", "_", "-".join([*first, *own]))


def _complete(words: list[str]) -> int:
    """Tab completion: `eval "$(factory -sc install=bash)"`. Commands and runs are ours, keys and values Hydra's."""
    import hydra

    from factory.compose import register_user_conf
    from factory.prompts import data_dir

    line = os.environ.get("COMP_LINE", "")
    asked = any(word.startswith("query") for word in words)
    parts = line.split()
    begun = "" if line[-1:].isspace() or len(parts) < 2 else parts[-1]
    command = parts[1] if len(parts) > 2 or (len(parts) == 2 and not begun) else ""
    if not asked or command in _CONFIGURED:
        register_user_conf()
        os.environ["COMP_LINE"] = re.sub(r"^\s*\S+\s+\S+", "factory", line)
        sys.argv = ["factory", *words]
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=command or "generate")(print)()
        return EXIT_DONE
    runs = [f"run={path.parent.name}" for path in Path("outputs").glob("*/journal.db")]
    trained = {
        f"run={path.parent.name}"
        for name in ("train.json", "phases", "state.json")
        for path in Path("outputs").glob(f"*/{name}")
    }
    offered = {"": list(COMMANDS), "report": [*{*runs, *trained}], "explain": runs}.get(command, [])
    print("\n".join(sorted(name for name in offered if name.startswith(begun))))
    return EXIT_DONE
