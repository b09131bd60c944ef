"""Words and clips to one vector to search with.

A text's vector is the normalised mean over the text as it stands and over the encoder's prompt templates: bare names
of actions gain by the templates, whole sentences by themselves. From it goes the mean of many such texts (the
encoder's own actions where there are ten or more, else those of Kinetics-400), and what is left is normalised. CLIP's
texts lie in a narrow cone, far from its videos; that mean is what all of them share and says nothing about this one,
and a sum of several terms would be mostly that. Subtracting a mean of the videos as well would change no order. A
clip's vector is taken as it is.

    q  =  normalise( Σ clips  +  Σ looked for  −  ½ Σ looked away from )

A whole minus overshoots, since two actions that are taken for each other have nearly the same vector: it removes both.
docs/search.md has the measurements behind each of these choices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import DEFAULT_TEMPLATES, ConceptSet
from verbspace.search.query import Term

NEGATIVE_WEIGHT = 0.5
MIN_BACKGROUND_ACTIONS = 10  # actions whose mean is that of texts in general, and not of these


class TextEncoder(Protocol):
    """What is asked of an encoder here."""

    concept_set: ConceptSet | None

    def encode_text(self, texts: Sequence[str], /) -> Tensor:
        """(N, D), normalised."""


class QueryEncoder:
    """Texts as directions in an encoder's space."""

    def __init__(self, encoder: TextEncoder) -> None:
        self.encoder = encoder
        own = encoder.concept_set
        self.templates = tuple(DEFAULT_TEMPLATES if own is None else own.templates)
        background = [] if own is None else own.action_names
        if len(background) < MIN_BACKGROUND_ACTIONS:
            background = ConceptSet.load("k400").action_names
        self.center = self._mean_over_templates(background, self.templates).mean(0)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """(N, D), normalised: texts without what all texts share."""
        return F.normalize(self._mean_over_templates(texts, (*self.templates, "{}")) - self.center, dim=-1)

    def _mean_over_templates(self, texts: Sequence[str], templates: Sequence[str]) -> Tensor:
        prompts = [template.replace("{}", text) for text in texts for template in templates]
        each = self.encoder.encode_text(prompts).view(len(texts), len(templates), -1)
        return F.normalize(each.mean(1), dim=-1)


def build_query_vector(query_encoder: QueryEncoder, terms: Sequence[Term], clips: Sequence[Tensor] = ()) -> Tensor:
    """Terms and clips' embeddings (D,) to the vector (D,), normalised, to search with.

    Raises ValueError where nothing is looked for, or where terms cancel out.
    """
    if not clips and not any(term.sign > 0 for term in terms):
        raise ValueError("the query only says what to look away from; say what to look for as well")
    parts = [F.normalize(clip, dim=-1) for clip in clips]
    if terms:
        weights = torch.tensor([1.0 if term.sign > 0 else -NEGATIVE_WEIGHT for term in terms])
        parts.append((weights[:, None] * query_encoder.encode([term.text for term in terms])).sum(0))
    whole = torch.stack(parts).sum(0)
    if float(whole.norm()) < 1e-6:
        raise ValueError("the terms of the query cancel each other out; leave one of them out")
    return F.normalize(whole, dim=-1)
