"""Exported video towers on labelled videos, beside one another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.labels import concept_set_from_labels, labels_to_indices, require_labels
from verbspace.evaluation.metrics import ClassificationMetrics, classification_metrics
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.export.formats import TowerFn
from verbspace.export.parity import ParityStats
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder


class ExportedEncoder:
    """A written video tower in the encoder's place: what `embed_videos` asks of one."""

    device = torch.device("cpu")

    def __init__(self, encoder: VideoEncoder, tower_fn: TowerFn) -> None:
        self.image_size, self._tower_fn = encoder.image_size, tower_fn
        self.normalize: Callable[[Tensor], Tensor] = encoder.normalize

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Normalised frames and their seconds (B, T) to embeddings (B, D)."""
        return self._tower_fn({"pixel_values_videos": video, "times": times.float()})


def accuracy_check(
    encoder: VideoEncoder,
    video_towers: dict[str, TowerFn],
    text_towers: dict[str, TowerFn],
    data: str | Path,
    concepts: ConceptSet | str | Path | None = None,
    frames: int = 8,
) -> dict[str, Any]:
    """Zero-shot top-1 of each kind of towers (by name, the full one first) on a folder or list of labelled videos, and
    how far the embeddings of the others are from the first's.

    The actions are those of `concepts`, or of the encoder's own set, or else the class names. Raises ValueError where
    labels fit no action, and FileNotFoundError.
    """
    records = read_manifest(data)
    labels = require_labels(records, str(data))
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    concepts = concepts or encoder.concept_set or concept_set_from_labels(set(labels))
    labels_to_indices(labels, concepts)  # before the videos are read
    tokenize = encoder.require_processor().tokenize
    found: dict[str, Any] = {}
    first: Tensor | None = None
    for name, run in video_towers.items():
        embedded = embed_videos(ExportedEncoder(encoder, run), records, frames=frames)

        def encode_text(texts: list[str], tower: TowerFn = text_towers[name]) -> Tensor:
            return tower(dict(tokenize(texts)))

        space = ConceptSpace.build(concepts, encode_text, 1 / encoder.logit_scale)
        kept = [label for label in embedded.labels if label is not None]
        numbers = torch.tensor(labels_to_indices(kept, concepts))
        result: ClassificationMetrics = classification_metrics(zero_shot_scores(embedded.embeddings, space), numbers)
        found[name] = {
            "top1": result.top1,
            "ci95": list(result.ci95),
            "n": result.n,
            "unreadable": len(embedded.failures),
        }
        if first is None:
            first = embedded.embeddings
        else:
            found[name]["video"] = ParityStats.from_pairs([(embedded.embeddings, first)]).model_dump()
    return {
        "data": Path(data).resolve().name,
        "concepts": concepts.hash,
        "actions": len(concepts.actions),
        "frames": frames,
        **found,
    }
