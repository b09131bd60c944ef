"""The field's protocols, on small data sets in the official layout."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from support.video_files import numbered_frames, write_video
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data import datasets
from verbspace.evaluation.benchmarks import BENCHMARKS, BenchmarkResult, assert_comparable, evaluate_benchmark
from verbspace.evaluation.evaluate import evaluate
from verbspace.models.video_encoder import VideoEncoder

CLASSES = ("Archery", "Biking", "YoYo")


def ucf101(root: Path) -> Path:
    """Three classes of UCF101, six clips each, in three splits of which each tests two clips a class."""
    lists = root / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    (lists / "classInd.txt").write_text("".join(f"{n} {label}\n" for n, label in enumerate(CLASSES, 1)))
    clips = {label: [f"{label}/v_{label}_g{n:02d}_c01.avi" for n in range(1, 7)] for label in CLASSES}
    for place, names in enumerate(clips.values()):
        for n, name in enumerate(names):
            write_video(root / "UCF-101" / name, numbered_frames(6, seed=10 * place + n % 2), "mpeg4")
    for fold in (1, 2, 3):
        test = {label: names[2 * fold - 2 : 2 * fold] for label, names in clips.items()}
        train = [
            f"{name} {1 + CLASSES.index(k)}" for k, names in clips.items() for name in names if name not in test[k]
        ]
        (lists / f"testlist{fold:02d}.txt").write_text("\n".join(name for names in test.values() for name in names))
        (lists / f"trainlist{fold:02d}.txt").write_text("\n".join(train))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ucf101(tmp_path_factory.mktemp("ucf") / "data")


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> VideoEncoder:
    return VideoEncoder.from_pretrained(tiny_clip)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_protocols_are_whole(name: str) -> None:
    official = BENCHMARKS[name]
    assert name.endswith(official.task)
    assert bool(official.train_annotation_files) == (official.task != "zero-shot")
    assert official.concepts is None or official.concepts in ConceptSet.list_bundled()
    assert (len(official.folds) == 3) == ("splits 1 to 3" in official.title)


def test_zero_shot_over_three_splits_is_that_of_each(root: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    found = evaluate_benchmark(encoder, "ucf101/zero-shot", root, quiet=True)
    assert list(found.folds) == [1, 2, 3]
    assert found.clip_counts() == (18, 18)
    tops = []
    for fold, one in found.folds.items():
        listed = tmp_path / "list.txt"
        lines = (root / f"ucfTrainTestlist/testlist{fold:02d}.txt").read_text().splitlines()
        listed.write_text("\n".join(f"{root}/UCF-101/{line} {line.split('/')[0]}" for line in lines))
        alone = evaluate(encoder, listed, concepts="ucf101", quiet=True).result
        assert one.result.confusion == alone.confusion
        assert one.result.protocol.data_hash == alone.protocol.data_hash
        assert one.result.protocol.data == f"ucf101/zero-shot, split {fold}"
        assert one.result.protocol.actions == 101
        assert one.frozen is not None
        tops.append(alone.top1)
    assert found.mean_and_std()[0] == pytest.approx(sum(tops) / 3)
    assert BenchmarkResult.model_validate(found.model_dump(mode="json")) == found
    assert found.to_json()["mean"]["result"]["top1"] == found.mean_and_std()[0]


def test_supervised_protocols_learn_from_the_train_split(root: Path, encoder: VideoEncoder) -> None:
    found = evaluate_benchmark(encoder, "ucf101/knn", root, quiet=True, baseline=False)
    # Each clip has its double in the other splits: the nearest neighbour is of its class.
    assert found.mean_and_std()[0] == 1.0
    assert [fold.result.protocol.train_clips for fold in found.folds.values()] == [12, 12, 12]


def test_missing_videos_end_it_above_one_percent_unless_told(root: Path, encoder: VideoEncoder, tmp_path: Path) -> None:
    less = ucf101(tmp_path / "less")
    gone = less / "UCF-101/YoYo/v_YoYo_g01_c01.avi"
    gone.unlink()
    with pytest.raises(ValueError, match=r"split 1: 1 of 6 videos are missing .* more than 1%: .*g01_c01"):
        evaluate_benchmark(encoder, "ucf101/zero-shot", less, quiet=True, baseline=False)
    found = evaluate_benchmark(encoder, "ucf101/zero-shot", less, quiet=True, baseline=False, max_missing=0.2)
    assert found.clip_counts() == (17, 18)
    gone.write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 6 videos are missing or cannot be read, more than 1%: .*not decodable"):
        evaluate_benchmark(encoder, "ucf101/zero-shot", less, quiet=True, baseline=False)
    other = evaluate_benchmark(encoder, "ucf101/zero-shot", root, quiet=True, baseline=False)
    with pytest.raises(ValueError, match="not measured under one protocol and are not compared"):
        assert_comparable([other, found])
    assert_comparable([other, other])


def test_results_under_other_words_are_not_compared(root: Path, encoder: VideoEncoder) -> None:
    one = evaluate_benchmark(encoder, "ucf101/zero-shot", root, quiet=True, baseline=False)
    words = ConceptSet.from_actions(["archery", "biking", "yo yo"])
    other = evaluate_benchmark(encoder, "ucf101/zero-shot", root, concepts=words, quiet=True, baseline=False)
    with pytest.raises(ValueError, match="not compared"):
        assert_comparable([one, other])


def test_kinetics_600_tests_the_classes_of_each_split(encoder: VideoEncoder, tmp_path: Path) -> None:
    rows = ["label,youtube_id,time_start,time_end,split"]
    for n, label in enumerate(("acting in play", "adjusting glasses", "zumba")):
        write_video(tmp_path / f"val/id{n}_000001_000011.mp4", numbered_frames(6, seed=n))
        rows.append(f"{label},id{n},1,11,validate")
    (tmp_path / "val.csv").write_text("\n".join(rows))
    for fold in (1, 2, 3):
        (tmp_path / f"zero_shot_split{fold}.txt").write_text("acting in play\nadjusting glasses\n")
    found = evaluate_benchmark(encoder, "k600/zero-shot", tmp_path, quiet=True, baseline=False)
    assert found.clip_counts() == (6, 6)
    assert found.folds[1].result.protocol.actions == 2


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ucf102/zero-shot", "protocol: 'ucf102/zero-shot' is not known; known are ucf101/zero-shot"),
        ("hmdb51/zero-shot", "none of the annotations testTrainMulti_7030_splits"),
        ("k400/zero-shot", "none of the annotations val.csv"),
    ],
)
def test_mistakes_are_one_sentence(name: str, why: str, root: Path, encoder: VideoEncoder) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=why):
        evaluate_benchmark(encoder, name, root, quiet=True)


def test_the_command_writes_every_split_and_the_mean(root: Path, tiny_clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.json"
    given = ("evaluate", "--protocol", "ucf101/zero-shot", "--root", root, "--encoder", tiny_clip, "--out", out)
    found = CliRunner().invoke(main.app, [str(part) for part in given], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output
    assert found.stdout.count(" · checkpoint ") == 6  # a protocol line for each split and encoder
    assert "split 3" in found.stdout
    assert "top-1 over 18 clips" in found.stdout
    written = json.loads(out.read_text())
    assert set(written["folds"]) == {"1", "2", "3"}
    assert set(written["mean"]) == {"result", "frozen"}


def test_each_video_is_embedded_once_for_all_splits(
    root: Path, encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []
    read = datasets.read_video
    monkeypatch.setattr(datasets, "read_video", lambda path, *rest: (opened.append(path), read(path, *rest))[1])
    evaluate_benchmark(encoder, "ucf101/knn", root, quiet=True, baseline=False)
    assert len(opened) == len(set(opened)) == 18


def test_other_views_are_said(root: Path, encoder: VideoEncoder) -> None:
    few = {"quiet": True, "baseline": False}
    plain = evaluate_benchmark(encoder, "ucf101/zero-shot", root, **few)
    other = evaluate_benchmark(encoder, "ucf101/zero-shot", root, frames=2, clips=2, crops=3, **few)
    protocol = other.folds[1].result.protocol
    assert (protocol.frames, protocol.views) == (2, (2, 3))
    assert "2x3 views" in protocol.summary()
    with pytest.raises(ValueError, match="not compared"):
        assert_comparable([plain, other])
