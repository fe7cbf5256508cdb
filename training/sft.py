"""Supervised fine-tuning: the likelihood of the assistant's turns, end of turn included; optionally a teacher's word for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from trl import SFTConfig, SFTTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from training.batches import Batch
from training.errors import TrainingError
from training.head import add_scoring_head, head_weights, logit_scale, softcap
from training.memory import capacity
from training.models import add_adapters, compile_layers, load, wants_compile
from training.settings import SftStage, Teacher, TrainSettings
from training.trainer import Stepwise, model_inputs, quiet_trl, token_logps
from training.work import Say, Work, arguments, fit


class PackedSft(Stepwise, SFTTrainer):  # type: ignore[misc]
    """TRL's trainer over documents without padding: mean negative log-likelihood of the step's scored tokens.

    With a teacher, (1 - weight) x likelihood + weight x KL(teacher || student), both per token (Hinton et al. 2015;
    Gemma 2 report, section 3).
    """

    teacher: Any = None
    distil: Teacher

    def step_loss(self, model: Any, batch: Batch, whole: Mapping[str, float]) -> torch.Tensor:
        logps = token_logps(model, batch)
        nll = -logps.sum()
        self.tally.add(nll=nll, scored=len(logps))
        if self.teacher is None:
            return nll / whole["scored"]
        divergence = self._divergence(batch)
        self.tally.add(divergence=divergence)
        return ((1 - self.distil.weight) * nll + self.distil.weight * divergence) / whole["scored"]

    def summarise(self, sums: dict[str, float]) -> dict[str, float]:
        scored = max(sums["scored"], 1)
        found = {"loss": sums["nll"] / scored, "nll": sums["nll"] / scored}
        if "divergence" in sums:
            found["teacher_kl"] = sums["divergence"] / scored
            found["loss"] = (1 - self.distil.weight) * found["nll"] + self.distil.weight * found["teacher_kl"]
        return found

    def learn_from(self, teacher: Any, distil: Teacher) -> None:
        """Keep the student's last hidden states, which the likelihood has computed, for the comparison."""
        self.teacher, self.distil = teacher.to(self.accelerator.device).eval().requires_grad_(False), distil
        base = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model
        base.base_model.register_forward_hook(self._keep_hidden)

    def _keep_hidden(self, module: Any, inputs: Any, output: Any) -> None:
        self._hidden = output.last_hidden_state

    def _divergence(self, batch: Batch) -> torch.Tensor:
        """Sum over the scored tokens of KL(teacher || student) of the next token, at the temperature."""
        places = batch["scored"]
        with torch.no_grad():
            known = self.teacher.base_model(**model_inputs(batch), use_cache=False).last_hidden_state[0, places]
        student, teacher = head_weights(self.model), head_weights(self.teacher)
        divergences, _ = ChunkedDivergenceFunction.apply(
            self._hidden[0, places], *student, known, *teacher, 0.0, self.distil.temperature,
            logit_scale(self.model), softcap(self.model), logit_scale(self.teacher), softcap(self.teacher),
        )  # fmt: skip
        return divergences.sum()


def train(work: Work, say: Say, *, skip: int = 0) -> bool:
    """Train one phase. `skip` steps of the plan were another phase's. Returns False where it was stopped."""
    settings, stage = work.settings, work.settings.stage
    assert isinstance(stage, SftStage)
    model = load(settings, work.template.tokenizer)
    add_scoring_head(model)
    if settings.lora.enabled:
        model = add_adapters(model, settings)
    args = arguments(work, SFTConfig, skip=skip, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    with quiet_trl():
        trainer = PackedSft(model=model, args=args, train_dataset=_rows(work), processing_class=work.template.tokenizer)
    if stage.teacher.path:
        trainer.learn_from(_teacher(settings, work, stage.teacher), stage.teacher)
    if wants_compile(settings, int(work.plan.tokens.mean() * settings.batch * work.plan.steps)):
        compile_layers(trainer.model)
    fits = capacity(trainer, settings, work.longest, say)
    return fit(trainer, work, say, capacity=fits, skip=skip)


def _rows(work: Work) -> Any:
    """What TRL looks at to see that rows are tokenised; batches come from the plan."""
    return work.data.rename_column("ids", "input_ids").select_columns(["input_ids"])


def _teacher(settings: TrainSettings, work: Work, teacher: Teacher) -> Any:
    source = settings.model.model_copy(update={"path": teacher.path, "name": "the teacher", "revision": None})
    model = load(settings.model_copy(update={"model": source}), work.template.tokenizer)
    own = work.template.tokenizer.get_vocab()
    from training.template import load_tokenizer

    if load_tokenizer(source).get_vocab() != own:
        raise TrainingError(
            f"stage.teacher.path={teacher.path}: its vocabulary is another than the student's, so their next tokens "
            "cannot be compared; use a teacher of the same family, or train on what it writes"
        )
    return model
