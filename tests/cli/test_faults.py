"""Commands under faults: each says one sentence, before it computes anything, and leaves nothing behind."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from verbspace.cli import main

ENCODER = ("--encoder", "playground")
ACTIONS = ("--actions", "waving,bowing")
# Commands that write; OUT is the file or folder that cannot be written.
WRITERS = {
    "explain": ("explain", "SOURCE", *ENCODER, *ACTIONS, "--out", "OUT"),
    "calibrate": ("calibrate", "SOURCE", *ENCODER, *ACTIONS, "--out", "OUT"),
    "adapt": ("adapt", "--videos", "SOURCE", *ENCODER, "--concepts", "playground", "--out", "OUT"),
    "evaluate": ("evaluate", "--data", "SOURCE", *ENCODER, "--out", "OUT"),
    "reproduce": ("reproduce", "ucf101", "--root", "SOURCE", *ENCODER, "--out", "OUT"),
    "search": ("search", "SOURCE", "waving", "--format", "html", "--out", "OUT"),
    "index export": ("index", "export", "SOURCE", "--out", "OUT"),
    "export": ("export", "--encoder", "playground", "--out", "OUT"),
    "card": ("card", "--encoder", "playground", "--out", "OUT"),
    "compare": ("compare", "SOURCE", "--out", "OUT"),
    "data verify": ("data", "verify", "SOURCE", "--out", "OUT"),
    "data transcode": ("data", "transcode", "SOURCE", "--out", "OUT"),
    "concepts write": ("concepts", "write", "SOURCE", "--model", "m", "--out", "OUT"),
    "concepts import": ("concepts", "import", "SOURCE", "--out", "OUT"),
    "concepts suggest": ("concepts", "suggest", "SOURCE", *ENCODER, "--out", "OUT"),
    "demo": ("demo", "--out", "OUT"),
}
# Commands that read; SOURCE is an empty folder.
READERS = {
    "predict": (("predict", "SOURCE", *ENCODER, *ACTIONS), "no videos in this folder"),
    "explain": (("explain", "SOURCE", *ENCODER, *ACTIONS), "no videos in this folder"),
    "calibrate": (("calibrate", "SOURCE", *ENCODER, *ACTIONS, "--out", "OUT"), "no videos in this folder"),
    "embed": (("embed", "SOURCE", "--index", "OUT", *ENCODER), "no videos in this folder"),
    "adapt": (("adapt", "--videos", "SOURCE", *ENCODER, "--concepts", "playground", "--out", "OUT"), "no videos in"),
    "evaluate": (("evaluate", "--data", "SOURCE", *ENCODER), "no videos in this folder"),
    "search": (("search", "SOURCE", "waving"), "no index found; create one with"),
    "index info": (("index", "info", "SOURCE"), "no index found; create one with"),
    "index merge": (("index", "merge", "SOURCE"), "no index found; create one with"),
    "index export": (("index", "export", "SOURCE", "--out", "OUT"), "no index found; create one with"),
    "index build-ann": (("index", "build-ann", "SOURCE"), "no index found; create one with"),
    "export": (
        ("export", "--encoder", "SOURCE", "--out", "OUT"),
        "config.json: no such file; pass the folder of a saved model",
    ),
    "card": (("card", "--encoder", "SOURCE"), "config.json: no such file; pass the folder of a saved model"),
    "push": (("push", "--encoder", "SOURCE", "a/b"), "config.json: no such file; pass the folder of a saved model"),
    "compare": (("compare", "SOURCE"), "not a run, because there is no config.yaml"),
    "data info": (("data", "info", "SOURCE"), "no videos in this folder"),
    "data verify": (("data", "verify", "SOURCE"), "no videos in this folder"),
    "data transcode": (("data", "transcode", "SOURCE", "--out", "OUT"), "no videos in this folder"),
    "concepts show": (("concepts", "show", "SOURCE"), "cannot be read"),
    "concepts lint": (("concepts", "lint", "SOURCE"), "cannot be read"),
    "concepts suggest": (("concepts", "suggest", "SOURCE", *ENCODER), "no videos in this folder"),
    "show-recipe": (("show-recipe", "SOURCE"), "file not found"),
}
# Commands that would ask the hub, which is at a closed port.
HUB = {
    "predict": (("predict", __file__, "--encoder", "some/model", *ACTIONS), "the download from the hub failed"),
    "push": (("push", "--encoder", "playground", "some/model"), "some/model: the upload to "),
    "concepts write": (
        ("concepts", "write", "SOURCE", "--local-model", "some/model", "--out", "OUT"),
        "some/model: the hub cannot be reached (",
    ),
}


def error_of(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command in this process; return the one line of its error."""
    monkeypatch.setattr(sys, "argv", ["verbspace", *arguments])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main.main()
    output = capsys.readouterr().err
    assert left.value.code == 1, output
    lines = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, output
    return lines[0]


def fill(arguments: tuple[str, ...], source: Path, out: Path) -> tuple[str, ...]:
    return tuple({"SOURCE": str(source), "OUT": str(out)}.get(part, part) for part in arguments)


@pytest.mark.parametrize("name", WRITERS)
def test_an_output_that_cannot_be_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The inputs do not exist either, so that the error must come before they are read."""
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "out"
    error = error_of(fill(WRITERS[name], tmp_path / "gone", out), monkeypatch, capsys)
    assert error == f"error: {out}: cannot write: a parent of this path is a file; choose another path"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", READERS)
def test_an_empty_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = READERS[name]
    (tmp_path / "empty").mkdir()
    assert message in error_of(fill(arguments, tmp_path / "empty", tmp_path / "out"), monkeypatch, capsys)
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["empty"]


@pytest.mark.parametrize("name", HUB)
def test_no_network(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, message = HUB[name]
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    (tmp_path / "actions.txt").write_text("waving\n")
    started = time.monotonic()
    error = error_of(fill(arguments, tmp_path / "actions.txt", tmp_path / "out"), monkeypatch, capsys)
    assert message in error
    assert "network" in error
    assert time.monotonic() - started < 20
    assert [path.name for path in tmp_path.iterdir()] == ["actions.txt"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_command_leaves_nothing(number: signal.Signals, tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # shells ignore it in background jobs
        "from verbspace.cli import main\n"
        "from verbspace.utils.atomic_io import atomic_directory\n"
        "import verbspace.config.recipes as recipes\n"
        "def wait(path):\n"
        f"    with atomic_directory({str(tmp_path / 'out')!r}):\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "recipes.load_recipe = wait\n"
        "sys.argv = ['verbspace', 'show-recipe', 'x']\n"
        "main.main()\n"
    )
    running = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline() == "ready\n"
    running.send_signal(number)
    output = running.communicate(timeout=30)[1]
    assert running.returncode == main.EXIT_RESUMABLE
    assert output == ("stopped\n" if number == signal.SIGINT else "terminated\n")
    assert not list(tmp_path.iterdir())
