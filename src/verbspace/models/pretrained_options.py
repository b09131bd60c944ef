"""What `transformers.AutoModel` passes on, and what of it an encoder honours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

HUB_KWARGS = ("cache_dir", "force_download", "local_files_only")  # as `snapshot_download` knows them
# Passed whether anybody asked or not. Encoders need no remote code, have no adapters, and read safetensors only.
IGNORED_KWARGS = (
    "_from_auto",
    "_commit_hash",
    "trust_remote_code",
    "adapter_kwargs",
    "use_safetensors",
    "low_cpu_mem_usage",
)


@dataclass(frozen=True)
class PretrainedOptions:
    """Options of transformers' from_pretrained that hold for encoders.

    hub: for the download. dtype: to have the weights in; None, and transformers' "auto", is float32, whatever they
    were saved in. attention: "eager" or
    "sdpa" where `attn_implementation` asks for it.
    """

    hub_kwargs: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype | None = None
    attn_implementation: Literal["eager", "sdpa"] | None = None

    @classmethod
    def from_kwargs(cls, kwargs: Mapping[str, Any], config: Any = None) -> PretrainedOptions:
        """From keyword arguments and the config that they may have gone into. Raises TypeError for one that means
        nothing to an encoder, ValueError for a value that is none."""
        left = {name: value for name, value in kwargs.items() if name not in (*HUB_KWARGS, *IGNORED_KWARGS)}
        hub = {name: kwargs[name] for name in HUB_KWARGS if kwargs.get(name) is not None}
        dtypes = [left.pop(name) for name in ("dtype", "torch_dtype") if name in left]
        kernels = [left.pop("attn_implementation", None), getattr(config, "_attn_implementation", None)]
        unknown = sorted(name for name, value in left.items() if value is not None)
        if unknown:
            raise TypeError(f"{unknown[0]}: means nothing to a video encoder; leave it out")
        kernel = next((one for one in kernels if one is not None), None)
        if kernel not in (None, "eager", "sdpa"):
            raise ValueError(f'attn_implementation: {kernel!r} is none of "eager", "sdpa"')
        return cls(hub, _dtype(next((one for one in dtypes if one not in (None, "auto")), None)), kernel)


def _dtype(value: Any) -> torch.dtype | None:
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if value is not None and not isinstance(found, torch.dtype):
        raise ValueError(f"dtype: {value!r} is no type of torch; give one such as torch.bfloat16")
    return found
