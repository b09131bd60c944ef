"""The settings that a saved encoder carries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig


class VideoEncoderConfig(PretrainedConfig):  # type: ignore[misc]
    """What a VideoEncoder is built from: a CLIP-family config, and where it has temporal attention.

    base: the image checkpoint's own config, as a dict with its `model_type`. temporal: whether there is
    temporal attention at all. temporal_layers: the image layers (0 is the first) that have it before
    them; None is all. temporal_heads: heads of temporal attention; None is as many as the image layers
    have. base_name: hub id or folder of the image checkpoint, "" where it is not known.
    """

    model_type = "verbspace"

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        temporal: bool = True,
        base_name: str = "",
        temporal_layers: Sequence[int] | None = None,
        temporal_heads: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.base, self.temporal, self.base_name = _strip_name_or_path(base or {}), temporal, base_name
        self.temporal_layers = None if temporal_layers is None else sorted(set(temporal_layers))
        self.temporal_heads = temporal_heads
        super().__init__(**kwargs)

    def base_config(self) -> Any:
        """The image checkpoint's config as an object. Raises ValueError where it is of no known family."""
        from verbspace.models.backbones import validate_model_type  # needs torch, which a config does without

        validate_model_type(self.base.get("model_type"), "base")
        return AutoConfig.for_model(**self.base)

    def temporal_layer_indices(self, num_layers: int) -> list[int]:
        """Which of `count` image layers have temporal attention. Raises ValueError for one that is not
        there."""
        if not self.temporal:
            return []
        if self.temporal_layers is None:
            return list(range(num_layers))
        for layer in self.temporal_layers:
            if not 0 <= layer < num_layers:
                raise ValueError(f"temporal_layers: {layer} is not a layer; the tower has 0 to {num_layers - 1}")
        return list(self.temporal_layers)


def _strip_name_or_path(config: dict[str, Any]) -> dict[str, Any]:
    """Without the folders that transformers notes; `base_name` alone says where the checkpoint came from."""
    kept = {name: value for name, value in config.items() if name != "_name_or_path"}
    return {name: _strip_name_or_path(value) if isinstance(value, dict) else value for name, value in kept.items()}


# With this, transformers' tokenizer loading takes a saved encoder's folder as it is.
AutoConfig.register(VideoEncoderConfig.model_type, VideoEncoderConfig, exist_ok=True)
