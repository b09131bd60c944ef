"""Ranked actions for videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import By, ConceptSpace
from verbspace.model.encoder import VideoEncoder


@dataclass(frozen=True)
class Prediction:
    """A video's actions, likeliest first, as (name, probability), and the descriptions nearest to it."""

    path: Path
    ranked: list[tuple[str, float]]
    descriptions: list[str]


def predict(
    encoder: VideoEncoder | str | Path,
    paths: Sequence[str | Path] | str | Path,
    actions: Sequence[str] | None = None,
    *,
    concepts: ConceptSet | str | Path | None = None,
    by: By = "category",
    frames: int = 8,
    top: int = 5,
) -> list[Prediction]:
    """Rank actions for each video.

    actions: names to choose among; or concepts: a concept set (the encoder's own where neither is given).
    Probabilities are the softmax of cosines at the checkpoint's own temperature: they compare the actions given
    with one another, and are not calibrated. Raises DecodeError for a file that cannot be read.
    """
    if actions is not None and concepts is not None:
        raise ValueError("give actions or concepts, not both")
    encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
    if actions is not None:
        chosen = ConceptSet.from_actions(list(actions))
    elif concepts is not None:
        chosen = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
    elif encoder.concept_set is not None:
        chosen = encoder.concept_set
    else:
        raise ValueError("this encoder has no concept set of its own; give actions or concepts")
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    space = ConceptSpace.build(chosen, encoder.encode_text, 1 / encoder.logit_scale)
    z = encoder.encode_video(files, frames=frames)
    probabilities = space.action_scores(z, by).softmax(-1)
    out = []
    for path, embedding, row in zip(files, z, probabilities, strict=True):
        best = row.topk(min(top, len(row)))
        ranked = [(space.action_names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)]
        near = space.logits(embedding[None], "description")[0]
        fired = [space.description_texts[i] for i in near.topk(min(3, len(near))).indices.tolist()]
        out.append(Prediction(path, ranked, fired))
    return out
