"""The README of a saved encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from huggingface_hub import EvalResult, ModelCardData

from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.hub import HUB_ID

if TYPE_CHECKING:
    from verbspace.models.video_encoder import VideoEncoder

USAGE_SECTION = """## Use

```python
import verbspace as vs

encoder = vs.VideoEncoder.from_pretrained("this folder or repository")
videos = encoder.encode_video(["clip.mp4"])
texts = encoder.encode_text(["a video of a person waving"])
print(videos @ texts.T)
```
"""

LIMITATIONS_SECTION = """## For what, and for what not

For finding and ranking actions in short videos by words, and for features of video; in research, and in applications
whose figures somebody has checked on their own videos. Probabilities compare the actions given with one another: they
say nothing of actions that were not given, and are not calibrated unless you have done so on videos of yours. What
the image checkpoint learnt about people from its data, biases included, is in this encoder too, and adaptation
without labels does not take it out. Not for telling who somebody is, nor for decisions about people that nobody looks
at.
"""


def encoder_card(
    encoder: VideoEncoder,
    *,
    base_name: str | None = None,
    name: str = "verbspace encoder",
    results: Sequence[EvalResult] = (),
    sections: Sequence[str] = (),
) -> str:
    """The card of an encoder. base_name: in the place of its own. name: of the model in the hub's index of results.
    sections: Markdown between what it is and how to use it.
    """
    base = encoder.config.base_name if base_name is None else base_name
    layers: list[Any] = list(encoder.temporal.values())
    adapted = any(bool(layer.out.weight.any()) for layer in layers)
    return model_card(
        base if HUB_ID.fullmatch(base) else None, encoder.concept_set, len(layers), adapted,
        name=name, results=results, sections=sections,
    )  # fmt: skip


def model_card(
    base_model: str | None,
    concepts: ConceptSet | None,
    num_temporal_layers: int,
    is_adapted: bool,
    *,
    name: str = "verbspace encoder",
    results: Sequence[EvalResult] = (),
    sections: Sequence[str] = (),
) -> str:
    """Front matter for the hub, what the encoder is, and how to use it.

    base_model: hub id of the image checkpoint, where it is one. layers: how many have temporal attention.
    adapted: whether any of the temporal attention has been trained. The rest is as
    `encoder_card` has it.
    """
    tags = [
        "video",
        "action-recognition",
        "zero-shot",
        "clip",
        "safetensors",
        *(["self-supervised"] if is_adapted else []),
    ]
    front = ModelCardData(
        library_name="verbspace", pipeline_tag="video-classification", base_model=base_model, tags=tags,
        model_name=name if results else None, eval_results=list(results) or None,
    )  # fmt: skip
    origin = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "an image CLIP"
    if is_adapted:
        what = (
            f"The video encoder of {origin} with temporal attention before {num_temporal_layers} of its layers, adapted "
            "to video without labels by language-tied self-distillation. The text tower is unchanged."
        )
    elif num_temporal_layers:
        what = (
            f"{origin} with temporal attention before {num_temporal_layers} of its layers, which is not trained yet: "
            "a video's embedding is the mean of its frames'."
        )
    else:
        what = f"{origin} as a video encoder: a video's embedding is the mean of its frames'."
    body = ["# A verbspace video encoder", "", what[0].upper() + what[1:], ""]
    if concepts is not None:
        body += [
            f"Its concept set, {concepts.name}, has {len(concepts.actions)} actions and "
            f"{len(concepts.descriptions)} descriptions, written by {concepts.provenance.author} "
            f"(hash {concepts.hash}).",
            "",
        ]
    parts = [section.rstrip() + "\n" for section in (*sections, USAGE_SECTION, LIMITATIONS_SECTION)]
    return "\n".join(["---", front.to_yaml(), "---", "", *body, *parts])
