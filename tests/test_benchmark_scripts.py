"""The benchmark scripts run, and their most important ratios do not fall."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from support.video_files import numbered_frames, write_video

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
RUNNABLE = [path.name for path in sorted(BENCHMARKS.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]
# Lowest ratios, well below the measured ones, since other processes may run at the same time.
MIN_RATIOS = {
    "loading": {"SVT's data loading": 2.5, "limit: sequential decoding only": 0.5},
    "import_time": {"limit: 0.15 s in excess of Python's own start": 0.5},
}


def run_script(name: str, *options: str) -> str:
    """Run a script in a subprocess and return its standard output."""
    command = [sys.executable, str(BENCHMARKS / name), *options]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-2000:]
    return process.stdout


@pytest.fixture
def import_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripts importable, in subprocesses too."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS), prepend=":")


@pytest.mark.parametrize("script", RUNNABLE)
def test_scripts_document_their_command(script: str) -> None:
    assert f"python benchmarks/{script}" in (BENCHMARKS / script).read_text(encoding="utf-8")


@pytest.mark.usefixtures("import_benchmarks")
def test_table_in_the_docs_equals_the_stored_rows() -> None:
    from run import JSON_PATH, PAGE_PATH, SCRIPTS, TABLE_MARKERS, render_table

    results = json.loads(JSON_PATH.read_text(encoding="utf-8"))
    assert set(results) == set(SCRIPTS)
    page = PAGE_PATH.read_text(encoding="utf-8")
    assert f"{TABLE_MARKERS[0]}\n{render_table(results)}\n{TABLE_MARKERS[1]}" in page


@pytest.mark.slow
def test_gpu_script_runs_on_a_cpu() -> None:
    output = run_script("gpu.py", "--cpu-check")
    for row in ("plain", "gradient checkpointing", "2 micro-batches", "temporal only", "temporal + LoRA"):
        assert f"| {row} | " in output
    assert "Time by operation, 'plain': " in output


@pytest.mark.slow
def test_scale_script_runs() -> None:
    results = json.loads(run_script("scale.py", "--rows", "1200", "--clips", "2"))
    (index,) = results["index"]
    assert index["rows"] == 1200
    assert results["merge"]["rows"] == 1200
    clip = results["clip of 10 s, ViT-B/32"]
    assert clip["windows"] == 3
    assert clip["total, fp32, s"] > clip["model, fp32, s"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("option", [None, "--computed"])
def test_memory_script_measures_or_computes(option: str | None) -> None:
    options = ["--one", "temporal + LoRA, both", "--clips", "1", *([option] if option else [])]
    values = json.loads(run_script("memory.py", *options).splitlines()[-1])
    assert set(values) == ({"computed"} if option else {"peak", "seconds", "matmul_fraction"})
    assert all(value > 0 for value in values.values())


@pytest.mark.slow
@pytest.mark.parametrize("script", MIN_RATIOS)
def test_ratios_do_not_fall(script: str) -> None:
    rows = [json.loads(line) for line in run_script(f"{script}.py", "--rounds", "3", "--json").splitlines()]
    assert {row["against"] for row in rows} == set(MIN_RATIOS[script])
    for row in rows:
        assert statistics.median(row["ratios"]) >= MIN_RATIOS[script][row["against"]], row


@pytest.mark.slow
@pytest.mark.parametrize("job", ["timeline", "spans", "reading a list"])
def test_time_is_proportional_to_the_work(job: str) -> None:
    (line,) = run_script("growth.py", "--json", "--only", job).splitlines()
    assert json.loads(line)["exponent"] < 1.4, line


@pytest.mark.slow
def test_approximate_search_script_runs() -> None:
    assert "| a query of an approximate index of 60,000 vectors |" in run_script("ann.py", "--rows", "60000")


@pytest.mark.slow
def test_loading_script_measures_a_folder(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/a.mp4", numbered_frames(48))
    lines = run_script("loading.py", "--rounds", "1", "--json", "--videos", str(tmp_path)).splitlines()
    assert [json.loads(line)["what"] for line in lines[2:]] == 2 * ["views of clips, 1 MP4 files"]


@pytest.mark.slow
@pytest.mark.usefixtures("import_benchmarks")
def test_linear_probe_is_faster_than_scikit_learn() -> None:
    from probe import measure

    (row,) = measure(1, count=12_000, width=128, num_classes=100)  # enough rows for single precision
    assert row.median >= 1.5, row


@pytest.mark.slow
@pytest.mark.usefixtures("import_benchmarks")
def test_memory_does_not_grow_with_the_manifest() -> None:
    from memory_scaling import measure

    for row in measure(1, num_videos=5000):  # 300 MB more if every batch had memory of its own
        assert row.median >= 0.8, row


@pytest.mark.slow
@pytest.mark.usefixtures("import_benchmarks")
def test_training_step_is_not_slower_than_svt() -> None:
    from harness import SubprocessBenchmark, interleaved_timings
    from step import FOUR_LOCAL_VIEWS, make_svt_step, make_verbspace_step

    candidates = {
        "verbspace": SubprocessBenchmark(make_verbspace_step, FOUR_LOCAL_VIEWS),
        "svt": SubprocessBenchmark(make_svt_step, True),
    }
    seconds = interleaved_timings(candidates, 2, num_warmup=2)
    for candidate in candidates.values():
        candidate.close()
    assert statistics.median(b / a for a, b in zip(seconds["verbspace"], seconds["svt"], strict=True)) >= 0.9


@pytest.mark.slow
@pytest.mark.usefixtures("import_benchmarks")
def test_exact_search_is_at_most_twice_as_slow_as_a_matrix_product() -> None:
    from harness import interleaved_timings

    from verbspace.evaluation.topk import exact_topk

    bank, query = torch.randn(300_000, 256), torch.randn(1, 256)
    candidates = {"topk": lambda: exact_topk(bank, query, 10), "product": lambda: bank @ query[0]}
    seconds = interleaved_timings(candidates, 15)
    assert statistics.median(b / a for a, b in zip(seconds["topk"], seconds["product"], strict=True)) >= 0.5
