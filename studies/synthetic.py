"""The losses on synthetic embeddings with the statistics of a full-size CLIP.

    python studies/synthetic.py                    # the table of docs/results.md
    python studies/synthetic.py --actions 10 700   # other numbers of actions

Text vectors share a common direction, as CLIP's do, and the cosines of a clip spread over the actions by about 0.02. A
clip's embedding is the sum of a direction that all clips share, the direction of its action, and noise; the noise is
chosen so that zero-shot top-1 is about 37 %. The student adds a linear map to the embeddings, and is trained on noisy
views of them by the project's own losses, without labels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import LSS_LOSSES, AdaptSettings, LossSettings
from verbspace.training.distiller import Distiller
from verbspace.training.ema import update_ema_state, update_teacher
from verbspace.training.loss_scales import LossScale
from verbspace.training.preview import frozen_statistics
from verbspace.training.schedules import cosine, warmup_cosine
from verbspace.training.watches import action_bias

DIM = 512
TEXT_SPREAD = 0.55  # norm of a text vector without the direction that all texts share
NUM_CLIPS, BATCH_SIZE, STEPS = 8192, 256, 400
VIEW_NOISE = 0.5

VARIANTS: dict[str, dict[str, float]] = {
    "defaults": {},
    "method lss": LSS_LOSSES,
    "method lss, prior 1": {**LSS_LOSSES, "category_prior": 1, "description_prior": 0.5},
    "method lss, 0.1 / 0.04, prior 1": {
        **LSS_LOSSES, "student_temperature": 0.1, "teacher_temperature": 0.04, "category_prior": 1,
        "description_prior": 0.5,
    },
}  # fmt: skip


@dataclass
class World:
    """Text vectors, clips and their actions."""

    space: ConceptSpace
    clips: Tensor
    labels: Tensor
    test_clips: Tensor
    test_labels: Tensor


def unit(*shape: int, generator: torch.Generator) -> Tensor:
    """Random unit vectors that are orthogonal to the first axis."""
    vectors = torch.randn(*shape, DIM, generator=generator)
    vectors[..., 0] = 0
    return F.normalize(vectors, dim=-1)


def make_world(num_actions: int, signal: float, seed: int, descriptions_per_action: int = 4) -> World:
    """Draw a world. `signal` is the share of an action's direction in a clip's embedding."""
    generator = torch.Generator().manual_seed(seed)
    axis = F.one_hot(torch.tensor(0), DIM).float()
    actions = unit(num_actions, generator=generator)
    about = F.normalize(
        actions.repeat_interleave(descriptions_per_action, 0)
        + unit(num_actions * descriptions_per_action, generator=generator),
        dim=-1,
    )

    def text(directions: Tensor) -> Tensor:
        return F.normalize((1 - TEXT_SPREAD**2) ** 0.5 * axis + TEXT_SPREAD * directions, dim=-1)

    mask = torch.eye(num_actions).repeat_interleave(descriptions_per_action, 0)
    space = ConceptSpace(
        text(actions), text(about), mask.bool(), action_names=[f"action {k}" for k in range(num_actions)],
        description_texts=[f"description {m}" for m in range(len(about))],
    )  # fmt: skip
    shared = unit(1, generator=generator)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(num_actions, (count,), generator=generator)
        noise = unit(count, generator=generator)
        clips = 0.3 * axis + 0.3 * shared + signal * actions[labels] + noise
        return F.normalize(clips, dim=-1), labels

    return World(space, *draw(NUM_CLIPS), *draw(2000))


def top1(z: Tensor, labels: Tensor, space: ConceptSpace) -> float:
    """Zero-shot top-1 in percent."""
    return 100 * float(((z @ space.categories.T).argmax(-1) == labels).float().mean())


def find_signal(num_actions: int, target: float = 37.0) -> float:
    """Find the signal with which zero-shot top-1 is `target` percent."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        world = make_world(num_actions, middle, seed=99)
        low, high = (middle, high) if top1(world.test_clips, world.test_labels, world.space) < target else (low, middle)
    return (low + high) / 2


class Residual(nn.Module):
    """normalize(z + W z), with W zero at first."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(DIM, DIM))

    def forward(self, z: Tensor) -> Tensor:
        return F.normalize(z + z @ self.weight.T, dim=-1)


def train(world: World, overrides: dict[str, float], learning_rate: float, seed: int) -> dict[str, float]:
    """Train, and return what is shown in the table."""
    settings = AdaptSettings(losses=LossSettings(**cast(Any, overrides)))
    statistics = frozen_statistics(world.clips[:64], world.space, settings)
    student, teacher = Residual(), Residual()
    encoders: tuple[Any, Any] = (student, teacher)
    scales = (statistics.scales, statistics.target_scale)
    distiller = Distiller(*encoders, world.space, settings.losses, *scales)
    state = distiller.init_state()
    optimizer = torch.optim.AdamW(student.parameters(), lr=learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = warmup_cosine(step, STEPS, STEPS // 10, learning_rate)
        clips = world.clips[torch.randint(NUM_CLIPS, (BATCH_SIZE,), generator=generator)]
        views = F.normalize(clips + VIEW_NOISE * unit(4, BATCH_SIZE, generator=generator), dim=-1)
        with torch.no_grad():
            targets = teacher(views[:2])
        output = distiller.compute_losses(targets, student(views), state)
        optimizer.zero_grad()
        output.total.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 3.0)
        optimizer.step()
        update_teacher(teacher, student, cosine(step, STEPS, 0.98, 0.995))
        state = update_ema_state(state, output, settings.losses)
    scale: LossScale = statistics.scales["category"]
    with torch.no_grad():
        z = teacher(world.test_clips)
    answers, frozen = (e @ world.space.categories.T for e in (z, world.test_clips))
    return {
        "spread": statistics.spaces["category"].spread,
        "student": scale.student_temperature,
        "teacher": scale.teacher_temperature,
        "entropy": statistics.spaces["category"].teacher_entropy,
        "before": top1(world.test_clips, world.test_labels, world.space),
        "after": top1(z, world.test_labels, world.space),
        "agreement": float((answers.argmax(-1) == frozen.argmax(-1)).float().mean()),
        "in use": float(torch.exp(torch.special.entr(state.top1_frequency()).sum())),
        "variance": state.variance_between_clips() / statistics.embedding_variance,
        "bias ratio": action_bias(answers) / action_bias(frozen),
        "drift": 1 - float((z * world.test_clips).sum(-1).mean()),
    }


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actions", type=int, nargs="+", default=[400])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-5, 5e-5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    columns = (
        "actions", "variant", "rate", "τ student / teacher", "teacher's entropy / log K", "top-1 before", "after",
        "agreement", "bias ratio", "in use", "variance", "drift",
    )  # fmt: skip
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for num_actions in args.actions:
        signal = find_signal(num_actions)
        for variant, overrides in VARIANTS.items():
            for rate in args.rates:
                found = [train(make_world(num_actions, signal, seed), overrides, rate, seed) for seed in args.seeds]
                mean = {name: sum(row[name] for row in found) / len(found) for name in found[0]}
                after = torch.tensor([row["after"] for row in found])
                spread = f" ± {after.std():.1f}" if len(found) > 1 else ""
                print(
                    f"| {num_actions} | {variant} | {rate:g} | {mean['student']:.3f} / {mean['teacher']:.4f} "
                    f"| {mean['entropy']:.2f} | {mean['before']:.1f} | {mean['after']:.1f}{spread} "
                    f"| {mean['agreement']:.0%} | {mean['bias ratio']:.2f} | {mean['in use']:.0f} "
                    f"| {mean['variance']:.2f} | {mean['drift']:.2f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
