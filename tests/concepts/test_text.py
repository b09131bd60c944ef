"""Sentences: cleaning, tokenization and content words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verbspace.concepts.text import clean_sentence, content_words, normalize_sentence, stem


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("  - bristles  travel\tdown the hair ", "Bristles travel down the hair."),
        ("2) “Bristles travel down the hair.”", "Bristles travel down the hair."),
        ('"A comb, held low;"', "A comb, held low."),
        ("Is it wet?", "Is it wet?"),
        ("   ", ""),
    ],
)
def test_clean_sentence(raw: str, cleaned: str) -> None:
    assert clean_sentence(raw) == cleaned


@given(st.text(max_size=200))
def test_clean_sentence_is_idempotent(raw: str) -> None:
    assert clean_sentence(clean_sentence(raw)) == clean_sentence(raw)


def test_content_words_are_stems_without_stop_words_and_excluded_words() -> None:
    assert stem("brushes") == stem("brushing") == stem("brush")
    assert content_words("A person is brushing her hair with brushes.", ["brush"]) == {stem("hair")}
    assert normalize_sentence("It's  WET, here.") == "it's wet here"
