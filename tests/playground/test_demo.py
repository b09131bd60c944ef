import json
import os
import shutil
import signal
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from support.playground_files import TINY_WORLD_SETTINGS, tiny_world
from support.training_fixtures import deterministic_metrics
from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.space import ConceptSpace
from verbspace.config.settings import AdaptSettings
from verbspace.data.dataloader import load_views
from verbspace.evaluation.linear_probe import linear_probe
from verbspace.evaluation.metrics import ClassificationMetrics
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground import demo
from verbspace.playground.actions import ACTIONS, HELD_OUT_ACTIONS, TRAIN_ACTIONS
from verbspace.playground.demo import (
    METRIC_NAMES,
    PLAYGROUND_SETTINGS,
    WorldEvaluator,
    playground_encoder,
    run_demo,
    summarize_seeds,
    train_records,
)
from verbspace.playground.supervised import SupervisedMethod, train_supervised_upper_bound
from verbspace.training.adapt import build_dataset, build_distiller

TRAINING = PLAYGROUND_SETTINGS.training.model_copy(
    update={"steps": 3, "batch_size": 4, "log_interval": 1, "save_interval": 1, "learning_rate": 1e-3}
)
SETTINGS = PLAYGROUND_SETTINGS.model_copy(update={"training": TRAINING})
STILLS = 60


@pytest.fixture(scope="module", autouse=True)
def _small_measures() -> Iterator[None]:
    """Fewer stills, and one C for the linear probe: the full sweep takes ten seconds a measure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "NUM_IMAGES", STILLS)
        patch.setattr(demo, "linear_probe", partial(linear_probe, Cs=(1.0,)))
        yield


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory)


@pytest.fixture(scope="module")
def yardstick(world: Path) -> WorldEvaluator:
    return WorldEvaluator(world, 48)


Say = Callable[[str, int, int, dict[str, float]], None]


def quiet(stage: str, done: int, total: int, values: dict[str, float]) -> None:
    pass


def demonstrate(world: Path, out: Path, say: Say = quiet, **options: Any) -> dict[str, Any]:
    """run_demo in a folder where that world is filmed already, which is let be where the folder is there."""
    if not out.exists():
        shutil.copytree(world, out / "world")
    return run_demo(
        out, settings=options.pop("settings", SETTINGS), world_settings=TINY_WORLD_SETTINGS, on_progress=say, **options
    )


@pytest.fixture(scope="module")
def run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any], list[Any]]:
    """A whole demo with the oracle; its probe split it has to film itself."""
    out = tmp_path_factory.mktemp("demo") / "run"
    shutil.copytree(world, out / "world")
    shutil.rmtree(out / "world" / "probe")
    told: list[Any] = []
    results = demonstrate(world, out, lambda *event: told.append(event))
    return out, results, told


def lasting(results: dict[str, Any], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """Results without what differs from run to run: times, and the entries named."""
    kept = {key: value for key, value in results.items() if key != "seconds"}
    sided = (*METRIC_NAMES, "order")
    return {k: {s: e for s, e in v.items() if s not in but} if k in sided else v for k, v in kept.items()}


def without_order(monkeypatch: pytest.MonkeyPatch, results: dict[str, Any]) -> None:
    """Spare a run the measure that takes longest."""
    sides = iter((results["order"]["frozen"], results["order"]["adapted"]) * 2)
    monkeypatch.setattr(WorldEvaluator, "temporal_order_ablation", lambda *_: next(sides))


# What a run leaves.


def test_results_hold_every_measure_of_every_side(run: tuple[Path, dict[str, Any], Any]) -> None:
    out, results, _ = run
    assert json.loads((out / "results.json").read_text()) == results
    assert set(results) == {*METRIC_NAMES, "order", "protocol", "seconds"}
    sizes = {"zero_shot": 40, "linear_probe": 40, "knn": 40, "reserved_actions": 8, "stills": STILLS}
    for name in METRIC_NAMES:
        assert set(results[name]) == {"frozen", "adapted", "oracle"}
        for entry in results[name].values():
            assert set(entry) == {"top1", "ci95", "seeds", "n"}
            low, high = entry["ci95"]
            assert 0 <= low <= entry["top1"] <= high <= 1
            assert entry["top1"] * entry["n"] == pytest.approx(round(entry["top1"] * entry["n"]), abs=1e-6)
            assert (entry["seeds"], entry["n"]) == ([0], sizes[name])
    assert set(results["order"]) == {"frozen", "adapted", "oracle"}
    for side in results["order"]:
        for part in ("all", "ordered"):
            assert set(results["order"][side][part]) == {"as filmed", "shuffled", "reversed", "single frames"}
        assert results["order"][side]["all"]["as filmed"] == pytest.approx(results["zero_shot"][side]["top1"])
    stages = ("film the world", "measure frozen", "adapt", "measure adapted", "supervised oracle")
    assert all(results["seconds"][stage] >= 0 for stage in stages)
    assert results["seconds"]["all"] >= sum(results["seconds"][stage] for stage in stages) - 0.5


def test_the_protocol_says_what_was_done(run: tuple[Path, dict[str, Any], Any], world: Path) -> None:
    out, results, _ = run
    protocol = results["protocol"]
    vocabulary = ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    assert protocol["world"] == {"seed": 0, "train": 16, "probe": 40, "test": 40, "long_tail": False}
    assert protocol["vocabulary"]["actions"] == 16
    assert protocol["vocabulary"]["hash"] == vocabulary.hash
    assert protocol["reserved"] == list(HELD_OUT_ACTIONS)
    assert AdaptSettings.model_validate(protocol["settings"]) == SETTINGS
    assert protocol["checkpoint"]["frozen"] == encoder_hash(playground_encoder())
    saved = VideoEncoder.from_pretrained(out / "encoder")
    assert protocol["checkpoint"]["adapted"] == encoder_hash(saved) != protocol["checkpoint"]["frozen"]
    assert saved.concept_set == vocabulary
    for name in ("results.json", "report.html"):  # shared as they are: nothing of the machine's folders in them
        assert str(out) not in (out / name).read_text()


def test_a_run_leaves_report_log_and_settings_and_tells_how_far_it_is(run: tuple[Path, dict[str, Any], Any]) -> None:
    out, results, told = run
    page = (out / "report.html").read_text()
    for name in METRIC_NAMES:
        for side in ("frozen", "adapted", "oracle"):
            assert f"<td>{100 * results[name][side]['top1']:.1f}<small>" in page
    assert [row["step"] for row in deterministic_metrics(out)] == [1, 2, 3]
    assert [row["step"] for row in deterministic_metrics(out / "oracle")] == [1, 2, 3]
    assert {"loss", "loss/category", "loss/description", "loss/alignment"} <= set(deterministic_metrics(out)[0])
    assert "loss/supervised" in deterministic_metrics(out / "oracle")[0]
    assert f"steps: {TRAINING.steps}\n" in (out / "config.yaml").read_text()
    assert [event[1:3] for event in told if event[0] == "film"] == [(done, 40) for done in range(1, 41)]
    assert [event[1:3] for event in told if event[0] == "adapt"] == [(1, 3), (2, 3), (3, 3)]
    assert all("loss" in event[3] for event in told if event[0] == "adapt")
    assert [event[1:3] for event in told if event[0] == "supervised oracle"] == [(1, 3), (2, 3), (3, 3)]
    assert told[-1] == ("measure oracle", 4, 4, {"top1": results["zero_shot"]["oracle"]["top1"]})
    assert not list(out.rglob("*.part"))


def test_the_film_of_a_run_is_that_of_its_settings(run: tuple[Path, dict[str, Any], Any], world: Path) -> None:
    for path in (world / "probe").rglob("*.mp4"):
        assert (run[0] / "world" / path.relative_to(world)).read_bytes() == path.read_bytes()


def test_a_finished_run_called_again_repeats_its_results(
    run: tuple[Path, dict[str, Any], Any], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, results, _ = run
    without_order(monkeypatch, results)
    told: list[Any] = []
    again = demonstrate(world, out, lambda *event: told.append(event), oracle=False)
    assert lasting(again) == lasting(results, but=("oracle",))
    assert not [event for event in told if event[0] in ("film", "adapt")]


@pytest.mark.parametrize("by_signal", [True, False], ids=["signal", "raised"])
def test_an_interrupted_run_goes_on_to_the_same_end(
    by_signal: bool, run: tuple[Path, dict[str, Any], Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_order(monkeypatch, run[1])
    handler = signal.getsignal(signal.SIGINT)

    def stop(stage: str, done: int, total: int, values: dict[str, float]) -> None:
        if (stage, done) == ("adapt", 2):
            if not by_signal:
                raise KeyboardInterrupt
            os.kill(os.getpid(), signal.SIGINT)

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt) as stopped:
        demonstrate(world, out, stop, oracle=False)
    if by_signal:
        assert str(stopped.value) == "stopped after step 2 of 3; run the same command again to go on"
    assert not (out / "results.json").exists()
    assert not (out / "encoder").exists()
    told: list[Any] = []
    results = demonstrate(world, out, lambda *event: told.append(event), oracle=False)
    steps = [event[1] for event in told if event[0] == "adapt"]
    assert steps == ([3] if by_signal else [2, 3])
    assert lasting(results) == lasting(run[1], but=("oracle",))
    assert deterministic_metrics(out) == deterministic_metrics(run[0])
    weights = [(folder / "encoder" / "model.safetensors").read_bytes() for folder in (out, run[0])]
    assert weights[0] == weights[1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_two_seeds_add_the_spread(
    run: tuple[Path, dict[str, Any], Any], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_order(monkeypatch, run[1])
    out = tmp_path / "run"
    results = demonstrate(world, out, seeds=2, oracle=False)
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


def test_a_folder_with_another_world_is_refused(run: tuple[Path, dict[str, Any], Any]) -> None:
    with pytest.raises(ValueError, match="describes a world of other settings"):
        run_demo(run[0], world_seed=5, settings=SETTINGS)


# The yardstick.


def test_the_yardstick_holds_the_split_and_photographs(yardstick: WorldEvaluator, world: Path) -> None:
    assert yardstick.test_clips.video.shape == (40, 8, 3, 48, 48)
    assert yardstick.probe_clips.video.shape == (40, 8, 3, 48, 48)
    assert yardstick.images.shape == (STILLS, 1, 3, 48, 48)
    for path, label in zip(yardstick.test_clips.paths, yardstick.test_clips.labels.tolist(), strict=True):
        assert path.parent == world / "test" / ACTIONS[label]
    assert {ACTIONS[label] for label in yardstick.test_clips.labels[yardstick.held_out_mask].tolist()} == set(
        HELD_OUT_ACTIONS
    )
    assert yardstick.held_out_mask.sum() == 8
    other = WorldEvaluator(world, 48, split="validation", seed=1)
    assert len(other.test_clips.labels) == 20
    assert (other.images != yardstick.images).any()  # each world has photographs of its own
    assert (yardstick.test_clips.times.diff(dim=1) > 0).all()


def test_measures_are_what_they_are_called(yardstick: WorldEvaluator) -> None:
    encoder = playground_encoder()
    found = yardstick.evaluate(encoder)
    assert set(found) == set(METRIC_NAMES)
    assert set(yardstick.evaluate(encoder, include_probes=False)) == set(METRIC_NAMES) - {"linear_probe", "knn"}
    concepts = ConceptSet.load("playground")
    texts = [encoder.encode_text([t.format(name) for t in concepts.templates]).mean(0) for name in ACTIONS]
    actions = F.normalize(torch.stack(texts), dim=-1)

    def guesses(video: torch.Tensor) -> torch.Tensor:
        each = [encoder.frame_embeddings(encoder.normalize(clip[None]))[0].mean(0) for clip in video]
        return (torch.stack(each) @ actions.T).argmax(1)

    with torch.no_grad():
        hits = guesses(yardstick.test_clips.video) == yardstick.test_clips.labels
        still_hits = guesses(yardstick.images) == yardstick.image_labels
    assert found["zero_shot"].top1 == pytest.approx(float(hits.float().mean()))
    assert found["reserved_actions"].top1 == pytest.approx(float(hits[yardstick.held_out_mask].float().mean()))
    assert found["stills"].top1 == pytest.approx(float(still_hits.float().mean()))
    z, train = (
        F.normalize(encoder.encode_video(part.video), dim=-1) for part in (yardstick.test_clips, yardstick.probe_clips)
    )
    near = (z @ train.T).topk(20)
    votes = torch.zeros(40, 20).scatter_add_(1, yardstick.probe_clips.labels[near.indices], (near.values / 0.07).exp())
    assert found["knn"].top1 == pytest.approx(float((votes.argmax(1) == yardstick.test_clips.labels).float().mean()))
    assert found["linear_probe"].n == 40
    assert found["stills"].top1 > found["zero_shot"].top1 > 0.15  # it knew stills, and films are harder


def test_frame_averaging_is_blind_to_order_and_trained_time_is_not(yardstick: WorldEvaluator) -> None:
    encoder = playground_encoder()
    order = yardstick.temporal_order_ablation(encoder)
    for part in ("all", "ordered"):
        assert order[part]["as filmed"] == order[part]["shuffled"] == order[part]["reversed"]
    scores = yardstick.zero_shot(encoder, yardstick.test_clips.video, yardstick.test_clips.times)
    flat = yardstick.zero_shot(encoder, yardstick.test_clips.video.flatten(0, 1)[:, None], None).view(40, 8, 20).mean(1)
    hits = flat.argmax(1) == yardstick.test_clips.labels
    assert order["all"]["single frames"] == pytest.approx(float(hits.float().mean()))
    ordered = torch.tensor(
        [ACTIONS[label] in demo.ORDER_SENSITIVE_ACTIONS for label in yardstick.test_clips.labels.tolist()]
    )
    assert ordered.sum() == 12
    assert order["ordered"]["single frames"] == pytest.approx(float(hits[ordered].float().mean()))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in encoder.temporal_parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    timed = yardstick.zero_shot(encoder, yardstick.test_clips.video, yardstick.test_clips.times)
    turned = yardstick.zero_shot(encoder, yardstick.test_clips.video.flip(1), yardstick.test_clips.times)
    assert (timed - scores).abs().max() > 0.02
    assert (timed - turned).abs().max() > 0.02


def score(top1: float, low: float, high: float) -> ClassificationMetrics:
    return ClassificationMetrics(top1=top1, top5=1.0, mean_class=top1, confusion=[[1]], n=50, ci95=(low, high))


def test_a_summary_is_the_mean_with_the_spread_over_seeds() -> None:
    assert summarize_seeds([score(0.5, 0.4, 0.6)], [3]) == {"top1": 0.5, "ci95": [0.4, 0.6], "seeds": [3], "n": 50}
    found = summarize_seeds([score(0.5, 0.4, 0.6), score(0.7, 0.5, 0.8), score(0.6, 0.6, 0.7)], range(3))
    assert found["top1"] == pytest.approx(0.6)
    assert found["ci95"] == pytest.approx([0.5, 0.7])
    assert found["std_over_seeds"] == pytest.approx(0.1)
    assert found["by_seed"] == [0.5, 0.7, 0.6]
    assert found["seeds"] == [0, 1, 2]


# The oracle.


def test_the_truth_of_the_train_split_is_for_the_oracle_alone(world: Path) -> None:
    records = train_records(world)
    assert [record.path for record in records] == sorted((world / "train").glob("*.mp4"))
    assert {record.label for record in records} == set(TRAIN_ACTIONS)  # sixteen clips, one of each


@pytest.mark.parametrize("local_views", [3, 0])
def test_the_oracles_loss_is_cross_entropy_with_the_true_action_of_every_view(local_views: int, world: Path) -> None:
    settings = SETTINGS.model_copy(
        update={"views": PLAYGROUND_SETTINGS.views.model_copy(update={"local_views": local_views})}
    )
    concepts, records = ConceptSet.load("playground").subset(TRAIN_ACTIONS), train_records(world)
    distiller = build_distiller(playground_encoder(), concepts, settings, torch.device("cpu"))
    labels = torch.tensor([TRAIN_ACTIONS.index(str(record.label)) for record in records])
    views = next(iter(load_views(build_dataset(records, distiller.student, concepts, settings), batch_size=3)))
    outcome = SupervisedMethod(distiller, labels)(views, distiller.init_state())
    student, losses = distiller.student, []
    space = ConceptSpace.build(concepts, student.encode_text)
    with torch.no_grad():
        for kind in ("global", "local"):
            for clip, index in enumerate(views["index"].tolist()):
                for view in range(views[kind].shape[1] if kind in views else 0):
                    frames = student.normalize(views[kind][clip, view])[None]
                    z = student(frames, views[f"{kind}_times"][clip, view][None])[0]
                    rates = (space.categories @ z / 0.1).log_softmax(-1)
                    losses.append(-rates[labels[index]])
    assert len(losses) == 3 * (2 + local_views)
    torch.testing.assert_close(outcome.total.detach(), torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)
    outcome.total.backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in student.parameters())


def test_the_oracle_learns_what_it_is_told(world: Path, tmp_path: Path) -> None:
    training = TRAINING.model_copy(update={"steps": 16, "batch_size": 8, "learning_rate": 3e-4, "save_interval": 100})
    views = PLAYGROUND_SETTINGS.views.model_copy(update={"local_views": 0})
    settings = PLAYGROUND_SETTINGS.model_copy(update={"training": training, "views": views})
    start, concepts = playground_encoder(), ConceptSet.load("playground").subset(TRAIN_ACTIONS)
    before = encoder_hash(start)
    taught = train_supervised_upper_bound(start, train_records(world), concepts, tmp_path, settings)
    assert encoder_hash(start) == before
    assert encoder_hash(taught) != before
    losses = [row["loss/supervised"] for row in deterministic_metrics(tmp_path)]
    assert statistics.fmean(losses[-4:]) < 0.7 * statistics.fmean(losses[:4])
