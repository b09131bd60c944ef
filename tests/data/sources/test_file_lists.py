"""Lists as tables: columns, splits, parts of videos, class numbers, and endings that are no videos."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from support.video_files import numbered_frames, read_frame_numbers, touch, write_video
from verbspace.cli import main
from verbspace.data.datasets import ClipDataset
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import DecodeFailure
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import plan_windows
from verbspace.data.sources.inputs import expand_inputs
from verbspace.data.sources.manifest import Record, data_hash, detect_manifest, read_manifest
from verbspace.data.sources.storage import Segment, add_segment, split_segment
from verbspace.data.sources.unpack import unpack_parquet


def write(folder: Path, text: str, name: str = "list.csv") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.mp4,waving,train\nb.mp4,bowing,test\n", [("a.mp4", "waving"), ("b.mp4", "bowing")]),
        ("path,label,split\na.mp4,waving,train\n", [("a.mp4", "waving")]),
        ("label;video\nwaving;a.mp4\n", [("a.mp4", "waving")]),
        ('subject,"file_name",class\n3,a.mp4,"falling, then rising"\n', [("a.mp4", "falling, then rising")]),
        ('"a, b.mp4",waving\n', [("a, b.mp4", "waving")]),
        ('a.mp4,"falling, then rising"\n', [("a.mp4", "falling, then rising")]),
        ("video class_id class_name\na.mp4 3 waving\n", [("a.mp4", "waving")]),
        ("path\nno known ending\n", [("no known ending", None)]),
        ("a.mp4,train\nb.mp4,test\n", [("a.mp4", None), ("b.mp4", None)]),
        ("clip 1.mp4\n", [("clip 1.mp4", None)]),
        ("a.MTS -1\nb.264 1\n", [("a.MTS", "-1"), ("b.264", "1")]),
        ("path,start,end,label\na.mp4,0.5,1:02,wave\na.mp4,,,bow\n", [("a.mp4#t=0.5,62", "wave"), ("a.mp4", "bow")]),
    ],
)
def test_columns(tmp_path: Path, text: str, expected: list[tuple[str, str | None]]) -> None:
    assert read_manifest(write(tmp_path, text)) == [Record(tmp_path / path, label) for path, label in expected]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.mp4 waving s1\n", r"list.csv: line 1: 2 columns after the path \('waving', 's1'\); keep only the label"),
        ("a.mp4 0.5 1.5 waving\n", r"line 1: 3 columns after the path \('0.5', '1.5', 'waving'\)"),
        ("a.mp4,waving,3,x\n", r"line 1: 3 columns after the path"),
        ("a.mp4,waving,train\nb.mp4,bowing\n", "line 2: label all videos or none"),
        ("path,label\na.mp4,falling, then rising\n", "line 2: 3 cells, but the first line names 2 columns; quote"),
        ("id,caption\n1,a\n", r"none of the columns \(id, caption\) has the paths"),
        ("path,label,Path\na.mp4,b,c\n", "the column 'Path' is there twice"),
        ("path,start_frame,label\na.mp4,3,b\n", "column 'start_frame': parts of videos must be in seconds"),
        ("path,start,end\na.mp4,2,1\n", "line 2: the end 1 must be after the start 2"),
        ("path,start,end\na.mp4,x,1\n", "line 2: start 'x' and end '1' must be seconds"),
        ("path,label\n,waving\n", "line 2: no path; fill the cell in"),
        ('path,label\n"a.mp4,waving\n', "not valid CSV"),
    ],
)
def test_wrong_tables(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_manifest(write(tmp_path, text))


def test_a_path_without_known_ending_is_read_if_the_file_exists(tmp_path: Path) -> None:
    touch(tmp_path, "clip one", "two")
    assert read_manifest(write(tmp_path, "clip one 3\ntwo 4\n")) == [
        Record(tmp_path / "clip one", "3"),
        Record(tmp_path / "two", "4"),
    ]
    with pytest.raises(ValueError, match="line 1: no path of a video in 'three 3': no such file"):
        read_manifest(write(tmp_path, "three 3\n"))


def test_columns_that_are_not_read_are_named(tmp_path: Path) -> None:
    assert (
        detect_manifest(write(tmp_path, "path,subject,label\na.mp4,1,x\n")).note == "columns that are not read: subject"
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.csv", "a.mp4,waving,train\nb.mp4,bowing,test\n"),
        ("list.csv", "path,label,subset\na.mp4,waving,training\nb.mp4,bowing,testing\n"),
        ("metadata.csv", "file_name,label,split\na.mp4,waving,train\nb.mp4,bowing,test\n"),
        ("list.jsonl", '{"path": "a.mp4", "split": "train"}\n{"path": "b.mp4", "split": "test"}\n'),
    ],
)
def test_split_of_a_table(tmp_path: Path, name: str, text: str) -> None:
    source = write(tmp_path, text, name)
    assert [record.path.name for record in read_manifest(source, split="test")] == ["b.mp4"]
    assert len(read_manifest(source)) == 2
    with pytest.raises(ValueError, match="no split 'validation'; the file has test, train"):
        read_manifest(source, split="validation")


def test_split_is_an_error_where_it_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list.csv: this is a list without a column `split`"):
        read_manifest(write(tmp_path, "a.mp4 1\n"), split="train")
    with pytest.raises(ValueError, match=r"val.csv: by its name this is the validation split, not train"):
        read_manifest(write(tmp_path, "a.mp4 1\n", "val.csv"), split="train")
    assert len(read_manifest(tmp_path / "val.csv", split="val")) == 1
    with pytest.raises(ValueError, match="line 2: no split, and other lines have one"):
        read_manifest(write(tmp_path, "path,split\na.mp4,\nb.mp4,train\n"), split="train")
    with pytest.raises(ValueError, match="has no folds; leave out --fold"):
        read_manifest(write(tmp_path, "a.mp4 1\n"), fold=2)
    with pytest.raises(ValueError, match="has its own labels; leave out --label-level"):
        read_manifest(write(tmp_path, "a.mp4 1\n"), label_level=1)


def test_class_numbers_get_names(tmp_path: Path) -> None:
    source = write(tmp_path, "a.mp4 1\nb.mp4 -1\nc.mp4 wave\n")
    names = {"1": "wave", "-1": "bow"}
    assert [record.label for record in read_manifest(source, label_names=names)] == ["wave", "bow", "wave"]
    with pytest.raises(ValueError, match=r"b.mp4: there is no name for the label '-1'; the label names have 0 to 1"):
        read_manifest(source, label_names={"0": "bow", "1": "wave"})


def test_activitynet(tmp_path: Path) -> None:
    annotations = [{"segment": [1.5, 9.25], "label": "Waving"}, {"segment": [10, 20], "label": "Bowing"}]
    content = {
        "x1": {"subset": "training", "annotations": annotations},
        "x2": {"subset": "testing", "annotations": []},
    }
    source = write(tmp_path, json.dumps({"database": content}), "activity_net.json")
    touch(tmp_path, "videos/v_x1.mp4")
    assert read_manifest(source, split="train") == [
        Record(tmp_path / "videos/v_x1.mp4#t=1.5,9.25", "Waving"),
        Record(tmp_path / "videos/v_x1.mp4#t=10,20", "Bowing"),
    ]
    assert read_manifest(source, split="test") == [Record(tmp_path / "x2.mp4")]
    annotations.append({"segment": [3], "label": "x"})
    write(tmp_path, json.dumps({"database": content}), "activity_net.json")
    with pytest.raises(ValueError, match=r"database.x1.annotations.2: expected"):
        read_manifest(source)


@pytest.mark.parametrize("name", ["clips.zip", "clips.tar.gz", "clips.TGZ"])
def test_archives_name_the_command(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK")
    for read in (read_manifest, lambda source: list(expand_inputs([str(source)]))):
        with pytest.raises(ValueError, match=r"archives are not read in place; unpack it: (unzip|tar -xzf)"):
            read(tmp_path / name)


def test_lists_are_inputs(tmp_path: Path) -> None:
    source = write(tmp_path, "a.mp4 3\nb.mp4 4\n", "list.txt")
    assert list(expand_inputs([str(source)])) == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]


def test_segments_of_a_path() -> None:
    for segment in (Segment(0.0, 2.5), Segment(12.25, None)):
        assert split_segment(add_segment("a b.mp4", segment)) == ("a b.mp4", segment)
    assert split_segment("a#t=1,2.mp4") == ("a#t=1,2.mp4", None)


def test_a_segment_is_decoded_alone(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", numbered_frames(50), rate=25)
    records = [Record(f"{video}#t=0.4,0.8", "x"), Record(f"{video}#t=1.8,"), Record(video), Record(f"{video}#t=9,10")]
    frames = FramePreprocessing(size=48)
    dataset = ClipDataset(records, num_frames=10, preprocessing=frames)
    part, tail, whole, late = (dataset[n] for n in range(4))
    assert not isinstance(part, DecodeFailure)
    assert not isinstance(tail, DecodeFailure)
    assert not isinstance(whole, DecodeFailure)
    np.testing.assert_allclose(part["times"][0], np.arange(10) * 0.04, atol=1e-6)
    np.testing.assert_allclose(tail["times"][0], np.array([0, 1, 1, 2, 2, 3, 3, 4, 4, 4]) * 0.04, atol=1e-6)
    assert float(whole["times"].max()) > 1.8
    assert isinstance(late, DecodeFailure)
    assert "the part starts at 9 s, after the end of the video" in late.reason
    windows = list(
        stream_windows(records[0].path, lambda times: plan_windows(times, 0.2, 0.2), num_frames=5, preprocessing=frames)
    )
    assert [(round(window.start, 6), round(window.end, 6)) for window, _, _ in windows] == [(0.4, 0.6), (0.6, 0.8)]
    assert data_hash(records[:1]) != data_hash(records[1:2]) != data_hash(records[2:3])
    square = write_video(tmp_path / "b.mp4", numbered_frames(50, 64, 64), rate=25)
    clip = ClipDataset([Record(f"{square}#t=0.4,0.8")], num_frames=10, preprocessing=FramePreprocessing(size=64))[0]
    assert not isinstance(clip, DecodeFailure)
    assert read_frame_numbers(clip["video"][0].numpy()) == list(range(10, 20))


def test_folders_probe_unknown_endings_and_count_the_rest(tmp_path: Path) -> None:
    video = write_video(tmp_path / "wave/a.mp4", numbered_frames(5)).read_bytes()
    for name in ("wave/b.MTS", "wave/c.unknown", "wave/noending"):
        (tmp_path / name).write_bytes(video)
    for name in ("wave/d.unknown", "notes.txt", "wave/a.jpg", "wave/x.odd"):
        (tmp_path / name).write_bytes(b"no video")
    manifest = detect_manifest(tmp_path)
    assert [record.path.name for record in manifest.records] == ["a.mp4", "b.MTS", "c.unknown", "noending"]
    assert manifest.skipped == Counter({".unknown": 1, ".txt": 1, ".jpg": 1, ".odd": 1})


def test_parquet_with_bytes_is_unpacked(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    features = {"video": {"_type": "Video"}, "label": {"names": ["bow", "wave"], "_type": "ClassLabel"}}
    table = pyarrow.table(
        {"video": [{"bytes": b"one", "path": "x.mkv"}, {"bytes": b"two", "path": None}], "label": [1, 0]}
    )
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    source = tmp_path / "data" / "train-00000-of-00001.parquet"
    source.parent.mkdir()
    parquet.write_table(table, source)
    with pytest.raises(ValueError, match="holds the videos themselves; unpack them with: verbspace data unpack"):
        read_manifest(source)
    with pytest.raises(ValueError, match=r"but archives .1 .parquet.; unpack them first"):
        read_manifest(tmp_path / "data")
    out = tmp_path / "out"
    assert unpack_parquet(tmp_path / "data", out) == 2
    assert read_manifest(out, split="train") == [
        Record(out / "train/0000000.mkv", "wave"),
        Record(out / "train/0000001.mp4", "bow"),
    ]
    assert (out / "train/0000001.mp4").read_bytes() == b"two"
    with pytest.raises(FileExistsError):
        unpack_parquet(source, out)
    command = ["data", "unpack", str(source), "--out", str(tmp_path / "cli")]
    result = CliRunner().invoke(main.app, command)
    assert (result.exit_code, result.stdout) == (0, f"2 videos unpacked into {tmp_path / 'cli'}\n")
    assert [record.label for record in read_manifest(tmp_path / "cli")] == ["wave", "bow"]
    for name, reason in (
        ("a.zip", "no Parquet file; unpack zip and tar files with unzip and tar"),
        ("a.parquet", "not a Parquet file"),
    ):
        (tmp_path / name).write_bytes(b"PK")
        result = CliRunner().invoke(main.app, ["data", "unpack", str(tmp_path / name), "--out", str(tmp_path / "new")])
        assert reason in str(result.exception)
        assert not (tmp_path / "new").exists()
    assert not list(tmp_path.glob(".*"))


def test_urls_in_lists_are_for_prediction_and_search(tmp_path: Path) -> None:
    urls = ["https://x.org/a.mp4", "s3://bucket/b c.mp4", "https://x.org/get?id=3,4"]
    for text in (
        f"{urls[0]} waving\n{urls[1]} waving\n{urls[2]} waving\n".replace("3,4", "3"),
        f"{urls[0]},waving\n{urls[1]},waving\n",
        f'path,label\n"{urls[0]}",waving\n{urls[1]},bowing\n"{urls[2]}",bowing\n',
    ):
        source = write(tmp_path, text)
        found = list(expand_inputs([str(source)]))
        assert [url.replace("3,4", "3") for url in urls[: len(found)]] == [url.replace("3,4", "3") for url in found]
        assert len(found) >= 2
        with pytest.raises(
            ValueError, match=r"list\.csv: lists URLs \(https://x\.org/a\.mp4\), which only .*; download"
        ):
            read_manifest(source)
    source = write(tmp_path, "path,start,end\nhttps://x.org/a.mp4,1,2\n")
    assert list(expand_inputs([str(source)])) == ["https://x.org/a.mp4#t=1,2"]
