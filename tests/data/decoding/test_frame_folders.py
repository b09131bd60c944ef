"""Folders of numbered images as videos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from support.video_files import numbered_frames, read_frame_numbers
from verbspace.cli import main
from verbspace.data.decoding.container import VideoFile
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import decode_frames, frame_timestamps
from verbspace.data.decoding.torchcodec import read_with_torchcodec
from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage
from verbspace.data.sources.folders import FileLocator
from verbspace.data.sources.frame_folders import frame_sequence
from verbspace.data.sources.manifest import data_hash, detect_manifest, read_manifest


def write_frames(folder: Path, count: int, pattern: str = "img_{:05d}.jpg", start: int = 1) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(numbered_frames(count), start):
        Image.fromarray(image).save(folder / pattern.format(number))
    return folder


@pytest.mark.parametrize(
    ("pattern", "start"),
    [("img_{:05d}.jpg", 1), ("{:d}.png", 8), ("100% {:03d}.JPG", 0), ("frame{:04d}.webp", 998), ("a.{:02d}.bmp", 3)],
)
def test_images_are_the_frames_in_the_order_of_their_numbers(tmp_path: Path, pattern: str, start: int) -> None:
    folder = write_frames(tmp_path / "50% off", 12, pattern, start)
    (folder / "notes.txt").touch()
    assert read_frame_numbers(decode_frames(folder).numpy()) == list(range(12))
    assert read_frame_numbers(decode_frames(folder, [7, 2, 2]).numpy()) == [7, 2, 2]
    timestamps = frame_timestamps(folder)
    np.testing.assert_allclose(timestamps.times, np.arange(12) / 25, atol=1e-9)
    assert timestamps.duration == pytest.approx(0.48)
    assert (probe(folder).fps, probe(folder).duration) == (25.0, pytest.approx(0.48))


def test_only_the_selected_images_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_frames(tmp_path / "a", 12)
    decoded: list[int] = []
    original = VideoFile.iter_frames

    def record(file: VideoFile, packets: object = None) -> object:
        for frame in original(file, packets):  # type: ignore[arg-type]
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(VideoFile, "iter_frames", record)
    assert read_frame_numbers(decode_frames(folder, [3, 9]).numpy()) == [3, 9]
    assert decoded == [3, 9]
    assert read_frame_numbers(read_with_torchcodec(folder, lambda timestamps: [5])[1].numpy()) == [5]


@pytest.mark.parametrize(("place", "text", "fps"), [(".", "10", 10.0), ("../..", "30000/1001\n", 30000 / 1001)])
def test_a_file_sets_the_rate(tmp_path: Path, place: str, text: str, fps: float) -> None:
    folder = write_frames(tmp_path / "videos/waving/a", 6)
    (folder / place / "fps.txt").write_text(text)
    assert frame_timestamps(folder).duration == pytest.approx(6 / fps)
    assert probe(folder).fps == pytest.approx(fps)


def test_what_is_not_one_video_is_an_error(tmp_path: Path) -> None:
    folder = write_frames(tmp_path / "a", 6)
    (folder / "img_00003.jpg").unlink()
    with pytest.raises(DecodeError, match="a: image 3 is missing; number the images without gaps"):
        decode_frames(folder)
    (write_frames(tmp_path / "b", 3) / "fps.txt").write_text("fast")
    with pytest.raises(DecodeError, match=r"fps\.txt: 'fast' is not a number of frames per second"):
        decode_frames(tmp_path / "b")
    (write_frames(tmp_path / "c", 3) / "img_00002.jpg").write_bytes(b"no image")
    with pytest.raises(DecodeError, match="c: "):
        decode_frames(tmp_path / "c")
    for names in (["a1.jpg"], ["a1.jpg", "b2.jpg"], ["a1.jpg", "a2.png"], ["a1.jpg", "a2.jpg", "cover.jpg"]):
        assert frame_sequence(names) is None


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("waving/a\nbowing/b c\nd.mp4\n", (None, None, None)),
        ("waving/a wave\nbowing/b c bow\nd.mp4 wave\n", ("wave", "bow", "wave")),
        ("waving/a 5 1\nd.mp4 1\n", ("1", "1")),
        ("waving/a,wave\nbowing/b c,5,bow\n", ("wave", "bow")),
        ("video,class\nwaving/a,wave\nbowing/b c,bow\n", ("wave", "bow")),
    ],
)
def test_lists_name_frame_folders(tmp_path: Path, text: str, labels: tuple[str | None, ...]) -> None:
    write_frames(tmp_path / "waving/a", 5)
    write_frames(tmp_path / "bowing/b c", 5)
    (tmp_path / "list.txt").write_text(text)
    records = read_manifest(tmp_path / "list.txt")
    assert tuple(record.label for record in records) == labels
    assert all(storage.exists(record.file) or record.file.endswith("d.mp4") for record in records)
    assert read_frame_numbers(decode_frames(records[0].file).numpy()) == list(range(5))


def test_a_listed_folder_without_images_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "waving/videos").mkdir(parents=True)
    (tmp_path / "list.txt").write_text("waving/videos 0\n")
    (record,) = read_manifest(tmp_path / "list.txt")
    with pytest.raises(DecodeError, match="not a file, and not a folder with the numbered images of one video"):
        decode_frames(record.file)
    (tmp_path / "list.txt").write_text("waving/nowhere 0\n")
    with pytest.raises(ValueError, match=r"line 1: no path of a video in 'waving/nowhere 0': no such file or folder"):
        read_manifest(tmp_path / "list.txt")


def test_annotation_files_find_frame_folders(tmp_path: Path) -> None:
    write_frames(tmp_path / "rawframes/78687", 5)
    write_frames(tmp_path / "rawframes/other.avi", 5)
    (tmp_path / "ssv2.json").write_text('[{"id": "78687", "template": "Holding [something]"}, {"id": "5"}]')
    records = read_manifest(tmp_path / "ssv2.json", tmp_path / "rawframes")
    assert [record.file for record in records] == [str(tmp_path / "rawframes" / name) for name in ("78687", "5.webm")]
    locate = FileLocator(tmp_path).locate
    assert locate("OTHER.avi") == str(tmp_path / "rawframes/other.avi")
    assert locate("78687.avi", "x") == locate("class/78687.mp4") == str(tmp_path / "rawframes/78687")


def test_a_folder_of_frame_folders_is_a_data_set(tmp_path: Path) -> None:
    for name in ("waving/a", "waving/b", "bowing/c"):
        folder = write_frames(tmp_path / name, 5)
        write_frames(folder, 5, "flow_x_{:05d}.jpg")
    records = detect_manifest(tmp_path).records
    assert [(record.path, record.label) for record in records] == [
        (tmp_path / "bowing/c", "bowing"),
        (tmp_path / "waving/a", "waving"),
        (tmp_path / "waving/b", "waving"),
    ]
    (single,) = read_manifest(tmp_path / "waving/a")
    assert (single.path, single.label) == (tmp_path / "waving/a", None)
    assert all(storage.exists(record.file) for record in records)
    before = data_hash(records)
    write_frames(tmp_path / "waving/a", 6)
    assert data_hash(records) != before
    command = ["data", "verify", str(tmp_path), "--workers", "1"]
    assert "0 of 3 files are bad; 16 frames" in CliRunner().invoke(main.app, command, env={"COLUMNS": "300"}).stdout
    output = CliRunner().invoke(main.app, ["data", "info", str(tmp_path)], env={"COLUMNS": "150"}).stdout
    assert "mjpeg in image2, 64x48, 25 frames" in output
