"""Chunks by a model's own tokenizer: never over the limit, nothing lost, nothing wasted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from factory.errors import ConfigError
from factory.tokens import Tokens

TEXT = "The harbour wall was built in 1843 of grey stone. Boats lie behind it, and gulls.\n\nNobody knows why it leans so.\n"


def tokenizer_file(folder: Path) -> Path:
    """A byte-level BPE tokenizer, as current models have, trained on a few words."""
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    made.train_from_iterator([TEXT] * 3, trainer)
    made.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return Tokens(str(tokenizer_file(tmp_path_factory.mktemp("tokenizer"))))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([TEXT, "word ", "\n\n", "x" * 50, "日本語。", "🙂🙂", ". ", "    return 1\n", "\r\n", "é̂"]), max_size=60),
       st.integers(4, 70))  # fmt: skip
def test_no_chunk_is_over_its_limit_and_joined_they_are_the_text(tokens: Tokens, parts: list[str], limit: int) -> None:
    text = "".join(parts)
    chunks = list(tokens.chunks(text, limit))
    assert "".join(chunks) == text
    assert all(chunk and tokens.count(chunk) <= limit for chunk in chunks)


def test_chunks_are_full_and_end_where_a_reader_would_cut(tokens: Tokens) -> None:
    chunks = list(tokens.chunks(TEXT * 300, 200))
    assert all(tokens.count(chunk) >= 150 for chunk in chunks[:-1])
    assert all(chunk.endswith("\n") for chunk in chunks[:-1])
    whole = tokens.count(TEXT * 300)
    assert len(chunks) <= 1 + whole / 150


def test_a_text_without_any_place_to_cut_is_cut_all_the_same(tokens: Tokens) -> None:
    chunks = list(tokens.chunks("x" * 5000, 100))
    assert all(tokens.count(chunk) <= 100 for chunk in chunks)
    assert len(chunks) <= 1 + tokens.count("x" * 5000) / 90


def test_counting_is_exact_for_the_text_alone(tokens: Tokens) -> None:
    assert tokens.count("") == 0
    assert tokens.count("🙂") == 4, "bytes that the training text never joined"


@pytest.mark.parametrize("name", ["nowhere/at/all", "tests"])
def test_what_is_no_tokenizer_is_told(name: str) -> None:
    with pytest.raises(ConfigError):
        Tokens(name)
