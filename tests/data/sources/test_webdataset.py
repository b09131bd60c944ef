from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from support.video_files import numbered_frames, read_frame_numbers, write_shard, write_video
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage
from verbspace.data.sources.manifest import Record, data_hash, detect_manifest, read_manifest
from verbspace.data.summary import summarize_dataset
from verbspace.data.verify import VERIFY_LOG_NAME, verify_files


def encode_video(folder: Path, kind: str = "mp4", seed: int = 0, count: int = 12) -> bytes:
    codec, extra = ("mpeg4", {"bf": "2"}) if kind == "avi" else ("libx264", {})
    return write_video(folder / f"{seed}.{kind}", numbered_frames(count, seed=seed), codec, **extra).read_bytes()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Shards as video2dataset writes them, with one failed download of four."""
    note = {"caption": "two people", "label": "waving", "status": "success"}
    failed = {"caption": "gone", "label": "clapping", "status": "failed_to_download"}
    root = tmp_path / "shards, all"
    write_shard(
        root / "00000.tar",
        {
            "00000000.mp4": encode_video(tmp_path, seed=0),
            "00000000.txt": b"two people",
            "00000000.json": json.dumps(note).encode(),
            "00000001.txt": b"gone",
            "00000001.json": json.dumps(failed).encode(),
        },
    )
    write_shard(
        root / "00001.tar",
        {
            "./deep/00000002.avi": encode_video(tmp_path, "avi", seed=2),
            "./deep/00000002.cls": b"clapping\n",
            "00000003.mp4": encode_video(tmp_path, seed=3),
            "LICENSE": b"free",
            "00000004.jpg": b"a picture",
        },
    )
    (root / "00000_stats.json").write_text("{}")
    return root


def test_read_shards(shards: Path) -> None:
    expected = [
        Record(shards / "00000.tar/00000000.mp4", "waving"),
        Record(shards / "00000.tar/00000001.mp4", "clapping"),
        Record(shards / "00001.tar/deep/00000002.avi", "clapping"),
        Record(shards / "00001.tar/00000003.mp4"),
    ]
    assert read_manifest(shards) == expected
    assert read_manifest(shards / "00001.tar") == expected[2:]
    assert detect_manifest(shards).format == "WebDataset, 2 shards"


@pytest.mark.parametrize("kind", ["mp4", "avi"])
def test_videos_in_shards_decode_as_files(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode_video(tmp_path, kind, seed=1)
    inside = write_shard(tmp_path / "a.tar/b, c.tar", {"filler.txt": b"x" * 700, f"v.{kind}": content}) / f"v.{kind}"
    outside = tmp_path / f"1.{kind}"
    assert np.array_equal(decode_frames(inside).numpy(), decode_frames(outside).numpy())
    assert np.array_equal(frame_times(inside), frame_times(outside))
    assert read_frame_numbers(decode_frames(inside, [7, 2]).numpy()) == [7, 2]
    monkeypatch.setattr("verbspace.data.decoding.container.VideoFile.max_buffer_bytes", 100)
    assert read_frame_numbers(decode_frames(inside, [7, 2]).numpy()) == [7, 2]


def test_failed_downloads_count_as_missing(shards: Path) -> None:
    found = detect_manifest(shards)
    info = summarize_dataset(found)
    assert (info.num_videos, [path.name for path in info.missing], info.num_probed) == (4, ["00000001.mp4"], 3)
    with pytest.raises(DecodeError, match=r"00000\.tar/00000001\.mp4: there is no such file"):
        decode_frames(found.records[1].path)


def test_verify_checks_each_member(shards: Path) -> None:
    files = [record.file for record in read_manifest(shards)]
    outcomes = verify_files(files, shards / VERIFY_LOG_NAME)
    assert [outcome.frames for outcome in outcomes] == [12, 0, 12, 12]
    assert "there is no such file" in str(outcomes[1].error)
    calls: list[object] = []
    verify_files(files, shards / VERIFY_LOG_NAME, on_progress=lambda *args: calls.append(args))
    assert calls[-1] == ("verify", 4, 4, {"bad": 1})
    assert len((shards / VERIFY_LOG_NAME).read_text().splitlines()) == 4


def test_data_hash_depends_on_the_members(shards: Path) -> None:
    records = read_manifest(shards)
    first = data_hash(records)
    content = {"00000003.mp4": b"longer than it was"}
    write_shard(shards / "00001.tar", content)
    second = data_hash(records)
    assert second != first
    (shards / "00001.tar").write_bytes(b"cut short")  # reported when the videos are decoded
    assert data_hash(records) not in (first, second)


def test_damaged_shards_are_errors(tmp_path: Path, shards: Path) -> None:
    text = tmp_path / "a.tar"
    text.write_text("no tar at all " * 100)
    with pytest.raises(
        ValueError, match=r"a\.tar: not a complete, uncompressed tar file .*; download it again or remove it"
    ):
        read_manifest(text)
    whole = (shards / "00000.tar").read_bytes()
    (shards / "00000.tar").write_bytes(whole[: len(whole) // 3])
    with pytest.raises(ValueError, match=r"00000\.tar: not a complete, uncompressed tar file"):
        read_manifest(shards)
    with pytest.raises(DecodeError, match=r"00000\.tar: not a complete, uncompressed tar file"):
        decode_frames(shards / "00000.tar/00000000.mp4")
    with pytest.raises(ValueError, match=r"no videos found"):
        read_manifest(write_shard(tmp_path / "b.tar", {"x.jpg": b"picture"}))
    with pytest.raises(ValueError, match=r"c\.tar: 0\.json: not valid JSON"):
        read_manifest(write_shard(tmp_path / "c.tar", {"0.mp4": b"x", "0.json": b"{"}))


def test_shards_and_videos_in_one_folder_are_an_error(shards: Path, tmp_path: Path) -> None:
    encode_video(shards / "more", seed=5)
    with pytest.raises(ValueError, match=r"contains shards \(00000\.tar\) and videos"):
        read_manifest(shards)


def test_links_and_folders_in_a_shard_are_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("0.mp4", tarfile.SYMTYPE), ("1.mp4", tarfile.LNKTYPE), ("2.mp4", tarfile.DIRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "../secret.mp4"
            archive.addfile(entry)
    assert storage.tar_index(str(path)) == {}


def test_file_names_that_look_like_a_url_scheme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "concat:a.mp4").write_bytes(encode_video(tmp_path, seed=4))
    monkeypatch.chdir(tmp_path)
    assert len(decode_frames("concat:a.mp4")) == 12


def test_a_tar_file_of_class_folders_is_read_as_that_folder(tmp_path: Path) -> None:
    names = [f"set/{split}/{label}/{split}.mp4" for split in ("train", "test") for label in ("waving", "bowing")]
    video = encode_video(tmp_path)
    write_shard(
        tmp_path / "set.tar", {f"./{name.removeprefix('set/')}": video for name in names} | {"LICENSE": b"free"}
    )
    manifest = detect_manifest(tmp_path / "set.tar", split="test")
    assert manifest.format == "a folder of videos in a tar file"
    assert [(record.file, record.label) for record in manifest.records] == [
        (f"{tmp_path}/set.tar/test/{label}/test.mp4", label) for label in ("bowing", "waving")
    ]
    assert read_frame_numbers(decode_frames(manifest.records[0].path).numpy()) == list(range(12))
    deep = {f"UCF-101/{label}/{n}/a.mp4": b"" for label in ("waving", "bowing") for n in "12"}
    write_shard(tmp_path / "deep.tar", deep)
    assert [record.label for record in read_manifest(tmp_path / "deep.tar")] == 2 * ["bowing"] + 2 * ["waving"]
    assert [record.label for record in read_manifest(tmp_path / "deep.tar", label_level=-1)] == list("1212")
    write_shard(tmp_path / "one.tar", {"clips/a.mp4": b"", "clips/b.mp4": b""})
    assert [record.label for record in read_manifest(tmp_path / "one.tar")] == [None, None]
    with pytest.raises(ValueError, match="this is a shard, so split 'test' cannot be selected"):
        read_manifest(tmp_path / "one.tar", split="test")
