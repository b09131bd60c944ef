"""What a collection contains: clusters of videos with names, outliers, copies, and a map in two dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.topk import exact_topk
from verbspace.search.duplicates import MIN_SIMILARITY, Duplicate, find_duplicates
from verbspace.search.schema import FileRows
from verbspace.search.searcher import Searcher
from verbspace.search.stored_files import load_videos
from verbspace.utils.progress import ProgressCallback

NUM_NAMES = 3  # names of a cluster
NUM_OUTLIERS = 12
_CLUSTER_NUMBERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24)
_SILHOUETTE_TOLERANCE = 0.05  # relative; the curve is often flat, and more clusters say more
MAX_POINTS = 2000  # of the map; t-SNE takes seconds per thousand
_NUM_NEIGHBORS = 5
_NUM_COMPONENTS = 50  # of the vectors, for k-means and t-SNE
_MAX_EXACT_KMEANS = 10_000  # videos; of more, mini-batches are used
_SEED = 0


@dataclass(frozen=True)
class Cluster:
    """Videos that are alike: their indices, the most typical first, and what the center of the cluster is nearest to.

    `names` are action names with the cosine similarity of their centered vectors to the centered cluster, best first;
    `description` is the nearest description of the concept set, if it has any.
    """

    members: list[int]
    names: list[tuple[str, float]]
    description: str | None


@dataclass(frozen=True)
class Overview:
    """The N videos of an index and their groups; all indices are into `files`.

    Attributes:
        files: The videos, by path, without vectors.
        clusters: The clusters, largest first. Copies are in the cluster of their original.
        outliers: Videos with the smallest mean cosine similarity to their five nearest, and that similarity.
        duplicates: Copies, see `find_duplicates`.
        points: Indices of the videos on the map: of all, or of a sample.
        positions: Their positions, float (P, 2), each coordinate in [0, 1].
    """

    files: list[FileRows]
    clusters: list[Cluster]
    outliers: list[tuple[int, float]]
    duplicates: list[Duplicate]
    points: list[int]
    positions: np.ndarray

    @property
    def seconds(self) -> float:
        """Return the total duration of the videos."""
        return sum(file.duration for file in self.files)


def make_overview(
    searcher: Searcher,
    *,
    clusters: int | None = None,
    concepts: ConceptSet | None = None,
    threshold: float = MIN_SIMILARITY,
    on_progress: ProgressCallback | None = None,
) -> Overview:
    """Group the videos of an index. The result depends only on the index, the concepts and the arguments.

    The videos are compared by the means of their windows, minus the mean of all videos. Clusters are those of k-means;
    their number, unless it is given, is the largest of up to 24 whose silhouette is nearly the best. The map is that of
    t-SNE.

    Args:
        searcher: The index and its encoder.
        clusters: Number of clusters.
        concepts: Words for the clusters. Default: the encoder's own concept set, else the actions of Kinetics-400.
        threshold: See `find_duplicates`.
        on_progress: Called after each step, with the stage "overview".

    Raises:
        ValueError: If the index is empty, there are fewer videos than clusters, or scikit-learn is not installed.
    """
    import_sklearn()
    steps = 5

    def report(done: int) -> None:
        if on_progress is not None:
            on_progress("overview", done, steps, {})

    files, vectors = load_videos(searcher.index)
    if not files:
        raise ValueError(f"{searcher.index.folder}: the index is empty; embed videos first")
    report(1)
    duplicates = find_duplicates(files, vectors, threshold=threshold, on_progress=on_progress)
    report(2)
    copies = {copy.path: copy.copy_of for copy in duplicates}
    distinct = [n for n, file in enumerate(files) if file.path not in copies]
    if clusters is not None and not 1 <= clusters <= len(distinct):
        raise ValueError(f"clusters: {clusters} is not between 1 and the number of different videos, {len(distinct)}")
    centered = _normalize(vectors - vectors[distinct].mean(0)) if len(distinct) > 1 else vectors
    labels = _cluster(centered[distinct], clusters)
    report(3)
    position = {files[n].path: place for place, n in enumerate(distinct)}
    label_of = [int(labels[position[copies.get(file.path, file.path)]]) for file in files]
    words = _words(searcher, concepts)
    groups = [[n for n in range(len(files)) if label_of[n] == label] for label in range(max(label_of) + 1)]
    found = [_describe(group, centered, words) for group in sorted(groups, key=lambda group: (-len(group), group[0]))]
    report(4)
    points = _sample(len(files))
    overview = Overview(files, found, _outliers(distinct, vectors), duplicates, points, _map(centered[points]))
    report(5)
    return overview


def import_sklearn() -> Any:
    """Import scikit-learn; raise ValueError if it is not installed."""
    try:
        import sklearn
    except ImportError:
        raise ValueError("an overview needs scikit-learn; pip install 'verbspace[overview]'") from None
    return sklearn


@dataclass(frozen=True)
class _Words:
    names: list[str]
    name_vectors: np.ndarray  # (K, D), centered and normalized, as those of the descriptions
    descriptions: list[str]
    description_vectors: np.ndarray


def _words(searcher: Searcher, concepts: ConceptSet | None) -> _Words:
    """Encode the words for clusters. Without a concept set of the encoder, the names of Kinetics-400 only."""
    own = concepts or searcher.encoder.concept_set
    names = (own or ConceptSet.load("k400")).action_names
    name_vectors = searcher.query_encoder.encode(names, cached=True)
    texts = list(dict.fromkeys(each.text for each in own.descriptions)) if own is not None else []
    encoded = searcher.encoder.cached_text_encoder()(texts) if texts else torch.zeros(0, name_vectors.shape[1])
    return _Words(names, _center(name_vectors), texts, _center(encoded))


def _center(vectors: Tensor) -> np.ndarray:
    return _normalize((vectors - vectors.mean(0)).numpy()) if len(vectors) > 1 else vectors.numpy()


def _describe(group: list[int], vectors: np.ndarray, words: _Words) -> Cluster:
    center = vectors[group].mean(0)
    center = center / max(float(np.linalg.norm(center)), 1e-12)
    typical = sorted(group, key=lambda n: (-float(vectors[n] @ center), n))
    scores = words.name_vectors @ center
    best = np.argsort(-scores, kind="stable")[:NUM_NAMES]
    description = words.descriptions[int((words.description_vectors @ center).argmax())] if words.descriptions else None
    return Cluster(typical, [(words.names[n], float(scores[n])) for n in best], description)


def _cluster(vectors: np.ndarray, count: int | None) -> np.ndarray:
    """Return the cluster of each vector (N, D). Without a count, of the most clusters that are nearly the clearest."""
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.decomposition import PCA
    from sklearn.metrics import silhouette_score

    distinct = len(np.unique(vectors.round(5), axis=0))  # k-means finds no more clusters than that
    if distinct == 1:
        return np.zeros(len(vectors), np.int64)
    vectors = PCA(min(_NUM_COMPONENTS, *vectors.shape), random_state=_SEED).fit_transform(vectors)

    def fit(number: int) -> np.ndarray:
        method = KMeans if len(vectors) <= _MAX_EXACT_KMEANS else MiniBatchKMeans
        labels: np.ndarray = method(number, n_init=4, random_state=_SEED).fit_predict(vectors)
        return labels

    if count is not None:
        return fit(min(count, distinct))
    found: list[tuple[float, np.ndarray]] = []
    for number in _CLUSTER_NUMBERS:
        if number > min(distinct, len(vectors) // 2):
            break
        labels = fit(number)
        size = min(len(vectors), MAX_POINTS)
        found.append((float(silhouette_score(vectors, labels, sample_size=size, random_state=_SEED)), labels))
    best = max((score for score, _ in found), default=0.0)
    if best <= 0:  # one cluster is better than several
        return np.zeros(len(vectors), np.int64)
    return [labels for score, labels in found if score >= (1 - _SILHOUETTE_TOLERANCE) * best][-1]


def _outliers(distinct: Sequence[int], vectors: np.ndarray) -> list[tuple[int, float]]:
    """Return the videos that are least like their nearest ones; none of fewer than twice as many videos."""
    if len(distinct) < 2 * NUM_OUTLIERS:
        return []
    bank = torch.from_numpy(vectors[distinct])
    similarity = exact_topk(bank, bank, _NUM_NEIGHBORS + 1)[0][:, 1:].mean(1)
    worst = torch.argsort(similarity, stable=True)[:NUM_OUTLIERS].tolist()
    return [(distinct[n], float(similarity[n])) for n in worst]


def _sample(count: int) -> list[int]:
    if count <= MAX_POINTS:
        return list(range(count))
    return sorted(np.random.default_rng(_SEED).choice(count, MAX_POINTS, replace=False).tolist())


def _map(vectors: np.ndarray) -> np.ndarray:
    """Place vectors (P, D) in the unit square, (P, 2)."""
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if len(vectors) < 3:
        return np.linspace(0.25, 0.75, len(vectors) + 1)[1:, None].repeat(2, 1)
    reduced = PCA(min(_NUM_COMPONENTS, *vectors.shape), random_state=_SEED).fit_transform(vectors)
    if len(vectors) >= 10:
        perplexity = min(30.0, (len(vectors) - 1) / 3)
        reduced = TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(reduced)
    low, high = reduced[:, :2].min(0), reduced[:, :2].max(0)
    positions: np.ndarray = (reduced[:, :2] - low) / np.maximum(high - low, 1e-12)
    return positions


def _normalize(vectors: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit
