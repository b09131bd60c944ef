"""Saved encoders known to transformers' Auto classes, without transformers being imported for it.

`import verbspace` calls `announce`: what transformers has loaded by then is told at once, the rest as soon as it is
loaded. Imports nothing but what every Python program has loaded.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

CONFIGS, MODELS = "transformers.models.auto.configuration_auto", "transformers.models.auto.modeling_auto"


def announce() -> None:
    """Register now what can be, and the rest after transformers' own modules are loaded."""
    for name in (CONFIGS, MODELS):
        module = sys.modules.get(name)
        # One that is being loaded this moment is not complete; it tells when it is, if the finder was there before.
        if module is not None and not getattr(module.__spec__, "_initializing", False):
            _register(name)
    if not any(isinstance(finder, _Afterwards) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Afterwards())


def _register(name: str) -> None:
    # Registers the config class at its end. Where it is being loaded this moment, it still comes to that.
    import verbspace.models.config as config

    if name == MODELS:
        sys.modules[MODELS].AutoModel.register(config.VideoEncoderConfig, _InItsPlace, exist_ok=True)


class _InItsPlace:
    """For AutoModel, until `verbspace.models.video_encoder` is loaded, which registers VideoEncoder itself."""

    def __new__(cls, config: Any) -> Any:
        """A VideoEncoder with fresh weights, for `AutoModel.from_config`."""
        from verbspace.models.video_encoder import VideoEncoder

        return VideoEncoder(config)

    @classmethod
    def _from_config(cls, config: Any, **options: Any) -> Any:
        from verbspace.models.video_encoder import VideoEncoder

        return VideoEncoder._from_config(config, **options)

    @classmethod
    def from_pretrained(cls, *given: Any, **options: Any) -> Any:
        from verbspace.models.video_encoder import VideoEncoder

        return VideoEncoder.from_pretrained(*given, **options)


class _Afterwards:
    """A finder that lets two modules of transformers be loaded as they are, and registers after each."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """None for all other modules, which the finders after this one find."""
        if name not in (CONFIGS, MODELS):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_register(module: ModuleType) -> None:
                run(module)
                _register(name)

            spec.loader.exec_module = run_and_register  # type: ignore[method-assign]
        return spec
