"""Which videos to label first: the orders of the app's review queue.

    python studies/review_order.py --encoder runs/demo/encoder --world runs/demo/world

Clips of the probe split are labeled in each order, and `verbspace fit` learns from them; top-1 on the test split, mean
and standard deviation over five draws of four fifths of the probe split. The orders are those by the texts alone.
In brackets: how many of the labeled clips correct a prediction, of all predictions that are wrong, in percent.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from torch import Tensor

from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.few_shot import fit_action_vectors
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.evaluator import load_labeled_clips

LABELED = (20, 40, 80, 160)


def in_turn(order: Tensor, predicted: Tensor) -> Tensor:
    """Take the first of each predicted action, then the second of each, and so on."""
    turns: dict[int, int] = {}
    keys = []
    for position, index in enumerate(order.tolist()):
        action = int(predicted[index])
        turns[action] = turns.get(action, 0) + 1
        keys.append((turns[action], position))
    return order[[position for _, position in sorted(keys)]]


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--world", type=Path, required=True, help="folder with the splits of a synthetic data set")
    parser.add_argument("--pool", default="probe", help="split with the clips to label")
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    adapted = VideoEncoder.from_pretrained(args.encoder)
    pool, test = (load_labeled_clips(args.world / split, adapted.image_size) for split in (args.pool, "test"))
    print(f"| encoder | order | {' | '.join(f'{count} labels' for count in (0, *LABELED))} |")
    print("|---|---|" + "---|" * (1 + len(LABELED)))
    for name, encoder in (("frozen", adapted.base_encoder()), ("adapted", adapted)):
        space = encoder.build_concept_space(ConceptSet.load("playground"), with_descriptions=False)
        z, z_test = (encoder.encode_video(clips.video, clips.times, batch_size=64) for clips in (pool, test))
        best = space.action_scores(z).softmax(1).topk(2).values
        margin, wrong = best[:, 0] - best[:, 1], space.action_scores(z).argmax(1) != pool.labels
        texts = 100 * float((space.action_scores(z_test).argmax(1) == test.labels).double().mean())
        predicted = space.action_scores(z).argmax(1)
        orders = {
            "random": lambda drawn: drawn,
            "uncertain": lambda drawn, margin=margin: drawn[margin[drawn].argsort()],
            "balanced": lambda drawn, predicted=predicted, margin=margin: in_turn(
                drawn[margin[drawn].argsort()], predicted
            ),
        }
        for title, sort in orders.items():
            cells = []
            for count in LABELED:
                values, found = [], []
                for seed in range(args.draws):
                    drawn = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed))
                    drawn = drawn[: len(z) * 4 // 5]
                    order = sort(drawn)
                    vectors = fit_action_vectors(z[order[:count]], pool.labels[order[:count]], space)
                    values.append(100 * float(((z_test @ vectors.T).argmax(1) == test.labels).double().mean()))
                    found.append(100 * float(wrong[order[:count]].sum() / wrong[drawn].sum()))
                spread = statistics.stdev(values)
                cells.append(f"{statistics.fmean(values):.1f} ± {spread:.1f} ({statistics.fmean(found):.0f})")
            print(f"| {name} | {title} | {texts:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
