"""Recipes: whole runs as files, with what they need and how long they take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError
from rich.table import Table
from rich.text import Text

from verbspace.config.settings import AdaptSettings, Settings
from verbspace.training.flops import BackboneDims, training_flops, training_seconds

# Dense bf16 matrix products as the vendors state them, operations a second, and the share of it that is reckoned with.
DEVICE_PEAK_FLOPS = {"1 × RTX 4090": 165e12, "1 × A100": 312e12, "8 × A100": 8 * 312e12, "8 × H100": 8 * 989e12}
ASSUMED_UTILIZATION = 0.4


class BackboneShape(Settings):
    """The vision tower's sizes, so that a cost can be reckoned without the checkpoint."""

    width: int
    num_layers: int
    mlp_dim: int
    patch_size: int
    image_size: int
    embedding_dim: int

    def to_dims(self) -> BackboneDims:
        """With temporal attention before every layer."""
        return BackboneDims(
            self.width, self.num_layers, self.mlp_dim, self.patch_size, self.image_size, self.num_layers, self.embedding_dim
        )  # fmt: skip


class Recipe(Settings):
    """One run. choices: the settings in it that are ours where the paper is silent."""

    title: str
    encoder: str
    shape: BackboneShape
    concepts: str
    videos: str
    root: str | None = None
    split: str | None = None
    num_videos: Annotated[int, Field(ge=1)]  # about so many videos
    data: str
    hardware: str
    choices: tuple[str, ...] = ()
    settings: AdaptSettings


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. Raises FileNotFoundError, and ValueError that names the file and the first wrong field."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such recipe")
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return Recipe.model_validate(content)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not readable as YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{path}: {field}: {first['msg']} (given: {first['input']!r})") from None


def recipe_table(recipe: Recipe) -> Table:
    """For the terminal: what it is, needs and costs."""
    table = Table(show_header=False, title=recipe.title, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    training, tower = recipe.settings.training, recipe.shape.to_dims()
    steps = training.steps or max(1, round(training.epochs * recipe.num_videos / training.batch_size))
    flops = training_flops(tower, recipe.settings)
    table.add_row("encoder", recipe.encoder)
    table.add_row("concepts", recipe.concepts)
    table.add_row("data", Text(f"{recipe.data} ({recipe.videos}, about {recipe.num_videos:,} videos)"))
    table.add_row("hardware", recipe.hardware)
    table.add_row("steps", f"{steps:,} of {training.batch_size} clips, {training.trainable}")
    table.add_row("a clip's step", f"{flops / 1e12:.2f} TFLOP")
    for name, peak in DEVICE_PEAK_FLOPS.items():
        seconds = training_seconds(tower, recipe.settings, recipe.num_videos, ASSUMED_UTILIZATION * peak)
        table.add_row(
            f"on {name}",
            f"{_format_duration(seconds)}, if loading keeps up; at {ASSUMED_UTILIZATION:.0%} of its stated peak",
        )
    for choice in recipe.choices:
        table.add_row("our choice", choice)
    return table


def _format_duration(seconds: float) -> str:
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min" if seconds >= 60 else "under a minute"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
