"""Starts a stage's processes: this one, one a GPU of a node, or one a GPU of many nodes; and says how."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from training.errors import TrainingError
from training.settings import Launch, TrainSettings

STOPPED = 3  # exit status of a training that was stopped in good order, with a checkpoint
STOP = "stop"  # a file in OUT that asks all its processes, on whatever node, to save a checkpoint and end


def processes_here(launch: Launch) -> int:
    """Processes of this node."""
    import torch

    there = torch.cuda.device_count()
    if not there and launch.strategy != "ddp":
        raise TrainingError(f"launch.strategy={launch.strategy}: this machine has no GPU; on CPUs it is ddp")
    if launch.gpus == "auto":
        return there or launch.cpu_processes
    if launch.gpus > there:
        raise TrainingError(
            f"launch.gpus={launch.gpus}: this machine has {there}"
            + ("" if there else "; launch.cpu_processes is for CPUs")
        )
    return launch.gpus


def check(settings: TrainSettings) -> list[str]:
    """What this machine lacks for the launch and for what is to be reported to."""
    import importlib.util

    launch, problems = settings.launch, []
    for name in settings.report_to:
        if importlib.util.find_spec(name) is None:
            problems.append(f"report_to={name}: is not installed: pip install {name}")
    if launch.strategy.startswith("zero") and importlib.util.find_spec("deepspeed") is None:
        problems.append(f"launch.strategy={launch.strategy}: DeepSpeed is not installed: pip install deepspeed")
    if launch.nodes > 1 and launch.node_rank is None and "SLURM_NODEID" not in os.environ:
        problems.append(
            f"launch.nodes={launch.nodes}: which one is this? Give launch.node_rank=0 (and so on) on each, and "
            "launch.address=HOST:PORT of the first; under Slurm docs/training.md has a script that does"
        )
    if launch.nodes > 1 and launch.address.startswith(("127.", "localhost")):
        problems.append("launch.address: give the first node's HOST:PORT, which the others reach")
    return problems


def command(launch: Launch, processes: int, module: Sequence[str]) -> list[str]:
    """The command that runs `python -m MODULE` in every process of this node."""
    python = [sys.executable, "-m", "training.processes", f"--nproc-per-node={processes}"]
    if launch.nodes > 1:
        rank = launch.node_rank if launch.node_rank is not None else int(os.environ["SLURM_NODEID"])
        python += [f"--nnodes={launch.nodes}", f"--node-rank={rank}", "--rdzv-backend=c10d"]
        python += [f"--rdzv-endpoint={launch.address}", "--rdzv-id=factory"]
    else:
        python += ["--standalone"]
    return [*python, "--module", *module]


def run(settings: TrainSettings, config: Path, say: Callable[[str], None]) -> int:
    """Run the stage whose settings lie in `config`; returns its exit status.

    One process is this one. For several, data are read and checked here before any of them starts.
    """
    processes = processes_here(settings.launch)
    module = ["training", str(config)]
    if processes == 1 and settings.launch.nodes == 1 and settings.launch.strategy == "ddp":
        from training.__main__ import main

        return main(module[1:])
    from training.work import claim, done, open_work

    if claim(open_work(settings, say)):
        say(f"{settings.out}/model is there already")
        return 0
    words = command(settings.launch, processes, module)
    say(f"runs  {shlex.join(words)}")
    out = Path(settings.out)
    (out / STOP).unlink(missing_ok=True)
    # A session of its own: the terminal's Ctrl-C reaches this process only.
    child = subprocess.Popen(words, env=environment(processes), start_new_session=True)

    def stop(number: int, frame: Any) -> None:
        if (out / STOP).exists():  # twice is meant
            child.send_signal(signal.SIGQUIT)
        (out / STOP).touch()

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        status = child.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if child.poll() is None:
            child.send_signal(signal.SIGQUIT)
    (out / STOP).unlink(missing_ok=True)
    return status or (0 if done(out) else STOPPED)


def environment(processes: int) -> Mapping[str, str]:
    """Cores are shared out among the processes, where nobody has said otherwise."""
    cores = len(os.sched_getaffinity(0))
    return {"OMP_NUM_THREADS": str(max(1, cores // processes)), **os.environ}


def strategy_arguments(settings: TrainSettings) -> dict[str, Any]:
    """How parameters, gradients and optimiser states are shared out, as `TrainingArguments` take it."""
    strategy = settings.launch.strategy
    if strategy == "fsdp2":
        # Version 2 is said, because `accelerate` and `transformers` differ in what they take for granted.
        return {
            "fsdp": True,
            "fsdp_config": {
                "version": 2,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "state_dict_type": "FULL_STATE_DICT",
                "reshard_after_forward": True,
            },
        }
    if strategy.startswith("zero"):
        return {"deepspeed": _zero(settings, int(strategy[-1]))}
    return {}


def refine(arguments: Any) -> None:
    """Under FSDP, reduce gradients and hand results over in float32: bfloat16, which is taken for granted, rounds
    summed log-probabilities to three digits."""
    if not arguments.fsdp or not arguments.bf16:
        return
    import torch
    from torch.distributed.fsdp import MixedPrecisionPolicy

    arguments.fsdp_plugin_args["mixed_precision_policy"] = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16, reduce_dtype=torch.float32, output_dtype=torch.float32
    )


def _zero(settings: TrainSettings, stage: int) -> dict[str, Any]:
    """A DeepSpeed configuration: what is "auto" comes from the training arguments."""
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": True, "contiguous_gradients": True}
    if stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
    }
