"""Recipes parse, build and run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from support.training_fixtures import make_concept_set, write_clips
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.recipes import load_recipe
from verbspace.data.sources.manifest import read_manifest
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.training.adapt import build_dataset, build_distiller
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.loss_scales import resolve_loss_scales
from verbspace.training.optimizer import build_optimizer

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


def test_the_recipes_exist() -> None:
    assert [path.stem for path in RECIPES] == ["k400-vitb16", "k400-vitl14", "laptop", "playground", "ucf101"]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_parse_and_build(path: Path, tiny_clip: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    assert ConceptSet.load(recipe.concepts).actions
    assert f"--recipe recipes/{path.name}" in path.read_text()
    training = recipe.settings.training
    assert training.batch_size % training.gradient_accumulation_steps == 0
    # Everything except the checkpoint, which is a small one here.
    start = VideoEncoder.from_pretrained(tiny_clip)
    scales = resolve_loss_scales(recipe.settings.losses, {"category": 0.02, "description": 0.02})
    space = start.build_concept_space(make_concept_set())
    distiller = build_distiller(start, space, recipe.settings, torch.device("cpu"), scales)
    assert build_optimizer(distiller.student, training).param_groups
    sizes = {"global_size": 32, "local_size": 16}
    settings = recipe.settings.model_copy(update={"views": recipe.settings.views.model_copy(update=sizes)})
    item = build_dataset(read_manifest(write_clips(tmp_path, 2)), start, make_concept_set(), settings)[0]
    assert item["global"].shape[:2] == (recipe.settings.views.global_views, recipe.settings.views.global_frames)
    patch = recipe.shape.patch_size
    assert (recipe.settings.views.local_size or patch) % patch == 0
    # If the recipe shows a command for eight processes, each has a clip for every micro-batch.
    if "nproc-per-node 8" in path.read_text():
        assert training.batch_size >= 8 * training.gradient_accumulation_steps


def test_show_recipe_prints_the_estimated_duration() -> None:
    shown = CliRunner().invoke(main.app, ["show-recipe", str(RECIPES[3])], env={"COLUMNS": "200"})
    assert shown.exit_code == 0
    assert "40% of the stated peak" in shown.output
    assert re.search(
        r"on this machine .* (under a minute|min|h|days) \((cpu|.*GPU.*|NVIDIA.*); estimate: ", shown.output
    )


def test_the_playground_recipe_equals_the_demo() -> None:
    assert load_recipe(RECIPES[3]).settings == PLAYGROUND_SETTINGS


def test_options_override_a_recipe(tiny_clip: Path, tmp_path: Path) -> None:
    videos = write_clips(tmp_path / "videos", 4)
    make_concept_set().save(tmp_path / "words.json")
    arguments = ["adapt", "--recipe", RECIPES[3], "--encoder", tiny_clip, "--videos", videos, "--out", tmp_path / "run"]
    arguments += ["--concepts", tmp_path / "words.json", "--set", "training.steps=1", "--set", "training.batch_size=2"]
    result = CliRunner().invoke(main.app, [*map(str, arguments), "--set", "views.local_size=16"])
    assert result.exit_code == 0, result.output
    assert [path.name for path in list_checkpoints(tmp_path / "run/state")] == ["step-000001"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("title: x\n", r"a\.yaml: encoder: Field required"),
        ("{", r"a\.yaml: not valid YAML"),
        (
            RECIPES[3].read_text().replace("steps: 200", "stepps: 200"),
            r"a\.yaml: settings\.training\.stepps: there is no such setting .*did you mean settings\.training\.steps\?",
        ),
    ],
)
def test_errors_name_file_and_field(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_recipe(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml: file not found"):
        load_recipe(tmp_path / "b.yaml")


def test_adapt_without_encoder_or_recipe_is_an_error() -> None:
    result = CliRunner().invoke(main.app, ["adapt", "--out", "x"])
    assert "give --encoder, --videos and --concepts, or a --recipe that has them" in str(result.exception)
