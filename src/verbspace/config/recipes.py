"""Recipes: one file per run, with encoder, concept set, videos, settings and hardware."""

from __future__ import annotations

from pathlib import Path

from verbspace.config.settings import AdaptSettings, PositiveInt, Settings, read_config_file, validate_model


class BackboneShape(Settings):
    """Sizes of the vision tower, from which the cost is estimated without the checkpoint."""

    width: int
    num_layers: int
    mlp_dim: int
    patch_size: int
    image_size: int
    embedding_dim: int


class Recipe(Settings):
    """One run.

    Attributes:
        title: Short description.
        encoder: Folder or hub id of the image checkpoint.
        shape: Sizes of its vision tower.
        concepts: Concept set: bundled name or file.
        videos: Folder, list or annotation file.
        root: Folder of the videos, if the list is elsewhere.
        split: Split of a benchmark's own lists.
        num_videos: Approximate number of videos, for the estimate.
        data: What the videos are and how to place them.
        hardware: Hardware that the settings are meant for.
        choices: Settings that are our choice because the paper does not give them.
        settings: All settings.
    """

    title: str
    encoder: str
    shape: BackboneShape
    concepts: str
    videos: str
    root: str | None = None
    split: str | None = None
    num_videos: PositiveInt
    data: str
    hardware: str
    choices: tuple[str, ...] = ()
    settings: AdaptSettings


def load_recipe(path: str | Path) -> Recipe:
    """Read a recipe.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not valid; the message names the file and the first wrong field.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: recipe not found")
    return validate_model(Recipe, read_config_file(path), str(path))
