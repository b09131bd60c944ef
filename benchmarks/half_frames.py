"""Less work a clip at equal accuracy: the playground's demo with half the frames, over three training seeds.

    python benchmarks/half_frames.py

Plain is the demo's training; the other sees 4 frames in its global and 2 in its local views rather than 8 and 4. Clips
a second are those of the training step, the median of its log; zero-shot is on the demo's 800 test clips, with 8 frames
for both. World 0, seeds 0, 1 and 2.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path

from harness import Row, main

from verbspace.cli.options import parse_overrides
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.results import Evaluation
from verbspace.playground.actions import TRAIN_ACTIONS
from verbspace.playground.demo import PLAYGROUND_SETTINGS, load_playground_encoder
from verbspace.playground.world import WorldSettings, make_world
from verbspace.training.adapt import adapt

HALF_FRAMES = ["views.global_frames=4", "views.local_frames=2"]


def train_and_evaluate(world: Path, out: Path, seed: int, overrides: list[str]) -> tuple[float, Evaluation]:
    """Clips a second in training, and zero-shot."""
    settings = parse_overrides(None, [*overrides, f"training.seed={seed}"], PLAYGROUND_SETTINGS)
    words = ConceptSet.load("playground")
    adapted = adapt(load_playground_encoder(), world / "train", words.subset(TRAIN_ACTIONS), out, settings)
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found = evaluate(adapted, world / "test", concepts=words, baseline=False)
    return statistics.median(line["clips_per_second"] for line in log), found


def measure(rounds: int) -> list[Row]:
    """A round is a seed."""
    speeds: dict[str, list[float]] = {"plain": [], "less": []}
    top1: dict[str, list[float]] = {"plain": [], "less": []}
    with tempfile.TemporaryDirectory() as name:
        world = Path(name) / "world"
        make_world(world, WorldSettings(seed=0), ("train", "test"))
        for seed in range(rounds):
            for kind, changes in (("plain", []), ("less", HALF_FRAMES)):
                speed, found = train_and_evaluate(world, Path(name) / f"{kind}{seed}", seed, changes)
                speeds[kind].append(speed)
                top1[kind].append(100 * found.result.primary_metric)
    said = {
        kind: f"{statistics.fmean(values):.1f} % ({', '.join(f'{value:.1f}' for value in values)})"
        for kind, values in top1.items()
    }
    note = f"zero-shot top-1 with half the frames {said['less']}, plain {said['plain']}, by seed"
    ratios = [less / plain for less, plain in zip(speeds["less"], speeds["plain"], strict=True)]
    return [
        Row("training step of the playground, half the frames", "our plain step", 2, ratios,
            statistics.median(speeds["less"]), statistics.median(speeds["plain"]), "clips/s", note)
    ]  # fmt: skip


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=3)
