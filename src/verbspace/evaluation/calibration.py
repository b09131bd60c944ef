"""Evaluation of calibrated probabilities on labeled videos."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.labels import labels_to_indices, read_labeled_videos
from verbspace.inference.calibration import Calibration, fit_temperature, mean_confidence
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder

NUM_BINS = 15  # as in Guo et al. (2017)


def expected_calibration_error(probabilities: Tensor, targets: Tensor) -> float:
    """Compute the expected calibration error of probabilities (N, K) for class indices (N,), over 15 equal bins.

    The error is the mean over bins, weighted by the number of videos in each, of the absolute difference between
    accuracy and mean confidence.

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """
    confidence, predicted = probabilities.max(1)
    correct = (predicted == targets).double()
    bins = (confidence * NUM_BINS).ceil().long().clamp(1, NUM_BINS) - 1
    gaps = torch.zeros(NUM_BINS, dtype=torch.float64).index_add_(0, bins, correct - confidence.double())
    return float(gaps.abs().sum() / len(confidence))


def evaluate_calibration(
    encoder: VideoEncoder, data: str | Path, concepts: ConceptSet, calibration: Calibration,
    labels: str | Path | None = None,
) -> dict[str, float]:  # fmt: skip
    """Measure the calibration error on labeled videos, before and after calibration.

    `labels` is a file with the names of class numbers, see `concepts.labels.read_label_names`.

    Returns:
        `videos`, `top1`, and `"<name>, temperature"`, `"<name>, error"` and `"<name>, confidence"` for each name in
        `uncalibrated`, `calibrated` and `fitted to the labels`. The last one is the lower bound: the temperature
        fitted to these labels.
    """
    records, names = read_labeled_videos(data, concepts, labels=labels)
    indices = labels_to_indices(names, concepts)
    targets_by_file = {record.file: index for record, index in zip(records, indices, strict=True)}
    space = encoder.build_concept_space(concepts, with_descriptions=calibration.by != "category")
    embedded = embed_videos(encoder, records, frames=calibration.frames)
    targets = torch.tensor([targets_by_file[record.file] for record in embedded.records])
    scores = space.action_scores(embedded.embeddings, calibration.by)
    metrics = {"videos": float(len(scores)), "top1": float((scores.argmax(1) == targets).double().mean())}
    temperatures = {
        "uncalibrated": 1.0,
        "calibrated": calibration.temperature,
        "fitted to the labels": fit_temperature(scores, targets),
    }
    for name, temperature in temperatures.items():
        probabilities = (scores / temperature).softmax(1)
        metrics[f"{name}, temperature"] = temperature
        metrics[f"{name}, error"] = expected_calibration_error(probabilities, targets)
        metrics[f"{name}, confidence"] = mean_confidence(probabilities)
    return metrics
