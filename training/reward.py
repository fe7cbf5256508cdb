"""Reward models: from comparisons (Bradley-Terry over all pairs of a prompt) or from graded attributes (HelpSteer2)."""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid
from trl import RewardConfig, RewardTrainer

from training.batches import Batch
from training.errors import TrainingError
from training.memory import capacity
from training.models import add_adapters, compile_layers, load, wants_compile
from training.settings import RewardStage
from training.trainer import Stepwise, model_inputs, quiet_trl
from training.work import Say, Work, arguments, fit

BINS = 10  # of the calibration


def pairwise_loss(
    rewards: torch.Tensor, targets: torch.Tensor, example: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(loss, probability that the better answer is told) for every pair of answers to one prompt that differ in target.

    `rewards`, `targets` and `example` are (D,): what the model says, what is known, and whose answer it is. Returns the
    mean over each prompt's pairs of -log sigmoid(r_w - r_l), (E,), so that a prompt with many answers weighs as much as
    one with two (InstructGPT, equation 1), and (P,) probabilities of all pairs.
    """
    better = (targets[:, None] > targets[None, :]) & (example[:, None] == example[None, :])
    winners, losers = better.nonzero(as_tuple=True)
    gaps = rewards[winners] - rewards[losers]
    count = int(example.max()) + 1 if len(example) else 0
    zeros = torch.zeros(count, device=rewards.device, dtype=rewards.dtype)
    owners = example[winners]
    sums = zeros.index_add(0, owners, -logsigmoid(gaps))
    pairs = zeros.index_add(0, owners, torch.ones_like(gaps))
    return sums / pairs.clamp(min=1), torch.sigmoid(gaps.detach())


def regression_loss(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean squared error over the attributes that are graded, one value an answer; both (D, A), NaN is not graded."""
    known = torch.isfinite(targets)
    errors = (values - targets.nan_to_num()) ** 2 * known
    return errors.sum(-1) / known.sum(-1).clamp(min=1)


def add_document_head(model: Any) -> None:
    """`model(..., last=places)` gives the head's numbers at those places of the one row, (D, A) float32.

    Everything else stays: the saved model is the library's own class, read by its servers as it is. The head is applied
    in float32: bfloat16 tells rewards apart to three digits only.
    """
    original = model.forward

    def forward(self: Any, *args: Any, last: torch.Tensor | None = None, **kwargs: Any) -> Any:
        if last is None:
            return original(*args, **kwargs)
        hidden = self.base_model(*args, **kwargs, use_cache=False).last_hidden_state[0, last]
        weight = self.score.weight
        if isinstance(weight, torch.distributed.tensor.DTensor):
            weight = weight.full_tensor()
        with torch.autocast(hidden.device.type, enabled=False):
            return {"values": hidden.float() @ weight.float().T}

    model.forward = types.MethodType(forward, model)


class PackedReward(Stepwise, RewardTrainer):  # type: ignore[misc]
    """One prompt's answers lie in one micro-batch, so all their pairs are compared."""

    stage: RewardStage
    weights: torch.Tensor

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # tokenised already

    def step_loss(self, model: Any, batch: Batch, whole: Mapping[str, float]) -> torch.Tensor:
        values = self._values(model, batch)
        documents = len(batch["example"])
        tie, values = values.sum() * 0, values[:documents]
        if self.stage.objective == "regression":
            return (self._graded(values, batch["rewards"], batch["example"]) + tie) / whole["examples"]
        return (self._compared(values[:, 0], batch) + tie) / whole["examples"]

    def _values(self, model: Any, batch: Batch) -> torch.Tensor:
        last = batch["last"] if len(batch["last"]) else batch["cu_seq_lens_q"][1:].long() - 1
        values: torch.Tensor = model(**model_inputs(batch), last=last)["values"]
        return values

    def probe_loss(self, batch: Batch) -> torch.Tensor:
        return self._values(self.model, batch).mean()

    def _compared(self, rewards: torch.Tensor, batch: Batch) -> torch.Tensor:
        targets = batch["rewards"][:, 0] if batch["rewards"].numel() else rewards.new_zeros(0)
        losses, right = pairwise_loss(rewards, targets, batch["example"])
        self._tally_pairs(right, rewards)
        self.tally.add(loss=losses.sum(), examples=len(batch["index"]))
        return losses.sum() + self.stage.center * self._centred(rewards, batch["example"])

    def _centred(self, rewards: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
        """Sum over prompts of the squared mean reward: keeps rewards around zero (Eisenstein et al. 2023)."""
        count = torch.bincount(example) if len(example) else example
        sums = rewards.new_zeros(len(count)).index_add(0, example, rewards)
        return ((sums / count.clamp(min=1)) ** 2).sum()

    def _graded(self, values: torch.Tensor, targets: torch.Tensor, example: torch.Tensor) -> torch.Tensor:
        targets = targets if targets.numel() else values.new_zeros(0, values.shape[-1])
        losses = regression_loss(values, targets)
        weights = self.weights.to(values)
        rewards = values @ weights
        known = (targets.nan_to_num() @ weights).masked_fill(~torch.isfinite(targets).all(-1), torch.nan)
        _, right = pairwise_loss(rewards, known, example)
        self._tally_pairs(right, rewards)
        per_example = values.new_zeros(int(example.max()) + 1 if len(example) else 0).index_add(0, example, losses)
        per_example = per_example / torch.bincount(example).clamp(min=1) if len(example) else per_example
        errors = torch.where(torch.isfinite(targets), (values.detach() - targets).abs(), 0.0)
        self.tally.add(loss=per_example.sum(), examples=len(per_example), error=errors.sum(),
                       grades=torch.isfinite(targets).sum())  # fmt: skip
        return per_example.sum()

    def _tally_pairs(self, right: torch.Tensor, rewards: torch.Tensor) -> None:
        """Sums for accuracy and calibration. A pair told with confidence c should be told rightly in c of the cases."""
        confidence, told = torch.maximum(right, 1 - right), (right > 0.5).double() + 0.5 * (right == 0.5)
        self.tally.add(pairs=len(right), correct=told.sum(), answers=len(rewards), reward=rewards.sum(),
                       squared=(rewards.double() ** 2).sum())  # fmt: skip
        # A lost model's NaN must reach the check of the loss.
        place = ((confidence.nan_to_num() - 0.5) * 2 * BINS).long().clamp(min=0, max=BINS - 1)
        for name, values in (("n", torch.ones_like(told)), ("c", confidence.double()), ("r", told)):
            sums = torch.zeros(BINS, device=right.device, dtype=torch.float64).index_add_(0, place, values)
            self.tally.add(**{f"bin_{name}{number}": sums[number] for number in range(BINS)})

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        pairs, answers = max(sums["pairs"], 1), max(sums["answers"], 1)
        mean = sums["reward"] / answers
        self.calibration = [
            {"pairs": sums[f"bin_n{n}"], "confidence": sums[f"bin_c{n}"] / sums[f"bin_n{n}"],
             "accuracy": sums[f"bin_r{n}"] / sums[f"bin_n{n}"]}
            for n in range(BINS) if sums[f"bin_n{n}"]
        ]  # fmt: skip
        found = {
            "loss": sums["loss"] / max(sums["examples"], 1),
            "accuracy": sums["correct"] / pairs,
            "reward_mean": mean,
            "reward_std": max(sums["squared"] / answers - mean**2, 0.0) ** 0.5,
            "calibration_error": sum(
                entry["pairs"] * abs(entry["confidence"] - entry["accuracy"]) for entry in self.calibration
            ) / pairs,
        }  # fmt: skip
        if "grades" in sums:
            found["absolute_error"] = sums["error"] / max(sums["grades"], 1)
        return found

    def facts(self) -> dict[str, Any]:
        """For the manifest: how the model's numbers become one reward, and its calibration on what was held out."""
        held = {"calibration": self.calibration} if self.held_out_batches else {}
        return {"objective": self.stage.objective, "attributes": dict(self.stage.attributes), **held}


def train(work: Work, say: Say, *, skip: int = 0) -> bool:
    """Train to the end of the plan. Returns False where it was stopped before."""
    settings, stage = work.settings, work.settings.stage
    assert isinstance(stage, RewardStage)
    stage = stage.model_copy(update={"objective": _objective(work, stage)})
    labels = len(stage.attributes) if stage.objective == "regression" else 1
    torch.manual_seed(settings.seed)  # the head begins at random
    with quiet_trl():
        model = load(settings, work.template.tokenizer, labels=labels)
    _pad_apart(work)
    model.config.pad_token_id = work.template.tokenizer.pad_token_id
    model.config.num_labels = 1  # TRL's trainer takes no other
    add_document_head(model)
    if settings.lora.enabled:
        model = add_adapters(model, settings)
    args = arguments(work, RewardConfig, max_length=None)
    with quiet_trl():
        trainer = PackedReward(
            model=model, args=args, train_dataset=work.data, processing_class=work.template.tokenizer
        )
    if stage.objective == "regression":
        model.config.num_labels = labels
        model.config.id2label = dict(enumerate(stage.attributes))
        model.config.label2id = {name: place for place, name in enumerate(stage.attributes)}
        model.config.attribute_weights = dict(stage.attributes)  # whoever scores with it finds them in config.json
    trainer.stage, trainer.calibration = stage, []
    trainer.weights = torch.tensor(list(stage.attributes.values()) or [1.0])
    if wants_compile(settings, int(work.plan.tokens.mean() * settings.batch * work.plan.steps)):
        compile_layers(trainer.model)
    return fit(trainer, work, say, capacity=capacity(trainer, settings, work.longest, say))


def _pad_apart(work: Work) -> None:
    """Pad with another token than texts end with: transformers reads the head at the last token that is no padding."""
    tokenizer, last = work.template.tokenizer, work.data[0]["ids"][-1]
    if tokenizer.pad_token_id != last:
        return
    others = [
        token.content for place, token in tokenizer.added_tokens_decoder.items() if token.special and place != last
    ]
    if not others:
        raise TrainingError(
            f"model={work.settings.model.name}: its texts end with the only special token there is, {tokenizer.pad_token}, "
            "which servers would take for padding; add another to the tokenizer"
        )
    tokenizer.pad_token = others[0]


def _objective(work: Work, stage: RewardStage) -> Literal["pairwise", "regression"]:
    """What is asked for; else regression where each answer has a grade for each attribute, comparison where one number."""
    each = _numbers_an_answer(work)
    if stage.objective == "pairwise" or (stage.objective is None and each == 1):
        if each != 1:
            raise TrainingError("stage.objective=pairwise: the data grades attributes; give rewards, ranks or pairs")
        return "pairwise"
    if each != len(stage.attributes) or not stage.attributes:
        raise TrainingError(
            f"stage.objective=regression: the data has {each:g} numbers an answer, stage.attributes {len(stage.attributes)}"
        )
    return "regression"


def _numbers_an_answer(work: Work) -> float:
    import pyarrow.compute as pc

    rewards, answers = (pc.list_value_length(work.data.data.column(name)) for name in ("rewards", "lengths"))
    found = pc.unique(pc.divide(pc.cast(rewards, "float64"), answers)).to_pylist()
    if len(found) > 1:
        raise TrainingError("data: holds pairs and rankings beside graded attributes; train on one of the two")
    return float(found[0])
