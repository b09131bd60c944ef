"""The folder of files that can be computed or downloaded again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir(name: str) -> Path:
    """Return folder `name` in VERBSPACE_CACHE, which defaults to `verbspace` in XDG_CACHE_HOME or `~/.cache`."""
    if folder := os.environ.get("VERBSPACE_CACHE"):
        return Path(folder) / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "verbspace" / name
