"""What the demo compares the adapted encoder with: frozen CLIP, and the supervised upper bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings
from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.evaluation.order import PairMetrics
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import TRAIN_ACTIONS
from verbspace.playground.evaluator import WorldEvaluator
from verbspace.playground.supervised_upper_bound import train_supervised_upper_bound
from verbspace.utils.progress import ProgressCallback


def load_playground_encoder(temporal: bool = True) -> VideoEncoder:
    """Load the bundled small CLIP, with or without (untrained) temporal attention."""
    return VideoEncoder.from_pretrained("playground", temporal=temporal)


@dataclass(frozen=True)
class EncoderResults:
    """Metrics of an encoder, by name, and those of the opposed pairs."""

    metrics: dict[str, ClassificationMetrics]
    order: list[PairMetrics]


@dataclass(frozen=True)
class Baselines:
    """Results of frozen CLIP and, if wanted, of the supervised upper bound; the seconds that each took."""

    frozen: EncoderResults
    supervised: EncoderResults | None
    seconds: dict[str, float]


def measure_baselines(
    world: Path, world_seed: int, out: Path | None, settings: AdaptSettings, on_progress: ProgressCallback | None = None
) -> Baselines:
    """Evaluate frozen CLIP; then train the supervised upper bound in the folder `out`, if given, and evaluate it."""
    start = time.perf_counter()
    encoder = load_playground_encoder()
    evaluator = WorldEvaluator(world, encoder.image_size, seed=world_seed)
    frozen = measure_encoder(evaluator, encoder, "evaluate frozen CLIP", on_progress)
    seconds = {"evaluate frozen": round(time.perf_counter() - start, 1)}
    if out is None:
        return Baselines(frozen, None, seconds)
    start = time.perf_counter()
    concepts = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    taught = train_supervised_upper_bound(encoder, world, concepts, out, settings, on_progress)
    supervised = measure_encoder(evaluator, taught, "evaluate supervised", on_progress)
    return Baselines(frozen, supervised, seconds | {"supervised upper bound": round(time.perf_counter() - start, 1)})


def measure_encoder(
    evaluator: WorldEvaluator, encoder: VideoEncoder, stage: str, on_progress: ProgressCallback | None = None
) -> EncoderResults:
    """Evaluate an encoder. `on_progress` is called with the name of the stage."""
    metrics = evaluator.evaluate(encoder, stage=stage, on_progress=on_progress)
    return EncoderResults(metrics, evaluator.order_metrics(encoder))
