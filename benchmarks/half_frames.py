"""Training on the playground with half the frames: speed and accuracy over three training seeds.

    python benchmarks/half_frames.py

The baseline is the demo's training, with 8 frames in global and 4 in local views; the other run has 4 and 2. The speed
is the median of `clips_per_second` in the training log. Zero-shot accuracy is measured on the demo's 800 test clips,
with 8 frames in both cases. Seed 0 for the data; seeds 0, 1 and 2 for training.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness import Row, main

from verbspace.cli.options import parse_overrides
from verbspace.concepts.concept_set import ConceptSet
from verbspace.evaluation.evaluate import evaluate
from verbspace.playground.actions import TRAIN_ACTIONS
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.playground.world import WorldSettings, make_world
from verbspace.training.adapt import adapt

OVERRIDES = {"all": [], "half": ["views.global_frames=4", "views.local_frames=2"]}


def train_and_evaluate(world: Path, out: Path, seed: int, overrides: list[str]) -> tuple[float, float]:
    """Return the clips per second of training, and zero-shot top-1 in percent."""
    settings = parse_overrides(None, [*overrides, f"training.seed={seed}"], PLAYGROUND_SETTINGS)
    concepts = ConceptSet.load("playground")
    adapted = adapt(load_playground_encoder(), world / "train", concepts.subset(TRAIN_ACTIONS), out, settings)
    log = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluation = evaluate(adapted, world / "test", concepts=concepts, baseline=False)
    return statistics.median(line["clips_per_second"] for line in log), 100 * evaluation.result.primary_metric


def format_top1(values: Sequence[float]) -> str:
    """Format the mean and the values of all seeds."""
    return f"{statistics.fmean(values):.1f} % ({', '.join(f'{value:.1f}' for value in values)})"


def measure(rounds: int) -> list[Row]:
    """Train with both settings, with one seed per round."""
    speed: dict[str, list[float]] = {name: [] for name in OVERRIDES}
    top1: dict[str, list[float]] = {name: [] for name in OVERRIDES}
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        make_world(world, WorldSettings(seed=0), ("train", "test"))
        for seed in range(rounds):
            for name, overrides in OVERRIDES.items():
                clips_per_second, accuracy = train_and_evaluate(world, Path(folder) / f"{name}{seed}", seed, overrides)
                speed[name].append(clips_per_second)
                top1[name].append(accuracy)
    ratios = [half / full for half, full in zip(speed["half"], speed["all"], strict=True)]
    half, full = (statistics.median(speed[name]) for name in ("half", "all"))
    what, against = "training step of the playground, half the frames", "verbspace, all frames"
    note = (
        f"zero-shot top-1 with half the frames {format_top1(top1['half'])}, "
        f"with all frames {format_top1(top1['all'])}, by seed"
    )
    return [Row(what, against, 2, ratios, half, full, "clips/s", note)]


if __name__ == "__main__":
    main(__doc__ or "", measure, rounds=3)
