"""The wheel contains all files of the package, and the demo runs from it without the source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "src" / "verbspace"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel and return its path."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(PROJECT)]
    subprocess.run(command, check=True, capture_output=True)
    [path] = out.glob("*.whl")
    return path


def test_wheel_contains_all_files_of_the_package(wheel: Path) -> None:
    files = {path.relative_to(PACKAGE.parent).as_posix() for path in PACKAGE.rglob("*") if path.is_file()}
    expected = {name for name in files if "__pycache__" not in name}
    assert expected <= set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_demo_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, program = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "verbspace"
    pip = [python, "-m", "pip", "install", "--quiet", "-c", PROJECT / "constraints.txt"]
    subprocess.run([*pip, "torch"], check=True, env=env)
    subprocess.run([*pip, wheel], check=True, env=env)
    demo = [program, "demo", "--out", "run", "--no-supervised-baseline", "--set", "training.steps=2"]
    subprocess.run(demo, check=True, cwd=tmp_path, env=env)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["zero_shot"]["adapted"]["top1"] > 0
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
