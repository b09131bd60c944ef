"""Names of actions as data sets write them: compared, and made readable."""

from __future__ import annotations

import re


def normalize_label(label: str) -> str:
    """What is compared of a name: letter case, underscores, hyphens and spaces make no difference."""
    return re.sub(r"[\s_-]+", "", label).casefold()


def label_to_phrase(label: str) -> str:
    """A class name as words for a prompt: "BrushTeeth" and "brush_teeth" become "brush teeth"."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", label)
    return re.sub(r"[\s_-]+", " ", words).strip().lower()


def needs_expansion(label: str) -> bool:
    """Whether a class name is no phrase of words: one word, or with brackets, underscores or inner capitals."""
    return re.fullmatch(r"[a-z][a-z',]*( [A-Za-z',]+)+", label) is None


def tokenize_words(text: str) -> list[str]:
    """Lower-case words of a text, in order, without punctuation."""
    return re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.casefold())


def normalize_sentence(text: str) -> str:
    """What is compared of a sentence: its words. Letter case, white space and punctuation make no difference."""
    return " ".join(tokenize_words(text))


def stem(word: str) -> str:
    """A word without the commonest endings, enough to see "brushes" in "brushing"."""
    for ending in ("ings", "ing", "ers", "er", "ed", "es", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] else word
