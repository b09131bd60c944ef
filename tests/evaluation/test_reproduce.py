"""All protocols of a benchmark from one embedding of each video, on a small data set in the official layout."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.benchmark_files import ucf101
from support.pages import ParsedPage
from support.small_encoders import with_random_temporal
from verbspace.cli import main
from verbspace.data import datasets
from verbspace.evaluation.benchmarks import BenchmarkConfig, evaluate_benchmark
from verbspace.evaluation.published import PUBLISHED_RESULTS, published_results
from verbspace.evaluation.reproduce import REPRODUCIBLE_BENCHMARKS, available_tasks, reproduce
from verbspace.models.video_encoder import VideoEncoder

CONFIG = BenchmarkConfig(frames=2)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ucf101(tmp_path_factory.mktemp("ucf") / "data")


@pytest.fixture(scope="module")
def adapted(tiny_clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapted") / "encoder"
    with_random_temporal(VideoEncoder.from_pretrained(tiny_clip)).save_pretrained(folder)
    return folder


def test_results_equal_those_of_the_protocols_and_each_video_is_decoded_once_per_encoder(
    root: Path, adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[Path] = Counter()
    stages: list[tuple[str, int, int]] = []
    read = datasets.read_video
    monkeypatch.setattr(datasets, "read_video", lambda path, *rest: (opened.update([path]), read(path, *rest))[1])
    found = reproduce(
        "ucf101", adapted, root, config=CONFIG, on_progress=lambda stage, done, n, _: stages.append((stage, done, n))
    )
    assert list(found.results) == ["zero-shot", "linear-probe", "knn"]
    assert found.is_adapted
    assert found.num_videos == len(opened) == 18
    assert set(opened.values()) == {2}
    assert [stage for stage in dict.fromkeys(stage for stage, _, _ in stages)] == [
        "frozen: ucf101 videos", "encoder: ucf101 videos", "evaluations",
    ]  # fmt: skip
    assert ("encoder: ucf101 videos", 18, 18) in stages
    assert stages[-1] == ("evaluations", 9, 9)
    for task, result in found.results.items():
        assert result == evaluate_benchmark(adapted, f"ucf101/{task}", root, frames=2)
        assert found.mean_top1(task)[0] == pytest.approx(100 * result.mean_and_std("frozen")[0])


def test_a_plain_clip_is_its_own_baseline(root: Path, tiny_clip: Path) -> None:
    found = reproduce("ucf101", tiny_clip, root, tasks=["knn"], config=CONFIG)
    assert not found.is_adapted
    assert list(found.results) == ["knn"]
    frozen = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    assert found.results["knn"] == evaluate_benchmark(frozen, "ucf101/knn", root, frames=2, baseline=False)
    assert found.mean_top1("knn")[1] is None
    assert found.results["knn"].folds[1].frozen is None


def test_invalid_arguments_are_errors_before_any_video_is_read(root: Path, tiny_clip: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="benchmark: 'ssv2' is not one of ucf101, hmdb51, k400, k600"):
        reproduce("ssv2", tiny_clip, root)
    with pytest.raises(ValueError, match="tasks: 'k-nn' is not one of zero-shot, linear-probe, knn, the tasks"):
        reproduce("ucf101", tiny_clip, root, tasks=["k-nn"])
    with pytest.raises(ValueError, match="tasks: none is given"):
        reproduce("ucf101", tiny_clip, root, tasks=[])
    with pytest.raises(FileNotFoundError, match="none of the annotation files"):
        reproduce("hmdb51", tiny_clip, root)
    incomplete = ucf101(tmp_path / "incomplete")
    (incomplete / "UCF-101/YoYo/v_YoYo_g01_c01.avi").unlink()
    with pytest.raises(ValueError, match="1 of 6 videos are missing"):
        reproduce("ucf101", "no/encoder-is-loaded", incomplete)


def test_a_video_that_cannot_be_read_is_logged_once(
    adapted: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = ucf101(tmp_path / "damaged")
    (damaged / "UCF-101/YoYo/v_YoYo_g01_c01.avi").write_bytes(b"no video")
    config = BenchmarkConfig(frames=2, max_missing=0.2)
    found = reproduce("ucf101", adapted, damaged, config=config)
    assert [record.message.splitlines()[0] for record in caplog.records if "left out" in record.message] == [
        "1 of 18 videos could not be read and were left out (5.6%)"
    ]
    assert found.results["zero-shot"].clip_counts() == (17, 18)


def test_published_results_are_complete_and_ordered() -> None:
    assert available_tasks("k600") == ["zero-shot"]
    for result in PUBLISHED_RESULTS:
        assert result.benchmark in REPRODUCIBLE_BENCHMARKS
        assert result.task in available_tasks(result.benchmark)
        assert result.setting
        assert result.source
        assert 0 < (result.frozen or 50) < result.top1 < 100
    assert [result.method for result in published_results("ucf101", "zero-shot")] == ["MAXI", "FROSTER", "TC-CLIP"]
    assert [result.top1 for result in published_results("hmdb51", "linear-probe")] == [69.4]


def test_command_writes_page_and_results(root: Path, adapted: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    arguments = ["reproduce", "ucf101", "--root", root, "--encoder", adapted, "--out", out, "--frames", "2"]
    outcome = CliRunner().invoke(main.app, [*map(str, arguments), "--tasks", "zero-shot, knn"])
    assert outcome.exit_code == 0, outcome.output
    assert "gain" in outcome.stdout
    assert outcome.stdout.endswith(f"{out}\n{tmp_path / 'page.json'}\n")
    written = json.loads(out.with_suffix(".json").read_text())
    assert set(written["results"]) == {"zero-shot", "knn"}
    assert {entry["method"] for entry in written["published"]} == {"MAXI", "FROSTER", "TC-CLIP"}
    assert not ParsedPage(out.read_text()).loaded_urls
    outcome = CliRunner().invoke(main.app, [*map(str, arguments[:-4]), "--out", str(tmp_path / "x.json")])
    assert "the page needs another extension" in str(outcome.exception)
