"""The order protocol: does an encoder distinguish two actions that are each other's reverse in time?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.opposed import opposed_pairs
from verbspace.concepts.scoring import ScoringMode
from verbspace.concepts.space import ConceptSpace
from verbspace.evaluation.eval_split import EvalSplit
from verbspace.evaluation.frame_order import FrameOrder, OrderEmbedder, split_orders
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.evaluation.opposed_pairs import Pair, read_pairs
from verbspace.evaluation.protocol import EvalProtocol
from verbspace.evaluation.runner import EvalConfig
from verbspace.evaluation.zero_shot import zero_shot_scores
from verbspace.inference.embedding import EmbeddingCache, EmbeddingResult
from verbspace.inference.part_embedder import embedder_for
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.progress import ProgressCallback


class PairMetrics(BaseModel):
    """How well an encoder distinguishes two opposed actions; chance is 0.5.

    Attributes:
        actions: Names of the two actions.
        n: Number of their clips.
        zero_shot: Fraction of the clips whose own action has the higher score of the two, by order of the frames. If an
            encoder reads the order, reversed clips are below 0.5, and shuffled ones near it.
        chirality: Accuracy of a linear probe for these two classes; None without training videos.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    actions: tuple[str, str]
    n: int
    zero_shot: dict[FrameOrder, float]
    chirality: float | None = None


class OrderResult(BaseModel):
    """The metrics of each pair, and their protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pairs: list[PairMetrics]
    protocol: EvalProtocol

    def mean(self, order: FrameOrder = "as filmed") -> float:
        """Mean zero-shot accuracy over the pairs."""
        return fmean(pair.zero_shot[order] for pair in self.pairs)

    def mean_chirality(self) -> float | None:
        """Mean accuracy of the linear probes over the pairs; None without training videos."""
        values = [pair.chirality for pair in self.pairs if pair.chirality is not None]
        return fmean(values) if values else None


class OrderEvaluation(BaseModel):
    """The results of an encoder and of the frozen, frame-averaged baseline under the same protocol."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: OrderResult
    frozen: OrderResult | None = None

    def to_json(self) -> dict[str, Any]:
        """Convert to JSON types. `model_validate` reads them."""
        return self.model_dump(mode="json")


def resolve_pairs(pairs: str | Path | None, encoder: VideoEncoder, concepts: ConceptSet, targets: Tensor) -> list[Pair]:
    """Return the pairs of which both actions have clips. None: those that `opposed_pairs` finds in the phases.

    Raises:
        ValueError: There is none.
    """
    if pairs is None:
        found = opposed_pairs(encoder.build_concept_space(concepts))
        chosen = [(pair.first, pair.second) for pair in found]
    else:
        chosen = read_pairs(pairs, concepts)
    present = set(targets.tolist())
    shown = [pair for pair in chosen if present >= {*pair}]
    if not shown:
        source = f"the phases of concept set {concepts.name!r}" if pairs is None else str(pairs)
        raise ValueError(
            f"pairs: {source} have {len(chosen)} pairs of opposed actions, and the videos show both actions of none; "
            "give pairs of actions that they show, two per line"
        )
    return shown


def measure_order(
    config: EvalConfig,
    encoder: VideoEncoder,
    name: str,
    pairs: list[Pair],
    on_progress: ProgressCallback | None = None,
) -> OrderResult:
    """Measure one encoder. `config` is that of a zero-shot evaluation; its training split is for the linear probe."""
    actions = {action for pair in pairs for action in pair}
    train_split = None if config.train is None else _select_actions(config.train, actions)
    config = replace(config, test=_select_actions(config.test, actions), train=train_split)
    space = encoder.build_concept_space(
        config.concepts, with_descriptions=config.scoring != "category", on_progress=on_progress
    )
    embedder = OrderEmbedder(embedder_for(encoder, config.scoring))

    def embed(split: EvalSplit) -> tuple[EmbeddingResult, Tensor]:
        result = config.embed(embedder, name, split, EmbeddingCache(), on_progress)
        return result, split.readable_targets(result)

    result, targets = embed(config.test)
    orders = split_orders(result.embeddings)
    trained, probe = None, None
    if config.train is not None:
        trained, train_targets = embed(config.train)
        probe = split_orders(trained.embeddings)["as filmed"], train_targets
    metrics = pair_metrics(pairs, space, orders, targets, scoring=config.scoring, train=probe, seed=config.seed)
    protocol = config.build_protocol(encoder, name, result, trained, {}, {"pairs": len(pairs)})
    return OrderResult(pairs=metrics, protocol=protocol.model_copy(update={"task": "order"}))


def _select_actions(split: EvalSplit, actions: Collection[int]) -> EvalSplit:
    """Return the videos of the given actions."""
    kept = torch.isin(split.targets, torch.tensor(sorted(actions)))
    records = [record for record, keep in zip(split.records, kept.tolist(), strict=True) if keep]
    return EvalSplit(split.name, records, split.targets[kept])


def pair_metrics(
    pairs: Sequence[Pair],
    space: ConceptSpace,
    orders: Mapping[FrameOrder, Tensor],
    targets: Tensor,
    *,
    scoring: ScoringMode = "category",
    train: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
) -> list[PairMetrics]:
    """Measure pairs on embeddings.

    Args:
        pairs: Indices of the two actions of each pair.
        space: The concept space.
        orders: Embeddings (N, D) by order of the frames, as `split_orders` returns them.
        targets: Classes of the N clips.
        scoring: See `ConceptSpace.action_scores`.
        train: Embeddings (M, D) of training clips as filmed and their classes, for the chirality probe.
        seed: Seed of the probe's folds.
    """
    scores = {order: zero_shot_scores(z, space, scoring) for order, z in orders.items()}
    metrics = []
    for pair in pairs:
        mine = torch.isin(targets, torch.tensor(pair))
        labels = (targets[mine] == pair[1]).long()
        chirality = None
        if train is not None:
            features, train_targets = train
            kept = torch.isin(train_targets, torch.tensor(pair))
            probe = linear_probe(features[kept], (train_targets[kept] == pair[1]).long(), 2, seed=seed)
            chirality = _accuracy(probe.model.scores(orders["as filmed"][mine]), labels)
        metrics.append(
            PairMetrics(
                actions=(space.action_names[pair[0]], space.action_names[pair[1]]),
                n=len(labels),
                zero_shot={order: _accuracy(each[mine][:, list(pair)], labels) for order, each in scores.items()},
                chirality=chirality,
            )
        )
    return metrics


def _accuracy(scores: Tensor, labels: Tensor) -> float:
    return float((scores.argmax(1) == labels).double().mean())
