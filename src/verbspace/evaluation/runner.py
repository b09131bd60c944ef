"""One evaluation: embed the videos of a configuration and score them, for each encoder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode, validate_scoring
from verbspace.data.decoding.backends import Decoder, decoder_version, require_backend
from verbspace.data.sources.manifest import data_hash
from verbspace.evaluation.eval_split import EvalSplit, embed_split, precision_name
from verbspace.evaluation.knn import KNN_K, KNN_TEMPERATURE, knn_scores
from verbspace.evaluation.labels import check_label_coverage
from verbspace.evaluation.linear_probe import C_GRID, NUM_FOLDS, linear_probe
from verbspace.evaluation.metrics import classification_metrics
from verbspace.evaluation.multi_label import multi_label_metrics
from verbspace.evaluation.overlap import adaptation_videos, warn_of_copies
from verbspace.evaluation.protocol import Detail, EvalProtocol, Task, are_comparable
from verbspace.evaluation.results import Evaluation, MultiLabelEvaluation, MultiLabelResult, Result
from verbspace.evaluation.risk_coverage import zero_shot_risk_coverage
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import Embedder, EmbeddingCache, EmbeddingResult
from verbspace.inference.few_shot import FittedActions
from verbspace.inference.part_embedder import embedder_for
from verbspace.models.hashing import encoder_hash
from verbspace.models.loading import load_encoder
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import Precision
from verbspace.utils.progress import ProgressCallback

MAX_MISSING_FRACTION = 0.01
_FEATURES = "projected and L2-normalised"  # part of protocol fingerprints


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """The resolved settings of an evaluation, the same for every encoder. See the arguments of `evaluate`."""

    task: Task
    test: EvalSplit
    train: EvalSplit | None
    concepts: ConceptSet
    scoring: ScoringMode
    frames: int
    clips: int
    crops: int
    seed: int
    max_missing: float
    decoder: Decoder
    dtype: Precision
    batch_size: int
    num_workers: int
    encoder_path: str | Path | None = None  # where the encoder is from, to find the videos that it was adapted on
    fitted: FittedActions | None = None  # in place of the texts, for zero-shot by category

    def __post_init__(self) -> None:
        validate_scoring(self.scoring)
        require_backend(self.decoder)
        if self.task == "zero-shot" and self.scoring != "category" and not self.concepts.descriptions:
            raise ValueError(
                f"scoring: {self.scoring!r} needs descriptions, and the concept set {self.concepts.name!r} has none; "
                "use a concept set with descriptions, or score by category"
            )

    def validate_files(self) -> None:
        """Raise ValueError if more than the fraction `max_missing` of a split's videos do not exist."""
        for split in self.splits:
            split.validate_files(self.max_missing)

    @cached_property
    def copies_in_train(self) -> int:
        """Number of test videos whose content the training data have, too. The first call logs a warning."""
        if self.train is None:
            return 0
        return warn_of_copies(self.test.records, self.train.records, f"that {self.task} learns from")

    @cached_property
    def copies_in_adaptation(self) -> int:
        """Number of test videos that the encoder was adapted on, if its run is known. The first call logs a warning."""
        known = None if self.encoder_path is None else adaptation_videos(self.encoder_path)
        if known is None:
            return 0
        return warn_of_copies(
            self.test.records, known[1], f"that the encoder was adapted on without labels, {known[0]}"
        )

    @property
    def splits(self) -> list[EvalSplit]:
        """The training split, if there is one, and the test split."""
        return [self.test] if self.train is None else [self.train, self.test]

    def embed(
        self, encoder: Embedder, name: str, split: EvalSplit, cache: EmbeddingCache,
        on_progress: ProgressCallback | None = None,
    ) -> EmbeddingResult:  # fmt: skip
        """Embed the videos of a split that are not in the cache. See `embed_split`."""
        return embed_split(self, encoder, name, split, cache, on_progress)

    def build_protocol(
        self, encoder: VideoEncoder, name: str, test: EmbeddingResult, train: EmbeddingResult | None,
        chosen: dict[str, Detail], further: dict[str, Detail] | None = None,
    ) -> EvalProtocol:  # fmt: skip
        """Record the settings of a measurement; `chosen` are those selected on training data."""
        details = dict(further or {})
        if self.task == "linear-probe":
            details |= {"features": _FEATURES, "C among": C_GRID, "folds held out in turn": NUM_FOLDS}
        elif self.task == "knn":
            details |= {"features": _FEATURES, "k": KNN_K, "temperature": KNN_TEMPERATURE}
        elif self.fitted is not None:
            details |= {"vectors fitted on": f"{sum(self.fitted.info.clips)} labeled clips"}
        elif self.test.is_multi_label:
            details |= {"figure": "mean average precision", "scores": "cosine"}
        zero_shot = self.task == "zero-shot"
        return EvalProtocol(
            task=self.task,
            data=self.test.name,
            data_hash=data_hash(self.test.records),
            clips=len(test.records),
            missing=len(self.test.records) - len(test.records),
            actions=len(self.concepts.actions),
            concepts=self.concepts.hash,
            templates=self.concepts.templates if zero_shot else (),
            by=self.scoring if zero_shot else None,
            frames=self.frames,
            views=(self.clips, self.crops),
            size=encoder.image_size,
            preprocessing=encoder.preprocessing.describe(),
            decoder=decoder_version(self.decoder),
            dtype=precision_name(encoder, self.dtype),
            seed=self.seed,
            train=self.train.name if self.train else None,
            train_hash=data_hash(self.train.records) if self.train else None,
            train_clips=len(train.records) if train else None,
            test_in_train=self.copies_in_train,
            test_in_adaptation=self.copies_in_adaptation if name == "encoder" else 0,
            details=details,
            checkpoint=encoder_hash(encoder),
            base=encoder.config.base_reference(),
            chosen=chosen,
        )


def load_encoders(
    encoder: VideoEncoder | str | Path, baseline: bool | VideoEncoder, device: str | None = None
) -> dict[str, VideoEncoder]:
    """Load the baseline as "frozen", if there is one, and the encoder as "encoder".

    `baseline` is True for `encoder.base_encoder()`, False for none, or an encoder of the same frame size, preprocessing
    and dtype. For `device` see `load_encoder`.
    """
    encoder = load_encoder(encoder, device)
    if baseline is False:
        return {"encoder": encoder}
    if baseline is True:
        try:
            baseline = encoder.base_encoder()
        except (ValueError, OSError) as error:
            raise ValueError(
                f"the frozen baseline cannot be loaded: {error}; "
                "pass the base checkpoint's encoder as baseline, or baseline=False to evaluate without it"
            ) from error
    for name in ("image_size", "preprocessing", "dtype"):
        expected, actual = getattr(encoder, name), getattr(baseline, name)
        if actual != expected:
            raise ValueError(f"baseline: its {name} is {actual}, and the encoder's is {expected}; they must be equal")
    return {"frozen": baseline, "encoder": encoder}


def run_evaluation(
    config: EvalConfig,
    encoders: dict[str, VideoEncoder],
    *,
    caches: dict[str, EmbeddingCache] | None = None,
    on_progress: ProgressCallback | None = None,
) -> Evaluation | MultiLabelEvaluation:
    """Evaluate the encoders of `load_encoders` under one protocol. Unreadable videos are skipped and logged.

    `caches` has, by the same names, embeddings of earlier evaluations with the same views. New ones are added.
    """
    caches = {} if caches is None else caches
    config.validate_files()  # before any video is read
    _ = config.copies_in_train, config.copies_in_adaptation  # warn before the videos are embedded
    results = {
        name: evaluate_encoder(config, encoder, name, caches.setdefault(name, EmbeddingCache()), on_progress)
        for name, encoder in encoders.items()
    }
    kind = MultiLabelEvaluation if config.test.is_multi_label else Evaluation
    evaluation = kind.model_validate({"result": results["encoder"], "frozen": results.get("frozen")})
    if evaluation.frozen is not None and not are_comparable(evaluation.result.protocol, evaluation.frozen.protocol):
        raise RuntimeError(
            "the encoder and the frozen baseline were not measured under the same protocol:\n"
            f"{evaluation.frozen.protocol.summary()}\n{evaluation.result.protocol.summary()}"
        )
    return evaluation


def evaluate_encoder(
    config: EvalConfig, encoder: VideoEncoder, name: str, cache: EmbeddingCache, on_progress: ProgressCallback | None
) -> Result | MultiLabelResult:
    """Evaluate one encoder. See `run_evaluation`."""
    num_actions = len(config.concepts.actions)
    space = None
    if config.task == "zero-shot":
        space = encoder.build_concept_space(
            config.concepts, with_descriptions=config.scoring != "category", on_progress=on_progress
        )
        if config.fitted is not None:
            config.fitted.apply(space, encoder, config.concepts, config.frames)
        size = space.embedding_size(config.scoring)
        zero_shot_scores(torch.zeros(1, size), space, config.scoring)  # fails early if descriptions are missing

    embedder = embedder_for(encoder, config.scoring) if config.task == "zero-shot" else encoder
    train = config.embed(embedder, name, config.train, cache, on_progress) if config.train else None
    test = config.embed(embedder, name, config.test, cache, on_progress)
    test_targets = config.test.readable_targets(test)
    chosen: dict[str, Detail] = {}
    if space is not None:
        scores = zero_shot_scores(test.embeddings, space, config.scoring)
    else:
        assert config.train is not None
        assert train is not None
        train_targets = config.train.readable_targets(train)
        prefix = f"{config.train.name}: there is no readable train video"
        check_label_coverage(test_targets.tolist(), train_targets.tolist(), config.concepts, prefix)
        if config.task == "knn":
            scores = knn_scores(train.embeddings, train_targets, test.embeddings, num_actions)
        else:
            probe = linear_probe(train.embeddings, train_targets, num_actions, seed=config.seed)
            chosen = {"C": probe.best_C}
            scores = probe.model.scores(test.embeddings)
    protocol = config.build_protocol(encoder, name, test, train, chosen)
    if config.test.is_multi_label:
        multi = multi_label_metrics(scores, test_targets, seed=config.seed)
        return MultiLabelResult(**multi.model_dump(), protocol=protocol)
    metrics = classification_metrics(scores, test_targets, seed=config.seed)
    curve = zero_shot_risk_coverage(scores, test_targets) if config.task == "zero-shot" else None
    return Result(**metrics.model_dump(), risk_coverage=curve, protocol=protocol)
