"""Zero-shot accuracy of exported towers on labeled videos."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.evaluation.labels import (
    concept_set_from_labels,
    labels_to_indices,
    read_labeled_videos,
    require_names,
)
from verbspace.evaluation.metrics import classification_metrics
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.export.formats import TowerFn
from verbspace.export.parity import ParityStats
from verbspace.inference.embedding import embed_videos
from verbspace.inference.few_shot import FittedActions
from verbspace.models.video_encoder import VideoEncoder


class ExportedEncoder:
    """An exported video tower with the interface that `embed_videos` needs."""

    device = torch.device("cpu")

    def __init__(self, encoder: VideoEncoder, tower_fn: TowerFn) -> None:
        self.preprocessing, self.normalize = encoder.preprocessing.to_square(), encoder.normalize
        self._tower_fn = tower_fn

    def int8_copy(self) -> ExportedEncoder:
        """Return this encoder: the precision of a file is that of its export."""
        return self

    def __call__(self, video: Tensor, times: Tensor) -> Tensor:
        """Embed normalized frames (B, T, 3, S, S) with seconds (B, T): (B, D)."""
        return self._tower_fn({"pixel_values_videos": video, "times": times.float()})


def check_accuracy(
    encoder: VideoEncoder,
    towers: Mapping[str, Mapping[str, TowerFn]],
    data: str | Path,
    concepts: ConceptSet | str | Path | None = None,
    frames: int = 8,
    label_file: str | Path | None = None,
    fitted: FittedActions | None = None,
) -> dict[str, Any]:
    """Measure the zero-shot top-1 accuracy of exported towers.

    Args:
        encoder: The encoder that was exported.
        towers: By variant, the full-precision one first, its "video" and "text" tower.
        data: Folder or list of labeled videos.
        concepts: Concept set with the actions. None: that of the encoder, or else the class names.
        frames: Frames per video; those of `fitted`, if it is given.
        label_file: File with the names of class numbers, see `concepts.labels.read_label_names`.
        fitted: Action vectors in place of those of the texts.

    Returns:
        The accuracy of each variant and, for all but the first, the difference of its video embeddings from the first.
    """
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    concepts = concepts or encoder.concept_set
    records, labels = read_labeled_videos(data, concepts, labels=label_file)
    if concepts is None:
        require_names(labels, data)
        concepts = concept_set_from_labels(set(labels))
    frames = frames if fitted is None else fitted.info.frames
    labels_to_indices(labels, concepts)  # raises before the videos are read
    tokenize = encoder.require_processor().tokenize
    variants: dict[str, Any] = {}
    reference: Tensor | None = None
    for name, variant in towers.items():
        embedded = embed_videos(ExportedEncoder(encoder, variant["video"]), records, frames=frames)

        def encode_text(texts: list[str], text_tower: TowerFn = variant["text"]) -> Tensor:
            return text_tower(dict(tokenize(texts)))

        space = ConceptSpace.build(concepts, encode_text, 1 / encoder.logit_scale)
        if fitted is not None:
            fitted.apply(space, encoder, concepts, frames)
        embedded_labels = [label for label in embedded.labels if label is not None]
        targets = torch.tensor(labels_to_indices(embedded_labels, concepts))
        metrics = classification_metrics(zero_shot_scores(embedded.embeddings, space), targets)
        counts = {"n": metrics.n, "unreadable": len(embedded.failures)}
        variants[name] = {"top1": metrics.top1, "ci95": list(metrics.ci95), **counts}
        if reference is None:
            reference = embedded.embeddings
        else:
            variants[name]["video"] = ParityStats.from_pairs([(embedded.embeddings, reference)])._asdict()
    protocol: dict[str, Any] = {"concepts": concepts.hash, "actions": len(concepts.actions), "frames": frames}
    if fitted is not None:
        protocol["fitted"] = True
    return {"data": Path(data).resolve().name, **protocol, **variants}
