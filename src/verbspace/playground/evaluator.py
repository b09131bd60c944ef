"""Evaluation of an encoder on the synthetic data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.datasets import ClipDataset
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.frame_order import OrderEmbedder, split_orders
from verbspace.evaluation.knn import knn_scores
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.evaluation.metrics import ClassificationMetrics, classification_metrics
from verbspace.evaluation.order import PairMetrics, pair_metrics
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS, OPPOSED_PAIRS
from verbspace.playground.captioned_images import render_captioned_images
from verbspace.utils.progress import ProgressCallback

METRIC_NAMES = ("zero_shot", "linear_probe", "knn", "held_out_actions", "images")  # keys of results.json
IMAGE_SEED, NUM_IMAGES = 900_000, 1000  # the images of world n have the seed IMAGE_SEED + n


@dataclass(frozen=True)
class LabeledClips:
    """N labeled clips in memory."""

    video: Tensor  # frames, uint8, shape (N, T, 3, S, S)
    times: Tensor  # timestamps in seconds, shape (N, T)
    labels: Tensor  # indices into `ACTIONS`, shape (N,)
    paths: list[Path]


def load_labeled_clips(folder: Path, size: int, num_frames: int = 8) -> LabeledClips:
    """Read all clips of a labeled split: one center crop of `size` pixels and `num_frames` frames per clip."""
    records = read_manifest(folder)
    dataset = ClipDataset(records, num_frames=num_frames, preprocessing=FramePreprocessing(size))
    items: list[Any] = [dataset[index] for index in range(len(dataset))]
    return LabeledClips(
        video=torch.cat([item["video"] for item in items]),
        times=torch.cat([item["times"] for item in items]),
        labels=_action_indices(*(str(record.label) for record in records)),
        paths=[record.path for record in records],
    )


def _action_indices(*names: str) -> Tensor:
    return torch.tensor([ACTIONS.index(name) for name in names])


class WorldEvaluator:
    """Evaluator of encoders on the split "test" or "validation" of a world, with crops of `size` pixels.

    The seed of the world also selects the images.
    """

    def __init__(self, world: Path, size: int, split: str = "test", seed: int = 0) -> None:
        self.concepts = ConceptSet.load("playground")
        self.test_clips = load_labeled_clips(world / split, size)
        self.probe_clips = load_labeled_clips(world / "probe", size)
        captioned = render_captioned_images(NUM_IMAGES, IMAGE_SEED + seed, size)
        self.images = torch.from_numpy(captioned.images).permute(0, 3, 1, 2)[:, None].contiguous()
        self.image_labels = torch.from_numpy(captioned.labels)
        self.held_out_mask = torch.isin(self.test_clips.labels, _action_indices(*HELD_OUT_ACTIONS))

    def zero_shot_scores(self, encoder: VideoEncoder, video: Tensor, times: Tensor | None) -> Tensor:
        """Compute category scores of all actions for clips (N, T, 3, S, S); returns shape (N, 20)."""
        space = encoder.build_concept_space(self.concepts)
        return zero_shot_scores(encoder.encode_video(video, times), space, "category")

    def evaluate(
        self, encoder: VideoEncoder, *, stage: str = "evaluate", on_progress: ProgressCallback | None = None
    ) -> dict[str, ClassificationMetrics]:
        """Compute the metrics in `METRIC_NAMES`.

        `on_progress` is called with `stage` after each step, at the end with the zero-shot accuracy as `top1`.
        """
        metrics: dict[str, ClassificationMetrics] = {}

        def report(done: int) -> None:
            if on_progress is not None:
                on_progress(stage, done, 4, {"top1": metrics["zero_shot"].top1} if done == 4 else {})

        report(0)
        test, probe = self.test_clips, self.probe_clips
        space = encoder.build_concept_space(self.concepts)
        embeddings = encoder.encode_video(test.video, test.times)
        scores = zero_shot_scores(embeddings, space, "category")
        metrics["zero_shot"] = classification_metrics(scores, test.labels)
        held_out = self.held_out_mask
        metrics["held_out_actions"] = classification_metrics(scores[held_out], test.labels[held_out])
        report(1)
        metrics["images"] = classification_metrics(self.zero_shot_scores(encoder, self.images, None), self.image_labels)
        report(2)
        train = encoder.encode_video(probe.video, probe.times)
        neighbors = knn_scores(train, probe.labels, embeddings, len(ACTIONS))
        metrics["knn"] = classification_metrics(neighbors, test.labels)
        report(3)
        classifier = linear_probe(train, probe.labels, len(ACTIONS)).model
        metrics["linear_probe"] = classification_metrics(classifier.scores(embeddings), test.labels)
        report(4)
        return metrics

    def static_clip_accuracy(self, encoder: VideoEncoder) -> float:
        """Compute zero-shot top-1 on static clips: each image repeated as eight frames over one second."""
        video = self.images.expand(-1, 8, -1, -1, -1)
        return _accuracy(self.zero_shot_scores(encoder, video, None), self.image_labels)

    @torch.inference_mode()
    def order_metrics(self, encoder: VideoEncoder) -> list[PairMetrics]:
        """Measure how well an encoder distinguishes the actions of each of `OPPOSED_PAIRS`, by the order protocol."""
        space = encoder.build_concept_space(self.concepts)
        pairs = [(ACTIONS.index(first), ACTIONS.index(second)) for first, second in OPPOSED_PAIRS]
        opposed = torch.tensor(pairs).flatten()
        test, probe = self.test_clips, self.probe_clips
        kept, kept_train = torch.isin(test.labels, opposed), torch.isin(probe.labels, opposed)
        embedder = OrderEmbedder(encoder)
        batches = zip(torch.split(test.video[kept], 16), torch.split(test.times[kept], 16), strict=True)
        orders = split_orders(torch.cat([embedder(embedder.normalize(video), times) for video, times in batches]))
        features = encoder.encode_video(probe.video[kept_train], probe.times[kept_train])
        train = features, probe.labels[kept_train]
        return pair_metrics(pairs, space, orders, test.labels[kept], train=train)


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).float().mean())
