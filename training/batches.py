"""Micro-batches: documents one behind the other in one row, without padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from training.plan import Plan, spread
from training.template import PREFERENCE, SCORED

Batch = dict[str, Any]


def collate(examples: Sequence[Mapping[str, Any]], indices: Sequence[int] | np.ndarray, filler: int) -> Batch:
    """One micro-batch of T tokens in D documents of E examples.

    - `input_ids`, `position_ids` (1, T)
    - `cu_seq_lens_q`, `cu_seq_lens_k` (D+1) int32, `max_length_q`, `max_length_k`: a power of two, so that few
      different numbers reach the compiler
    - `scored` (N): places whose next token is scored; `targets` (N): that token; `document` (N): whose it is;
      `preferred` (N): whether it counts for the preference, too
    - `example` (D): which example a document is of; `rewards` (D, A); `index` (E): the examples' places in the data
    - `last` (D): the place of each document's last token

    Without examples it is one document of `filler` tokens that scores nothing: where processes must step together,
    each needs something to pass through the model.
    """
    if not examples:
        return _empty(filler)
    lengths = np.concatenate([example["lengths"] for example in examples])
    ids = np.concatenate([example["ids"] for example in examples])
    mask = np.concatenate([example["mask"] for example in examples])
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.arange(len(ids)) - np.repeat(offsets[:-1], lengths)
    first = np.zeros(len(ids), bool)
    first[offsets[:-1]] = True
    following = np.flatnonzero((mask & SCORED > 0) & ~first)  # nothing comes before a document's first token
    documents = np.repeat(np.arange(len(lengths)), lengths)[following]
    longest = 1 << max(6, int(lengths.max() - 1).bit_length())
    owners = np.repeat(np.arange(len(examples)), [len(example["lengths"]) for example in examples])
    rewards = np.concatenate([np.asarray(example["rewards"], np.float32) for example in examples])
    return {
        "input_ids": torch.from_numpy(ids.astype(np.int64))[None],
        "position_ids": torch.from_numpy(positions.astype(np.int64))[None],
        **_offsets(offsets, longest),
        "scored": torch.from_numpy(following - 1),
        "targets": torch.from_numpy(ids[following].astype(np.int64)),
        "document": torch.from_numpy(documents),
        "preferred": torch.from_numpy(mask[following] & PREFERENCE > 0),
        "example": torch.from_numpy(owners),
        "rewards": torch.from_numpy(rewards).reshape(len(lengths), len(rewards) // len(lengths)),
        "last": torch.from_numpy(offsets[1:] - 1),
        "index": torch.as_tensor(np.asarray(indices, np.int64)),
    }


def _offsets(offsets: np.ndarray, longest: int) -> Batch:
    cumulative = torch.from_numpy(offsets.astype(np.int32))
    return {
        "cu_seq_lens_q": cumulative,
        "cu_seq_lens_k": cumulative,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def _empty(filler: int) -> Batch:
    length = 8
    ids = torch.full((1, length), filler)
    return {
        "input_ids": ids,
        "position_ids": torch.arange(length)[None],
        **_offsets(np.array([0, length]), 64),
        **{name: torch.zeros(0, dtype=torch.int64) for name in ("scored", "targets", "document", "example", "index")},
        "preferred": torch.zeros(0, dtype=torch.bool),
        "rewards": torch.zeros(0, 0),
        "last": torch.zeros(0, dtype=torch.int64),
    }


# What the model itself takes.
MODEL_KEYS = ("input_ids", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


class Steps(TorchDataset):  # type: ignore[misc]
    """Item `s` is this process's share of step `s`: `micro` (batches), and what the whole step holds.

    `examples` counts the step's examples, `scored` its scored tokens, `tokens` all of them, over all processes.
    `reference`, where given, holds a log-probability for each document of the data and where each example's begin; the
    batches gain them as `reference` (D). The first `skip` steps of the plan are another run's.
    """

    def __init__(
        self,
        data: Any,
        plan: Plan,
        scored: np.ndarray,
        *,
        rank: int,
        processes: int,
        capacity: int,
        filler: int,
        skip: int = 0,
        reference: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.data, self.plan, self.scored = numeric(data), plan, scored
        self.rank, self.processes, self.capacity, self.filler = rank, processes, capacity, filler
        self.skip, self.reference = skip, reference

    def __len__(self) -> int:
        return self.plan.steps - self.skip

    def __getitem__(self, step: int) -> Batch:
        indices = self.plan.examples(step + self.skip)
        tokens = self.plan.tokens[indices]
        mine = spread(tokens, self.processes, self.capacity)[self.rank]
        return {
            "micro": [micro_batch(self.data, indices[places], self.filler, self.reference) for places in mine],
            "examples": len(indices),
            "scored": int(self.scored[indices].sum()),
            "tokens": int(tokens.sum()),
        }


def micro_batch(
    data: Any, indices: np.ndarray, filler: int, reference: tuple[np.ndarray, np.ndarray] | None = None
) -> Batch:
    """The examples at `indices` as one batch, with their documents' reference log-probabilities where there are any."""
    batch = collate(read(data, indices), indices, filler)
    if reference is not None:
        values, starts = reference
        mine = [values[starts[index] : starts[index + 1]] for index in indices]
        batch["reference"] = torch.from_numpy(np.concatenate([*mine, np.zeros(0)]).astype(np.float32))
    return batch


def numeric(data: Any) -> Any:
    """A data set whose rows are read as numpy arrays, without the columns that no batch holds."""
    return data.select_columns(["ids", "mask", "lengths", "rewards"]).with_format("numpy")


def read(data: Any, indices: np.ndarray) -> list[dict[str, Any]]:
    """Rows of a memory-mapped data set by their places."""
    if not len(indices):
        return []
    columns = data[indices]
    return [{name: column[place] for name, column in columns.items()} for place in range(len(indices))]
