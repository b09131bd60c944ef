"""Validation of the keyword arguments of `from_pretrained`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only")  # arguments of `snapshot_download`
# `transformers.AutoModel` may pass these. They have no effect on a video encoder, which runs no remote code, has no
# adapters and reads only safetensors.
IGNORED_KWARGS = (
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
    "trust_remote_code",
    "adapter_kwargs",
    "use_safetensors",
    "low_cpu_mem_usage",
)


@dataclass(frozen=True)
class PretrainedOptions:
    """The options of transformers' `from_pretrained` that a video encoder supports.

    Attributes:
        hub_kwargs: Options of the download from the hub.
        dtype: Dtype of the loaded weights. None, or "auto" in transformers: float32.
        attn_implementation: The requested attention kernel, if any.
    """

    hub_kwargs: dict[str, Any]
    dtype: torch.dtype | None
    attn_implementation: Literal["eager", "sdpa"] | None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], config: Any = None) -> PretrainedOptions:
        """Read the options from keyword arguments, and from the config into which `AutoModel` moves some of them.

        Raises:
            TypeError: An option is not supported.
            ValueError: An option has an invalid value.
        """
        given = {name: value for name, value in kwargs.items() if value is not None and name not in IGNORED_KWARGS}
        hub_kwargs = {name: given.pop(name) for name in HUB_KWARGS if name in given}
        dtypes = [given.pop(name) for name in ("dtype", "torch_dtype") if name in given]
        attention = given.pop("attn_implementation", None) or getattr(config, "_attn_implementation", None)
        if given:
            raise TypeError(f"{min(given)}: not supported by VideoEncoder.from_pretrained; remove it")
        if attention not in (None, "eager", "sdpa"):
            raise ValueError(f'attn_implementation: {attention!r} is not supported; use "eager" or "sdpa"')
        dtype = next((_parse_dtype(value) for value in dtypes if value != "auto"), None)
        return cls(hub_kwargs, dtype, attention)


def _parse_dtype(value: Any) -> torch.dtype:
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"dtype: {value!r} is not a torch dtype; use one such as torch.bfloat16")
    return dtype
