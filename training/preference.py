"""What DPO and RPO share: pairs scored once, with a mask each for preference and likelihood."""

from __future__ import annotations

from typing import Any

import torch

from training.batches import Batch
from training.reference import preference_logps
from training.settings import Nll
from training.tally import correlation
from training.trainer import per_document, token_logps


def score(model: Any, batch: Batch, *, mask_end: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(policy log-probabilities, full ones, tokens, tie) of the batch's documents, each (D,), from one forward pass.

    The first leave the end of the turn out where `mask_end`; the second, for the likelihood, keep it. `tie` is a zero
    that keeps the graph whole where a batch holds no documents.
    """
    logps = token_logps(model, batch)
    tokens = per_document(torch.ones_like(logps), batch)
    policy = preference_logps(logps, batch, mask_end=mask_end)
    return policy, per_document(logps, batch), tokens, logps.sum() * 0


def chosen_nll(full: torch.Tensor, tokens: torch.Tensor, chosen: torch.Tensor, nll: Nll) -> torch.Tensor:
    """Negative log-likelihood of the chosen answers, (E,): of the whole sequence, or its mean over the tokens."""
    return -full[chosen] / (tokens[chosen] if nll.per == "token" else 1)


def tally_pairs(
    tally: Any, margins: torch.Tensor, tokens: torch.Tensor, policy: torch.Tensor, moved: torch.Tensor
) -> None:
    """Sums over pairs of (E,) margins, and of (E, 2) tokens, log-probabilities and implicit rewards, chosen first."""
    longer = tokens[:, 0] - tokens[:, 1]
    tally.add(
        pairs=len(margins),
        correct=(margins > 0).sum() + 0.5 * (margins == 0).sum(),
        margin=margins.sum(),
        chosen_reward=moved[:, 0].sum(),
        rejected_reward=moved[:, 1].sum(),
        chosen_logp=policy[:, 0].sum(),
        rejected_logp=policy[:, 1].sum(),
        x=margins.sum(),
        y=longer.sum(),
        xx=(margins**2).sum(),
        yy=(longer**2).sum(),
        xy=(margins * longer).sum(),
    )


def summarise_pairs(sums: dict[str, float]) -> dict[str, float]:
    """Means over pairs; `length_correlation` of margin and length difference tells whether length is what is learnt."""
    pairs = max(sums["pairs"], 1)
    found = {
        "accuracy": sums["correct"] / pairs,
        **{
            name: sums[name] / pairs
            for name in ("margin", "chosen_reward", "rejected_reward", "chosen_logp", "rejected_logp")
        },
    }
    related = correlation(sums, sums["pairs"])
    return found if related is None else {**found, "length_correlation": related}
