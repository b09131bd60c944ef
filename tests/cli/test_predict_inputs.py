"""Which inputs `verbspace predict` reads, and what it prints for bad ones."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from typer.testing import CliRunner

from support.video_files import write_shots
from verbspace.cli import main
from verbspace.cli.console.predictions import make_printer
from verbspace.cli.main import app
from verbspace.data.errors import DecodeError
from verbspace.inference.predictor import Predictor

NAMES = ["waving", "bowing"]
PREDICT = [sys.executable, "-m", "verbspace", "predict", "--encoder", "playground"]
ODD_NAME = b"c\x1b]0;own\x07\x1b[2J\xff\r.mp4"  # escape sequences, invalid UTF-8


def test_predict_stream_continues_after_bad_files(folder: Path) -> None:
    store = fsspec.filesystem("memory")
    store.pipe_file("/clips/x.mp4", (folder / "b.mp4").read_bytes())
    store.pipe_file("/clips/text.mp4", b"no video")
    (folder / "text.mp4").write_text("no video")
    files = [str(folder / "a.mp4"), str(folder / "text.mp4"), "memory://clips/x.mp4", "memory://clips/gone.mp4",
             "memory://clips/text.mp4", str(folder / "a.mp4"), str(folder / "gone.mp4")]  # fmt: skip
    predictor = Predictor("playground", NAMES)
    for batch_size in (1, 3, 16):
        found = list(predictor.predict_stream(files, batch_size=batch_size))
        assert [name for name, _ in found] == files
        kinds = [isinstance(one, DecodeError) for _, one in found]
        assert kinds == [False, True, False, True, True, False, True]
        assert all(str(one).startswith(name) for name, one in found if isinstance(one, DecodeError))
        assert found[0][1] == found[5][1]
        whole = predictor.rank([files[0]], predictor.encoder.encode_video(files[0]))[0]
        first = found[0][1]
        assert not isinstance(first, DecodeError)
        assert dict(first.ranking) == pytest.approx(dict(whole.ranking), abs=1e-5)


def test_every_output_format_has_every_action(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ((name, found),) = Predictor("playground", NAMES).predict_stream([str(folder / "a.mp4")])
    assert not isinstance(found, DecodeError)
    for form in ("jsonl", "csv", "table"):
        make_printer(form)(name, found)
    json_line, head, *rest = capsys.readouterr().out.splitlines()
    assert json.loads(json_line) == {"path": name, "actions": dict(found.ranking), "descriptions": []}
    assert head == "path,rank,action,probability"
    assert rest[0] == f"{name},1,{found.ranking[0][0]},{found.ranking[0][1]:.6f}"
    assert rest[1].split(",")[1:3] == ["2", found.ranking[1][0]]
    assert found.ranking[1][0] in rest[-1]
    with pytest.raises(ValueError, match="format 'xml' is not one of table, jsonl, csv"):
        make_printer("xml")


def test_predict_reads_standard_input_and_reports_bad_files(folder: Path) -> None:
    done = subprocess.run(
        [*PREDICT, "-", "--actions", "waving,bowing", "--format", "csv"],
        input=f"{folder}/gone.mp4\n{folder}/*.mp4\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {folder}/gone.mp4: there is no such file"
    assert [line.split(",")[:2] for line in done.stdout.splitlines()[1:]] == [
        [f"{folder}/{name}.mp4", rank] for name in "ab" for rank in "12"
    ]


@pytest.mark.parametrize("form", ["jsonl", "table"])
def test_predict_ends_quietly_when_the_pipe_is_closed(folder: Path, form: str) -> None:
    """As with ``| head -1``."""
    command = [*PREDICT, *(20 * [str(folder / "a.mp4")]), "--actions", "a,b", "--format", form]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline()
        running.stdout.close()
        assert "roken pipe" not in running.stderr.read()
    assert running.returncode == main.EXIT_SIGPIPE


def test_ascii_terminals(folder: Path) -> None:
    done = subprocess.run(
        [*PREDICT, str(folder / "a.mp4"), "--actions", "waving,bowing é"], capture_output=True, check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii", "COLUMNS": "40"},
    )  # fmt: skip
    assert done.returncode == 0
    rows = done.stdout.decode("ascii").splitlines()
    assert rows[0] == str(folder / "a.mp4")
    assert len(rows) == 3
    assert any("#" in row for row in rows[1:])
    assert any("bowing ?" in row for row in rows[1:])


def test_predict_continues_after_a_bad_source(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    sources = [str(folder / "a.mp4"), "nothing*.mp4", str(tmp_path / "empty"), "x" * 5000, "nosuch://x/*", "-"]
    lines = ["nothing?.mp4", str(folder / "b.mp4")]
    command = ["predict", *sources, "--encoder", "playground", "--actions", "waving,bowing", "--format", "csv"]
    found = CliRunner().invoke(app, command, input="\n".join(lines))
    assert found.exit_code == 1
    named = [line.split(",")[0] for line in found.stdout.splitlines()[1::2]]
    assert named == [str(folder / "a.mp4"), str(folder / "b.mp4")]
    assert found.stderr.count("error: ") == 5


def test_file_names_with_control_characters_or_invalid_utf8(folder: Path, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    name = os.fsencode(odd) + b"/" + ODD_NAME
    Path(os.fsdecode(name)).write_bytes((folder / "a.mp4").read_bytes())
    (odd / "bad\x1b[2J.mp4").write_bytes(b"no video")
    command = [*PREDICT, str(odd), "--actions", "waving,bowing"]
    options = {"capture_output": True, "check": False, "env": {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}}
    table, rows = (
        subprocess.run([*command, "--format", form], **options)  # type: ignore[call-overload]
        for form in ("table", "csv")
    )
    assert rb"c\x1b]0;own\x07\x1b[2J" in table.stdout
    assert b"\x1b" not in table.stdout
    text = io.StringIO(rows.stdout.decode("utf-8", "surrogateescape"), newline="")
    assert [os.fsencode(row[0]) for row in list(csv.reader(text))[1:]] == [name] * 2  # as they are, for other programs
    jsonl = CliRunner().invoke(app, [*command[command.index("predict") :], "--format", "jsonl"])
    assert (table.returncode, rows.returncode, jsonl.exit_code) == (1, 1, 1)
    assert os.fsencode(json.loads(jsonl.stdout)["path"]) == name
    for error in (table.stderr.decode(), rows.stderr.decode(), jsonl.stderr):
        assert "\x1b" not in error
        assert "bad\\x1b[2J.mp4: not decodable" in error
    page = tmp_path / "page.html"
    explain = [sys.executable, "-m", "verbspace", "explain", os.fsdecode(name), "--encoder", "playground"]
    explain += ["--actions", "waving,bowing", "--out", str(page)]
    assert subprocess.run(explain, **options).returncode == 0  # type: ignore[call-overload]
    assert "2J" in page.read_text(encoding="utf-8")


def test_one_action(folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    command = [str(folder / "a.mp4"), "--encoder", "playground", "--actions", "waving"]
    assert CliRunner().invoke(app, ["predict", *command]).exit_code == 0
    assert "there is only one action, so every video gets 100 %; add actions to tell it from" in caplog.messages
    found = CliRunner().invoke(app, ["calibrate", *command, "--out", str(tmp_path / "t.json")])
    assert "there is only one action, which has 100 % at every temperature" in str(found.exception)


@pytest.mark.parametrize("count", [1, 4, 5, 6])
def test_top5_needs_more_than_five_classes(count: int, folder: Path, tmp_path: Path) -> None:
    names = [f"action {letter}" for letter in "abcdef"[:count]]
    for name in names:
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.mp4").write_bytes((folder / "a.mp4").read_bytes())
    found = CliRunner().invoke(app, ["evaluate", "--encoder", "playground", "--data", str(tmp_path / "data")])
    assert found.exit_code == 0, found.exception
    assert ("top-5" in found.stdout) == (count > 5)
    assert ("there is only one action" in found.stdout) == (count == 1)
    row = next(line for line in found.stdout.splitlines() if line.startswith("│ encoder"))
    assert row.count("│") == (7 if count > 5 else 6)


def test_spans_are_printed_in_place_of_the_timeline(folder: Path) -> None:
    command = ["predict", str(folder / "a.mp4"), "--encoder", "playground", "--actions", "waving, bowing"]
    windows = ["--window", "0.4", "--spans"]
    outputs = {
        form: CliRunner().invoke(app, [*command, *windows, "--format", form]) for form in ("jsonl", "csv", "table")
    }
    assert [run.exit_code for run in outputs.values()] == [0, 0, 0]
    row = json.loads(outputs["jsonl"].stdout)
    ends = [(span["start"], span["end"], span["action"]) for span in row["spans"]]
    assert ends
    assert row["timeline"]
    scores = [span["score"] for span in row["spans"]]
    assert scores == sorted(scores, reverse=True)
    table = list(csv.DictReader(io.StringIO(outputs["csv"].stdout)))
    assert [(float(r["start"]), float(r["end"]), r["action"]) for r in table] == [
        (pytest.approx(start, abs=1e-3), pytest.approx(end, abs=1e-3), action) for start, end, action in ends
    ]
    assert len(outputs["table"].stdout.splitlines()) == 1 + len(ends)
    none = CliRunner().invoke(app, [*command, *windows, "--min-score", "1", "--json"])
    assert json.loads(none.stdout)["spans"] == []
    alone = CliRunner().invoke(app, [*command, "--spans"])
    assert str(alone.exception).startswith("--stride, --windows, --spans and --min-score need --window")


def test_windows_of_shots_meet_at_the_cuts(tmp_path: Path) -> None:
    video = write_shots(tmp_path / "a.mp4")
    command = ["predict", str(video), "--encoder", "playground", "--actions", "waving, bowing", "--windows", "shots"]
    found = CliRunner().invoke(app, [*command, "--window", "5", "--json"])
    edges = {edge for part in json.loads(found.stdout)["timeline"] for edge in (part["start"], part["end"])}
    assert edges <= {0, 1.0, 2.2, 3.0}
    alone = CliRunner().invoke(app, command)
    assert str(alone.exception).startswith("--stride, --windows, --spans and --min-score need --window")
