"""Precision of text and example queries, by how the query vector is computed.

    python benchmarks/search.py RUN [--split probe]

RUN is a run of `verbspace demo`, whose encoder and labeled clips are used. Each action is searched for by its name.
The figures are precision at 10: the percentage of the ten best clips that show the action. The method of
`verbspace search` was selected on the split `probe`; report the split `test`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import read_manifest
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.query import Term
from verbspace.search.query_encoder import NEGATIVE_WEIGHT, QueryEncoder, build_query_vector

TOP_K = 10
QUERY_FORMS = ("{}", "a person {}", "someone is {}", "people {} outdoors")
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)


class LabeledClips:
    """Embeddings of clips, and the indices of their labels in `names`."""

    def __init__(self, encoder: VideoEncoder, folder: Path) -> None:
        result = embed_videos(encoder, list(read_manifest(folder)))
        labels = [str(label) for label in result.labels]
        self.embeddings = result.embeddings
        self.names = sorted(set(labels))
        self.labels = torch.tensor([self.names.index(label) for label in labels])

    def top_labels(self, query: Tensor, exclude: int | None = None) -> Tensor:
        """Return the labels of the ten clips nearest to a query (D,), without the clip `exclude`."""
        scores = self.embeddings @ query
        if exclude is not None:
            scores[exclude] = -2
        return self.labels[scores.topk(TOP_K).indices]

    def precision(self, query: Tensor, label: int, exclude: int | None = None) -> float:
        """Return the precision at 10 of a query, in percent."""
        return 100 * (self.top_labels(query, exclude) == label).float().mean().item()

    def mean_precision(self, queries: Tensor, labels: Sequence[int] | None = None) -> float:
        """Return the mean precision of queries (N, D); by default query n searches for action n."""
        labels = range(len(queries)) if labels is None else labels
        return statistics.fmean(self.precision(query, label) for query, label in zip(queries, labels, strict=True))

    def most_confused(self, query: Tensor, label: int) -> int:
        """Return the most frequent wrong action in the ten best clips."""
        counts = torch.bincount(self.top_labels(query), minlength=len(self.names))
        counts[label] = -1
        return int(counts.argmax())


def mean_text_embeddings(encoder: VideoEncoder, texts: list[str], templates: list[str]) -> Tensor:
    """Return the normalized means (N, D) over templates."""
    prompts = [template.replace("{}", text) for text in texts for template in templates]
    return F.normalize(encoder.encode_text(prompts).view(len(texts), len(templates), -1).mean(1), dim=-1)


def compare_text_encodings(encoder: VideoEncoder, clips: LabeledClips) -> dict[str, dict[str, float]]:
    """Return the precision by text encoding and form of the query."""
    concept_set = encoder.concept_set
    assert concept_set is not None
    templates = list(concept_set.templates)
    prompt_sets = {"text itself": ["{}"], "templates": templates, "both": [*templates, "{}"]}
    backgrounds = {
        "": None,
        ", minus the mean of K400": ConceptSet.load("k400").action_names,
        ", minus the mean of the encoder's own actions": concept_set.action_names,
    }
    results: dict[str, dict[str, float]] = {}
    for (prompts_name, prompts), (background, names) in itertools.product(prompt_sets.items(), backgrounds.items()):
        center = 0 if names is None else mean_text_embeddings(encoder, names, templates).mean(0)
        precision = results[prompts_name + background] = {}
        for form in QUERY_FORMS:
            queries = mean_text_embeddings(encoder, [form.format(name) for name in clips.names], prompts)
            precision[form] = clips.mean_precision(F.normalize(queries - center, dim=-1))
    return results


def compare_negative_weights(query_encoder: QueryEncoder, clips: LabeledClips) -> dict[str, dict[str, float]]:
    """Return the precision for an action, and for its most confused action, which is subtracted with a weight."""
    embeddings = query_encoder.encode(clips.names)
    confused = [clips.most_confused(query, label) for label, query in enumerate(embeddings)]
    results = {}
    for weight in WEIGHTS:
        queries = F.normalize(embeddings - weight * embeddings[confused], dim=-1)
        results[f"weight {weight:g}"] = {
            "added action": clips.mean_precision(queries),
            "subtracted action": clips.mean_precision(queries, confused),
        }
    return results


def compare_compositions(query_encoder: QueryEncoder, clips: LabeledClips, seed: int = 0) -> dict[str, float]:
    """Return the precision of queries by example, by example and texts, and by two texts."""
    generator = torch.Generator().manual_seed(seed)
    example_only, example_and_texts, two_texts = [], [], []
    for a, b in itertools.permutations(range(len(clips.names)), 2):
        members = (clips.labels == a).nonzero().flatten()
        clip = int(members[torch.randint(len(members), (1,), generator=generator)])
        example = [clips.embeddings[clip]]
        example_only.append(clips.precision(build_query_vector(query_encoder, [], example), a, clip))
        terms = [Term(clips.names[a], -1), Term(clips.names[b])]
        example_and_texts.append(clips.precision(build_query_vector(query_encoder, terms, example), b, clip))
    for a, b in itertools.combinations(range(len(clips.names)), 2):
        query = build_query_vector(query_encoder, [Term(clips.names[a]), Term(clips.names[b])])
        two_texts.append(clips.precision(query, a) + clips.precision(query, b))
    return {
        "clip: its action": statistics.fmean(example_only),
        'clip - "its action" + "another action": the other action': statistics.fmean(example_and_texts),
        '"action" + "another action": either': statistics.fmean(two_texts),
    }


def measure(run: Path, split: str) -> dict[str, object]:
    """Measure everything on one split."""
    encoder = VideoEncoder.from_pretrained(run)
    clips, query_encoder = LabeledClips(encoder, run / "world" / split), QueryEncoder(encoder)
    return {
        "split": split,
        "clips": len(clips.embeddings),
        "actions": len(clips.names),
        "verbspace search": clips.mean_precision(query_encoder.encode(clips.names)),
        "single text": compare_text_encodings(encoder, clips),
        f"subtraction (verbspace search: weight {NEGATIVE_WEIGHT:g})": compare_negative_weights(query_encoder, clips),
        "compositions": compare_compositions(query_encoder, clips),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run of `verbspace demo`")
    parser.add_argument("--split", default="test", help="split of the demo's data (default: test)")
    args = parser.parse_args()
    print(json.dumps(measure(args.run, args.split), indent=1))
