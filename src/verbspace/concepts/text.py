"""Text helpers for description sentences: cleaning, tokenization and comparison."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable


def clean_sentence(text: str) -> str:
    """Normalize white space and Unicode, strip list markers and quotes, capitalize, and end with a full stop."""
    text = " ".join(unicodedata.normalize("NFC", text).split())
    text = re.sub(r"^(?:[-*•]|\d{1,2}[.)])\s+", "", text).strip("\"'“”‘’ ")
    if not text:
        return text
    text = text[0].upper() + text[1:]
    return text if text[-1] in ".!?" else text.rstrip(",;:") + "."


def tokenize_words(text: str) -> list[str]:
    """Return the lower-case words of a text, without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.casefold())


def normalize_sentence(text: str) -> str:
    """Return a key under which sentences that differ only in case, white space or punctuation are equal."""
    return " ".join(tokenize_words(text))


def stem(word: str) -> str:
    """Strip common English suffixes, so that "brushes" and "brushing" have the same stem."""
    for ending in ("ings", "ing", "ers", "er", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word


def content_words(text: str, exclude: Iterable[str] = ()) -> set[str]:
    """Return the stems of the words of a text that are neither stop words nor share a stem with `exclude`."""
    return {stem(word) for word in tokenize_words(text) if word not in STOP_WORDS} - set(map(stem, exclude))


STOP_WORDS = frozenset(
    tokenize_words(
        """a an the of in on at to and or with by for from into onto over under up down off out as is are be being its
        it their his her them they he she one two person people someone somebody man woman body video camera while then
        this that there not no"""
    )
)
