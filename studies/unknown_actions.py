"""Withheld answers on the playground: clips of the four held-out actions are videos that show none of the actions.

    python studies/unknown_actions.py --encoder runs/demo/encoder --world runs/demo/world

The 16 actions of training are the candidates. The other videos of the calibration are the probe split's clips of
held-out actions; known and unknown actions of the test split are measured.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.metrics import roc_auc_score

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.inference.abstention import OtherScores
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS, TRAIN_ACTIONS
from verbspace.playground.evaluator import load_labeled_clips


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--world", type=Path, required=True, help="folder with the splits of a synthetic data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--abstain", type=float, default=0.1)
    args = parser.parse_args()
    adapted = VideoEncoder.from_pretrained(args.encoder)
    concepts = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    probe, test = (load_labeled_clips(args.world / split, adapted.image_size) for split in ("probe", args.split))
    known_actions = torch.tensor([ACTIONS.index(action) for action in TRAIN_ACTIONS])
    known = torch.isin(test.labels, known_actions)
    others = ~torch.isin(probe.labels, known_actions)
    print(
        "| encoder | AUROC by score | by probability | unknown with an answer, % | known with an answer, % | "
        "top-1 of those | top-1 of all known |\n|---|---|---|---|---|---|---|"
    )
    for name, encoder in (("frozen", adapted.base_encoder()), ("adapted", adapted)):
        space = encoder.build_concept_space(concepts)

        def scores(
            video: torch.Tensor, times: torch.Tensor, encoder: VideoEncoder = encoder, space: ConceptSpace = space
        ) -> torch.Tensor:
            return space.action_scores(encoder.encode_video(video, times, batch_size=64))

        found = scores(test.video, test.times)
        best = found.max(1)
        reference = OtherScores.from_scores(scores(probe.video[others], probe.times[others]))
        answered = best.values > reference.threshold(args.abstain)
        right = known_actions[best.indices] == test.labels
        areas = [roc_auc_score(known, values) for values in (best.values, found.softmax(1).max(1).values)]
        shares = [answered[~known], answered[known], right[known & answered], right[known]]
        cells = [f"{area:.3f}" for area in areas] + [f"{100 * share.double().mean():.1f}" for share in shares]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
