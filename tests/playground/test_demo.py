import json
import os
import shutil
import signal
import statistics
from pathlib import Path
from typing import Any

import pytest

from support.playground_files import TINY_NUM_IMAGES, TINY_SETTINGS, TINY_TRAINING, TINY_WORLD_SETTINGS
from support.training_fixtures import deterministic_metrics
from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings
from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.evaluation.order import PairMetrics
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import HELD_OUT_ACTIONS, OPPOSED_PAIRS, TRAIN_ACTIONS
from verbspace.playground.baselines import load_playground_encoder
from verbspace.playground.demo import run_demo, summarize_seeds
from verbspace.playground.evaluator import METRIC_NAMES, WorldEvaluator
from verbspace.utils.progress import ProgressCallback


def run_tiny_demo(
    world: Path, out: Path, on_progress: ProgressCallback | None = None, **options: Any
) -> dict[str, Any]:
    """Run the demo with tiny settings, in a folder with a copy of the world unless the folder exists."""
    if not out.exists():
        shutil.copytree(world, out / "world")
    return run_demo(out, settings=TINY_SETTINGS, world_settings=TINY_WORLD_SETTINGS, on_progress=on_progress, **options)


@pytest.fixture(scope="module")
def run(
    world: Path, _fast_evaluation: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any], list[Any]]:
    """A complete demo with the supervised upper bound. It has to render the probe split."""
    out = tmp_path_factory.mktemp("demo") / "run"
    shutil.copytree(world, out / "world")
    shutil.rmtree(out / "world" / "probe")
    events: list[Any] = []
    results = run_tiny_demo(world, out, lambda *event: events.append(event))
    return out, results, events


def without_timings(results: dict[str, Any], exclude: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return results without timings and without the entries of some encoders."""
    by_encoder = (*METRIC_NAMES, "order")
    return {
        key: {name: entry for name, entry in value.items() if name not in exclude} if key in by_encoder else value
        for key, value in results.items()
        if key != "seconds"
    }


def skip_order_ablation(monkeypatch: pytest.MonkeyPatch, results: dict[str, Any]) -> None:
    """Replace the slowest measurement by the results of another run."""
    sides = iter((results["order"]["frozen"], results["order"]["adapted"]) * 2)
    monkeypatch.setattr(
        WorldEvaluator, "order_metrics", lambda *_: [PairMetrics.model_validate(pair) for pair in next(sides)]
    )


def test_results_have_every_metric_of_every_encoder(run: tuple[Path, dict[str, Any], Any]) -> None:
    out, results, _ = run
    assert json.loads((out / "results.json").read_text()) == results
    assert set(results) == {*METRIC_NAMES, "order", "protocol", "seconds"}
    sizes = {"zero_shot": 40, "linear_probe": 40, "knn": 40, "held_out_actions": 8, "images": TINY_NUM_IMAGES}
    for name in METRIC_NAMES:
        assert set(results[name]) == {"frozen", "adapted", "supervised"}
        for entry in results[name].values():
            assert set(entry) == {"top1", "ci95", "seeds", "n"}
            low, high = entry["ci95"]
            assert 0 <= low <= entry["top1"] <= high <= 1
            assert entry["top1"] * entry["n"] == pytest.approx(round(entry["top1"] * entry["n"]), abs=1e-6)
            assert (entry["seeds"], entry["n"]) == ([0], sizes[name])
    assert set(results["order"]) == {"frozen", "adapted", "supervised"}
    for side in results["order"]:
        pairs = results["order"][side]
        assert [tuple(pair["actions"]) for pair in pairs] == list(OPPOSED_PAIRS)
        for pair in pairs:
            assert set(pair["zero_shot"]) == {"as filmed", "shuffled", "reversed", "single frames"}
            assert pair["n"] == 4
            assert 0 <= pair["chirality"] <= 1
    stages = ("render clips", "evaluate frozen", "adapt", "evaluate adapted", "supervised upper bound")
    assert all(results["seconds"][stage] >= 0 for stage in stages)
    assert results["seconds"]["all"] >= sum(results["seconds"][stage] for stage in stages) - 0.5


def test_protocol_describes_the_run(run: tuple[Path, dict[str, Any], Any], world: Path) -> None:
    out, results, _ = run
    protocol = results["protocol"]
    concepts = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    assert protocol["world"] == {"seed": 0, "train": 16, "probe": 40, "test": 40, "long_tail": False}
    assert protocol["concepts"]["actions"] == 16
    assert protocol["concepts"]["hash"] == concepts.hash
    assert protocol["held_out_actions"] == list(HELD_OUT_ACTIONS)
    assert AdaptSettings.model_validate(protocol["settings"]) == TINY_SETTINGS
    assert protocol["checkpoint"]["frozen"] == encoder_hash(load_playground_encoder())
    saved = VideoEncoder.from_pretrained(out / "encoder")
    assert protocol["checkpoint"]["adapted"] == encoder_hash(saved) != protocol["checkpoint"]["frozen"]
    assert saved.concept_set == concepts
    for name in ("results.json", "report.html"):  # no local paths
        assert str(out) not in (out / name).read_text()


def test_run_writes_report_metrics_and_config_and_reports_progress(run: tuple[Path, dict[str, Any], Any]) -> None:
    out, results, events = run
    page = (out / "report.html").read_text()
    for name in METRIC_NAMES:
        for side in ("frozen", "adapted", "supervised"):
            assert f"<td>{100 * results[name][side]['top1']:.1f}<small>" in page
    assert [row["step"] for row in deterministic_metrics(out)] == [1, 2, 3]
    assert [row["step"] for row in deterministic_metrics(out / "supervised-upper-bound")] == [1, 2, 3]
    assert {"loss", "loss/category", "loss/category_prior"} <= set(deterministic_metrics(out)[0])
    assert "loss/supervised" in deterministic_metrics(out / "supervised-upper-bound")[0]
    assert f"steps: {TINY_TRAINING.steps}\n" in (out / "config.yaml").read_text()
    assert [event[1:3] for event in events if event[0] == "render clips"] == [(done, 40) for done in range(1, 41)]
    assert [event[1:3] for event in events if event[0] == "adapt"] == [(1, 3), (2, 3), (3, 3)]
    assert all("loss" in event[3] for event in events if event[0] == "adapt")
    assert [event[1:3] for event in events if event[0] == "train supervised"] == [(1, 3), (2, 3), (3, 3)]
    for side in ("supervised", "adapted"):
        assert (f"evaluate {side}", 4, 4, {"top1": results["zero_shot"][side]["top1"]}) in events
    assert events[-1][:3] == ("evaluate adapted", 4, 4)
    assert not list(out.rglob("*.part"))


def test_finished_run_called_again_gives_the_same_results(
    run: tuple[Path, dict[str, Any], Any], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results, _ = run
    skip_order_ablation(monkeypatch, results)
    events: list[Any] = []
    again = run_tiny_demo(world, out, lambda *event: events.append(event), supervised_upper_bound=False)
    assert without_timings(again) == without_timings(results, exclude=("supervised",))
    assert not [event for event in events if event[0] in ("render clips", "adapt")]


@pytest.mark.parametrize(
    "by_signal", [pytest.param(True, id="signal"), pytest.param(False, id="raised", marks=pytest.mark.slow)]
)
def test_interrupted_run_resumes_to_the_same_results(
    by_signal: bool, run: tuple[Path, dict[str, Any], Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_order_ablation(monkeypatch, run[1])
    handler = signal.getsignal(signal.SIGINT)

    def stop(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if (stage, done) == ("adapt", 2):
            if not by_signal:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        run_tiny_demo(world, out, stop, supervised_upper_bound=False)
    if by_signal:
        assert str(stopped.value) == "stopped after step 2 of 3; run the same command again to resume"
    assert not (out / "results.json").exists()
    assert not (out / "encoder").exists()
    events: list[Any] = []
    results = run_tiny_demo(world, out, lambda *event: events.append(event), supervised_upper_bound=False)
    steps = [event[1] for event in events if event[0] == "adapt"]
    assert steps == ([3] if by_signal else [2, 3])
    assert without_timings(results) == without_timings(run[1], exclude=("supervised",))
    assert deterministic_metrics(out) == deterministic_metrics(run[0])
    weights = [(folder / "encoder" / "model.safetensors").read_bytes() for folder in (out, run[0])]
    assert weights[0] == weights[1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_two_seeds_add_the_standard_deviation(
    run: tuple[Path, dict[str, Any], Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_order_ablation(monkeypatch, run[1])
    out = tmp_path / "run"
    results = run_tiny_demo(world, out, num_seeds=2, supervised_upper_bound=False)
    for name in METRIC_NAMES:
        entry = results[name]["adapted"]
        assert entry["seeds"] == [0, 1]
        assert len(entry["by_seed"]) == 2
        assert entry["top1"] == pytest.approx(statistics.fmean(entry["by_seed"]))
        assert entry["std_over_seeds"] == pytest.approx(abs(entry["by_seed"][0] - entry["by_seed"][1]) / 2**0.5)
        assert entry["by_seed"][0] == run[1][name]["adapted"]["top1"]
        assert "std_over_seeds" not in results[name]["frozen"]
        assert set(results[name]) == {"frozen", "adapted"}
    assert results["protocol"]["training_seeds"] == [0, 1]
    first, second = (VideoEncoder.from_pretrained(folder / "encoder") for folder in (out, out / "seed-1"))
    assert encoder_hash(first) != encoder_hash(second)
    assert "over 2 seeds" in (out / "report.html").read_text()


def score(top1: float, low: float, high: float) -> ClassificationMetrics:
    return ClassificationMetrics(top1=top1, top5=1.0, mean_class=top1, confusion=[[1]], n=50, ci95=(low, high))


def test_summarize_seeds_computes_mean_and_standard_deviation() -> None:
    assert summarize_seeds([score(0.5, 0.4, 0.6)], [3]) == {"top1": 0.5, "ci95": [0.4, 0.6], "seeds": [3], "n": 50}
    summary = summarize_seeds([score(0.5, 0.4, 0.6), score(0.7, 0.5, 0.8), score(0.6, 0.6, 0.7)], range(3))
    assert summary["top1"] == pytest.approx(0.6)
    assert summary["ci95"] == pytest.approx([0.5, 0.7])
    assert summary["std_over_seeds"] == pytest.approx(0.1)
    assert summary["by_seed"] == [0.5, 0.7, 0.6]
    assert summary["seeds"] == [0, 1, 2]
