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
from verbspace.evaluation.embed import embed_videos
from verbspace.model.encoder import VideoEncoder
from verbspace.uses.index.arithmetic import MINUS, Words, combine
from verbspace.uses.index.query import Term
from verbspace.video.manifest import read_manifest

TOP = 10
FORMS = ("{}", "a person {}", "someone is {}", "people {} outdoors")
WEIGHTS = (0.25, 0.5, 0.75, 1.0)


def mean_of(encoder: VideoEncoder, texts: list[str], templates: list[str]) -> Tensor:
    """(N, D): normalised means over templates."""
    each = encoder.encode_text([template.replace("{}", text) for text in texts for template in templates])
    return F.normalize(each.view(len(texts), len(templates), -1).mean(1), dim=-1)


class Clips:
    """Embedded clips and their labels."""

    def __init__(self, encoder: VideoEncoder, folder: Path) -> None:
        found = embed_videos(encoder, list(read_manifest(folder)))
        self.z = found.embeddings
        self.names = sorted({str(label) for label in found.labels})
        self.labels = torch.tensor([self.names.index(str(label)) for label in found.labels])

    def shares(self, query: Tensor, of: int, without: int | None = None) -> float:
        """The share of an action in the ten best, in %. without: a clip that does not count."""
        scores = self.z @ query
        if without is not None:
            scores[without] = -2
        return 100 * (self.labels[scores.topk(TOP).indices] == of).float().mean().item()

    def precision(self, queries: Tensor) -> float:
        """Over all actions, a query (D,) each."""
        return sum(self.shares(query, n) for n, query in enumerate(queries)) / len(queries)

    def rival(self, query: Tensor, of: int) -> int:
        """The other action that is most among the ten best."""
        counts = torch.bincount(self.labels[(self.z @ query).topk(TOP).indices], minlength=len(self.names))
        counts[of] = -1
        return int(counts.argmax())


def words_alone(encoder: VideoEncoder, clips: Clips) -> dict[str, dict[str, float]]:
    """Precision by how a text becomes a vector, for names alone and for sentences."""
    own = encoder.concept_set
    assert own is not None
    templates = list(own.templates)
    centres = {
        "": torch.zeros(encoder.embedding_dim),
        ", less the mean of K400": mean_of(encoder, ConceptSet.load("k400").action_names, templates).mean(0),
        ", less the mean of its own actions": mean_of(encoder, own.action_names, templates).mean(0),
    }
    ways = {"as it is": ["{}"], "templates": templates, "both": [*templates, "{}"]}
    found: dict[str, dict[str, float]] = {}
    for (way, prompts), (what, centre) in itertools.product(ways.items(), centres.items()):
        row = found[way + what] = {}
        for form in FORMS:
            texts = [form.format(name) for name in clips.names]
            row[form] = clips.precision(F.normalize(mean_of(encoder, texts, prompts) - centre, dim=-1))
    return found


def minus(words: Words, clips: Clips) -> dict[str, dict[str, float]]:
    """What becomes of an action and of the one most taken for it when that is taken away with a weight."""
    each = words.directions(clips.names)
    rivals = [clips.rival(query, n) for n, query in enumerate(each)]
    found = {}
    for weight in (0.0, *WEIGHTS):
        queries = F.normalize(each - weight * each[rivals], dim=-1)
        found[f"weight {weight:g}"] = {
            "the action": clips.precision(queries),
            "the one taken away": sum(clips.shares(q, r) for q, r in zip(queries, rivals, strict=True)) / len(rivals),
        }
    return found


def joined(words: Words, clips: Clips, seed: int = 0) -> dict[str, float]:
    """By example, and by example and words: a clip of one action, less that action, plus another."""
    generator = torch.Generator().manual_seed(seed)
    alone, other = [], []
    for a, b in itertools.permutations(range(len(clips.names)), 2):
        members = (clips.labels == a).nonzero().flatten()
        clip = int(members[torch.randint(len(members), (1,), generator=generator)])
        alone.append(clips.shares(combine(words, [], [clips.z[clip]]), a, clip))
        terms = [Term(clips.names[a], -1), Term(clips.names[b])]
        other.append(clips.shares(combine(words, terms, [clips.z[clip]]), b, clip))
    pairs = list(itertools.combinations(range(len(clips.names)), 2))
    both = [combine(words, [Term(clips.names[a]), Term(clips.names[b])]) for a, b in pairs]
    either = [clips.shares(query, a) + clips.shares(query, b) for query, (a, b) in zip(both, pairs, strict=True)]
    return {
        "like a clip: its action": sum(alone) / len(alone),
        'like a clip, - "its action" + "another": the other': sum(other) / len(other),
        '"one" + "another": either': sum(either) / len(either),
    }


def measure(run: Path, split: str) -> dict[str, object]:
    """Everything, over one split."""
    encoder = VideoEncoder.from_pretrained(run)
    clips, words = Clips(encoder, run / "world" / split), Words(encoder)
    return {
        "split": split,
        "clips": len(clips.z),
        "actions": len(clips.names),
        "what search does": clips.precision(words.directions(clips.names)),
        "a text alone": words_alone(encoder, clips),
        f"minus (search: {MINUS:g})": minus(words, clips),
        "joined": joined(words, clips),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--split", default="test")
    chosen = parser.parse_args()
    found = measure(chosen.run, chosen.split)
    print(json.dumps(found, indent=1, default=float))
