"""The shape of a stage's configuration. Values, comments and sources are in `conf/train.yaml` and `conf/stage/`.

Nothing here imports torch: the command line checks settings before anything heavy is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")  # HelpSteer2 (Wang et al. 2024)


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(Frozen):
    """One data set of a mixture: a folder or file of Parquet or JSON lines.

    With `weight`, this share of the examples comes from here (repeated or thinned as needed); without, every row is
    taken once an epoch. `rows` takes the first so many only.
    """

    path: str
    weight: float | None = Field(None, gt=0)
    rows: int | None = Field(None, ge=1)


class ModelSource(Frozen):
    """The model that is trained. `path` is a folder or hub id, `digest` its content's identity, where it is known.

    `chat_template` is the text of a Jinja template and `end_token` the token that ends a turn, where the model brings
    none (a base model) or others are wanted.
    """

    name: str
    path: str
    digest: str = ""
    revision: str | None = None
    chat_template: str | None = None
    end_token: str | None = None


class Chat(Frozen):
    """How conversations are written: a template's file or name, and the token that ends a turn; null: the model's own."""

    template: str | None = None
    end_token: str | None = None


class Lora(Frozen):
    """Low-rank adapters in place of full training (Hu et al. 2021). `after` is the share of the steps trained in full first."""

    enabled: bool = False
    rank: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: str | tuple[str, ...] = "all-linear"
    after: float = Field(0.0, ge=0, lt=1)


class Optimizer(Frozen):
    """AdamW. `warmup` is a share of the steps; `clip` bounds the gradient's norm, null for none."""

    lr: float = Field(gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.03, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = Field(1.0, gt=0)


class Evaluation(Frozen):
    """Held-out examples: the `share` of the prompts (never one that is trained on), or a data set of their own."""

    share: float = Field(0.0, ge=0, lt=1)
    path: str | None = None
    every: int | None = Field(None, ge=1)  # steps; null: at the end only


class Saving(Frozen):
    """Checkpoints: `every` so many steps (null: by `minutes`), the newest `keep` of them."""

    every: int | None = Field(None, ge=1)
    minutes: float = Field(10.0, gt=0)
    keep: int = Field(2, ge=1)


class Launch(Frozen):
    """Processes: one a GPU of each node, or `cpu_processes` where there is no GPU."""

    gpus: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    nodes: int = Field(1, ge=1)
    node_rank: int | None = Field(None, ge=0)
    address: str = "127.0.0.1:29500"
    strategy: Literal["ddp", "fsdp2", "zero2", "zero3"] = "ddp"
    cpu_processes: int = Field(1, ge=1)


class Nll(Frozen):
    """Weight of the chosen answer's negative log-likelihood beside the preference loss.

    `per` names what is weighted: the sum over the answer ("sequence", Nemotron-4's 1e-5 is of this size) or its mean
    over the answer's tokens ("token", Llama 3.1's 0.2).
    """

    weight: float = Field(ge=0)
    per: Literal["token", "sequence"]


class Teacher(Frozen):
    """Distillation: `weight` of KL(teacher || student) on the scored tokens; the rest is the likelihood of the text."""

    path: str | None = None
    weight: float = Field(0.5, gt=0, le=1)
    temperature: float = Field(1.0, gt=0)


class SftStage(Frozen):
    name: Literal["sft"]
    turns: Literal["all", "last"] = "all"
    teacher: Teacher = Teacher()


class RewardStage(Frozen):
    """`objective` null: what the data holds (attributes: regression; else pairwise)."""

    name: Literal["reward"]
    objective: Literal["pairwise", "regression"] | None = None
    attributes: Mapping[str, float] = Field(default_factory=dict)  # name: weight in the reward
    center: float = Field(0.0, ge=0)


class DpoStage(Frozen):
    name: Literal["dpo"]
    beta: float = Field(gt=0)
    nll: Nll
    mask_end: bool = True
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)


class RpoStage(Frozen):
    name: Literal["rpo"]
    beta: float = Field(gt=0)
    eta: float = Field(gt=0)
    distance: Literal["bwd", "fwd", "sq"] = "bwd"
    nll: Nll
    mask_end: bool = True


Stage = Annotated[SftStage | RewardStage | DpoStage | RpoStage, Field(discriminator="name")]


class Phase(Frozen):
    """One part of a staged training: what it says replaces the stage's own. Weights go on, the optimiser starts anew."""

    name: str = Field(pattern=r"^[\w-]+$")
    data: tuple[Source, ...]
    epochs: float | None = Field(None, gt=0)
    steps: int | None = Field(None, ge=1)
    batch: int | None = Field(None, ge=1)
    lr: float | None = Field(None, gt=0)


class TrainSettings(Frozen):
    """`python -m factory train stage=sft|reward|dpo|rpo`, ready to be run: paths are there, the model is found.

    `batch` is in examples (conversations, or prompts with their answers) a step, over all processes, whatever fits in
    memory; `micro_tokens` is what one forward pass of one process takes, "auto" to try it out.
    """

    stage: Stage
    run: str
    out: str
    seed: int
    minutes: float | None = Field(None, gt=0)
    model: ModelSource
    data: tuple[Source, ...]
    phases: tuple[Phase, ...] = ()
    eval: Evaluation = Evaluation()
    epochs: float = Field(gt=0)
    steps: int | None = Field(None, ge=1)
    batch: int = Field(ge=1)
    max_length: int | None = Field(None, ge=8)
    too_long: Literal["drop", "cut", "refuse"] = "drop"
    optimizer: Optimizer
    lora: Lora = Lora()
    precision: Literal["auto", "bf16", "fp32", "pure_bf16"] = "auto"
    attention: str = "auto"
    compile: bool | Literal["auto"] = "auto"
    checkpointing: bool | Literal["auto"] = "auto"
    micro_tokens: Annotated[int, Field(ge=16)] | Literal["auto"] = "auto"
    log_every: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = ()
    save: Saving = Saving()
    launch: Launch = Launch()

    @field_validator("data", mode="before")
    @classmethod
    def _sources(cls, value: Any) -> Any:
        return sources(value)

    @model_validator(mode="after")
    def _fits(self) -> TrainSettings:
        if self.too_long == "cut" and self.stage.name != "sft":
            raise ValueError("too_long=cut would take an answer's end away; stage=sft only knows it")
        if (self.phases or self.lora.after) and self.stage.name != "sft":
            raise ValueError("phases and lora.after are for stage=sft")
        if self.phases and self.lora.after:
            raise ValueError("phases and lora.after each cut the training in parts; choose one of them")
        if len({phase.name for phase in self.phases}) < len(self.phases):
            raise ValueError("phases: two have the same name")
        return self


def sources(value: Any) -> Any:
    """`data=DIR`, `data=[DIR, DIR]` and `data=[{path: DIR, weight: 0.98}, ...]` as a list of mappings."""
    if isinstance(value, str | Mapping):
        value = [value]
    if isinstance(value, list | tuple):
        return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)
    return value
