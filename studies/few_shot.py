"""Few labeled clips on the playground: `verbspace fit` beside the texts, a linear probe, and means of the clips.

    python studies/few_shot.py --encoder runs/demo/encoder --world runs/demo/world

Clips are drawn from the probe split; top-1 on the test split, mean and standard deviation over three draws.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.inference.few_shot import fit_action_vectors
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.evaluator import load_labeled_clips

SHOTS = (1, 2, 4, 8, 16)


def class_means(z: Tensor, labels: Tensor) -> Tensor:
    """Return the normalized mean of each action's embeddings, (K, D)."""
    return F.normalize(torch.stack([z[labels == action].mean(0) for action in labels.unique()]), dim=-1)


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--world", type=Path, required=True, help="folder with the splits of a synthetic data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    adapted = VideoEncoder.from_pretrained(args.encoder)
    probe, test = (load_labeled_clips(args.world / split, adapted.image_size) for split in ("probe", args.split))
    print(f"| encoder | method | {' | '.join(f'{shots} per action' for shots in SHOTS)} |")
    print("|---|---|" + "---|" * len(SHOTS))
    for name, encoder in (("frozen", adapted.base_encoder()), ("adapted", adapted)):
        space = encoder.build_concept_space(ConceptSet.load("playground"))
        z, z_test = (encoder.encode_video(clips.video, clips.times, batch_size=64) for clips in (probe, test))

        def top1(scores: Tensor) -> float:
            return 100 * float((scores.argmax(1) == test.labels).double().mean())

        texts = top1(space.action_scores(z_test))
        methods: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
            "fit": lambda x, y, space=space, z_test=z_test: z_test @ fit_action_vectors(x, y, space).T,  # type: ignore[misc]
            "linear probe": lambda x, y, z_test=z_test: linear_probe(x, y, 20).model.scores(z_test),  # type: ignore[misc]
            "means of the clips": lambda x, y, z_test=z_test: z_test @ class_means(x, y).T,  # type: ignore[misc]
        }
        print(f"| {name} | texts alone | {' | '.join([f'{texts:.1f}'] * len(SHOTS))} |")
        for title, method in methods.items():
            cells = []
            for shots in SHOTS:
                if title == "linear probe" and shots < 5:  # its folds need five clips of each action
                    cells.append("")
                    continue
                values = []
                for seed in range(args.draws):
                    order = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
                    drawn = torch.cat(
                        [order[probe.labels[order] == action][:shots] for action in probe.labels.unique()]
                    )
                    values.append(top1(method(z[drawn], probe.labels[drawn])))
                cells.append(f"{statistics.fmean(values):.1f} ± {statistics.stdev(values):.1f}")
            print(f"| {name} | {title} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
