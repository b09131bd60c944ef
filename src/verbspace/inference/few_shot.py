"""Action vectors fitted to a few labeled videos, starting from those of the texts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.atomic_io import atomic_write

STRENGTH = 5.0  # chosen on validation clips of the playground, with 1 to 16 clips per action
NUM_FOLDS = 5
_MAX_ITERATIONS = 500


class FitInfo(BaseModel):
    """What action vectors were fitted for and on.

    Attributes:
        actions: Names of the K actions.
        encoder: Hash of the encoder.
        concepts: Hash of the concept set.
        frames: Frames per clip.
        clips: Number of labeled clips of each action.
        accuracy: Top-1 accuracy on the labeled clips: of the texts, and of fitted vectors on folds that were held out
            (None if an action has a single clip).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format: Literal["verbspace-fit/1"] = "verbspace-fit/1"
    actions: list[str]
    encoder: str
    concepts: str
    frames: int
    clips: list[int]
    accuracy: tuple[float, float | None]

    def summary(self) -> str:
        """Describe the fit in one line."""
        labeled = [count for count in self.clips if count]
        texts, held_out = self.accuracy
        measured = (
            "" if held_out is None else f", {100 * held_out:.1f} % by the fitted vectors on folds held out in turn"
        )
        return (
            f"{sum(labeled)} labeled videos of {len(labeled)} of {len(self.clips)} actions ({min(labeled)} to "
            f"{max(labeled)} each): {100 * texts:.1f} % right by the texts{measured}"
        )


class FittedActions:
    """Fitted vectors (K, D) that replace the category vectors of a concept space.

    Attributes:
        vectors: Such that `z @ vectors.T / temperature` are the scores of an embedding z.
        info: What they were fitted for and on.
    """

    def __init__(self, vectors: Tensor, info: FitInfo) -> None:
        self.vectors, self.info = vectors, info

    def save(self, path: str | Path) -> None:
        """Write as safetensors, atomically."""
        with atomic_write(path) as temp:
            save_file({"vectors": self.vectors.contiguous()}, temp, {"verbspace": self.info.model_dump_json()})

    @classmethod
    def load(cls, path: str | Path) -> FittedActions:
        """Read a file that `save` wrote, or raise ValueError or FileNotFoundError."""
        try:
            with safe_open(str(path), framework="pt") as file:
                info = FitInfo.model_validate_json((file.metadata() or {})["verbspace"])
                vectors = file.get_tensor("vectors")
        except FileNotFoundError:
            raise FileNotFoundError(f"{path}: there is no such file; create it with `verbspace fit`") from None
        except (SafetensorError, ValidationError, KeyError, OSError):
            raise ValueError(f"{path}: not a file of `verbspace fit`; create it again") from None
        return cls(vectors, info)

    def validate_for(self, encoder: VideoEncoder, concepts: ConceptSet, frames: int) -> None:
        """Raise ValueError unless the vectors were fitted for this encoder, concept set and number of frames."""
        used = {"encoder": encoder_hash(encoder), "concepts": concepts.hash, "frames": frames}
        for field, value in used.items():
            if (fitted := getattr(self.info, field)) != value:
                raise ValueError(
                    f"fitted: the vectors were fitted for {field} {fitted}, not for {value}; pass the same --encoder, "
                    "--concepts or --actions, and --frames, or run `verbspace fit` again"
                )

    def apply(self, space: ConceptSpace, encoder: VideoEncoder, concepts: ConceptSet, frames: int) -> None:
        """Replace the category vectors of a concept space. Raises ValueError, see `validate_for`."""
        self.validate_for(encoder, concepts, frames)
        space.categories = self.vectors.to(space.categories)


def fit_action_vectors(features: Tensor, labels: Tensor, space: ConceptSpace) -> Tensor:
    """Fit action vectors by logistic regression with the scores of the texts as an offset.

    The logits are a · s + W z: s are the category scores of the texts, a is a fitted factor, and W is penalized, so
    that with few clips, or for actions without any, the texts decide (compare LP++, Huang et al., CVPR 2024). The
    objective is `STRENGTH` · Σ cross-entropy + ½ v ‖W‖², where v is the mean squared distance of the embeddings to
    their mean, so that one strength suits wide and narrow cones of embeddings.

    Args:
        features: Normalized embeddings (N, D).
        labels: Indices (N,) of their actions.
        space: The concept space of the texts.

    Returns:
        Vectors (K, D), in place of the category vectors.

    Raises:
        ValueError: There are fewer than two clips, or all are equal.
    """
    if len(features) < 2:
        raise ValueError(f"{len(features)} labeled clips can be read; give two or more")
    x, texts = features.double(), space.categories.double()
    variance = float((x - x.mean(0)).square().sum(1).mean())
    if not variance:
        raise ValueError("all labeled clips are the same")
    offset = x @ texts.T / space.temperature
    log_factor = torch.zeros((), dtype=torch.float64, requires_grad=True)
    weight = torch.zeros_like(texts, requires_grad=True)
    solver = torch.optim.LBFGS(
        [log_factor, weight], max_iter=_MAX_ITERATIONS, tolerance_grad=1e-7, tolerance_change=1e-10,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(log_factor.exp() * offset + x @ weight.T, labels)
        value = value + variance * weight.square().sum() / (2 * STRENGTH * len(x))
        value.backward()  # type: ignore[no-untyped-call]
        return value

    solver.step(loss)  # type: ignore[no-untyped-call]
    return (log_factor.exp() * texts + space.temperature * weight).detach().float()


def held_out_accuracy(features: Tensor, labels: Tensor, space: ConceptSpace, seed: int = 0) -> float | None:
    """Compute top-1 accuracy on `NUM_FOLDS` folds, held out in turn; None if an action has only one clip."""
    if (labels.bincount() == 1).any():
        return None
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    folds = torch.empty_like(labels)  # the clips of an action are in different folds as far as possible
    folds[shuffled[labels[shuffled].argsort(stable=True)]] = torch.arange(len(labels)) % NUM_FOLDS
    right = 0
    for fold in range(NUM_FOLDS):
        held_out = folds == fold
        vectors = fit_action_vectors(features[~held_out], labels[~held_out], space)
        right += int(((features[held_out] @ vectors.T).argmax(1) == labels[held_out]).sum())
    return right / len(labels)
