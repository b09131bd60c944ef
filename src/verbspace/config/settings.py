"""Typed settings. An unknown key is an error, and every default stands beside its unit.

Rates, temperatures and augmentation are those that were best on validation clips of the playground.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PositiveFloat = Annotated[float, Field(gt=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]


class Settings(BaseModel):
    """A frozen group of settings that accepts no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ViewSettings(Settings):
    """The views cut from one decode of a video. Sizes in pixels, windows as shares of the clip's duration."""

    global_views: Annotated[int, Field(ge=1)] = 2
    global_frames: Annotated[int, Field(ge=1)] = 8
    global_size: int | None = None  # None: the encoder's own image size
    global_clip_fraction: tuple[UnitInterval, UnitInterval] = (0.6, 1.0)
    global_scale: tuple[UnitInterval, UnitInterval] = (0.65, 1.0)
    local_views: Annotated[int, Field(ge=0)] = 8
    local_frames: Annotated[int, Field(ge=1)] = 8
    local_size: int | None = None  # None: 3/7 of the global size, rounded to whole patches (96 for 224)
    local_clip_fraction: tuple[UnitInterval, UnitInterval] = (0.2, 0.5)
    local_scale: tuple[UnitInterval, UnitInterval] = (0.3, 0.8)
    flip_prob: UnitInterval = 0.5  # never applied to a directional concept set
    brightness: Annotated[float, Field(ge=0)] = 0.3
    contrast: Annotated[float, Field(ge=0)] = 0.3
    saturation: Annotated[float, Field(ge=0)] = 0.2
    grayscale_prob: UnitInterval = 0.1
    blur_prob: UnitInterval = 0.1
    decoder: Literal["pyav", "torchcodec"] = "pyav"  # torchcodec where it is right, PyAV elsewhere

    @model_validator(mode="after")
    def _check_view_counts(self) -> ViewSettings:
        if self.global_views + self.local_views < 2:
            raise ValueError("there must be at least two views, for each teaches another")
        return self

    @field_validator("global_clip_fraction", "local_clip_fraction")
    @classmethod
    def _check_clip_fraction(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give two fractions of the duration, 0 < low <= high <= 1")
        return value

    def resolve(self, image_size: int, patch_size: int, *, directional: bool = False) -> ViewSettings:
        """Fill in the settings that depend on the encoder and the concept set.

        Args:
            image_size: Image size of the encoder, in pixels. Replaces a `global_size` of None.
            patch_size: Patch size of the encoder, in pixels. A `local_size` of None becomes 3/7 of the global size,
                rounded to whole patches (96 for 224).
            directional: Whether left and right carry meaning in the concept set. If so, views are never flipped.

        Returns:
            A copy in which both sizes are set.
        """
        size = self.global_size or image_size
        local_size = self.local_size or max(patch_size, round(size * 3 / 7 / patch_size) * patch_size)
        flip_prob = 0.0 if directional else self.flip_prob
        return self.model_copy(update={"global_size": size, "local_size": local_size, "flip_prob": flip_prob})


class LossSettings(Settings):
    """Weights of the losses, temperatures on cosines, and what keeps the space from collapsing."""

    category: Annotated[float, Field(ge=0)] = 1.0
    description: Annotated[float, Field(ge=0)] = 0.5
    alignment: Annotated[float, Field(ge=0)] = 0.5
    category_prior: Annotated[float, Field(ge=0)] = 1.0
    description_prior: Annotated[float, Field(ge=0)] = 0.5
    student_temperature: PositiveFloat = 0.1
    teacher_temperature: PositiveFloat = 0.04
    centering: bool = False
    center_momentum: UnitInterval = 0.9
    prior_momentum: UnitInterval = 0.9
    prior_margin: Annotated[float, Field(ge=0)] = 0.0  # nats
    class_prior: dict[str, PositiveFloat] | None = None  # a known class distribution in place of the uniform prior


class TrainSettings(Settings):
    """The training loop. Rates are per step at the given batch size; nothing is rescaled behind your back."""

    steps: Annotated[int, Field(ge=1)] | None = None  # None: from epochs
    epochs: PositiveFloat = 20
    batch_size: Annotated[int, Field(ge=1)] = 32  # clips
    learning_rate: PositiveFloat = 2e-4
    temporal_lr_multiplier: PositiveFloat = 4.5  # multiplies the learning rate of temporal attention
    warmup_fraction: UnitInterval = 0.1  # share of all steps
    weight_decay: tuple[float, float] = (0.04, 0.1)
    teacher_momentum: tuple[UnitInterval, UnitInterval] = (0.98, 0.995)
    max_grad_norm: PositiveFloat = 3.0
    adam_eps: PositiveFloat = 1e-8
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = (
        1  # micro-batches; the gradient stays that of the whole batch
    )
    trainable: Literal["full", "temporal", "temporal+lora"] = "full"
    lora_rank: Annotated[int, Field(ge=1)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    dtype: Literal["bf16", "fp32"] = "bf16"
    device: str | None = None  # None: CUDA where there is one, else the CPU
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile of both encoders
    distributed_strategy: Literal["ddp", "fsdp"] = "ddp"  # over several processes: whole copies, or spread parameters
    seed: int = 0
    num_workers: Annotated[int, Field(ge=0)] = 0
    frame_cache_mb: Annotated[int, Field(ge=0)] = 0  # decoded frames kept in memory
    log_interval: Annotated[int, Field(ge=1)] = 10  # steps
    save_interval: Annotated[int, Field(ge=1)] = 200  # steps
    save_total_limit: Annotated[int, Field(ge=1)] = 1
    val_interval: Annotated[int, Field(ge=1)] = 200  # steps between zero-shot checks, where labelled videos are given
    validation_tolerance: UnitInterval = 0.05  # a run that falls so far below frozen CLIP in a check is stopped


class AdaptSettings(Settings):
    """Everything that `verbspace adapt` can be told, but the encoder, the videos and the concepts."""

    views: ViewSettings = ViewSettings()
    losses: LossSettings = LossSettings()
    training: TrainSettings = TrainSettings()
    export_alpha: UnitInterval = 0.7  # share of the adapted weights in the exported encoder; the rest is CLIP's


def load_settings(path: str | Path) -> AdaptSettings:
    """Read settings from a YAML or TOML file. Raises ValueError that names the file and the field."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: there is no such settings file")
    try:
        if path.suffix == ".toml":
            import tomllib

            content: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not readable as {path.suffix.lstrip('.') or 'YAML'}: {error}") from None
    return parse_settings(content, str(path))


def parse_settings(content: Any, source: str = "settings") -> AdaptSettings:
    """A nested mapping to settings. Raises ValueError that names the source and the first wrong field."""
    try:
        return AdaptSettings.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(f"{source}: {field}: {first['msg']} (given: {first['input']!r})") from None


def dump_settings(settings: AdaptSettings) -> str:
    """Settings as YAML, for the run's `config.yaml`."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))
