"""Recipes: one file per run, with encoder, concept set, videos, settings and hardware."""

from __future__ import annotations

from pathlib import Path

from verbspace.config.settings import AdaptSettings, PositiveInt, Settings, read_config_file, validate_model


class BackboneShape(Settings):
    """Sizes of the vision tower. The cost is estimated from them, without the checkpoint."""

    width: int
    num_layers: int
    mlp_dim: int
    patch_size: int
    image_size: int
    embedding_dim: int


class Recipe(Settings):
    """One run."""

    title: str
    encoder: str  # folder or hub id of the image checkpoint
    shape: BackboneShape
    concepts: str  # bundled concept set or file
    videos: str  # folder, list or annotation file
    root: str | None = None  # folder of the videos, if the list is elsewhere
    split: str | None = None  # split of a benchmark's own lists
    num_videos: PositiveInt  # approximate; used to estimate the cost
    data: str  # what the videos are and how to place them
    hardware: str  # hardware that the settings are meant for
    choices: tuple[str, ...] = ()  # settings that are our choice because the paper does not give them
    settings: AdaptSettings


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe. A ValueError names the file and the first wrong field."""
    return validate_model(Recipe, read_config_file(Path(path)), str(path))
