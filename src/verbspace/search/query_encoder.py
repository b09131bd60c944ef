"""Convert the texts and clips of a query to one vector. docs/search.md has the measurements behind these choices."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from verbspace.concepts.concept_set import DEFAULT_TEMPLATES, ConceptSet
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.query import Term
from verbspace.search.schema import CENTER_FILE
from verbspace.utils.atomic_io import atomic_write
from verbspace.utils.progress import ProgressCallback

logger = logging.getLogger(__name__)


NEGATIVE_WEIGHT = 0.5  # actions that are often confused have nearly the same vector, and weight 1 would remove both
MIN_BACKGROUND_ACTIONS = 10  # fewer actions are too specific for a mean over texts in general


class QueryEncoder:
    """Encodes texts as directions in an encoder's embedding space.

    The vector of a text is the mean over the text itself and over the prompt templates, minus the `center`: the mean
    over many other texts, which is what all texts have in common. The encoder's concept set, if it has one, provides
    the templates and the other texts.

    Args:
        encoder: The encoder of the texts.
        index: Folder of an index of this encoder, where `store_center` may have stored the center. Otherwise it is
            computed when a text is encoded for the first time.
    """

    def __init__(self, encoder: VideoEncoder, index: Path | None = None) -> None:
        self.encoder, self.index = encoder, index
        concept_set = encoder.concept_set
        self.templates = tuple(DEFAULT_TEMPLATES if concept_set is None else concept_set.templates)
        self.background = [] if concept_set is None else concept_set.action_names
        if len(self.background) < MIN_BACKGROUND_ACTIONS:
            self.background = ConceptSet.load("k400").action_names
        self._center: Tensor | None = None

    @property
    def center(self) -> Tensor:
        """The mean (D,) over the other texts."""
        return self.load_center()

    def load_center(self, on_progress: ProgressCallback | None = None) -> Tensor:
        """Return `center`: the one in the index, or one that is computed with the cache of text vectors."""
        if self._center is None and self.index is not None:
            self._center = read_center(self.index, self.texts_hash)
        if self._center is None:
            encode_text = self.encoder.cached_text_encoder(on_progress)
            self._center = _mean_over_templates(self.background, self.templates, encode_text).mean(0)
        return self._center

    @property
    def texts_hash(self) -> str:
        """Hash of the texts whose mean is the center."""
        return hashlib.sha256(json.dumps([self.background, self.templates]).encode()).hexdigest()[:16]

    def encode(self, texts: Sequence[str], *, cached: bool = False) -> Tensor:
        """Return the normalized, centered embeddings (N, D) of N texts.

        Args:
            texts: The texts.
            cached: Use the cache of text vectors, for texts that will be encoded again.
        """
        encode_text = self.encoder.cached_text_encoder() if cached else self.encoder.encode_text
        vectors = _mean_over_templates(texts, (*self.templates, "{}"), encode_text)
        return F.normalize(vectors - self.center, dim=-1)


def _mean_over_templates(
    texts: Sequence[str], templates: Sequence[str], encode_text: Callable[[list[str]], Tensor]
) -> Tensor:
    prompts = [template.replace("{}", text) for text in texts for template in templates]
    return F.normalize(encode_text(prompts).view(len(texts), len(templates), -1).mean(1), dim=-1)


def store_center(index: Path, encoder: VideoEncoder, on_progress: ProgressCallback | None = None) -> None:
    """Store the center of an index's encoder in the folder of the index, unless it is there."""
    query_encoder = QueryEncoder(encoder)
    if read_center(index, query_encoder.texts_hash) is None:
        center = query_encoder.load_center(on_progress).contiguous()
        with atomic_write(index / CENTER_FILE) as temp:
            temp.write_bytes(save({"center": center}, {"texts": query_encoder.texts_hash}))


def read_center(index: Path, texts_hash: str) -> Tensor | None:
    """Return the center that is stored in an index, or None if there is none of these texts."""
    path = index / CENTER_FILE
    if not path.exists():  # an index of a former version
        return None
    try:
        with safe_open(path, "pt") as file:
            is_current = (file.metadata() or {}).get("texts") == texts_hash
            center: Tensor | None = file.get_tensor("center").clone() if is_current else None
    except (OSError, SafetensorError) as error:
        logger.warning("%s: damaged (%s); it is not used", path, error)
        return None
    return center


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
