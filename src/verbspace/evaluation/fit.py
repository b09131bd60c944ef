"""Fit action vectors to labeled videos."""

from __future__ import annotations

from pathlib import Path

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.record import Record
from verbspace.evaluation.labels import (
    concept_set_from_labels,
    labels_to_indices,
    read_labeled_videos,
    require_names,
)
from verbspace.inference.embedding import embed_videos
from verbspace.inference.few_shot import FitInfo, FittedActions, fit_action_vectors, held_out_accuracy
from verbspace.models.hashing import encoder_hash
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import PrecisionSetting
from verbspace.utils.progress import ProgressCallback


def fit(
    encoder: VideoEncoder | str | Path,
    data: str | Path,
    *,
    concepts: ConceptSet | str | Path | None = None,
    root: str | Path | None = None,
    split: str | None = None,
    labels: str | Path | None = None,
    label_level: int | None = None,
    shots: int | None = None,
    seed: int = 0,
    frames: int = 8,
    batch_size: int = 16,
    num_workers: int = 0,
    dtype: PrecisionSetting = "fp32",
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> FittedActions:
    """Fit action vectors to labeled videos, starting from the texts. The encoder is not changed.

    Actions of the concept set without labeled videos keep the vectors of their texts.

    Args:
        encoder: A VideoEncoder, or a folder or hub id.
        data: Labeled videos, see `evaluate`, as are the following arguments up to `label_level`.
        concepts: A concept set, a bundled name or a path. Default: the encoder's own set, or one of the class names.
        root: Folder of the videos, if the list is elsewhere.
        split: Split of `data`.
        labels: File with the names of class numbers.
        label_level: Level of the folders that are the classes.
        shots: Use at most this many videos of each action, drawn at random. None: all.
        seed: Seed of this draw.
        frames: Frames per video, as predictions will use.
        batch_size: Videos per forward pass.
        num_workers: Processes that decode; 0 decodes in this process.
        dtype: Precision of matrix products.
        device: See `load_encoder`.
        on_progress: Called after each batch of videos.

    Raises:
        ValueError: Labels do not fit, or fewer than two videos can be read.
    """
    encoder = load_encoder(encoder, device)
    if isinstance(concepts, (str, Path)):
        concepts = ConceptSet.load(concepts)
    concepts = concepts or encoder.concept_set
    records, names = read_labeled_videos(data, concepts, root=root, split=split, labels=labels, label_level=label_level)
    if concepts is None:
        require_names(names, data)
        concepts = concept_set_from_labels(names)
    targets = labels_to_indices(names, concepts)
    if shots is not None:
        records, targets = _draw(records, targets, shots, seed)
    embedded = embed_videos(
        encoder, records, frames=frames, batch_size=batch_size, num_workers=num_workers, dtype=dtype, allow_empty=True,
        on_progress=on_progress, stage=f"embed {Path(data).name}",
    )  # fmt: skip
    failed = embedded.failures.by_path
    y = torch.tensor([target for record, target in zip(records, targets, strict=True) if record.path not in failed])
    space = encoder.build_concept_space(concepts, with_descriptions=False, on_progress=on_progress)
    z = embedded.embeddings
    vectors = fit_action_vectors(z, y, space)
    by_text = float((space.action_scores(z).argmax(1) == y).double().mean())
    info = FitInfo(
        actions=space.action_names, encoder=encoder_hash(encoder), concepts=concepts.hash, frames=frames,
        clips=y.bincount(minlength=len(concepts.actions)).tolist(), accuracy=(by_text, held_out_accuracy(z, y, space)),
    )  # fmt: skip
    return FittedActions(vectors, info)


def _draw(records: list[Record], targets: list[int], shots: int, seed: int) -> tuple[list[Record], list[int]]:
    """Draw at most `shots` videos of each action."""
    if shots < 1:
        raise ValueError(f"shots: {shots} is less than 1")
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(seed)).tolist()
    counts: dict[int, int] = {}
    chosen = []
    for index in order:
        counts[targets[index]] = counts.get(targets[index], 0) + 1
        if counts[targets[index]] <= shots:
            chosen.append(index)
    chosen.sort()
    return [records[index] for index in chosen], [targets[index] for index in chosen]
