"""Query vectors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

from verbspace.concepts.concept_set import ConceptSet
from verbspace.search.query import Term
from verbspace.search.query_encoder import NEGATIVE_WEIGHT, QueryEncoder, build_query_vector


class LetterEncoder:
    """Encodes texts as letter counts, plus a component that all texts have in common."""

    concept_set: ConceptSet | None = None

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        counts = torch.tensor([[*(float(text.count(letter)) for letter in "abcdefgh"), 20.0] for text in texts])
        return functional.normalize(counts, dim=1)

    def cached_text_encoder(self, on_progress: object = None) -> Any:
        return self.encode_text


def test_texts_are_centered() -> None:
    encoder: Any = LetterEncoder()
    query_encoder = QueryEncoder(encoder)
    templates = ["a video of a person {}.", "a photo of a person {}.", "a person {}."]

    def mean(text: str, templates: list[str]) -> torch.Tensor:
        return functional.normalize(
            encoder.encode_text([template.format(text) for template in templates]).mean(0), dim=0
        )

    center = torch.stack([mean(name, templates) for name in ConceptSet.load("k400").action_names]).mean(0)
    expected = functional.normalize(mean("bagged {cab}", [*templates, "{}"]) - center, dim=0)
    torch.testing.assert_close(query_encoder.encode(["bagged {cab}"])[0], expected)
    names = ["add", "bead", "cab", "dab", "fed", "gab", "had", "abbe", "egg", "beef"]
    encoder.concept_set = ConceptSet.from_actions(names)
    center_of_own_actions = torch.stack([mean(name, list(encoder.concept_set.templates)) for name in names]).mean(0)
    torch.testing.assert_close(QueryEncoder(encoder).center, center_of_own_actions)
    encoder.concept_set = ConceptSet.from_actions(["add", "bead"])  # too few for a mean over texts in general
    torch.testing.assert_close(QueryEncoder(encoder).center, center)


def test_build_query_vector() -> None:
    encoder: Any = LetterEncoder()
    query_encoder = QueryEncoder(encoder)
    a, b, c = query_encoder.encode(["aaaa", "bbbb", "cccc"])
    vector = build_query_vector(query_encoder, [Term("aaaa"), Term("bbbb", -1), Term("cccc")])
    torch.testing.assert_close(vector, functional.normalize(a - NEGATIVE_WEIGHT * b + c, dim=0))
    torch.testing.assert_close(build_query_vector(query_encoder, [Term("aaaa")]), a)
    clip = functional.normalize(torch.randn(9), dim=0)
    torch.testing.assert_close(build_query_vector(query_encoder, [], [3 * clip]), clip)
    torch.testing.assert_close(
        build_query_vector(query_encoder, [Term("aaaa", -1)], [clip, a]),
        functional.normalize(clip + (1 - NEGATIVE_WEIGHT) * a, dim=0),
    )
    with pytest.raises(ValueError, match=r"the query only subtracts"):
        build_query_vector(query_encoder, [Term("aaaa", -1)])
    with pytest.raises(ValueError, match=r"cancel each other out"):
        build_query_vector(query_encoder, [Term("aaaa", -1), Term("aaaa", -1), Term("aaaa")])
