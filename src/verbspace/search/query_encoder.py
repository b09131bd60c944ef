"""Convert the texts and clips of a query to one vector. docs/search.md has the measurements behind these choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import DEFAULT_TEMPLATES, ConceptSet
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.query import Term

NEGATIVE_WEIGHT = 0.5  # actions that are often confused have nearly the same vector, and weight 1 would remove both
MIN_BACKGROUND_ACTIONS = 10  # fewer actions are too specific for a mean over texts in general


class QueryEncoder:
    """Encodes texts as directions in an encoder's embedding space.

    The vector of a text is the mean over the text itself and over the prompt templates, minus the `center`: the mean
    over many other texts, which is what all texts have in common. The encoder's concept set, if it has one, provides
    the templates and the other texts.
    """

    def __init__(self, encoder: VideoEncoder) -> None:
        self.encoder = encoder
        concept_set = encoder.concept_set
        self.templates = tuple(DEFAULT_TEMPLATES if concept_set is None else concept_set.templates)
        background = [] if concept_set is None else concept_set.action_names
        if len(background) < MIN_BACKGROUND_ACTIONS:
            background = ConceptSet.load("k400").action_names
        self.center = self._mean_over_templates(background, self.templates).mean(0)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return the normalized, centered embeddings (N, D) of N texts."""
        return F.normalize(self._mean_over_templates(texts, (*self.templates, "{}")) - self.center, dim=-1)

    def _mean_over_templates(self, texts: Sequence[str], templates: Sequence[str]) -> Tensor:
        prompts = [template.replace("{}", text) for text in texts for template in templates]
        embeddings = self.encoder.encode_text(prompts).view(len(texts), len(templates), -1)
        return F.normalize(embeddings.mean(1), dim=-1)


def build_query_vector(query_encoder: QueryEncoder, terms: Sequence[Term], clips: Sequence[Tensor] = ()) -> Tensor:
    """Combine terms and the embeddings (D,) of example clips into one normalized query vector (D,).

    q = normalize(sum of clips + sum of added texts - 0.5 * sum of subtracted texts)
    """
    if not clips and not any(term.sign > 0 for term in terms):
        raise ValueError("the query only subtracts; add a text or a clip to search for")
    parts = [F.normalize(clip, dim=-1) for clip in clips]
    if terms:
        weights = torch.tensor([1.0 if term.sign > 0 else -NEGATIVE_WEIGHT for term in terms])
        parts.append((weights[:, None] * query_encoder.encode([term.text for term in terms])).sum(0))
    total = torch.stack(parts).sum(0)
    if float(total.norm()) < 1e-6:
        raise ValueError("the terms of the query cancel each other out; remove one of them")
    return F.normalize(total, dim=-1)
