"""Published results on the benchmarks of `reproduce`, each with its setting, its own frozen CLIP and its source.

Frozen-CLIP figures of one checkpoint differ by 4 to 10 points between papers, because prompts, class names, views and
decoders differ. So figures of two papers are not compared with each other: only gains over each paper's own baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from verbspace.evaluation.protocol import Task

Supervision = Literal["none", "K400"]


@dataclass(frozen=True)
class PublishedResult:
    """One figure of a paper.

    Attributes:
        method: Name of the method.
        benchmark: Name of the benchmark, as in `reproduce`.
        top1: Top-1 accuracy in percent.
        frozen: The same paper's figure for frozen CLIP in the same setting, in percent; None if there is none.
        labels: Labels of videos that the encoder was trained with, before the evaluation: none, or those of K400.
        backbone: The vision tower; empty if the source does not say.
        setting: What is known of the protocol.
        source: Where the figures are published.
    """

    method: str
    benchmark: str
    task: Task
    top1: float
    frozen: float | None
    labels: Supervision
    backbone: str
    setting: str
    source: str


_B16 = "ViT-B/16"
_SPLITS = {
    "ucf101": "mean over the three splits",
    "hmdb51": "mean over the three splits",
    "k600": "mean over three splits of 160 classes that K400 lacks",
}
_LSS = "Ranasinghe and Ryoo, NeurIPS 2023 (arXiv 2307.10922); figures as listed by Papers with Code"
_MAXI = "Lin et al., ICCV 2023 (arXiv 2303.08914)"
_FROSTER = "Huang et al., ICLR 2024 (arXiv 2402.03241); README of github.com/Visual-AI/FROSTER"
_TC_CLIP = "Kim et al., ECCV 2024 (arXiv 2404.09490); README of github.com/naver-ai/tc-clip"


def _zero_shot(
    method: str,
    figures: dict[str, tuple[float, float | None]],
    labels: Supervision,
    setting: str,
    source: str,
) -> list[PublishedResult]:
    return [
        PublishedResult(
            method, benchmark, "zero-shot", top1, frozen, labels, _B16, f"{setting}, {_SPLITS[benchmark]}", source
        )
        for benchmark, (top1, frozen) in figures.items()
    ]


PUBLISHED_RESULTS: tuple[PublishedResult, ...] = (
    *(
        PublishedResult(
            "LSS", benchmark, "linear-probe", top1, None, "none", "",
            "linear classifier on frozen features; views, classifier and baseline are not in the listing", _LSS,
        )
        for benchmark, top1 in {"k400": 67.3, "ucf101": 91.1, "hmdb51": 69.4}.items()
    ),
    *_zero_shot(
        "MAXI", {"ucf101": (78.2, 69.9), "hmdb51": (52.3, 38.0), "k600": (71.6, 63.5)}, "none",
        "unlabeled K400 videos, K400 class names, texts of GPT-3 and BLIP; 32 frames in its test settings", _MAXI,
    ),
    *_zero_shot(
        "FROSTER", {"ucf101": (84.8, 73.8), "hmdb51": (54.8, 47.9), "k600": (74.8, 68.1)}, "K400",
        "class names rephrased by a language model; 8 frames, 3 views", _FROSTER,
    ),
    *_zero_shot(
        "TC-CLIP", {"ucf101": (85.4, None), "hmdb51": (56.0, None), "k600": (78.1, None)}, "K400",
        "class names rephrased by a language model; 16 frames, several views", _TC_CLIP,
    ),
)  # fmt: skip


def published_results(benchmark: str, task: Task) -> list[PublishedResult]:
    """Return the published results on a benchmark and task, those without labels first."""
    found = [result for result in PUBLISHED_RESULTS if (result.benchmark, result.task) == (benchmark, task)]
    return sorted(found, key=lambda result: result.labels != "none")
