"""Benchmarks, on small data sets in the official layout."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.benchmark_files import ucf101
from support.video_files import numbered_frames, write_video
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data import datasets
from verbspace.evaluation.benchmarks import BENCHMARKS, BenchmarkSpec, evaluate_benchmark
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.results import BenchmarkResult
from verbspace.models.video_encoder import VideoEncoder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ucf101(tmp_path_factory.mktemp("ucf") / "data")


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> VideoEncoder:
    return VideoEncoder.from_pretrained(tiny_clip)


@pytest.mark.parametrize(("name", "spec"), BENCHMARKS.items())
def test_specs_are_consistent(name: str, spec: BenchmarkSpec) -> None:
    assert name.endswith(spec.task)
    assert spec.concepts is None or spec.concepts in ConceptSet.list_bundled()


def test_benchmark_equals_separate_evaluations_of_its_splits(root: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    found = evaluate_benchmark(encoder, "ucf101/zero-shot", root)
    assert list(found.folds) == [1, 2, 3]
    assert found.clip_counts() == (18, 18)
    tops = []
    for fold, evaluation in found.folds.items():
        listed = tmp_path / "list.txt"
        lines = (root / f"ucfTrainTestlist/testlist{fold:02d}.txt").read_text().splitlines()
        listed.write_text("\n".join(f"{root}/UCF-101/{line} {line.split('/')[0]}" for line in lines))
        alone = evaluate(encoder, listed, concepts="ucf101").result
        assert evaluation.result.confusion == alone.confusion
        assert evaluation.result.protocol.data_hash == alone.protocol.data_hash
        assert evaluation.result.protocol.data == f"ucf101/zero-shot, split {fold}"
        assert evaluation.result.protocol.actions == 101
        assert evaluation.frozen is not None
        tops.append(alone.top1)
    assert found.mean_and_std()[0] == pytest.approx(sum(tops) / 3)
    assert BenchmarkResult.model_validate(found.model_dump(mode="json")) == found
    assert found.to_json()["mean"]["result"]["top1"] == found.mean_and_std()[0]


def test_knn_learns_from_the_train_split(root: Path, encoder: VideoEncoder) -> None:
    found = evaluate_benchmark(encoder, "ucf101/knn", root, baseline=False)
    # Each clip has a copy in the other splits, so its nearest neighbor is of its class.
    assert found.mean_and_std()[0] == 1.0
    assert [fold.result.protocol.train_clips for fold in found.folds.values()] == [12, 12, 12]


def test_more_than_one_percent_of_missing_videos_is_an_error_by_default(
    root: Path, encoder: VideoEncoder, tmp_path: Path
) -> None:
    incomplete = ucf101(tmp_path / "incomplete")
    missing = incomplete / "UCF-101/YoYo/v_YoYo_g01_c01.avi"
    missing.unlink()
    with pytest.raises(ValueError, match=r"split 1: 1 of 6 videos are missing .* more than 1%: .*g01_c01"):
        evaluate_benchmark(encoder, "ucf101/zero-shot", incomplete, baseline=False)
    found = evaluate_benchmark(encoder, "ucf101/zero-shot", incomplete, baseline=False, max_missing=0.2)
    assert found.clip_counts() == (17, 18)
    missing.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 6 videos are missing or cannot be read, more than 1%: .*not decodable"):
        evaluate_benchmark(encoder, "ucf101/zero-shot", incomplete, baseline=False)


def test_kinetics_600_evaluates_the_classes_of_each_split(encoder: VideoEncoder, tmp_path: Path) -> None:
    rows = ["label,youtube_id,time_start,time_end,split"]
    for n, label in enumerate(("acting in play", "adjusting glasses", "zumba")):
        write_video(tmp_path / f"val/id{n}_000001_000011.mp4", numbered_frames(6, seed=n))
        rows.append(f"{label},id{n},1,11,validate")
    (tmp_path / "val.csv").write_text("\n".join(rows))
    with pytest.raises(FileNotFoundError, match=r"zero_shot_split1\.txt, .* write the 160 class names"):
        evaluate_benchmark(encoder, "k600/zero-shot", tmp_path, baseline=False)
    for fold in (1, 2, 3):
        (tmp_path / f"zero_shot_split{fold}.txt").write_text("acting in play\nadjusting glasses\n")
    found = evaluate_benchmark(encoder, "k600/zero-shot", tmp_path, baseline=False)
    assert found.clip_counts() == (6, 6)
    assert found.folds[1].result.protocol.actions == 2


def test_kinetics_400_learns_from_its_train_list(encoder: VideoEncoder, tmp_path: Path) -> None:
    for split, count in (("validate", 1), ("train", 3)):
        rows = ["label,youtube_id,time_start,time_end,split"]
        for n, label in enumerate(("abseiling", "zumba")):
            for k in range(count):
                write_video(tmp_path / f"{split}/{split}{n}{k}_000001_000011.mp4", numbered_frames(6, seed=n))
                rows.append(f"{label},{split}{n}{k},1,11,{split}")
        (tmp_path / f"{split}.csv").write_text("\n".join(rows))
    for task in ("knn", "linear-probe"):
        found = evaluate_benchmark(encoder, f"k400/{task}", tmp_path, baseline=False)
        protocol = found.folds[1].result.protocol
        assert (protocol.clips, protocol.train_clips, protocol.actions) == (2, 6, 400)
        assert found.mean_and_std() == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ucf102/zero-shot", "protocol: 'ucf102/zero-shot' is not one of ucf101/zero-shot"),
        ("hmdb51/zero-shot", "none of the annotation files testTrainMulti_7030_splits"),
        ("k400/zero-shot", "none of the annotation files val.csv"),
    ],
)
def test_errors_name_the_cause(name: str, message: str, root: Path, encoder: VideoEncoder) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_benchmark(encoder, name, root)


def test_evaluate_command_writes_and_prints_every_split_and_the_mean(
    root: Path, tiny_clip: Path, tmp_path: Path
) -> None:
    out = tmp_path / "result.json"
    arguments = ("evaluate", "--protocol", "ucf101/zero-shot", "--root", root, "--encoder", tiny_clip, "--out", out)
    outcome = CliRunner().invoke(main.app, [str(part) for part in arguments], env={"COLUMNS": "200"})
    assert outcome.exit_code == 0, outcome.output
    assert outcome.stdout.count(" · checkpoint ") == 6  # a protocol line for each split and encoder
    assert "split 3" in outcome.stdout
    assert "top-1 over 18 clips" in outcome.stdout
    written = json.loads(out.read_text())
    assert set(written["folds"]) == {"1", "2", "3"}
    assert set(written["mean"]) == {"result", "frozen"}


def test_each_video_is_decoded_once_for_all_splits(
    root: Path, encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = datasets.read_video
    monkeypatch.setattr(datasets, "read_video", lambda path, *rest: (opened.append(path), read(path, *rest))[1])
    evaluate_benchmark(encoder, "ucf101/knn", root, baseline=False)
    assert len(opened) == len(set(opened)) == 18


def test_protocols_record_other_views(root: Path, encoder: VideoEncoder) -> None:
    other = evaluate_benchmark(encoder, "ucf101/zero-shot", root, baseline=False, frames=2, clips=2, crops=3)
    protocol = other.folds[1].result.protocol
    assert (protocol.frames, protocol.views) == (2, (2, 3))
    assert "2x3 views" in protocol.summary()
