"""The concept space: frozen text vectors, and embeddings turned into distributions over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.concept_set import ConceptSet

ScoringMode = Literal["category", "description", "both"]


def validate_scoring(scoring: str) -> ScoringMode:
    """Raise ValueError for a way to score that is not known."""
    if scoring not in get_args(ScoringMode):
        raise ValueError(f"by: {scoring!r} is none of " + ", ".join(f'"{name}"' for name in get_args(ScoringMode)))
    return cast(ScoringMode, scoring)


class ConceptSpace(nn.Module):
    """Category vectors (K, D), description vectors (M, D; M may be 0) and which describes which (M, K).

    All are frozen; vectors are normalised here. temperature: divides cosines; CLIP's own is
    1 / exp(logit_scale), about 0.01. Raises ValueError where sizes do not fit.
    """

    categories: Tensor
    descriptions: Tensor
    description_action_mask: Tensor

    def __init__(
        self,
        categories: Tensor,
        descriptions: Tensor,
        description_action_mask: Tensor,
        *,
        action_names: list[str],
        description_texts: list[str],
        temperature: float = 0.01,
    ) -> None:
        super().__init__()
        sizes = (len(descriptions), len(categories))
        if description_action_mask.shape != sizes:
            raise ValueError(f"ownership is {tuple(description_action_mask.shape)}, not {sizes}")
        if categories.shape[1:] != descriptions.shape[1:]:
            raise ValueError(
                f"categories {tuple(categories.shape)} and descriptions {tuple(descriptions.shape)} "
                "are not of one embedding size"
            )
        if (len(description_texts), len(action_names)) != sizes:
            raise ValueError(
                f"there are {len(description_texts)} texts and {len(action_names)} names for {sizes} vectors"
            )
        if not temperature > 0:
            raise ValueError(f"temperature: {temperature} is not above 0")
        self.register_buffer("categories", F.normalize(categories.float(), dim=-1))
        self.register_buffer("descriptions", F.normalize(descriptions.float(), dim=-1))
        self.register_buffer("description_action_mask", description_action_mask.bool())
        self.action_names, self.description_texts = action_names, description_texts
        self.temperature = temperature

    @classmethod
    def build(
        cls, concepts: ConceptSet, encode_text: Callable[[list[str]], Tensor], temperature: float = 0.01
    ) -> ConceptSpace:
        """Encode a concept set. encode_text: n texts to (n, D) embeddings.

        A category vector is the normalised mean, over the prompt templates, of normalised text embeddings
        (CLIP's prompt ensembling, Radford et al. 2021, section 3.1.4).
        """
        templates = concepts.templates
        prompts = [template.format(name) for name in concepts.action_names for template in templates]
        vectors = F.normalize(encode_text(prompts).float(), dim=-1)
        vectors = vectors.view(len(concepts.actions), len(templates), -1)
        texts = [description.text for description in concepts.descriptions]
        described = encode_text(texts) if texts else vectors.new_zeros(0, vectors.shape[-1])
        return cls(
            vectors.mean(1),
            described,
            concepts.description_action_mask(),
            action_names=concepts.action_names,
            description_texts=texts,
            temperature=temperature,
        )

    def logits(self, z: Tensor, space: Literal["category", "description"]) -> Tensor:
        """(B, D) normalised embeddings -> (B, K) or (B, M) cosines over temperature."""
        return z @ (self.categories if space == "category" else self.descriptions).T / self.temperature

    def probs(self, z: Tensor, space: Literal["category", "description"]) -> Tensor:
        """(B, D) -> (B, K) or (B, M) distributions."""
        return self.logits(z, space).softmax(-1)

    def pool_to_actions(self, description_probs: Tensor) -> Tensor:
        """A distribution over descriptions (..., M) as one over actions (..., K).

        A description that several actions own gives each an equal part; what belongs to none is left out.
        """
        owned = self.description_action_mask.to(description_probs)
        shares = description_probs @ (owned / owned.sum(1, keepdim=True).clamp_min(1))
        return shares / shares.sum(-1, keepdim=True).clamp_min(1e-12)

    def action_scores(self, z: Tensor, scoring: ScoringMode = "category") -> Tensor:
        """(B, D) -> (B, K) zero-shot scores.

        category: cosine to the category vector over temperature. description: mean over an action's
        descriptions (Menon and Vondrick, ICLR 2023). both: the mean of the two. Raises ValueError where an
        action has no description and `by` needs one.
        """
        if scoring == "category":
            return self.logits(z, "category")
        owned = self.description_action_mask.to(z)
        counts = owned.sum(0)
        if not bool((counts > 0).all()):
            bare = [name for name, count in zip(self.action_names, counts.tolist(), strict=True) if not count]
            raise ValueError(
                f"there is no description of {', '.join(bare[:3])}; score by category, or describe every action"
            )
        described = self.logits(z, "description") @ (owned / counts)
        return described if scoring == "description" else (described + self.logits(z, "category")) / 2

    def classifier_weights(self, scoring: ScoringMode = "category") -> Tensor:
        """(K, D): the vectors whose products with an embedding, over the temperature, are its scores."""
        return self.action_scores(torch.eye(self.categories.shape[1]).to(self.categories), scoring).T * self.temperature
