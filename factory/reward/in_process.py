"""A reward model in the factory's own process: loaded once, run on right-padded micro-batches, its head in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from factory.loading import one_at_a_time
from factory.reward.batches import TooLarge, Values
from factory.reward.model import RewardModel
from factory.reward.settings import InProcess

_PROBE = ([7, 8, 9, 10], [11, 12])  # token ids that every vocabulary has


class InProcessModel:
    """The loaded model. `forward` takes token ids of each text and gives the head's outputs of each, in that order.

    Padding lies behind the texts, where a decoder's tokens do not see it: no mask is needed, and attention keeps its
    fastest form. That this holds is tried when the model is loaded.
    """

    def __init__(self, model: RewardModel) -> None:
        """Raises `UserError` for a model that cannot be loaded, has no head of its own, or sees what comes later."""
        import torch

        engine = model.settings.engine
        assert isinstance(engine, InProcess)
        self._torch = torch
        self.device = _device(model, engine)
        accelerated = self.device.type != "cpu"
        # A GPU wants many tokens at once and computes padding beside them; to a CPU each token costs the same.
        self.budget = engine.batch_tokens or (16_384 if accelerated else 1_024)
        self.padding = 0.1 if accelerated else 0.03
        own = model.own_dtype if accelerated else "float32"  # a CPU gains nothing from narrower numbers
        dtype = own if engine.dtype == "auto" else engine.dtype
        self._model = self._load(model, getattr(torch, dtype))
        self._score: Any = getattr(self._model, "score", None)
        if not isinstance(self._score, torch.nn.Linear):
            raise model.problem(f"{type(self._model).__name__} has no linear head `score` at the last token")
        self._filler = int(self._model.config.get_text_config().pad_token_id or 0)
        self._check(model)

    def _load(self, model: RewardModel, dtype: Any) -> Any:
        import transformers

        found = model.resolved
        assert model.config  # refuses what is no reward model before any weight is read
        transformers.utils.logging.disable_progress_bar()
        try:
            config = transformers.AutoConfig.from_pretrained(found.path, revision=found.revision)
            # SDPA knows no bound on attention's logits.
            capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
            with one_at_a_time:
                loaded, report = transformers.AutoModelForSequenceClassification.from_pretrained(
                    found.path,
                    revision=found.revision,
                    dtype=dtype,
                    use_safetensors=True,
                    attn_implementation="eager" if capped else "sdpa",
                    output_loading_info=True,
                )
        except Exception as error:  # each kind of damage has its own
            raise model.problem(f"cannot be loaded: {str(error).splitlines()[0]}") from error
        if missing := report["missing_keys"]:
            raise model.problem(f"its weights lack {', '.join(sorted(missing)[:3])}, which would be random")
        try:
            return loaded.eval().to(self.device)
        except self._torch.OutOfMemoryError as error:
            raise model.problem(
                f"does not fit on {self.device} beside what is there; lower engine.gpu_memory, choose another device "
                f"({model.where}.engine.device), or let vLLM run it ({model.where}.engine.kind=vllm)"
            ) from error

    def _check(self, model: RewardModel) -> None:
        """That a text's outputs do not depend on the padding behind it."""
        once, again = (self._values(_PROBE, filler)[1] for filler in (3, 4))
        if any(abs(a - b) > 1e-6 * (1 + abs(a)) for a, b in zip(once, again, strict=True)):
            raise model.problem(
                "its tokens see what comes after them; wanted is a decoder with a head at the last token"
            )

    def forward(self, texts: Sequence[Sequence[int]]) -> Sequence[Values]:
        """Raises `TooLarge` where the batch does not fit into the device's memory."""
        try:
            return self._values(texts, self._filler)
        except self._torch.OutOfMemoryError as error:
            raise TooLarge(f"reward: {self.device} has no memory for a text of {len(texts[0])} tokens") from error

    def _values(self, texts: Sequence[Sequence[int]], filler: int) -> list[Values]:
        torch = self._torch
        longest = max(len(text) for text in texts)
        rows = [[*text, *[filler] * (longest - len(text))] for text in texts]
        with torch.inference_mode():
            ids_N_T = torch.tensor(rows).to(self.device, non_blocking=True)
            last_N = torch.tensor([len(text) - 1 for text in texts], device=self.device)
            hidden_N_T_H = self._model.base_model(ids_N_T, use_cache=False).last_hidden_state
            state_N_H = hidden_N_T_H[torch.arange(len(texts), device=self.device), last_N].float()
            bias = self._score.bias.float() if self._score.bias is not None else None
            values_N_A = torch.nn.functional.linear(state_N_H, self._score.weight.float(), bias)
        found: list[Values] = values_N_A.tolist()
        return found


def _device(model: RewardModel, engine: InProcess) -> Any:
    import torch

    chosen = engine.device
    if chosen == "auto":
        chosen = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise model.problem(
            f"engine.device={chosen}: torch cannot use it here: {str(error).splitlines()[0]}"
        ) from error
    return torch.device(chosen)
