"""Lists of videos and captions, and the published files of MSR-VTT, MSVD and DiDeMo."""

import json
from pathlib import Path

import pytest

from support.video_files import touch
from verbspace.data.sources.captions import read_captions


def found(source: Path, root: Path | None = None) -> list[tuple[str, tuple[str, ...]]]:
    base = root or source.parent
    return [(record.path.relative_to(base).as_posix(), record.labels or ()) for record in read_captions(source, root)]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_several_captions_per_video(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "b/a.mp4")
    text = 'video,caption,start\n"a.mp4","a dog, running",\nb/a.mp4,a cat,\na.mp4, a dog runs ,\n'
    source = write(tmp_path / "list.csv", text)
    assert found(source) == [("a.mp4", ("a dog, running", "a dog runs")), ("b/a.mp4", ("a cat",))]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.tsv", "caption\tpath\na dog, running\ta.mp4\na cat\tb.mp4\n"),
        ("list.csv", "Sentence;Video\na dog, running;a.mp4\n\na cat;b.mp4\n"),
        ("list.csv", '\ufeffvideo,text\r\na.mp4,"a dog, running"\r\nb.mp4,a cat\r\n'),
        (
            "list.json",
            json.dumps([{"video": "a.mp4", "caption": ["a dog, running"]}, {"video": "b", "caption": "a cat"}]),
        ),
    ],
)  # fmt: skip
def test_spellings_of_a_list(name: str, text: str, tmp_path: Path) -> None:
    touch(tmp_path, "videos/a.mp4", "videos/b.mp4")
    expected = [("a.mp4", ("a dog, running",)), ("b.mp4", ("a cat",))]
    assert found(write(tmp_path / name, text), tmp_path / "videos") == expected


def test_parts_of_videos(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4")
    source = write(tmp_path / "list.csv", "video,caption,start,end\na,one,0,1.5\na,two,1.5,3\n")
    assert found(source) == [("a.mp4#t=0,1.5", ("one",)), ("a.mp4#t=1.5,3", ("two",))]


def test_msrvtt(tmp_path: Path) -> None:
    """The first rows of MSRVTT_JSFUSION_test.csv."""
    touch(tmp_path, "all/video9770.mp4", "all/video9771.mp4")
    source = write(
        tmp_path / "MSRVTT_JSFUSION_test.csv",
        "key,vid_key,video_id,sentence\nret0,msr9770,video9770,a person is connecting something to system\n"
        "ret1,msr9771,video9771,a little girl does gymnastics\n",
    )
    assert found(source, tmp_path / "all") == [
        ("video9770.mp4", ("a person is connecting something to system",)),
        ("video9771.mp4", ("a little girl does gymnastics",)),
    ]


def test_msvd(tmp_path: Path) -> None:
    touch(tmp_path, "YouTubeClips/-4wsuPCjDBc_5_15.avi", "YouTubeClips/sub/zzit5b_-ukg_5_20.avi")
    write(
        tmp_path / "AllVideoDescriptions.txt",
        "# Each line is: video id, description\n\n-4wsuPCjDBc_5_15 a squirrel is eating a peanut\n"
        "other_1_2 a man sings\n-4wsuPCjDBc_5_15 a chipmunk eats\nzzit5b_-ukg_5_20 someone cuts paper\n",
    )
    source = write(tmp_path / "test_list.txt", "-4wsuPCjDBc_5_15\nzzit5b_-ukg_5_20\n")
    assert found(source, tmp_path / "YouTubeClips") == [
        ("-4wsuPCjDBc_5_15.avi", ("a squirrel is eating a peanut", "a chipmunk eats")),
        ("sub/zzit5b_-ukg_5_20.avi", ("someone cuts paper",)),
    ]


def test_didemo_joins_the_sentences_of_a_video(tmp_path: Path) -> None:
    touch(tmp_path, "1@N08_a.mov", "2@N00_b.mp4")
    entries = [
        {"annotation_id": 1, "video": "1@N08_a.mov", "description": "a dog runs.", "times": [[0, 0]]},
        {"annotation_id": 2, "video": "2@N00_b.avi", "description": "two men", "times": [[1, 1]]},
        {"annotation_id": 3, "video": "1@N08_a.mov", "description": "it stops", "times": [[2, 2]]},
    ]  # fmt: skip
    assert found(write(tmp_path / "test_data.json", json.dumps(entries))) == [
        ("1@N08_a.mov", ("a dog runs. it stops",)),
        ("2@N00_b.mp4", ("two men",)),  # converted since
    ]


def test_missing_videos_have_records(tmp_path: Path) -> None:
    touch(tmp_path, "x/gone.mp4")
    source = write(tmp_path / "list.csv", "video,caption\ny/gone.mp4,a dog\nabsent,a cat\n")
    assert [path for path, _ in found(source)] == ["y/gone.mp4", "absent"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "video,label\na,b\n", r"names no column of captions; name two columns: video,caption"),
        ("list.csv", "caption,name\na,b\n", r"list\.csv: none of the columns .* has the paths"),
        ("list.csv", "video,caption\na.mp4,a dog, running\n", r"line 2: 3 cells, .* 2 columns; quote captions"),
        ("list.csv", "video,caption\na.mp4, \n", r"line 2: no caption; fill it in"),
        ("list.csv", "video,caption\n,a dog\n", r"line 2: no video; fill the cell in"),
        ("list.csv", "video,caption\nhttps://x.org/a.mp4,a dog\n", r"line 2: https://x\.org/a\.mp4 is a URL; download"),
        ("list.csv", 'video,caption\na.mp4,"a dog\n', r"not valid CSV"),
        ("list.csv", "video,caption\n", r"no captions found"),
        ("list.json", "{", r"list\.json: not valid JSON"),
        ("list.json", "[]", r"not a list of objects"),
        ("list.json", '[{"video": "a.mp4"}]', r"entry 0: expected an object with video and caption"),
        ("list.json", '[{"video": "a.mp4", "caption": ["a", 1]}]', r"entry 0: caption: a list of texts has"),
        ("test_list.txt", "a_1_2\n", r"no AllVideoDescriptions\.txt beside it"),
        ("raw-captions.pkl", "x", r"pickle files are not read, because they can run code"),
    ],
)
def test_errors_name_the_place(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        read_captions(write(tmp_path / name, text))


def test_a_video_without_captions_in_msvd(tmp_path: Path) -> None:
    write(tmp_path / "AllVideoDescriptions.txt", "a_1_2 a man\n")
    with pytest.raises(
        ValueError, match=r"test_list\.txt: 'b_1_2' has no caption in AllVideoDescriptions\.txt; remove"
    ):
        read_captions(write(tmp_path / "test_list.txt", "a_1_2\nb_1_2\n"))


def test_two_names_of_one_file(tmp_path: Path) -> None:
    """A missing video is not replaced by one of the same name in another folder, which the list has, too."""
    touch(tmp_path, "b/a.mp4")
    source = write(tmp_path / "list.csv", "video,caption\nb/a.mp4,a cat\na.mp4,a dog\n")
    with pytest.raises(ValueError, match=r"line 3: 'a\.mp4' and 'b/a\.mp4' are one file, .*a\.mp4; write one name"):
        read_captions(source)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no such file"):
        read_captions(tmp_path / "none.csv")
