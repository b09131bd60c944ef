"""All protocols of a benchmark for one encoder and its frozen CLIP, from one embedding of each video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from verbspace.evaluation.benchmarks import BENCHMARKS, TASKS, BenchmarkConfig, build_configs
from verbspace.evaluation.eval_split import EvalSplit
from verbspace.evaluation.protocol import Task
from verbspace.evaluation.published import published_results
from verbspace.evaluation.results import BenchmarkResult
from verbspace.evaluation.runner import load_encoders, run_evaluation
from verbspace.inference.embedding import EmbeddingCache
from verbspace.models.hashing import state_hash
from verbspace.models.interpolation import reads_time
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.progress import ProgressCallback

REPRODUCIBLE_BENCHMARKS = ("ucf101", "hmdb51", "k400", "k600")


@dataclass(frozen=True)
class Backbone:
    """The size of an encoder's vision tower; sizes in pixels."""

    layers: int
    width: int
    patch_size: int
    image_size: int

    @classmethod
    def of(cls, encoder: VideoEncoder) -> Backbone:
        """Return the size of an encoder's vision tower."""
        vision = encoder.base.config.vision_config
        return cls(vision.num_hidden_layers, vision.hidden_size, encoder.patch_size, encoder.image_size)

    @property
    def is_vit_b16(self) -> bool:
        """Whether this is ViT-B/16 at 224 px, the tower of the published results."""
        return self == Backbone(12, 768, 16, 224)

    def __str__(self) -> str:
        name = "ViT-B/16: " if self.is_vit_b16 else ""
        return (
            f"{name}{self.layers} layers of width {self.width}, patches of {self.patch_size} px, {self.image_size} px"
        )


@dataclass(frozen=True)
class Reproduction:
    """The results of `reproduce`.

    Attributes:
        encoder: The name that the encoder was given by.
        base: Name of the image checkpoint.
        is_adapted: False for a plain image checkpoint; `results` then have no baseline, because they are the baseline.
        concepts: Name of the concept set that the encoder was adapted with; None if there is none.
        num_videos: Number of different videos over all tasks and splits.
        results: By task.
    """

    benchmark: str
    encoder: str
    base: str
    backbone: Backbone
    is_adapted: bool
    concepts: str | None
    num_videos: int
    results: dict[Task, BenchmarkResult]

    def mean_top1(self, task: Task) -> tuple[float, float | None]:
        """Return the mean top-1 over splits, in percent, of frozen CLIP and of the adapted encoder if there is one."""
        result = self.results[task]
        mean = 100 * result.mean_and_std()[0]
        return (100 * result.mean_and_std("frozen")[0], mean) if self.is_adapted else (mean, None)

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types, with the published results of each task."""
        published = [asdict(result) for task in self.results for result in published_results(self.benchmark, task)]
        fields = {key: value for key, value in vars(self).items() if key not in ("results", "backbone")}
        results = {task: result.to_json() for task, result in self.results.items()}
        return {**fields, "backbone": asdict(self.backbone), "results": results, "published": published}


def available_tasks(benchmark: str) -> list[Task]:
    """Return the tasks of a benchmark of `REPRODUCIBLE_BENCHMARKS`."""
    if benchmark not in REPRODUCIBLE_BENCHMARKS:
        raise ValueError(f"benchmark: {benchmark!r} is not one of {', '.join(REPRODUCIBLE_BENCHMARKS)}")
    return [task for task in TASKS if f"{benchmark}/{task}" in BENCHMARKS]


def reproduce(
    benchmark: str,
    encoder: str | Path,
    root: str | Path,
    *,
    tasks: Sequence[str] | None = None,
    config: BenchmarkConfig | None = None,
    device: str | None = None,
    on_progress: ProgressCallback | None = None,
) -> Reproduction:
    """Evaluate an encoder and its frozen CLIP under every protocol of a benchmark. Each video is embedded once.

    Args:
        benchmark: One of `REPRODUCIBLE_BENCHMARKS`.
        encoder: A folder or hub id. An image checkpoint is evaluated as its own baseline.
        root: A folder with the benchmark's own annotation files and, in any subfolder, its videos.
        tasks: Some of the benchmark's tasks. Default: all.
        config: Views, decoder and precision. Default: those of `evaluate`.
        device: See `load_encoder`.
        on_progress: Called after each batch of videos, and after each evaluation.

    Raises:
        FileNotFoundError: Annotation files do not exist.
        ValueError: An argument is invalid or labels do not fit (before videos are read), or too many are missing.
    """
    available = available_tasks(benchmark)
    if unknown := [task for task in tasks or () if task not in available]:
        raise ValueError(f"tasks: {unknown[0]!r} is not one of {', '.join(available)}, the tasks of {benchmark}")
    selected = [task for task in available if tasks is None or task in tasks]
    if not selected:
        raise ValueError(f"tasks: none is given; choose from {', '.join(available)}")
    config = replace(config or BenchmarkConfig(), encoder_path=encoder)
    configs = {task: build_configs(f"{benchmark}/{task}", root, config) for task in selected}
    evaluations = [evaluation for folds in configs.values() for evaluation in folds.values()]
    for evaluation in evaluations:
        evaluation.validate_files()
    encoders = load_encoders(encoder, True, device)
    loaded = encoders["encoder"]
    if not (is_adapted := _is_adapted(loaded, encoders["frozen"])):
        encoders = {"encoder": encoders["frozen"]}

    splits = [split for evaluation in evaluations for split in evaluation.splits]
    records = list({record.file: record for split in splits for record in split.records}.values())
    videos = EvalSplit(f"{benchmark} videos", records, torch.empty(0))
    caches: dict[str, EmbeddingCache] = {}
    for name, model in encoders.items():
        cache = caches.setdefault(name, EmbeddingCache())
        evaluations[0].embed(model, name, videos, cache, on_progress)

    results: dict[Task, BenchmarkResult] = {}
    done = 0
    for task, folds in configs.items():
        measured = {}
        for fold, evaluation in folds.items():
            if on_progress is not None:
                on_progress("evaluations", done, len(evaluations), {})
            measured[fold] = run_evaluation(evaluation, encoders, caches=caches)
            done += 1
        results[task] = BenchmarkResult(name=f"{benchmark}/{task}", folds=measured)
    if on_progress is not None:
        on_progress("evaluations", done, done, {})
    return Reproduction(
        benchmark=benchmark,
        encoder=str(encoder),
        base=loaded.config.base_name,
        backbone=Backbone.of(loaded),
        is_adapted=is_adapted,
        concepts=loaded.concept_set.name if loaded.concept_set else None,
        num_videos=len(records),
        results=results,
    )


def _is_adapted(encoder: VideoEncoder, base: VideoEncoder) -> bool:
    """Return whether an encoder differs from frame-averaged CLIP: in its towers, or in temporal attention."""
    return reads_time(encoder.state_dict()) or state_hash(encoder.base) != state_hash(base.base)
