"""The configuration of a saved video encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig

from verbspace.models.backbones import validate_model_type


class VideoEncoderConfig(PretrainedConfig):  # type: ignore[misc]
    """Configuration of a `VideoEncoder`: the config of its image checkpoint and the layout of its temporal attention.

    Args:
        base: Config of the image checkpoint as a dict, with its `model_type`.
        temporal: Whether the encoder has temporal attention.
        base_name: Hub id or folder of the image checkpoint; "" if unknown.
        base_revision: Commit hash of the image checkpoint on the hub; None if it is not from the hub.
        temporal_layers: Indices of the image layers that temporal attention precedes. None: all layers.
        temporal_heads: Attention heads of temporal attention. None: as many as the image layers have.
        temporal_difference: Whether an encoder with temporal attention also pools frames with `TemporalDifference`.
        **kwargs: Further fields of `PretrainedConfig`.
    """

    model_type = "verbspace"

    def __init__(
        self,
        base: dict[str, Any] | None = None,
        temporal: bool = True,
        base_name: str = "",
        temporal_layers: Sequence[int] | None = None,
        temporal_heads: int | None = None,
        base_revision: str | None = None,
        temporal_difference: bool = True,
        **kwargs: Any,
    ) -> None:
        self.base = _strip_name_or_path(base or {})
        self.temporal = temporal
        self.base_name = base_name
        self.base_revision = base_revision
        self.temporal_layers = None if temporal_layers is None else sorted(set(temporal_layers))
        self.temporal_heads = temporal_heads
        self.temporal_difference = temporal_difference
        super().__init__(**kwargs)

    def base_reference(self) -> str | None:
        """Return the image checkpoint as owner/name@commit; None if its commit is unknown."""
        return f"{self.base_name}@{self.base_revision}" if self.base_revision else None

    def base_config(self) -> Any:
        """Build the config of the image checkpoint; raise ValueError if its model type is not supported."""
        validate_model_type(self.base.get("model_type"), "base")
        return AutoConfig.for_model(**self.base)

    def temporal_layer_indices(self, num_layers: int) -> list[int]:
        """List the image layers, out of `num_layers`, that temporal attention precedes.

        Raises:
            ValueError: `temporal_layers` names a layer that does not exist.
        """
        if not self.temporal:
            return []
        if self.temporal_layers is None:
            return list(range(num_layers))
        for layer in self.temporal_layers:
            if not 0 <= layer < num_layers:
                raise ValueError(f"temporal_layers: {layer} is not a layer; choose from 0 to {num_layers - 1}")
        return list(self.temporal_layers)


def _strip_name_or_path(config: dict[str, Any]) -> dict[str, Any]:
    """Remove the local paths that transformers records. `base_name` and `base_revision` refer to the checkpoint."""
    return {
        name: _strip_name_or_path(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name != "_name_or_path"
    }
