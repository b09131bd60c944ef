import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from support.playground_files import tiny_world
from verbspace.cli import main
from verbspace.cli.options import parse_overrides
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.results import Evaluation
from verbspace.inference.predictor import predict
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS
from verbspace.playground.demo import PLAYGROUND_SETTINGS
from verbspace.playground.demo_report import METRIC_ROWS
from verbspace.search.index import Index
from verbspace.search.schema import IndexManifest
from verbspace.training.trainer import TrainingInterrupted

PROGRAM = (sys.executable, "-m", "verbspace.cli.main")
COMMANDS = ("demo", "adapt", "evaluate", "predict")
SMALL = (
    "training.steps=2", "training.batch_size=4", "training.log_interval=1", "views.local_views=1",
    "views.local_size=32",
    "losses.student_temperature=0.1", "training.dtype=fp32",
)  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory)


def run(*arguments: object) -> str:
    """A command in this process; returns what it wrote to its standard output."""
    found = CliRunner().invoke(main.app, [str(part) for part in arguments], env={"COLUMNS": "200"})
    assert found.exit_code == 0, found.output + str(found.exception)
    return found.stdout


def run_main(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str]:
    """The entry point in this process: exit code and standard error."""
    monkeypatch.setattr(sys, "argv", ["verbspace", *map(str, arguments)])
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main.main()
    return int(left.value.code or 0), capsys.readouterr().err


def row_of(table: str, name: str) -> str:
    """The table's row of an encoder, cells apart from one another by single spaces."""
    cells = [re.sub(r"[│┃\s]+", " ", line).strip() for line in table.splitlines() if "│" in line]
    return next(line for line in cells if line.startswith(name + " "))


# Help.


def test_help_lists_the_commands_without_loading_torch() -> None:
    code = "import sys; from verbspace.cli import main; sys.argv = ['verbspace', '--help']\n" + (
        "try: main.main()\nexcept SystemExit as left: print('LEFT', left.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert "LEFT 0 False" in done.stdout
    assert not [name for name in COMMANDS if name not in done.stdout]


# Errors.


ERRORS_WITHOUT_A_MODEL = [
    "search nowhere x",
    "search . x",
    "search index",  # an index, but no query
    "search index x --where wrong>3",
    "index build-ann nowhere",
    "embed gone.mp4 --index new --encoder playground",
    "predict gone.mp4 --encoder playground --actions a,b",
    "predict here.mp4 --encoder nowhere --actions a,b",
    "predict here.mp4 --encoder playground --actions gone.txt",
    "predict here.mp4 --encoder playground --concepts gone",
    "predict here.mp4 --encoder playground --scoring best",
    "predict here.mp4 --encoder playground --calibration gone.json",
    "explain gone.mp4 --encoder playground --actions a,b",
    "calibrate here.mp4 --encoder playground --out c.json --actions a,A",
    "evaluate --encoder playground --data gone",
    "evaluate --encoder playground --protocol knn",
    "adapt --encoder playground --videos gone --concepts k400 --out run",
    "adapt --encoder playground --videos . --concepts k400 --out run --set training.step=2",
    "adapt --recipe gone.yaml --out run",
    "demo --set training.step=2",
    "app --encoder nowhere",
    "app --encoder playground --index nowhere",
    "serve --encoder playground --actions a,b --host 192.0.2.1 --token secret",  # an address of no machine
    "export --encoder nowhere --out e",
    "card --encoder nowhere",
    "push --encoder nowhere ada/clip",
    "concepts lint gone",
    "concepts suggest gone --encoder playground",
    "data info gone",
]


def test_errors_that_need_no_model_do_not_load_torch(tmp_path: Path, tiny_clip: Path) -> None:
    (tmp_path / "here.mp4").touch()
    manifest = IndexManifest(encoder=str(tiny_clip), encoder_hash="0" * 16, dim=4, window=4.0, stride=2.0, frames=8)
    Index.create(tmp_path / "index", manifest)
    program = """
import sys
from verbspace.cli import main
for line in sys.stdin.read().splitlines():
    sys.argv = ["verbspace", *line.split()]
    print(line, end=": ", flush=True, file=sys.stderr)
    try:
        main.main()
    except SystemExit as left:
        assert left.code == 1, line
    assert not {"torch", "transformers"} & {*sys.modules}, line
"""
    done = subprocess.run(
        [sys.executable, "-c", program], input="\n".join(ERRORS_WITHOUT_A_MODEL), cwd=tmp_path, capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line.partition(": ")[0] for line in done.stderr.splitlines()] == ERRORS_WITHOUT_A_MODEL
    assert all(line.partition(": ")[2].startswith("error: ") for line in done.stderr.splitlines())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "training.stepz=3",
            "--set: training.stepz: there is no such setting (given: 3); did you mean training.steps?",
        ),
        ("training.step=3", "--set: training.step: there is no such setting (given: 3); did you mean training.steps?"),
        ("training.steps=many", "--set: training.steps: Input should be a valid integer"),
        ("training.steps=0", "--set: training.steps: Input should be greater than or equal to 1 (given: 0)"),
        ("training.steps", "--set training.steps: write it as group.key=value, for example training.steps=500"),
        (
            "optimiser.steps=3",
            "--set optimiser.steps=3: there is no group of settings named 'optimiser'; did you mean training.steps?",
        ),
        ("training.steps.more=3", "--set training.steps.more=3: there is no group of settings named 'steps'"),
        ("training.steps=[1", "--set training.steps=[1: '[1' is not a YAML value"),
        ("export_alpha=2", "--set: export_alpha: Input should be less than or equal to 1 (given: 2)"),
    ],
)
def test_errors_in_set_name_the_key(
    change: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, output = run_main(monkeypatch, capsys, "demo", "--out", tmp_path / "run", "--set", change)
    assert code == 1
    assert output.startswith(f"error: {message}")
    assert output.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_overrides_take_precedence_over_the_settings_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("training:\n  steps: 7\n  seed: 3\nexport_alpha: 0.25\n")
    settings = parse_overrides(file, ["training.steps=9", "views.global_scale=[0.5, 1.0]", "training.device=cpu"])
    assert (settings.training.steps, settings.training.seed, settings.export_alpha) == (9, 3, 0.25)
    assert settings.views.global_scale == (0.5, 1.0)
    assert settings.training.device == "cpu"
    assert parse_overrides(file, []).training.steps == 7
    file.write_text("training:\n  stepz: 7\n")
    with pytest.raises(ValueError, match=rf"{re.escape(str(file))}: training\.stepz: "):
        parse_overrides(file, ["training.steps=9"])
    with pytest.raises(FileNotFoundError, match="file not found"):
        parse_overrides(tmp_path / "none.yaml", [])


def test_bad_input_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    command = ["predict", tmp_path / "gone.mp4", "--encoder", "playground", "--actions", "waving,bowing"]
    done = subprocess.run([*PROGRAM, *map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {tmp_path / 'gone.mp4'}: there is no such file\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("predict CLIP --encoder playground", "this encoder has no concept set of its own; give actions or concepts"),
        ("predict a.mp4 --encoder playground --actions a --concepts playground", "give actions or concepts, not both"),
        ("predict a.mp4 --encoder playground --actions ,", "--actions has no name; give names with commas"),
        ("predict a.mp4 --encoder playground --actions=", "--actions has no name; give names with commas"),
        ("predict a.mp4 --encoder playground --actions a,B,b", "--actions names 'b' twice (as 'B'); leave one of them"),
        ("predict a.mp4 --encoder playground --json --format csv", "--json and --format csv contradict each other"),
        ("predict CLIP --encoder playground --frames 1000", "frames: 1000 is out of range; pass 1 to 256"),
        ("explain a.mp4 --encoder playground --out .", ".: is a folder; choose a file"),
        (
            f"embed {__file__} --encoder playground --index i --stride 0",
            "stride: 0 s is not above 0 and at most the length of a window, 4 s",
        ),
        (f"embed {__file__} --encoder playground --index i --gpus 1", "gpus: only --engine ray uses this setting"),
        ("search i a --embed-clips", "--embed-clips needs --format html --out page.html"),
        ("search i a --json --format html", "--json and --format html contradict each other"),
        ("predict a.mp4 --encoder playground --concepts nix", "nix: no such file or bundled concept set"),
        (
            "predict a.mp4 --encoder nowhere",
            "nowhere: no such folder, and not a hub id (owner/name or owner/name@revision)",
        ),
        ("evaluate --encoder playground --data nowhere", "nowhere: there is no such folder or list of videos"),
        ("evaluate --encoder playground --data . --protocol best", "protocol: 'best' is not one of"),
        ("evaluate --encoder playground --data WORLD --scoring taste", "scoring: 'taste' is not supported"),
        ("evaluate --encoder playground --data WORLD --protocol knn", "train: knn learns from labeled videos; pass"),
        ("adapt --encoder playground --videos nowhere --concepts playground --out run", "nowhere: there is no such"),
        ("adapt --encoder playground --videos WORLD --concepts nix --out run", "nix: no such file or bundled"),
        ("adapt --encoder playground --videos . --concepts nix --out run --config no.yaml", "no.yaml: file not found"),
    ],
)
def test_errors_are_one_sentence(
    arguments: str, message: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    places = {"WORLD": str(world / "test"), "CLIP": str(next((world / "test").rglob("*.mp4")))}
    words = [places.get(word, word) for word in arguments.split()]
    code, output = run_main(monkeypatch, capsys, *words)
    lines = [line for line in output.splitlines() if line.strip() and "Loading weights" not in line]
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith(f"error: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("adapt", "Missing option '--out'"),
        ("nonsense", "No such command 'nonsense'"),
        ("demo --seeds 0", "--seeds"),
        ("predict --encoder playground", "Missing argument"),
    ],
)
def test_usage_errors_exit_with_2(
    arguments: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, output = run_main(monkeypatch, capsys, *arguments.split())
    assert code == 2
    assert message in output
    assert "Traceback" not in output


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def test_unexpected_exceptions_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verbspace.inference.predictor.Predictor", raising(AttributeError("a bug")))
    monkeypatch.setattr(sys, "argv", ["verbspace", "predict", __file__, "--encoder", "playground"])
    with pytest.raises(AttributeError, match="a bug"):
        main.main()


@pytest.mark.parametrize(
    ("stop", "message"),
    [(KeyboardInterrupt(), "stopped\n"), (TrainingInterrupted("stopped after step 3"), "stopped after step 3\n")],
)
def test_interruption_exits_with_75(
    stop: BaseException, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("verbspace.inference.predictor.Predictor", raising(stop))
    assert run_main(monkeypatch, capsys, "predict", __file__, "--encoder", "playground") == (75, message)


def test_an_interrupted_run_can_be_resumed(world: Path, tmp_path: Path) -> None:
    changes = [part for change in (*SMALL, "training.steps=24") for part in ("--set", change)]
    arguments = ["adapt", "--encoder", "playground", "--videos", world / "train", "--concepts", "playground"]
    command = [*arguments, "--out", tmp_path / "run", *changes]
    running = subprocess.Popen([*PROGRAM, *map(str, command)], stderr=subprocess.PIPE, text=True)
    log = tmp_path / "run" / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    output = running.communicate(timeout=60)[1]
    assert running.returncode == 75
    found = re.search(r"stopped after step (\d+) of 24; run the same command again to resume", output)
    assert found
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "encoder").exists()
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == [f"step-{int(found[1]):06d}"]
    run(*arguments, "--out", tmp_path / "run", *changes)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == list(range(1, 25))
    assert (tmp_path / "run" / "encoder" / "model.safetensors").exists()


# Results.


def test_the_other_commands_accept_the_run_of_adapt(world: Path, tmp_path: Path) -> None:
    out, changes = tmp_path / "run", [part for change in SMALL for part in ("--set", change)]
    arguments = ("--encoder", "playground", "--videos", world / "train", "--concepts", "playground")
    output = run("adapt", *arguments, "--out", out, *changes)
    assert output == f"adapted encoder: {out / 'encoder'}\n"
    assert yaml.safe_load((out / "config.yaml").read_text())["training"]["steps"] == 2
    encoder = VideoEncoder.from_pretrained(out)
    assert encoder.concept_set is not None
    assert encoder.concept_set.name == "playground"
    clip = read_manifest(world / "test")[0].path
    line = json.loads(run("predict", clip, "--encoder", out, "--json"))
    (expected,) = predict(encoder, clip)
    assert (line["path"], line["descriptions"]) == (str(clip), expected.descriptions)
    assert line["actions"] == pytest.approx(dict(expected.ranking), abs=1e-5)
    table = run("evaluate", "--encoder", out, "--data", world / "validation", "--out", tmp_path / "found.json")
    found = Evaluation.model_validate_json((tmp_path / "found.json").read_text())
    assert found.frozen is not None
    assert found.result.protocol.checkpoint != found.frozen.protocol.checkpoint
    assert f"{found.frozen.top1:.1%}" in row_of(table, "frozen")


def test_evaluate_prints_the_result_that_it_writes(world: Path, tmp_path: Path) -> None:
    arguments = ("--encoder", "playground", "--data", world / "test", "--concepts", "playground")
    output = run("evaluate", *arguments, "--out", tmp_path / "a.json")
    content = json.loads((tmp_path / "a.json").read_text())
    found = Evaluation.model_validate(content)
    assert found.to_json() == content
    assert (found.result.n, found.result.protocol.actions, found.result.protocol.frames) == (40, 20, 8)
    assert found.frozen is not None
    assert found.result.top1 == found.frozen.top1  # it is the frozen one, but for attention that does nothing yet
    records = read_manifest(world / "test")
    predictions = predict("playground", [record.path for record in records], concepts="playground")
    hits = sum(one.ranking[0][0] == record.label for record, one in zip(records, predictions, strict=True))
    assert found.result.top1 == pytest.approx(hits / 40)
    row = row_of(output, "encoder")
    low, high = found.result.ci95
    for cell in (f"{found.result.top1:.1%}", f"{low:.1%} to {high:.1%}", f"{found.result.top5:.1%}", "40 of 40"):
        assert cell in row
    assert f"encoder: {found.result.protocol.summary()}" in output
    assert not list(tmp_path.glob("*.part"))


def test_evaluate_knn_without_a_baseline(world: Path, tmp_path: Path) -> None:
    options = ("--encoder", "playground", "--data", world / "test", "--train", world / "probe", "--no-baseline")
    output = run("evaluate", *options, "--protocol", "knn", "--frames", 4, "--out", tmp_path / "knn.json")
    found = Evaluation.model_validate_json((tmp_path / "knn.json").read_text())
    assert found.frozen is None
    assert found.result.protocol.task == "knn"
    assert (found.result.protocol.frames, found.result.protocol.train_clips) == (4, 40)
    assert found.result.top1 > 0.1
    assert "frozen" not in output


def test_predict_prints_a_bar_per_action(world: Path) -> None:
    clips = [record.path for record in read_manifest(world / "test")[:2]]
    output = run(
        "predict", *clips, "--encoder", "playground", "--actions", " waving, bowing,kicking a ball ", "--top", 2
    )
    expected = predict("playground", clips, ["waving", "bowing", "kicking a ball"], top=2)
    lines = output.splitlines()
    assert len(lines) == 6
    for place, one in enumerate(expected):
        assert lines[3 * place].strip() == str(one.path)
        for (name, probability), line in zip(one.ranking, lines[3 * place + 1 : 3 * place + 3], strict=True):
            assert line.split("%")[0].strip() == f"{100 * probability:.1f}"
            assert line.endswith(name)
            assert line.count("█") == round(24 * probability)


def test_predict_prints_json_lines(world: Path) -> None:
    clips = [record.path for record in read_manifest(world / "test")[:3]]
    output = run("predict", *clips, "--encoder", "playground", "--concepts", "playground", "--json", "--top", 20)
    rows = [json.loads(line) for line in output.splitlines()]
    assert [row["path"] for row in rows] == [str(clip) for clip in clips]
    for row in rows:
        assert set(row["actions"]) == set(ACTIONS)
        assert sum(row["actions"].values()) == pytest.approx(1, abs=1e-5)
        assert len(row["descriptions"]) == 3


def test_names_that_look_like_markup_are_printed_literally(world: Path, tmp_path: Path) -> None:
    clip = tmp_path / "[bold]clip[nothing].mp4"
    shutil.copy(read_manifest(world / "test")[0].path, clip)
    output = run("predict", clip, "--encoder", "playground", "--actions", "[red]waving[/red],bowing")
    assert str(clip) in output.replace("\n", "")
    assert "[red]waving[/red]" in output


def test_demo_passes_its_options_and_prints_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def fake_demo(out: Path, **options: Any) -> dict[str, Any]:
        given.update(options, out=out)
        options["on_progress"]("adapt", 1, 2, {"loss": 1.0})
        sides = ("frozen", "adapted") if not options["supervised_upper_bound"] else ("frozen", "adapted", "supervised")
        values = {side: {"top1": 0.1234 * (place + 1)} for place, side in enumerate(sides)}
        return {**dict.fromkeys(METRIC_ROWS, values), "seconds": {"all": 98.6}}

    monkeypatch.setattr("verbspace.playground.demo.run_demo", fake_demo)
    out = tmp_path / "run"
    output = run(
        "demo", "--out", out, "--seeds", 3, "--world-seed", 7, "--no-supervised-baseline", "--set", "training.steps=5"
    )
    expected = {"out": out, "num_seeds": 3, "world_seed": 7, "supervised_upper_bound": False}
    assert given.items() >= expected.items()
    assert given["settings"].training.steps == 5
    assert given["settings"].export_alpha == PLAYGROUND_SETTINGS.export_alpha  # the rest is the playground's
    for title, _ in METRIC_ROWS.values():
        assert row_of(output, title) == f"{title} 12.3 24.7"
    assert f"{out / 'report.html'}  ·  99 s" in output.replace("\n", "")
    output = run("demo", "--out", out)
    assert given["supervised_upper_bound"]
    assert "37.0" in output
