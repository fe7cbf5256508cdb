"""Direct preference optimisation as Llama 3.1 runs it: a likelihood term beside it, end-of-turn tokens left out of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from training.batches import Batch
from training.head import add_scoring_head
from training.memory import capacity
from training.models import add_adapters, compile_layers, load, wants_compile
from training.preference import chosen_nll, score, summarise_pairs, tally_pairs
from training.reference import reference_logps
from training.settings import DpoStage, RpoStage
from training.trainer import Stepwise, quiet_trl
from training.work import Say, Work, arguments, fit


def dpo_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """-log sigmoid(a), a = beta x (log-ratio of the chosen - of the rejected), one value a pair.

    Summed log-probabilities in nats, each (E,). `label_smoothing` is the share of labels held for wrong (cDPO).
    Rafailov et al. 2023, equation 7.
    """
    gap = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    return -(1 - label_smoothing) * logsigmoid(gap) - label_smoothing * logsigmoid(-gap)


class PackedDpo(Stepwise, DPOTrainer):  # type: ignore[misc]
    """TRL's trainer over pairs without padding, with reference log-probabilities computed before the first step."""

    stage: DpoStage

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # tokenised already

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset  # by `reference.py`, before the first step

    def step_loss(self, model: Any, batch: Batch, whole: Mapping[str, float]) -> torch.Tensor:
        stage = self.stage
        policy, full, tokens, tie = score(model, batch, mask_end=stage.mask_end)
        chosen = torch.arange(0, len(policy), 2, device=policy.device)
        moved = stage.beta * (policy - batch["reference"]).view(-1, 2)
        preference = dpo_loss(
            policy[chosen], policy[chosen + 1], batch["reference"][chosen], batch["reference"][chosen + 1],
            beta=stage.beta, label_smoothing=stage.label_smoothing,
        )  # fmt: skip
        nll = chosen_nll(full, tokens, chosen, stage.nll)
        tally_pairs(self.tally, moved[:, 0] - moved[:, 1], tokens.view(-1, 2), policy.view(-1, 2), moved)
        self.tally.add(preference=preference.sum(), nll=nll.sum())
        return (preference.sum() + stage.nll.weight * nll.sum() + tie) / whole["examples"]

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        pairs = max(sums["pairs"], 1)
        preference, nll = sums["preference"] / pairs, sums["nll"] / pairs
        loss = preference + self.stage.nll.weight * nll
        return {"loss": loss, "preference_loss": preference, "nll": nll, **summarise_pairs(sums)}


def train(work: Work, say: Say, *, skip: int = 0) -> bool:
    """Train to the end of the plan. Returns False where it was stopped before."""
    return train_pairs(PackedDpo, work, say)


def train_pairs(kind: Any, work: Work, say: Say) -> bool:
    """What DPO and RPO do alike: the reference is the model that they start from, fresh each time."""
    settings, stage = work.settings, work.settings.stage
    assert isinstance(stage, DpoStage | RpoStage)
    model = load(settings, work.template.tokenizer)
    add_scoring_head(model)
    if settings.lora.enabled:
        model = add_adapters(model, settings)
    args = arguments(work, DPOConfig, precompute_ref_log_probs=True, max_length=None)
    with quiet_trl():
        trainer = kind(model=model, args=args, train_dataset=work.data, processing_class=work.template.tokenizer)
    trainer.stage = stage
    if wants_compile(settings, int(work.plan.tokens.mean() * settings.batch * work.plan.steps)):
        compile_layers(trainer.model)
    fits = capacity(trainer, settings, work.longest, say)
    # Where parameters are sharded, TRL has loaded the starting model once more, sharded; else it is the model itself.
    start = trainer.model
    if trainer.ref_model is not None:
        start = trainer.ref_model
        add_scoring_head(start)
    identity = {
        "model": settings.model.digest or settings.model.path,
        "dtype": str(trainer.model.dtype),
        "bf16": args.bf16,
        "template": [settings.model.chat_template, settings.model.end_token],
    }

    def reference(data: Any, digest: str) -> Any:
        return reference_logps(
            trainer, start, data, identity={**identity, "data": digest}, folder=work.out / "reference", capacity=fits,
            mask_end=stage.mask_end, say=say,
        )  # fmt: skip

    known = reference(work.data, work.digest)
    held = known if work.held_data is work.data else reference(work.held_data, work.held_digest)
    trainer.ref_model = None
    return fit(trainer, work, say, capacity=fits, reference=known, held_reference=held)
