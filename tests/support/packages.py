"""Packages that are too heavy for the development environment, installed into an environment of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

VARIABLE = "VERBSPACE_TEST_VENVS"  # a folder for the environments, to keep them for the next run


def install_apart(folder: Path, *packages: str, no_deps: str | None = None) -> Path:
    """Create a virtual environment with packages, and return its Python. `no_deps` is installed after the others."""
    if VARIABLE in os.environ:
        folder = Path(os.environ[VARIABLE], "-".join(packages))
    python = folder / "bin" / "python"
    if not python.exists():
        env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, env=env)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True, env=env)
        if no_deps is not None:
            subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", no_deps], check=True, env=env)
    return python
