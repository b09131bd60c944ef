"""The model card: the README of a saved encoder."""

from __future__ import annotations

from collections.abc import Sequence

from huggingface_hub import EvalResult, ModelCardData

from verbspace.concepts.concept_set import ConceptSet

USAGE_SECTION = """## Usage

```python
import verbspace as vs

encoder = vs.VideoEncoder.from_pretrained("this folder or repository")
videos = encoder.encode_video(["clip.mp4"])
texts = encoder.encode_text(["a video of a person waving"])
print(videos @ texts.T)
```
"""

LIMITATIONS_SECTION = """## Intended use and limitations

Use this encoder to find and rank actions in short videos by text, and to extract video features, for research and for
applications whose accuracy has been measured on their own videos. Probabilities compare the given actions with each
other. They say nothing about actions that were not given, and they are not calibrated unless you calibrate them on your
videos. The encoder inherits what the image checkpoint learned about people from its data, including biases; adaptation
without labels does not remove them. Do not use it to identify people, or for decisions about people without human
review.
"""


def model_card(
    base_model: str | None,
    concepts: ConceptSet | None,
    num_temporal_layers: int,
    is_adapted: bool,
    *,
    base_revision: str | None = None,
    name: str = "verbspace encoder",
    results: Sequence[EvalResult] = (),
    sections: Sequence[str] = (),
) -> str:
    """Return a model card as Markdown, with metadata for the hub as YAML front matter.

    Args:
        base_model: Hub id of the image checkpoint; None if it is not on the hub.
        concepts: The concept set that the encoder was adapted with, if any.
        num_temporal_layers: Number of layers with temporal attention.
        is_adapted: Whether the temporal attention has been trained.
        base_revision: Commit of the image checkpoint on the hub.
        name: Name of the model in the hub's index of results.
        results: Results for the hub's `model-index`.
        sections: Markdown sections between the description and the usage.
    """
    tags = ["video", "action-recognition", "zero-shot", "clip", "safetensors"]
    metadata = ModelCardData(
        library_name="verbspace",
        pipeline_tag="video-classification",
        base_model=base_model,
        tags=[*tags, "self-supervised"] if is_adapted else tags,
        model_name=name if results else None,
        eval_results=list(results) or None,
    )
    origin = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "an image CLIP"
    if base_model and base_revision:
        origin += f" (commit `{base_revision}`)"
    temporal = f"temporal attention before {num_temporal_layers} of its layers"
    if is_adapted:
        description = (
            f"The video encoder of {origin} with {temporal}, adapted to video without labels by language-tied "
            "self-distillation. The text tower is unchanged."
        )
    elif num_temporal_layers:
        description = (
            f"{origin} with {temporal}, which is not trained yet: the embedding of a video is the mean of the "
            "embeddings of its frames."
        )
    else:
        description = f"{origin} as a video encoder: the embedding of a video is the mean of those of its frames."
    body = ["# A verbspace video encoder", "", description[0].upper() + description[1:], ""]
    if concepts is not None:
        body += [
            f"Its concept set, {concepts.name}, has {len(concepts.actions)} actions and "
            f"{len(concepts.descriptions)} descriptions, written by {concepts.provenance.author} "
            f"(hash {concepts.hash}).",
            "",
        ]
    parts = [section.rstrip() + "\n" for section in (*sections, USAGE_SECTION, LIMITATIONS_SECTION)]
    return "\n".join(["---", metadata.to_yaml(), "---", "", *body, *parts])
