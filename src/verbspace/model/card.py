"""The README of a saved encoder."""

from __future__ import annotations

from verbspace.concepts.concept_set import ConceptSet

USE = """## Use

```python
import verbspace as vs

encoder = vs.VideoEncoder.from_pretrained("this folder or repository")
videos = encoder.encode_video(["clip.mp4"])
texts = encoder.encode_text(["a video of a person waving"])
print(videos @ texts.T)
```
"""


def model_card(base_model: str | None, concepts: ConceptSet | None, layers: int, adapted: bool) -> str:
    """Front matter for the hub, what the encoder is, and how to use it.

    base_model: hub id of the image checkpoint, where it is one. layers: how many have temporal attention.
    adapted: whether any of the temporal attention has been trained.
    """
    front = ["library_name: verbspace", "pipeline_tag: video-classification"]
    front += [f"base_model: {base_model}"] if base_model else []
    front += ["tags:", "- video", "- action-recognition", "- zero-shot", "- clip", "- safetensors"]
    front += ["- self-supervised"] if adapted else []
    origin = f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "an image CLIP"
    if adapted:
        what = (
            f"The video encoder of {origin} with temporal attention before {layers} of its layers, adapted "
            "to video without labels by language-tied self-distillation. The text tower is unchanged."
        )
    elif layers:
        what = (
            f"{origin} with temporal attention before {layers} of its layers, which is not trained yet: "
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
    return "\n".join(["---", *front, "---", "", *body, USE])
