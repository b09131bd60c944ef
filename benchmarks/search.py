"""How well queries find what they name, and which form of them does best.

    python benchmarks/search.py RUN [--split probe]

RUN is a run of `verbspace demo`, whose encoder and labelled clips are used. Every action is looked for by its name; the
figure is precision at 10, the share of the ten best clips that show it, in %. What search does was chosen on the split
`probe`; quote `test`.
"""

from __future__ import annotations

import argparse
import itertools
import json
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

TOP = 10
QUERY_FORMS = ("{}", "a person {}", "someone is {}", "people {} outdoors")
WEIGHTS = (0.25, 0.5, 0.75, 1.0)


def mean_text_embeddings(encoder: VideoEncoder, texts: list[str], templates: list[str]) -> Tensor:
    """(N, D): normalised means over templates."""
    each = encoder.encode_text([template.replace("{}", text) for text in texts for template in templates])
    return F.normalize(each.view(len(texts), len(templates), -1).mean(1), dim=-1)


class LabeledClips:
    """Embedded clips and their labels."""

    def __init__(self, encoder: VideoEncoder, folder: Path) -> None:
        found = embed_videos(encoder, list(read_manifest(folder)))
        self.embeddings = found.embeddings
        self.names = sorted({str(label) for label in found.labels})
        self.labels = torch.tensor([self.names.index(str(label)) for label in found.labels])

    def precision_at_10(self, query: Tensor, label: int, exclude: int | None = None) -> float:
        """The share of an action in the ten best, in %. without: a clip that does not count."""
        scores = self.embeddings @ query
        if exclude is not None:
            scores[exclude] = -2
        return 100 * (self.labels[scores.topk(TOP).indices] == label).float().mean().item()

    def mean_precision(self, queries: Tensor) -> float:
        """Over all actions, a query (D,) each."""
        return sum(self.precision_at_10(query, n) for n, query in enumerate(queries)) / len(queries)

    def most_confused(self, query: Tensor, label: int) -> int:
        """The other action that is most among the ten best."""
        counts = torch.bincount(self.labels[(self.embeddings @ query).topk(TOP).indices], minlength=len(self.names))
        counts[label] = -1
        return int(counts.argmax())


def compare_text_encodings(encoder: VideoEncoder, clips: LabeledClips) -> dict[str, dict[str, float]]:
    """Precision by how a text becomes a vector, for names alone and for sentences."""
    own = encoder.concept_set
    assert own is not None
    templates = list(own.templates)
    centres = {
        "": torch.zeros(encoder.embedding_dim),
        ", less the mean of K400": mean_text_embeddings(encoder, ConceptSet.load("k400").action_names, templates).mean(
            0
        ),
        ", less the mean of its own actions": mean_text_embeddings(encoder, own.action_names, templates).mean(0),
    }
    ways = {"as it is": ["{}"], "templates": templates, "both": [*templates, "{}"]}
    found: dict[str, dict[str, float]] = {}
    for (way, prompts), (what, centre) in itertools.product(ways.items(), centres.items()):
        row = found[way + what] = {}
        for form in QUERY_FORMS:
            texts = [form.format(name) for name in clips.names]
            row[form] = clips.mean_precision(
                F.normalize(mean_text_embeddings(encoder, texts, prompts) - centre, dim=-1)
            )
    return found


def compare_negative_weights(query_encoder: QueryEncoder, clips: LabeledClips) -> dict[str, dict[str, float]]:
    """What becomes of an action and of the one most taken for it when that is taken away with a weight."""
    each = query_encoder.encode(clips.names)
    rivals = [clips.most_confused(query, n) for n, query in enumerate(each)]
    found = {}
    for weight in (0.0, *WEIGHTS):
        queries = F.normalize(each - weight * each[rivals], dim=-1)
        found[f"weight {weight:g}"] = {
            "the action": clips.mean_precision(queries),
            "the one taken away": sum(clips.precision_at_10(q, r) for q, r in zip(queries, rivals, strict=True))
            / len(rivals),
        }
    return found


def compare_compositions(query_encoder: QueryEncoder, clips: LabeledClips, seed: int = 0) -> dict[str, float]:
    """By example, and by example and words: a clip of one action, less that action, plus another."""
    generator = torch.Generator().manual_seed(seed)
    alone, other = [], []
    for a, b in itertools.permutations(range(len(clips.names)), 2):
        members = (clips.labels == a).nonzero().flatten()
        clip = int(members[torch.randint(len(members), (1,), generator=generator)])
        alone.append(clips.precision_at_10(build_query_vector(query_encoder, [], [clips.embeddings[clip]]), a, clip))
        terms = [Term(clips.names[a], -1), Term(clips.names[b])]
        other.append(clips.precision_at_10(build_query_vector(query_encoder, terms, [clips.embeddings[clip]]), b, clip))
    pairs = list(itertools.combinations(range(len(clips.names)), 2))
    both = [build_query_vector(query_encoder, [Term(clips.names[a]), Term(clips.names[b])]) for a, b in pairs]
    either = [
        clips.precision_at_10(query, a) + clips.precision_at_10(query, b)
        for query, (a, b) in zip(both, pairs, strict=True)
    ]
    return {
        "like a clip: its action": sum(alone) / len(alone),
        'like a clip, - "its action" + "another": the other': sum(other) / len(other),
        '"one" + "another": either': sum(either) / len(either),
    }


def measure(run: Path, split: str) -> dict[str, object]:
    """Everything, over one split."""
    encoder = VideoEncoder.from_pretrained(run)
    clips, words = LabeledClips(encoder, run / "world" / split), QueryEncoder(encoder)
    return {
        "split": split,
        "clips": len(clips.embeddings),
        "actions": len(clips.names),
        "what search does": clips.mean_precision(words.encode(clips.names)),
        "a text alone": compare_text_encodings(encoder, clips),
        f"minus (search: {NEGATIVE_WEIGHT:g})": compare_negative_weights(words, clips),
        "joined": compare_compositions(words, clips),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    chosen = parser.parse_args()
    found = measure(chosen.run, chosen.split)
    print(json.dumps(found, indent=1, default=float))
