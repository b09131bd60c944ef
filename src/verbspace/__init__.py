"""Teach an image CLIP to recognize actions in video, without labels.

Public names are imported on first use, so that `import verbspace` loads neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from verbspace.concepts.concept_set import ConceptSet
    from verbspace.concepts.space import ConceptSpace
    from verbspace.config.settings import AdaptSettings
    from verbspace.evaluation.evaluate import evaluate
    from verbspace.evaluation.retrieval import evaluate_retrieval
    from verbspace.inference.predictor import predict
    from verbspace.models.video_encoder import VideoEncoder
    from verbspace.training.adapt import adapt

__version__ = "0.1.0"
__all__ = [
    "AdaptSettings",
    "ConceptSet",
    "ConceptSpace",
    "VideoEncoder",
    "adapt",
    "evaluate",
    "evaluate_retrieval",
    "predict",
]

_LAZY_IMPORTS = {
    "AdaptSettings": "verbspace.config.settings",
    "ConceptSet": "verbspace.concepts.concept_set",
    "ConceptSpace": "verbspace.concepts.space",
    "VideoEncoder": "verbspace.models.video_encoder",
    "adapt": "verbspace.training.adapt",
    "evaluate": "verbspace.evaluation.evaluate",
    "evaluate_retrieval": "verbspace.evaluation.retrieval",
    "predict": "verbspace.inference.predictor",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'verbspace' has no attribute {name!r}")
    return getattr(import_module(_LAZY_IMPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
