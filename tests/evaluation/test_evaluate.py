"""Evaluation on labeled videos."""

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

from support.small_encoders import with_random_temporal
from support.video_files import numbered_frames, touch, write_video
from verbspace.cli.console.results import print_results
from verbspace.concepts.concept_set import ConceptSet, concept_set_from_dict
from verbspace.concepts.space import ConceptSpace
from verbspace.data.sources.record import Record
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.labels import concept_set_from_labels, labels_to_indices
from verbspace.evaluation.linear_probe import C_GRID
from verbspace.evaluation.overlap import adaptation_videos, find_copies
from verbspace.evaluation.protocol import are_comparable
from verbspace.evaluation.results import Evaluation
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder

FEATURES = "projected and L2-normalised"
COLORS = {"brush_teeth": (200, 40, 40), "jump": (40, 200, 40), "wave": (40, 40, 200)}
CONCEPTS = concept_set_from_dict(
    {
        "name": "colors",
        "actions": [
            {"name": "waving", "label": "Wave"},
            {"name": "jumping", "label": "Jump"},
            {"name": "brushing teeth", "label": "BrushTeeth"},
            {"name": "sitting down"},
        ],
        "descriptions": [
            {"text": text, "kind": "motion", "actions": [action]}
            for text, action in [
                ("a hand moves", "waving"),
                ("feet leave the floor", "jumping"),
                ("a hand moves at the mouth", "brushing teeth"),
            ]
        ],
        "provenance": {"author": "the tests"},
    },
    "colors",
)


@pytest.fixture
def encoder(tiny_clip: Path) -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))


def write_split(root: Path, each: int, seed: int) -> Path:
    rng = np.random.default_rng(seed)
    for action, color in COLORS.items():
        for n in range(each):
            frames = np.clip(np.array(color) + rng.normal(0, 25, (10, 24, 32, 3)), 0, 255)
            write_video(root / action / f"{n}.mp4", frames.astype(np.uint8))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    write_split(root / "train", 6, 0)
    write_split(root / "test", 4, 1)
    (root / "test/wave/broken.mp4").write_bytes(b"no video")
    return root


def test_zero_shot_ranks_actions_by_text(
    encoder: VideoEncoder, data: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING, "verbspace"):
        found = evaluate(encoder, data / "test", concepts=CONCEPTS, frames=4, max_missing=0.5)
    space = ConceptSpace.build(CONCEPTS, encoder.encode_text)
    guesses: dict[str, list[int]] = {}
    for action in COLORS:
        z = encoder.encode_video([data / f"test/{action}/{n}.mp4" for n in range(4)], frames=4)
        guesses[action] = space.action_scores(z).argmax(1).tolist()
    rows = [np.bincount(guesses[a], minlength=4).tolist() for a in ("wave", "jump", "brush_teeth")]
    assert found.result.confusion == [*rows, [0] * 4]
    assert found.result.n == 12
    protocol = found.result.protocol
    assert (protocol.clips, protocol.missing, protocol.actions, protocol.by) == (12, 1, 4, "category")
    assert protocol.concepts == CONCEPTS.hash
    assert protocol.templates == CONCEPTS.templates
    assert protocol.checkpoint == encoder_hash(encoder)
    assert "broken.mp4" in caplog.text
    assert capsys.readouterr().out == ""
    print_results(found)
    printed = capsys.readouterr().out
    assert f"encoder: {protocol.summary()}\n" in printed
    assert "12 of 13 clips" in printed
    assert found.frozen is not None
    assert f"frozen: {found.frozen.protocol.summary()}\n" in printed


def test_baseline_is_measured_under_the_same_protocol(encoder: VideoEncoder, tiny_clip: Path, data: Path) -> None:
    found = evaluate(encoder, data / "test", concepts=CONCEPTS, frames=4, max_missing=0.5)
    assert found.frozen is not None
    assert are_comparable(found.result.protocol, found.frozen.protocol)
    assert found.frozen.protocol.checkpoint != found.result.protocol.checkpoint
    image = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    alone = evaluate(image, data / "test", concepts=CONCEPTS, frames=4, baseline=False, max_missing=0.5)
    assert alone.frozen is None
    assert alone.result == found.frozen
    assert Evaluation.model_validate(json.loads(json.dumps(found.to_json()))) == found
    encoder.config.base_name = "gone"
    again = evaluate(encoder, data / "test", concepts=CONCEPTS, frames=4, baseline=image, max_missing=0.5)
    assert again == found


@pytest.mark.parametrize("task", ["linear-probe", "knn"])
def test_supervised_tasks_separate_colors(
    encoder: VideoEncoder, data: Path, task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data / "test")
    found = evaluate(encoder, ".", task, train=data / "train", frames=4, max_missing=0.5)  # type: ignore[arg-type]
    for result in (found.result, found.frozen):
        assert result is not None
        assert result.top1 == 1.0
        assert result.confusion == [[4, 0, 0], [0, 4, 0], [0, 0, 4]]
        protocol = result.protocol
        assert (protocol.data, protocol.train, protocol.train_clips) == ("test", "train", 18)
        assert protocol.by is None
        if task == "knn":
            assert protocol.details == {"features": FEATURES, "k": 20, "temperature": 0.07}
        else:
            assert protocol.details == {"features": FEATURES, "C among": C_GRID, "folds held out in turn": 5}
            assert protocol.chosen["C"] in C_GRID


def test_encoder_from_a_path_has_its_own_concepts(
    encoder: VideoEncoder, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = evaluate(encoder, data / "test", baseline=False, frames=2, max_missing=0.5)
    assert bare.result.protocol.concepts == concept_set_from_labels(COLORS).hash
    encoder.concept_set = CONCEPTS
    encoder.save_pretrained(tmp_path / "adapted")
    found = evaluate(tmp_path / "adapted", data / "test", frames=2, max_missing=0.5)
    assert found.result.protocol.concepts == CONCEPTS.hash
    CONCEPTS.save(tmp_path / "set.json")
    encoder.concept_set = None
    assert evaluate(encoder, data / "test", concepts=tmp_path / "set.json", frames=2, max_missing=0.5) == found


def test_list_file_and_clips(encoder: VideoEncoder, data: Path, tmp_path: Path) -> None:
    listed = tmp_path / "test.txt"
    listed.write_text(f"{data}/test/wave/0.mp4 WAVE\n{data}/test/brush_teeth/1.mp4 Brush-Teeth\n")
    found = evaluate(encoder, listed, concepts=CONCEPTS, clips=3, frames=2, baseline=False, max_missing=0.5).result
    assert [sum(row) for row in found.confusion] == [1, 0, 1, 0]
    assert found.protocol.views == (3, 1)
    assert found.protocol.data == "test.txt"


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a video was read before the error was raised")

    monkeypatch.setattr("verbspace.evaluation.eval_split.embed_videos", refuse)


@pytest.mark.usefixtures("no_decoding")
def test_errors_are_raised_before_videos_are_read(
    encoder: VideoEncoder, tiny_clip: Path, data: Path, tmp_path: Path
) -> None:
    test = data / "test"
    with pytest.raises(ValueError, match="is not one of"):
        evaluate(encoder, test, "probe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'name'"):
        evaluate(encoder, test, scoring="name")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"train: knn learns"):
        evaluate(encoder, test, "knn")
    with pytest.raises(ValueError, match=r"1 class of .*'brush_teeth' \(similar: 'brush tooth'\); rename"):
        evaluate(encoder, test, concepts=ConceptSet.from_actions(["brush tooth", "jump", "wave"]))
    with pytest.raises(ValueError, match="no descriptions of sitting down"):
        evaluate(encoder, test, concepts=CONCEPTS, scoring="description")
    with pytest.raises(ValueError, match=r"scoring: 'both' needs descriptions, .* 'folder names' has none"):
        evaluate(encoder, test, scoring="both")
    with pytest.raises(ValueError, match=r"0\.mp4: this video has no label"):
        evaluate(encoder, test / "wave")
    with pytest.raises(FileNotFoundError):
        evaluate(encoder, tmp_path / "nowhere")
    short = tmp_path / "train.csv"
    short.write_text(f"{data}/train/wave/0.mp4,wave\n{data}/train/jump/0.mp4,jump\n")
    with pytest.raises(ValueError, match=r"train\.csv: there is no train video of 'brush teeth'"):
        evaluate(encoder, test, "linear-probe", train=short)
    small = VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    small.base.config.vision_config.image_size = 8
    with pytest.raises(ValueError, match="baseline: its image_size is 8, and the encoder's is 32"):
        evaluate(encoder, test, baseline=small)
    overlapping = tmp_path / "overlapping.csv"
    overlapping.write_text("\n".join(f"{test}/{a}/{n}.mp4,{a}" for a in COLORS for n in range(2)))
    with pytest.raises(ValueError, match=r"brush_teeth/0\.mp4: this video is in the train and .*\(6 such\)"):
        evaluate(encoder, test, "knn", train=overlapping)
    encoder.config.base_name = str(tmp_path / "gone")
    with pytest.raises(ValueError, match=r"frozen baseline cannot be loaded: .*gone.*baseline=False"):
        evaluate(encoder, test)
    encoder.config.base_name = ""
    with pytest.raises(ValueError, match="frozen baseline cannot be loaded"):
        evaluate(encoder, test)


def test_class_without_readable_train_videos(encoder: VideoEncoder, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    train = tmp_path / "train.csv"
    lines = [f"{data}/train/{a}/{n}.mp4,{a}" for a in ("jump", "wave") for n in range(2)]
    train.write_text("\n".join([*lines, f"{broken},brush_teeth"]))
    with pytest.raises(ValueError, match="no readable train video of 'brush teeth'"):
        evaluate(encoder, data / "test", "knn", train=train, frames=2, baseline=False, max_missing=0.5)


def test_labels_match_actions() -> None:
    assert labels_to_indices(["brush teeth", "BRUSH_TEETH", "sitting-down", "waving", "Wave"], CONCEPTS) == [
        2, 2, 3, 0, 0,
    ]  # fmt: skip
    # A class label takes precedence over another action's name. Names that differ in spelling need an exact match.
    crossed = [{"name": "a", "label": "b"}, {"name": "b", "label": "c"}]
    content = {"name": "crossed", "actions": crossed, "provenance": {"author": "x"}}
    assert labels_to_indices(["b", "c", "a"], concept_set_from_dict(json.loads(json.dumps(content)), "x")) == [0, 1, 0]
    twins = ConceptSet.from_actions(["sit up", "situp"])
    assert labels_to_indices(["situp", "sit up"], twins) == [1, 0]
    with pytest.raises(ValueError, match="Sit-Up"):
        labels_to_indices(["Sit-Up"], twins)
    with pytest.raises(ValueError, match=r"^7 classes .*'0', '1', '2', '3', '4' and 2 more;"):
        labels_to_indices([str(n) for n in range(7)], CONCEPTS)


def test_labels_become_a_concept_set() -> None:
    names = concept_set_from_labels(["brush_hair", "BrushHair", "YoYo"])
    assert names.action_names == ["brush hair", "yo yo"]
    assert labels_to_indices(["YoYo", "BrushHair", "brush_hair"], names) == [1, 0, 0]


def test_progress_names_encoder_and_split(encoder: VideoEncoder, data: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    evaluate(
        encoder, data / "test", concepts=CONCEPTS, frames=2, max_missing=0.5, batch_size=8,
        on_progress=lambda stage, done, total, values: calls.append((stage, done, total)),
    )  # fmt: skip
    assert calls == [(f"{name}: test", done, 13) for name in ("frozen", "encoder") for done in (8, 13)]


def list_of(folder: Path, data: Path, labels: dict[str, str]) -> Path:
    lines = [f"{data}/{action}/{n}.mp4 {label}" for action, label in labels.items() for n in range(4)]
    (folder / "list.txt").write_text("\n".join(lines))
    return folder / "list.txt"


def test_class_numbers_need_names(encoder: VideoEncoder, data: Path, tmp_path: Path) -> None:
    numbered = list_of(tmp_path, data / "test", {"wave": "0", "jump": "1", "brush_teeth": "2"})
    for concepts in (None, CONCEPTS):
        with pytest.raises(ValueError, match=r"--labels FILE: a CSV file of id,name"):
            evaluate(encoder, numbered, concepts=concepts, frames=4)
    (tmp_path / "names.txt").write_text("wave\njump\nbrush_teeth\n")
    found = evaluate(encoder, numbered, concepts=CONCEPTS, frames=4, labels=tmp_path / "names.txt", baseline=False)
    named = list_of(tmp_path, data / "test", {"wave": "wave", "jump": "jump", "brush_teeth": "brush_teeth"})
    assert found.result == evaluate(encoder, named, concepts=CONCEPTS, frames=4, baseline=False).result
    numbered = list_of(tmp_path, data / "test", {"wave": "0", "jump": "1", "brush_teeth": "2"})
    assert (
        evaluate(encoder, numbered, "knn", train=data / "train", frames=4, labels=tmp_path / "names.txt").result.n == 12
    )


def test_copies_of_test_videos_are_told(
    encoder: VideoEncoder, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "copy"
    for action in COLORS:
        (copy / action).mkdir(parents=True)
        for n in range(4):
            shutil.copy(data / f"test/{action}/{n}.mp4", copy / action / f"other{n}.mp4")
    with caplog.at_level(logging.WARNING, "verbspace"):
        found = evaluate(encoder, data / "test", "knn", train=copy, frames=4, max_missing=0.5)
        assert "12 of 13 test videos are in the data that knn learns from" in caplog.text
        assert caplog.text.count("learns from") == 1
        caplog.clear()
        clean = evaluate(encoder, data / "test", "knn", train=data / "train", frames=4, max_missing=0.5, baseline=False)
        assert "learns from" not in caplog.text
    assert found.result.protocol.test_in_train == 12
    assert "NOT DISJOINT: 12 test clips are in the train data" in found.result.protocol.summary()
    assert clean.result.protocol.test_in_train == 0


def test_copies_need_equal_content(tmp_path: Path) -> None:
    big = bytes(300_000)
    contents = {"a": big, "b": big[:-1] + b"x", "c": big[:150_000] + b"x" + big[150_001:], "d": b"small", "e": b"smell"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}2").write_bytes(content)
    (tmp_path / "link").symlink_to(tmp_path / "d")
    train = [Record(tmp_path / name) for name in ("a2", "d2", "gone")]
    test = [Record(tmp_path / name) for name in ("a", "b", "c", "d#t=1,2", "e", "absent")]
    assert find_copies(test, train) == {
        str(tmp_path / "a"): str(tmp_path / "a2"),
        str(tmp_path / "d"): str(tmp_path / "d2"),
    }
    assert find_copies([Record(tmp_path / "link")], test) == {str(tmp_path / "link"): str(tmp_path / "d")}


def test_videos_of_a_run_are_known(tmp_path: Path) -> None:
    touch(tmp_path / "videos", "train/wave/0.mp4", "test/wave/1.mp4")
    (tmp_path / "run/encoder").mkdir(parents=True)
    videos = {"source": str(tmp_path / "videos"), "split": "train", "fold": None}
    (tmp_path / "run/run.json").write_text(json.dumps({"videos": videos}))
    known = adaptation_videos(tmp_path / "run/encoder")
    assert known == (str(tmp_path / "videos"), [Record(tmp_path / "videos/train/wave/0.mp4", "wave")])
    assert adaptation_videos(tmp_path) is None
    (tmp_path / "run/run.json").write_text(json.dumps({"videos": None}))
    assert adaptation_videos(tmp_path / "run") is None


def test_videos_of_different_shapes(tiny_siglip2: Path, tmp_path: Path) -> None:
    """SigLIP 2 NaFlex keeps their aspect ratio, and the protocol says so."""
    for label, shape in (("waving", (36, 64)), ("jumping", (64, 36))):
        write_video(tmp_path / label / "clip.mp4", numbered_frames(12, *shape))
    result = evaluate(VideoEncoder.from_pretrained(tiny_siglip2), tmp_path, baseline=False).result
    assert result.n == 2
    assert "32 px (aspect ratio kept, at most 16 patches of 8 px, bilinear)" in result.protocol.summary()
