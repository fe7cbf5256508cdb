"""Reward-aware preference optimisation: the policy's gap follows the rewards' gap (Nemotron-4 340B report, section 3.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch.nn.functional import logsigmoid
from trl import DPOTrainer

from training.batches import Batch
from training.dpo import train_pairs
from training.preference import chosen_nll, score, summarise_pairs, tally_pairs
from training.settings import RpoStage
from training.trainer import Stepwise
from training.work import Say, Work

Distance = Literal["bwd", "fwd", "sq"]


def rpo_loss(
    chosen_logps: torch.Tensor,
    rejected_logps: torch.Tensor,
    ref_chosen_logps: torch.Tensor,
    ref_rejected_logps: torch.Tensor,
    chosen_rewards: torch.Tensor,
    rejected_rewards: torch.Tensor,
    *,
    beta: float,
    eta: float,
    distance: Distance = "bwd",
) -> torch.Tensor:
    """Distance between the policy's gap a and the rewards' gap b, one value a pair.

    Summed log-probabilities in nats and rewards, each (E,). With a = beta x (log-ratio of the chosen - of the
    rejected), b = eta x (reward gap), p = sigmoid(a) and q = sigmoid(b):

    - bwd: KL(q || p) of the two Bernoullis; d/da = p - q. The report's.
    - fwd: KL(p || q); d/da = p (1 - p) (a - b)
    - sq: (a - b)^2

    Raises ValueError for a reward that is no finite number: a pair without rewards has no loss.
    """
    if not (torch.isfinite(chosen_rewards).all() and torch.isfinite(rejected_rewards).all()):
        raise ValueError("every pair needs two finite rewards")
    a = beta * ((chosen_logps - ref_chosen_logps) - (rejected_logps - ref_rejected_logps))
    b = eta * (chosen_rewards - rejected_rewards)
    if distance == "sq":
        return (a - b) ** 2
    if distance == "fwd":
        return _bernoulli_kl(a, b)
    return _bernoulli_kl(b, a)


def _bernoulli_kl(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """KL(sigmoid(x) || sigmoid(y)) from log-sigmoids: the direct form is NaN in float32 at x = 60."""
    p = torch.sigmoid(x)
    return p * (logsigmoid(x) - logsigmoid(y)) + (1 - p) * (logsigmoid(-x) - logsigmoid(-y))


def ranking_loss(
    ratios: torch.Tensor,
    rewards: torch.Tensor,
    valid: torch.Tensor,
    *,
    beta: float,
    eta: float,
    distance: Distance = "bwd",
) -> torch.Tensor:
    """The same for K answers to each prompt, one value a prompt; for K = 2 it is `rpo_loss`.

    `ratios` are log-ratios of policy to reference, `rewards` their rewards, `valid` which of the places hold an answer;
    all (E, K). With Q = softmax(eta r) and P = softmax(beta ratio): bwd is KL(Q || P), fwd KL(P || Q), sq the mean of
    (a - b)^2 over all pairs of a prompt's answers.
    """
    scores, targets = beta * ratios, eta * rewards
    if distance == "sq":
        count = valid.sum(-1)
        gap = (scores - targets).masked_fill(~valid, 0.0)
        centred = (gap - gap.sum(-1, keepdim=True) / count[:, None]).masked_fill(~valid, 0.0)
        return 2 * (centred**2).sum(-1) / (count - 1).clamp(min=1)
    low = torch.finfo(scores.dtype).min
    log_p = scores.masked_fill(~valid, low).log_softmax(-1)
    log_q = targets.masked_fill(~valid, low).log_softmax(-1)
    first, second = (log_q, log_p) if distance == "bwd" else (log_p, log_q)
    return (first.exp() * (first - second)).masked_fill(~valid, 0.0).sum(-1)


class PackedRpo(Stepwise, DPOTrainer):  # type: ignore[misc]
    """Pairs and rankings with rewards; the chosen answer is the first of a pair, the best of a ranking."""

    stage: RpoStage

    def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
        return dataset  # tokenised already

    def _precompute_ref_logps(self, dataset: Any, *args: Any) -> Any:
        return dataset  # by `reference.py`, before the first step

    def step_loss(self, model: Any, batch: Batch, whole: Mapping[str, float]) -> torch.Tensor:
        stage = self.stage
        policy, full, tokens, tie = score(model, batch, mask_end=stage.mask_end)
        rewards = batch["rewards"][:, 0] if batch["rewards"].numel() else policy.new_zeros(0)
        grid, valid = _grid(batch["example"], len(batch["index"]))
        ratios = policy - batch["reference"]
        preference = ranking_loss(
            ratios[grid], rewards[grid], valid, beta=stage.beta, eta=stage.eta, distance=stage.distance
        )
        ranked = rewards[grid].masked_fill(~valid, -torch.inf)
        rows = torch.arange(len(grid), device=grid.device)
        best = grid[rows, ranked.argmax(-1)] if len(grid) else rows
        worst = grid[rows, rewards[grid].masked_fill(~valid, torch.inf).argmin(-1)] if len(grid) else rows
        nll = chosen_nll(full, tokens, best, stage.nll)
        ends = torch.stack([best, worst], dim=-1)
        moved = stage.beta * ratios[ends]
        tally_pairs(self.tally, moved[:, 0] - moved[:, 1], tokens[ends], policy[ends], moved)
        gap = stage.eta * (rewards[best] - rewards[worst])
        self.tally.add(preference=preference.sum(), nll=nll.sum(), gap=gap.sum())
        return (preference.sum() + stage.nll.weight * nll.sum() + tie) / whole["examples"]

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        pairs = max(sums["pairs"], 1)
        preference, nll = sums["preference"] / pairs, sums["nll"] / pairs
        loss = preference + self.stage.nll.weight * nll
        return {
            "loss": loss, "preference_loss": preference, "nll": nll, "reward_gap": sums["gap"] / pairs,
            **summarise_pairs(sums),
        }  # fmt: skip


def _grid(example: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents by example, (E, K), and which places hold one; the others repeat the example's first document."""
    sizes = torch.bincount(example, minlength=count)
    starts = sizes.cumsum(0) - sizes
    places = torch.arange(int(sizes.max()) if count else 0, device=example.device)
    valid = places[None] < sizes[:, None]
    return torch.where(valid, starts[:, None] + places, starts[:, None]), valid


def train(work: Work, say: Say, *, skip: int = 0) -> bool:
    """Train to the end of the plan. Returns False where it was stopped before."""
    return train_pairs(PackedRpo, work, say)
