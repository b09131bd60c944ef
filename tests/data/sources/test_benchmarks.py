"""Annotation files of public data sets, in their exact format."""

import json
from pathlib import Path

import pytest

from support.video_files import touch
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import Record, detect_manifest, read_manifest

UCF = ConceptSet.load("ucf101").labels
HMDB = ConceptSet.load("hmdb51").labels
UCF_COUNTS = {"train": 9537, "test": 3783}  # of split 1, by Soomro et al., 2012


def ucf_clip(label: str, number: int) -> str:
    """In one class the letter case differs between the folder and its files."""
    stem = "HandStandPushups" if label == "HandstandPushups" else label
    return f"{label}/v_{stem}_g{1 + number // 8:02d}_c{1 + number % 8:02d}.avi"


def ucf101(folder: Path) -> Path:
    folder.mkdir()
    (folder / "classInd.txt").write_text("".join(f"{n} {label}\r\n" for n, label in enumerate(UCF, 1)))
    for split, total in UCF_COUNTS.items():
        clips = [(n % len(UCF), n // len(UCF)) for n in range(total)]
        clips = sorted((place, 500 + number if split == "test" else number) for place, number in clips)
        numbered = (f" {1 + place}" if split == "train" else "" for place, _ in clips)
        lines = [ucf_clip(UCF[place], n) + end for (place, n), end in zip(clips, numbered, strict=True)]
        (folder / f"{split}list01.txt").write_text("\r\n".join(lines) + "\r\n")
    return folder


def hmdb51(folder: Path) -> Path:
    folder.mkdir()
    for label in HMDB:
        uses = [1] * 70 + [2] * 30 + [0] * 5
        names = [f"#20_[x]!_(y)&_{label}_u_cm_np1_fr_med_{n}.avi {use} \n" for n, use in enumerate(uses)]
        for fold in (1, 2, 3):
            (folder / f"{label}_test_split{fold}.txt").write_text("".join(names))
    return folder


@pytest.mark.parametrize("split", UCF_COUNTS)
def test_ucf101_split_1(split: str, tmp_path: Path) -> None:
    lists = ucf101(tmp_path / "ucfTrainTestlist")
    by_file = read_manifest(lists / f"{split}list01.txt", root=tmp_path)
    by_folder = read_manifest(lists, root=tmp_path, split=split)
    assert by_file == by_folder
    assert len(by_file) == UCF_COUNTS[split]
    assert {record.label for record in by_file} == set(UCF)
    assert by_file[0] == Record(tmp_path / ucf_clip(UCF[0], 0 if split == "train" else 500), UCF[0])
    assert detect_manifest(lists, tmp_path, split=split).format == "UCF101, fold 1"


def test_ucf101_files_are_found_in_any_folder_and_letter_case(tmp_path: Path) -> None:
    lists = ucf101(tmp_path / "lists")
    root = touch(
        tmp_path / "videos",
        "HandStandPushups/v_HandstandPushups_g01_c01.avi",  # letter case of folder and file swapped
        "flat/v_Archery_g01_c01.avi",
        "Biking/v_Biking_g01_c01.avi",
    )
    found = {record.file: record.label for record in read_manifest(lists, root=root, split="train")}
    assert found[str(root / "HandStandPushups/v_HandstandPushups_g01_c01.avi")] == "HandstandPushups"
    assert found[str(root / "flat/v_Archery_g01_c01.avi")] == "Archery"
    assert found[str(root / "Biking/v_Biking_g01_c01.avi")] == "Biking"
    assert sum(Path(file).is_file() for file in found) == 3
    assert len(found) == UCF_COUNTS["train"]  # missing files have a record


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("testlist01.txt", "\nArchry/v_x.avi\n", "line 2: 'Archry' is not in classInd.txt"),
        ("testlist01.txt", "\n", "no videos found \\(read as UCF101, fold 1\\)"),
    ],
)
def test_ucf101_errors_have_file_and_line(name: str, text: str, why: str, tmp_path: Path) -> None:
    lists = ucf101(tmp_path / "lists")
    (lists / name).write_text(text)
    with pytest.raises(ValueError, match=why):
        read_manifest(lists / name)


def test_folders_of_split_files_need_a_split(tmp_path: Path) -> None:
    for folder in (ucf101(tmp_path / "ucf"), hmdb51(tmp_path / "hmdb")):
        with pytest.raises(ValueError, match=r"choose one with --split train or test"):
            read_manifest(folder)
    with pytest.raises(FileNotFoundError, match=r"trainlist03.txt: there is no such file"):
        read_manifest(tmp_path / "ucf", split="train", fold=3)


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_hmdb51_folds(fold: int, tmp_path: Path) -> None:
    lists = hmdb51(tmp_path / "lists")
    name = "#20_[x]!_(y)&_wave_u_cm_np1_fr_med_0.avi"
    root = touch(tmp_path / "videos", f"wave/{name}")
    train, test = (read_manifest(lists, root=root, split=split, fold=fold) for split in ("train", "test"))
    assert (len(train), len(test)) == (3570, 1530)
    assert {record.label for record in train} == set(HMDB) == {record.label for record in test}
    assert not {record.file for record in train} & {record.file for record in test}
    assert Record(root / "wave" / name, "wave") in train
    assert detect_manifest(lists, root, split="test", fold=fold).format == f"HMDB51, fold {fold}"


def test_hmdb51_errors_have_file_and_line(tmp_path: Path) -> None:
    lists = hmdb51(tmp_path / "lists")
    (lists / "wave_test_split1.txt").write_text("a.avi 1\nb.avi 7\n")
    with pytest.raises(ValueError, match=r"wave_test_split1.txt: line 2: 'b.avi 7' has no 0, 1 or 2"):
        read_manifest(lists, split="train")


KINETICS = """label,youtube_id,time_start,time_end,split
"playing \"\"air\"\" guitar",-wcTLFZUlLE,20,30,train
"testifying, in court",0-abcdefghi,9,19,validate
zumba,__NrybzYzUg,415,425,train
"""


def test_kinetics_csv(tmp_path: Path) -> None:
    source = tmp_path / "train.csv"
    source.write_text(KINETICS)
    root = touch(tmp_path / "k400", "train/zumba/__NrybzYzUg_000415_000425.mkv", "0-abcdefghi.mp4")
    found = read_manifest(source, root=root)
    assert found == [
        Record(root / "-wcTLFZUlLE_000020_000030.mp4", 'playing "air" guitar'),
        Record(root / "0-abcdefghi.mp4", "testifying, in court"),
        Record(root / "train/zumba/__NrybzYzUg_000415_000425.mkv", "zumba"),
    ]
    assert [record.label for record in read_manifest(source, root=root, split="val")] == ["testifying, in court"]
    assert detect_manifest(source, root).format == "CSV file of Kinetics"


def test_kinetics_test_list_has_no_labels(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nabc,1,11,test\n")
    assert read_manifest(tmp_path / "test.csv") == [Record(tmp_path / "abc_000001_000011.mp4")]


def test_kinetics_errors_have_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(KINETICS + "zumba,abc,soon,later,train\n")
    with pytest.raises(ValueError, match=r"train.csv: line 5: time_start and time_end must be numbers"):
        read_manifest(tmp_path / "train.csv")


def test_something_something(tmp_path: Path) -> None:
    entries = [
        {"id": "78687", "label": "holding a potato", "template": "Holding [something] next to [something]"},
        {"id": 42326, "label": "covering salad with napkin", "template": "Covering [something] with [something]"},
    ]
    (tmp_path / "train.json").write_text(json.dumps(entries))
    assert read_manifest(tmp_path / "train.json") == [
        Record(tmp_path / "78687.webm", "Holding something next to something"),
        Record(tmp_path / "42326.webm", "Covering something with something"),
    ]
    (tmp_path / "test.json").write_text('[{"id": "1420"}]')
    assert read_manifest(tmp_path / "test.json") == [Record(tmp_path / "1420.webm")]
    (tmp_path / "bad.json").write_text('[{"id": "1"}, {"name": 2}]')
    with pytest.raises(ValueError, match=r"bad.json: entry 1: no id"):
        read_manifest(tmp_path / "bad.json")


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_hub_metadata(kind: str, tmp_path: Path) -> None:
    rows = [{"file_name": "clips/a b.mp4", "label": "wave"}, {"file_name": "c.mp4", "label": "clap, twice"}]
    path = tmp_path / f"metadata.{kind}"
    if kind == "csv":
        path.write_text('file_name,label\nclips/a b.mp4,wave\nc.mp4,"clap, twice"\n')
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    expected = [Record(tmp_path / "clips/a b.mp4", "wave"), Record(tmp_path / "c.mp4", "clap, twice")]
    assert read_manifest(tmp_path) == expected == read_manifest(path)


def test_hub_metadata_without_labels_and_with_errors(tmp_path: Path) -> None:
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "a.mp4", "text": "a man waves"}\n')
    assert read_manifest(tmp_path) == [Record(tmp_path / "a.mp4")]
    path.write_text('{"file_name": "a.mp4"}\n{"name": "b"}\n')
    with pytest.raises(ValueError, match=r"metadata.jsonl: line 2: none of the columns"):
        read_manifest(tmp_path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"metadata.jsonl: line 1: not valid JSON"):
        read_manifest(tmp_path)
