"""Typed settings. Unknown keys are errors.

What depends on the checkpoint (temperatures, weights of the priors, learning rates, view sizes) is None: it is measured
or follows from the checkpoint's sizes. The defaults of augmentation were chosen on validation clips of the playground.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
UnitInterval = Annotated[float, Field(ge=0, le=1)]
S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """A frozen group of settings that rejects unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ViewSettings(Settings):
    """The views taken from one decode of a video.

    Sizes are in pixels, clip lengths are fractions of the video's duration (of `max_clip_seconds` if the video is
    longer), scales are fractions of the frame's area.
    """

    global_views: PositiveInt = 2
    global_frames: PositiveInt = 8
    global_size: int | None = None  # None: the encoder's image size
    global_clip_fraction: tuple[UnitInterval, UnitInterval] = (0.6, 1.0)
    global_scale: tuple[UnitInterval, UnitInterval] = (0.65, 1.0)
    local_views: NonNegativeInt = 8
    local_frames: PositiveInt = 8
    local_size: int | None = None  # None: see `resolve`
    local_clip_fraction: tuple[UnitInterval, UnitInterval] = (0.2, 0.5)
    local_scale: tuple[UnitInterval, UnitInterval] = (0.3, 0.8)
    # All views of a longer video come from one random interval of this many seconds. None: from the whole video.
    max_clip_seconds: PositiveFloat | None = None
    flip_prob: UnitInterval = 0.5  # ignored for a directional concept set, which is never flipped
    brightness: NonNegativeFloat = 0.3
    contrast: NonNegativeFloat = 0.3
    saturation: NonNegativeFloat = 0.2
    grayscale_prob: UnitInterval = 0.1
    blur_prob: UnitInterval = 0.1
    decoder: Literal["pyav", "torchcodec"] = "pyav"  # torchcodec: PyAV is still used for files that it misreads

    @model_validator(mode="after")
    def _check_view_counts(self) -> ViewSettings:
        if self.global_views + self.local_views < 2:
            raise ValueError("at least two views are needed; raise global_views or local_views")
        return self

    @field_validator("global_clip_fraction", "local_clip_fraction")
    @classmethod
    def _check_clip_fraction(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("give two fractions of the duration, 0 < low <= high <= 1")
        return value

    def resolve(self, image_size: int, patch_size: int, *, directional: bool = False) -> ViewSettings:
        """Fill in the settings that depend on the encoder and the concept set.

        A `global_size` of None becomes `image_size`. A `local_size` of None becomes 3/7 of the global size, rounded to
        whole patches (96 for 224). Views of a directional concept set, in which left and right carry meaning, are never
        flipped.
        """
        size = self.global_size or image_size
        local_size = self.local_size or max(patch_size, round(size * 3 / 7 / patch_size) * patch_size)
        flip_prob = 0.0 if directional else self.flip_prob
        return self.model_copy(update={"global_size": size, "local_size": local_size, "flip_prob": flip_prob})


class LossSettings(Settings):
    """Weights of the losses, temperatures, and the prior against collapse."""

    # Weights; a loss of weight zero is not computed.
    category: NonNegativeFloat = 1.0
    description: NonNegativeFloat = 0.0
    alignment: NonNegativeFloat = 0.0
    # What the teacher's scores of the actions are made of, see `training.targets`.
    consensus: UnitInterval = 0.5  # share of the descriptions, as against the names of the actions
    order: NonNegativeFloat = 0.7  # weight of the order of phases, in units of the spread of the scores
    same_view: bool = True  # the teacher's scores of a view are also a target for the student on the same view
    category_prior: NonNegativeFloat | None = None  # None: from the temperatures, see `training.loss_scales`
    description_prior: NonNegativeFloat | None = None
    # Temperatures divide cosines. None: from the spread of the frozen encoder's cosines, see `training.loss_scales`
    student_temperature: PositiveFloat | None = None
    teacher_temperature: PositiveFloat | None = None
    centering: bool = False  # subtract the running mean of the teacher's similarities, as DINO does
    center_momentum: UnitInterval = 0.9
    prior_momentum: UnitInterval = 0.9
    prior_margin: NonNegativeFloat = 0.0  # divergence from the prior that costs nothing, in nats
    class_prior: dict[str, PositiveFloat] | None = None  # expected frequency per action; None: uniform


class TrainSettings(Settings):
    """The training loop. A learning rate that is set is not rescaled with the batch size."""

    steps: PositiveInt | None = None  # None: computed from epochs
    epochs: PositiveFloat = 20
    batch_size: PositiveInt = 32  # clips, over all processes
    learning_rate: PositiveFloat | None = None  # of pretrained weights; None: from width and batch size
    temporal_lr_multiplier: PositiveFloat = 4.5  # of temporal attention and LoRA adapters, which are new
    warmup_fraction: UnitInterval = 0.1  # of all steps
    weight_decay: tuple[float, float] = (0.04, 0.1)  # at the first and last step
    teacher_momentum: tuple[UnitInterval, UnitInterval] = (0.98, 0.995)  # at the first and last step
    max_grad_norm: PositiveFloat = 3.0
    adam_eps: PositiveFloat = 1e-8
    gradient_accumulation_steps: PositiveInt = 1  # micro-batches; gradients stay exact for the whole batch
    trainable: Literal["full", "temporal", "temporal+lora"] = "full"
    lora_rank: PositiveInt = 16
    lora_alpha: PositiveInt = 32
    dtype: Literal["auto", "bf16", "fp32"] = "auto"  # auto: bf16 if the device has instructions for it, else fp32
    device: str | None = None  # None: CUDA if available, else the CPU
    gradient_checkpointing: bool = False
    compile: bool = False  # torch.compile of both encoders
    distributed_strategy: Literal["ddp", "fsdp"] = "ddp"
    seed: int = 0
    num_workers: NonNegativeInt = 0
    frame_cache_mb: NonNegativeInt = 0  # memory for decoded frames, in MiB
    log_interval: PositiveInt = 10  # steps
    save_interval: PositiveInt = 200  # steps
    save_total_limit: PositiveInt = 1  # checkpoints to keep
    val_interval: PositiveInt = 200  # steps between validations, if there are validation videos
    validation_tolerance: UnitInterval = 0.05  # drop of zero-shot top-1 in validation that stops the run

    def num_steps(self, num_videos: int) -> int:
        """Return `steps`, or the number of steps of `epochs` passes over `num_videos` videos."""
        return self.steps or max(1, round(self.epochs * num_videos / self.batch_size))


# The losses of language-tied self-supervision (LSS) in their plain form.
LSS_LOSSES = {"description": 0.5, "alignment": 0.5, "consensus": 0.0, "order": 0.0, "same_view": False}


class AdaptSettings(Settings):
    """All settings of `verbspace adapt`, except the encoder, the videos and the concept set.

    With `method: lss`, losses that are not set are those of `LSS_LOSSES`, and the encoder has no temporal difference.
    """

    method: Literal["verbspace", "lss"] = "verbspace"
    views: ViewSettings = ViewSettings()
    losses: LossSettings = LossSettings()
    training: TrainSettings = TrainSettings()
    export_alpha: UnitInterval = 0.7  # 0: the initial encoder is exported; 1: the adapted one

    @model_validator(mode="before")
    @classmethod
    def _fill_in_method(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("method") != "lss":
            return content
        losses = content.get("losses", {})
        if isinstance(losses, LossSettings):
            losses = losses.model_dump(exclude_unset=True)
        return {**content, "losses": {**LSS_LOSSES, **losses} if isinstance(losses, dict) else losses}


# Fields of TrainSettings that may change when a run resumes. `steps` and `epochs` are compared as the number of steps.
NON_AFFECTING_FIELDS = {
    "steps", "epochs", "device", "num_workers", "frame_cache_mb", "log_interval", "save_interval", "save_total_limit",
    "gradient_checkpointing", "gradient_accumulation_steps", "compile", "distributed_strategy", "val_interval",
    "validation_tolerance",
}  # fmt: skip


def result_affecting_settings(settings: AdaptSettings) -> dict[str, Any]:
    """Return the settings that affect training, by dotted name. They must be the same when a run resumes.

    The method is not one of them: it decides only on the losses, which are, and on the encoder.
    """
    groups = settings.model_dump(
        mode="json", exclude={"method": True, "export_alpha": True, "training": NON_AFFECTING_FIELDS}
    )
    return {f"{group}.{key}": value for group, fields in groups.items() for key, value in fields.items()}


def load_settings(path: str | Path) -> AdaptSettings:
    """Read settings from a YAML or TOML file. A ValueError names the file and the first wrong field."""
    return parse_settings(read_config_file(Path(path)), str(path))


def parse_settings(content: Any, source: str = "settings") -> AdaptSettings:
    """Validate a nested mapping. A ValueError names `source` and the first wrong field."""
    return validate_model(AdaptSettings, content, source)


def dump_settings(settings: AdaptSettings) -> str:
    """Return settings as YAML, for the run's `config.yaml`."""
    return str(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))


def read_config_file(path: Path) -> Any:
    """Read a YAML or TOML file; an empty one is an empty mapping.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file does not parse.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: file not found")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            import tomllib

            return tomllib.loads(text)
        return yaml.safe_load(text) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: not valid {'TOML' if path.suffix == '.toml' else 'YAML'}: {error}") from None


def validate_model(model: type[S], content: Any, source: str) -> S:
    """Validate content with a pydantic model. A ValueError names `source`, the first wrong field and its value."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "top level"
        if first["type"] == "extra_forbidden":
            advice = suggest_setting(field, model)
            raise ValueError(
                f"{source}: {field}: there is no such setting (given: {first['input']!r}){advice}"
            ) from None
        raise ValueError(f"{source}: {field}: {first['msg']} (given: {first['input']!r})") from None


def suggest_setting(name: str, model: type[BaseModel]) -> str:
    """Return "; did you mean …?" with the setting of a model whose dotted name is most like `name`, or ""."""
    names = _setting_names(model)
    same_key = [known for known in names if known.rpartition(".")[2] == name.rpartition(".")[2]]
    close = difflib.get_close_matches(name, names, 1) or same_key
    return f"; did you mean {close[0]}?" if close else ""


def _setting_names(model: type[BaseModel]) -> list[str]:
    names: list[str] = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        is_group = isinstance(kind, type) and issubclass(kind, BaseModel)
        names += [f"{name}.{key}" for key in _setting_names(kind)] if is_group else [name]  # type: ignore[arg-type]
    return names
