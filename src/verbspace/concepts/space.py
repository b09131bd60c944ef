"""The concept space: frozen text vectors of actions and descriptions, and distributions over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.concept_set import PHASES, ConceptSet, Phase
from verbspace.concepts.scoring import ScoringMode


class ConceptSpace(nn.Module):
    """Frozen text vectors of K actions and M descriptions in an embedding space of D dimensions.

    Args:
        categories: Action vectors (K, D); they need not be normalized.
        descriptions: Vectors (M, D) of the descriptions without a phase; they need not be normalized, and M may be 0.
        description_action_mask: (M, K), true where description m describes action k.
        temperature: Divisor of the cosines. CLIP uses 1 / exp(logit_scale), about 0.01.
        phase_sums: Sums (3, K, D) of the normalized vectors of the descriptions of each phase and action. None: no
            description has a phase.
        phase_counts: Their numbers (3, K).
    """

    categories: Tensor
    descriptions: Tensor
    description_action_mask: Tensor
    description_sums: Tensor  # of the descriptions of each action without a phase (K, D)
    phase_sums: Tensor
    phase_counts: Tensor

    def __init__(
        self,
        categories: Tensor,
        descriptions: Tensor,
        description_action_mask: Tensor,
        *,
        action_names: list[str],
        description_texts: list[str],
        temperature: float = 0.01,
        phase_sums: Tensor | None = None,
        phase_counts: Tensor | None = None,
    ) -> None:
        super().__init__()
        sizes = (len(description_texts), len(action_names))
        if not sizes == (len(descriptions), len(categories)) == description_action_mask.shape:
            raise ValueError(f"expected {sizes[0]} descriptions, {sizes[1]} categories, and a mask of {sizes}")
        self.register_buffer("categories", F.normalize(categories.float(), dim=-1))
        self.register_buffer("descriptions", F.normalize(descriptions.float(), dim=-1))
        self.register_buffer("description_action_mask", description_action_mask.bool())
        sums = self.description_action_mask.float().T @ self.descriptions
        self.register_buffer("description_sums", sums, persistent=False)
        shape = (len(PHASES), *categories.shape)
        self.register_buffer("phase_sums", categories.new_zeros(shape).float() if phase_sums is None else phase_sums)
        self.register_buffer("phase_counts", torch.zeros(shape[:2]) if phase_counts is None else phase_counts.float())
        if self.phase_sums.shape != shape or self.phase_counts.shape != shape[:2]:
            raise ValueError(f"expected phase sums {shape} and phase counts {shape[:2]}")
        self.action_names, self.description_texts = action_names, description_texts
        self.temperature = temperature

    @classmethod
    def build(
        cls,
        concepts: ConceptSet,
        encode_text: Callable[[list[str]], Tensor],
        temperature: float = 0.01,
        *,
        with_descriptions: bool = True,
    ) -> ConceptSpace:
        """Encode a concept set.

        A category vector is the normalized mean of normalized text embeddings over the prompt templates (CLIP's
        prompt ensembling, Radford et al. 2021, section 3.1.4).

        Args:
            concepts: The concept set.
            encode_text: Maps N texts to embeddings (N, D).
            temperature: Divisor of the cosines.
            with_descriptions: False: encode the actions only. The space has no descriptions then.
        """
        if not with_descriptions:
            concepts = concepts.model_copy(update={"descriptions": ()})
        templates = concepts.templates
        prompts = [template.format(name) for name in concepts.action_names for template in templates]
        prompt_vectors = F.normalize(encode_text(prompts).float(), dim=-1)
        prompt_vectors = prompt_vectors.view(len(concepts.actions), len(templates), -1)
        by_phase = {phase: [each.text for each in concepts.descriptions_of_phase(phase)] for phase in (None, *PHASES)}
        unique = list(dict.fromkeys(text for texts in by_phase.values() for text in texts))
        empty = prompt_vectors.new_zeros(0, prompt_vectors.shape[-1])
        vectors = F.normalize(encode_text(unique).float(), dim=-1) if unique else empty
        index_of = {text: index for index, text in enumerate(unique)}
        vectors_of = {phase: vectors[[index_of[text] for text in texts]] for phase, texts in by_phase.items()}
        masks = {phase: description_action_mask(concepts, phase).to(vectors) for phase in PHASES}
        return cls(
            prompt_vectors.mean(1),
            vectors_of[None],
            description_action_mask(concepts),
            action_names=concepts.action_names,
            description_texts=by_phase[None],
            temperature=temperature,
            phase_sums=torch.stack([mask.T @ vectors_of[phase] for phase, mask in masks.items()]),
            phase_counts=torch.stack([mask.sum(0) for mask in masks.values()]),
        )

    def logits(self, z: Tensor, space: Literal["category", "description"]) -> Tensor:
        """Return cosines over temperature: (B, K) or (B, M), for L2-normalized embeddings (B, D)."""
        return z @ (self.categories if space == "category" else self.descriptions).T / self.temperature

    def probs(self, z: Tensor, space: Literal["category", "description"]) -> Tensor:
        """Return the softmax of `logits`, (B, K) or (B, M)."""
        return self.logits(z, space).softmax(-1)

    def pool_to_actions(self, description_probs: Tensor) -> Tensor:
        """Convert a distribution over descriptions (..., M) to one over actions (..., K).

        The probability of a description is divided equally among its actions. The result is normalized, without the
        descriptions that belong to no action.
        """
        mask = self.description_action_mask.to(description_probs)
        pooled = description_probs @ (mask / mask.sum(1, keepdim=True).clamp_min(1))
        return pooled / pooled.sum(-1, keepdim=True).clamp_min(1e-12)

    def embedding_size(self, scoring: ScoringMode) -> int:
        """Return the size of the embeddings that `action_scores` takes: D, or 4·D for scoring by phases."""
        return self.categories.shape[1] * (1 + len(PHASES) if scoring == "phases" else 1)

    def action_scores(self, z: Tensor, scoring: ScoringMode = "category") -> Tensor:
        """Return zero-shot scores (B, K) of L2-normalized embeddings (B, D).

        "category": cosine to the category vector over temperature. "description": mean over the descriptions of an
        action that have no phase (Menon and Vondrick, ICLR 2023). "both": the mean of the two. "phases": mean over all
        descriptions of an action, where one with a phase is compared with the mean of the frames in that third of the
        clip; it needs `clip_parts` (B, 4·D) in place of embeddings, and equals "description" without phases.

        Raises:
            ValueError: An action has no description that the mode needs, or z are no clip parts for "phases".
        """
        if scoring == "category":
            return self.logits(z, "category")
        if scoring == "phases":
            if z.shape[-1] != (size := (1 + len(PHASES)) * self.categories.shape[1]):
                raise ValueError(f"scoring by phases needs clip parts of size {size}, and these have {z.shape[-1]}")
            z = F.normalize(z.view(*z.shape[:-1], 1 + len(PHASES), -1), dim=-1).flatten(-2)
        counts = self.description_counts(with_phases=scoring == "phases")
        if not bool((counts > 0).all()):
            missing = [name for name, count in zip(self.action_names, counts.tolist(), strict=True) if not count]
            raise ValueError(
                f"no descriptions of {', '.join(missing[:3])}; use scoring by category, or describe every action"
            )
        scores = self.description_cosines(z) / self.temperature
        return scores if scoring in ("description", "phases") else (scores + self.logits(z, "category")) / 2

    def description_counts(self, with_phases: bool = True) -> Tensor:
        """Return the number of descriptions of each action (K,), with or without those that have a phase."""
        counts = self.description_action_mask.to(self.phase_counts).sum(0)
        return counts + self.phase_counts.sum(0) if with_phases else counts

    def description_cosines(self, z: Tensor, *, backward: bool = False) -> Tensor:
        """Return the mean cosine to the descriptions of each action, 0 if it has none: (..., K).

        Args:
            z: Normalized embeddings (..., D), for the descriptions without a phase; or `clip_parts` (..., 4·D), for
                all of them, those with a phase against their third of the clip.
            backward: Exchange the start and the end of the clip.
        """
        size = self.categories.shape[1]
        with_phases = z.shape[-1] != size
        counts = self.description_counts(with_phases).to(z).clamp_min(1)
        sums = z[..., :size] @ self.description_sums.to(z).T
        if not with_phases:
            mean: Tensor = sums / counts
            return mean
        start, middle, end = z[..., size:].chunk(len(PHASES), dim=-1)
        if backward:
            start, end = end, start
        first, between, last = self.phase_sums.to(z)
        mean = (sums + middle @ between.T + start @ first.T + end @ last.T) / counts
        return mean

    def classifier_weights(self, scoring: ScoringMode = "category") -> Tensor:
        """Return weights (K, D) such that `z @ weights.T / temperature` equals `action_scores(z, scoring)`.

        Raises:
            ValueError: Scores by phases are no function of the embedding of the whole clip.
        """
        if scoring == "phases":
            raise ValueError("scoring: phases has no weights for whole clips; use category, description or both")
        return self.action_scores(torch.eye(self.categories.shape[1]).to(self.categories), scoring).T * self.temperature

    def pairwise_confusion(self) -> Tensor:
        """Return how likely the encoder confuses two actions, (K, K); at 0.5 it cannot distinguish them.

        Entry (i, j) is the softmax probability of action j against i alone, for an embedding equal to the vector of i.
        """
        return ((self.categories @ self.categories.T - 1) / self.temperature).sigmoid()


def description_action_mask(concepts: ConceptSet, phase: Phase | None = None) -> Tensor:
    """Return an (M, K) bool tensor, true where description m of `descriptions_of_phase` describes action k."""
    index_of = {name: index for index, name in enumerate(concepts.action_names)}
    descriptions = concepts.descriptions_of_phase(phase)
    mask = torch.zeros(len(descriptions), len(concepts.actions), dtype=torch.bool)
    for row, description in enumerate(descriptions):
        mask[row, [index_of[name] for name in description.actions]] = True
    return mask
