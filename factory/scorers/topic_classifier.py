"""A classifier on embeddings, fitted from a few labelled instructions when it is first needed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np

from factory.embedding import Embedder, EmbeddingSettings, open_embedder
from factory.errors import ConfigError
from factory.taxonomy import Example


class TopicClassifier:
    """Logistic regression over the fine topics; a coarse topic's probability is the sum of its fine ones'."""

    def __init__(self, examples: Sequence[Example], embedding: EmbeddingSettings, regularisation: float) -> None:
        self._examples, self._settings, self._regularisation = examples, embedding, regularisation
        self._labels = sorted({(example.coarse, example.fine) for example in examples})
        self._waiting: list[tuple[str, asyncio.Future[np.ndarray]]] = []
        self._working: asyncio.Task[None] | None = None
        self._embedder: Embedder | None = None
        self._model: Any = None

    def fit(self) -> None:
        """Load the embedding model and learn. Raises `ConfigError` where a library or the model is missing."""
        try:
            from sklearn.linear_model import LogisticRegression
        except ImportError as error:
            raise ConfigError(
                'topic: by=classifier needs scikit-learn: pip install "synthesis-factory[select]"'
            ) from error
        self._embedder = open_embedder(self._settings)
        vectors = self._embedder.encode([example.text for example in self._examples])
        classes = [self._labels.index((example.coarse, example.fine)) for example in self._examples]
        self._model = LogisticRegression(C=self._regularisation, max_iter=1000).fit(vectors, classes)

    def probabilities(self, texts: Sequence[str]) -> np.ndarray:
        """N texts to N x topics."""
        if self._embedder is None:
            self.fit()
        assert self._embedder is not None
        return np.asarray(self._model.predict_proba(self._embedder.encode(texts)))

    async def classify(self, text: str) -> tuple[float, dict[str, Any]]:
        """(probability of the coarse topic, both topics). Texts that come while others are at work go together next."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()
        self._waiting.append((text, future))
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return self.chosen(await future)

    async def _work(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                found = await asyncio.to_thread(self.probabilities, [text for text, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), row in zip(batch, found, strict=True):
                if not future.done():
                    future.set_result(row)

    def chosen(self, probabilities: np.ndarray) -> tuple[float, dict[str, Any]]:
        coarse: dict[str, float] = {}
        for (name, _), probability in zip(self._labels, probabilities, strict=True):
            coarse[name] = coarse.get(name, 0.0) + float(probability)
        best = max(coarse, key=lambda name: coarse[name])
        fine, share = max(
            ((fine, float(p)) for (name, fine), p in zip(self._labels, probabilities, strict=True) if name == best),
            key=lambda entry: entry[1],
        )
        return round(coarse[best], 4), {"coarse": best, "fine": fine, "fine_confidence": round(share, 4)}
