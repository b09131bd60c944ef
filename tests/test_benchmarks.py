"""Benchmark scripts run: what they measure is for those who run them."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_gpu_script_runs_on_a_cpu() -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "gpu.py"), "--cpu-check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for row in ("plain", "layers recomputed", "2 micro-batches", "temporal only", "temporal + LoRA"):
        assert f"| {row} | " in done.stdout
    assert "Where the time of 'plain' goes: " in done.stdout


@pytest.mark.slow
def test_the_memory_script_measures_and_computes() -> None:
    for extra in ([], ["--computed"]):
        command = [
            sys.executable,
            str(BENCHMARKS / "memory.py"),
            "--one",
            "temporal + LoRA, both",
            "--clips",
            "1",
            *extra,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert ("computed" in done.stdout) == bool(extra)


SCRIPTS = [path.name for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_say_how_they_are_run(script: str) -> None:
    assert f"python benchmarks/{script}" in (BENCHMARKS / script).read_text(encoding="utf-8")
