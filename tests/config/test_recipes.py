"""Recipes parse and build, and what they are said to cost is what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, make_distiller, random_views, write_clips
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.recipes import load_recipe
from verbspace.config.settings import parse_settings
from verbspace.data.sources.manifest import read_manifest
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.training.adapt import build_dataset, build_distiller, build_optimizer
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.distributed import DistributedContext
from verbspace.training.flops import BackboneDims, forward_flops, training_flops, training_seconds

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def test_the_recipes_are_there() -> None:
    assert [path.stem for path in RECIPES] == ["k400-vitb16", "k400-vitl14", "laptop", "playground", "ucf101"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_build(path: Path, tiny_clip: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert ConceptSet.load(recipe.concepts).actions
    assert f"--recipe recipes/{path.name}" in path.read_text()
    training = recipe.settings.training
    assert training.batch_size % training.gradient_accumulation_steps == 0
    # Everything but the checkpoint, which is a small one here.
    start = VideoEncoder.from_pretrained(tiny_clip)
    learner = build_distiller(start, make_concept_set(), recipe.settings, torch.device("cpu"))
    assert build_optimizer(learner.student, recipe.settings).param_groups
    sizes = {"global_size": 32, "local_size": 16}
    settings = recipe.settings.model_copy(update={"views": recipe.settings.views.model_copy(update=sizes)})
    item = build_dataset(read_manifest(write_clips(tmp_path, 2)), start, make_concept_set(), settings)[0]
    assert item["global"].shape[:2] == (recipe.settings.views.global_views, recipe.settings.views.global_frames)
    patch = recipe.shape.patch_size
    assert (recipe.settings.views.local_size or patch) % patch == 0
    # Eight processes have a clip for each micro-batch, where eight are spoken of.
    if "nproc-per-node 8" in path.read_text():
        assert training.batch_size >= 8 * training.gradient_accumulation_steps
    shown = CliRunner().invoke(main.app, ["recipe", str(path)], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "at 40% of its stated peak" in shown.output


def test_the_playground_is_the_demos() -> None:
    assert load_recipe(RECIPES[3]).settings == PLAYGROUND_SETTINGS


def test_a_recipe_runs_with_what_is_given_beside_it(tiny_clip: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos", 4)
    make_concept_set().save(tmp_path / "words.json")
    given = ["adapt", "--recipe", RECIPES[3], "--encoder", tiny_clip, "--videos", videos, "--out", tmp_path / "run"]
    given += ["--concepts", tmp_path / "words.json", "--set", "training.steps=1", "--set", "training.batch_size=2"]
    found = CliRunner().invoke(main.app, [*map(str, given), "--set", "views.local_size=16"])
    assert found.exit_code == 0, found.output
    assert [state.name for state in list_checkpoints(tmp_path / "run/state")] == ["step-000001"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("title: x\n", r"a\.yaml: encoder: Field required"),
        ("{", r"a\.yaml: not readable as YAML"),
        (RECIPES[3].read_text().replace("steps: 200", "stepps: 200"), r"a\.yaml: settings\.training\.stepps: Extra"),
    ],
)
def test_mistakes_name_file_and_field(text: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=why):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError, match="there is no such recipe"):
        load_recipe(tmp_path / "b.yaml")


def test_something_must_be_given() -> None:
    found = CliRunner().invoke(main.app, ["adapt", "--out", "x"])
    assert "give --encoder, --videos and --concepts, or a --recipe that has them" in str(found.exception)


def test_a_forward_costs_what_is_counted(tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    tower = BackboneDims.from_config(encoder.base.config)
    for frames in (2, 8):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            encoder(torch.zeros(1, frames, 3, 32, 32))
        found = forward_flops(tower, frames, 32)
        assert found.spatial + found.temporal == pytest.approx(counter.get_total_flops(), rel=1e-6)


@pytest.mark.parametrize(
    "how", [{}, {"train": "temporal"}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2}], ids=str
)
def test_a_step_costs_what_is_counted(tiny_clip: Path, how: dict[str, object]) -> None:
    from verbspace.training.grad_cache import GradCacheStep

    views = {"global_frames": 4, "local_views": 1, "local_frames": 2, "local_size": 16}
    settings = parse_settings({"views": views, "training": how})
    learner = make_distiller(tiny_clip)
    learner.train()
    learner.teacher.eval()
    learner.student.gradient_checkpointing = settings.training.gradient_checkpointing
    if settings.training.trainable == "temporal":
        for parameter in learner.student.spatial_parameters():
            parameter.requires_grad_(False)
    backward = GradCacheStep(
        learner, DistributedContext(), gradient_accumulation_steps=settings.training.gradient_accumulation_steps
    )
    with FlopCounterMode(display=False) as counter:
        backward(random_views(0, num_clips=2), learner.init_state(), lambda: torch.autocast("cpu", enabled=False), [2])
    expected = 2 * training_flops(BackboneDims.from_config(learner.student.base.config), settings)
    # Not in the formula: the losses, layers before which nothing is trained, and that recomputing a layer stops when
    # the last tensor that is needed is there.
    assert expected == pytest.approx(counter.get_total_flops(), rel=0.1)


def test_a_run_takes_its_steps_at_the_rate() -> None:
    tower = BackboneDims(768, 12, 3072, 16, 224, 12, 512)
    settings = parse_settings({"training": {"epochs": 2, "batch_size": 10}})
    assert training_seconds(tower, settings, 100, 1e12) == pytest.approx(200 * training_flops(tower, settings) / 1e12)
    # By hand, ViT-B/16 at 224: 17.6 G multiply-adds an image is the figure in every table.
    assert forward_flops(tower, 1, 224).spatial / 2e9 == pytest.approx(17.58, abs=0.05)
