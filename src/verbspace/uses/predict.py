"""Ranked actions for videos."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import By, ConceptSpace
from verbspace.evaluation.embed import Known, embed_videos
from verbspace.model.encoder import VideoEncoder
from verbspace.uses.inputs import fetch
from verbspace.video.dataset import NoReadableVideo
from verbspace.video.manifest import Record


@dataclass(frozen=True)
class Prediction:
    """A video's actions, likeliest first, as (name, probability), and the descriptions nearest to it."""

    path: Path
    ranked: list[tuple[str, float]]
    descriptions: list[str]


class Predictor:
    """Ranks the actions of one concept set for embeddings of one encoder.

    actions: names to choose among; or concepts: a concept set (the encoder's own where neither is given). Raises
    ValueError.
    """

    def __init__(
        self,
        encoder: VideoEncoder | str | Path,
        actions: Sequence[str] | None = None,
        *,
        concepts: ConceptSet | str | Path | None = None,
        by: By = "category",
        top: int = 5,
    ) -> None:
        if actions is not None and concepts is not None:
            raise ValueError("give actions or concepts, not both")
        self.encoder = encoder if isinstance(encoder, VideoEncoder) else VideoEncoder.from_pretrained(encoder)
        if actions is not None:
            chosen = ConceptSet.from_actions(list(actions))
        elif concepts is not None:
            chosen = concepts if isinstance(concepts, ConceptSet) else ConceptSet.load(concepts)
        elif self.encoder.concept_set is not None:
            chosen = self.encoder.concept_set
        else:
            raise ValueError("this encoder has no concept set of its own; give actions or concepts")
        self.by, self.top = by, top
        self.space = ConceptSpace.build(chosen, self.encoder.encode_text, 1 / self.encoder.logit_scale)

    def rank(self, paths: Sequence[Path], z: Tensor) -> list[Prediction]:
        """Predictions for embeddings (N, D) of N videos."""
        out = []
        space = self.space
        for path, embedding, row in zip(paths, z, space.action_scores(z, self.by).softmax(-1), strict=True):
            best = row.topk(min(self.top, len(row)))
            ranked = [
                (space.action_names[i], p) for p, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            ]
            near = space.logits(embedding[None], "description")[0]
            fired = [space.description_texts[i] for i in near.topk(min(3, len(near))).indices.tolist()]
            out.append(Prediction(path, ranked, fired))
        return out

    def stream(
        self, files: Iterable[str], *, frames: int = 8, batch_size: int = 16
    ) -> Iterator[tuple[str, Prediction | str]]:
        """Each file or URL with its prediction, or with the reason why it cannot be read; in order, as they come.

        batch_size: videos at once, of which those at URLs lie on the disk meanwhile.
        """
        each = iter(files)
        while names := list(islice(each, batch_size)):
            with ExitStack() as keep:
                known: dict[int, Prediction | str] = {}
                paths: dict[int, Path] = {}
                for n, name in enumerate(names):
                    try:
                        paths[n] = fetch(name, keep)
                    except OSError as error:
                        known[n] = str(error)
                known |= self._batch(names, paths, frames)
            yield from ((name, known[n]) for n, name in enumerate(names))

    def _batch(self, names: Sequence[str], paths: dict[int, Path], frames: int) -> dict[int, Prediction | str]:
        """By place among the names, what is found in the files there."""
        places = list(paths)
        if not places:
            return {}
        known = Known()
        with suppress(NoReadableVideo):
            embed_videos(self.encoder, [Record(path) for path in paths.values()], frames=frames, known=known)
        found: dict[int, Prediction | str] = {}
        for n in places:
            file = Record(paths[n]).file
            if file in known.bad:
                found[n] = known.bad[file].reason.replace(file, names[n])
            else:
                found[n] = self.rank([Path(names[n])], known.embeddings([file]))[0]
        return found


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
    predictor = Predictor(encoder, actions, concepts=concepts, by=by, top=top)
    files = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    return predictor.rank(files, predictor.encoder.encode_video(files, frames=frames))
