"""`transformers.pipeline("zero-shot-video-classification")`. Importing this module registers the task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from verbspace.inference.embedding import validate_num_frames
from verbspace.inference.predictor import Predictor, resolve_concepts
from verbspace.integrations.clips import load_videos
from verbspace.models.video_encoder import VideoEncoder

TASK = "zero-shot-video-classification"


class ZeroShotVideoClassificationPipeline(Pipeline):  # type: ignore[misc]
    """Rank labels for videos, with the interface of transformers' zero-shot image classification.

    Calling it with a file or URL returns a list of ``{"score": …, "label": …}``, best first; with a list of them, or a
    generator, one such list each. The scores are the probabilities of `Predictor`. Arguments, of the call or of
    `transformers.pipeline`:

    Args:
        candidate_labels: A list of labels, or a text with commas between them. Default: the actions of the encoder's
            own concept set.
        hypothesis_template: The prompt, with ``{}`` for the label. Default: those of the concept set, which are
            averaged.
        frames: Frames per video: the middle frames of equal segments. Default: 8.
        top_k: Number of labels to return. Default: all.
        batch_size: Videos per forward pass. Default: 1.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, model: VideoEncoder, **options: Any) -> None:
        if not isinstance(model, VideoEncoder):
            raise ValueError(
                f"the model is a {type(model).__name__}; pass the folder of an adapted encoder, or "
                "VideoEncoder.from_pretrained(…) of an image checkpoint"
            )
        super().__init__(model, **options)
        self.tokenizer = model.require_processor().tokenizer  # without one, transformers refuses to make batches
        self._predictors: dict[tuple[Any, ...], Predictor] = {}

    def _sanitize_parameters(
        self,
        candidate_labels: Sequence[str] | str | None = None,
        hypothesis_template: str | None = None,
        frames: int | None = None,
        top_k: int | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if frames is not None:
            validate_num_frames(frames)
        if isinstance(candidate_labels, str):
            candidate_labels = [label.strip() for label in candidate_labels.split(",") if label.strip()]
        if candidate_labels is not None:
            candidate_labels = tuple(candidate_labels)
        if hypothesis_template is not None and hypothesis_template.count("{}") != 1:
            raise ValueError(f"hypothesis_template: {hypothesis_template!r} must have {{}} once, where the label goes")
        ranking = {"candidate_labels": candidate_labels, "hypothesis_template": hypothesis_template, "top_k": top_k}
        given = {name: value for name, value in ranking.items() if value is not None}
        return {} if frames is None else {"frames": frames}, {}, given

    def preprocess(self, video: str | Path, frames: int = 8) -> dict[str, Any]:
        """Decode a video."""
        ((_, clip, times),) = load_videos([video], frames, self.model.preprocessing)
        return {"clip": (clip, times)}

    def _forward(self, inputs: dict[str, Any]) -> dict[str, Tensor]:
        clips = inputs["clip"] if isinstance(inputs["clip"], list) else [inputs["clip"]]
        if len({clip.shape for clip, _ in clips}) == 1:
            clips = [tuple(map(torch.cat, zip(*clips, strict=True)))]
        return {"embedding": torch.cat([self.model(self.model.normalize(clip), times) for clip, times in clips])}

    def postprocess(
        self,
        outputs: dict[str, Tensor],
        candidate_labels: tuple[str, ...] | None = None,
        hypothesis_template: str | None = None,
        top_k: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank the labels by their probability."""
        predictor = self._predictor(candidate_labels, hypothesis_template)
        (prediction,) = predictor.rank([""], outputs["embedding"])
        return [{"score": score, "label": label} for label, score in prediction.ranking[:top_k]]

    def _predictor(self, labels: tuple[str, ...] | None, template: str | None) -> Predictor:
        """Return the predictor of some labels. That of the last labels is kept."""
        if (labels, template) not in self._predictors:
            concepts = resolve_concepts(self.model, labels, None)
            if template is not None:
                concepts = concepts.model_copy(update={"templates": (template,)})
            predictor = Predictor(self.model, concepts=concepts, top=len(concepts.actions), describe=False)
            self._predictors = {(labels, template): predictor}
        return self._predictors[labels, template]

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Save the encoder. The class of the pipeline is in this package and is not saved."""
        self.model.save_pretrained(save_directory)


PIPELINE_REGISTRY.register_pipeline(
    TASK, pipeline_class=ZeroShotVideoClassificationPipeline, pt_model=(VideoEncoder,), type="multimodal"
)
