import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from support.measured_results import make_result
from support.pages import HOSTILE_TEXT, ParsedPage
from support.small_encoders import with_random_temporal
from verbspace.cli.main import app
from verbspace.config.settings import dump_settings, parse_settings
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.compare.page import compare_runs
from verbspace.reporting.compare.runs import find_setting_differences, group_by_seed, read_runs

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, tiny_clip: Path) -> Make:
    """Write the folder of a run, with its own encoder."""

    def run(name: str, seed: int = 0, *, finished: bool = True, run_info: Any = None, **training: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        settings = parse_settings({"training": {"seed": seed, **training}})
        (folder / "config.yaml").write_text(dump_settings(settings))
        info = {"concepts": {"name": "arms", "hash": "cafe"}, "encoder": {"name": "some/clip"}, **(run_info or {})}
        (folder / "run.json").write_text(json.dumps(info))
        rows = [{"step": n, "loss/category": 2.0 - n / 100, "clips_per_second": 5.0 + n} for n in range(0, 31, 10)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if finished:
            encoder = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))
            with torch.no_grad():
                next(encoder.parameters()).add_(float(len(list(tmp_path.iterdir()))))
            encoder.save_pretrained(folder / "encoder")
        return folder

    return run


def write_result(run: Path, top1: float, frozen: float | None = 0.4, *, file: str = "zs", **changes: Any) -> Path:
    """Write a result of a run's encoder into its folder."""
    content = {"result": make_result(top1, checkpoint(run), **changes)}
    if frozen is not None:
        content["frozen"] = make_result(frozen, "f" * 16, **changes)
    path = run / "results" / f"{file}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def checkpoint(run: Path) -> str:
    return encoder_hash(VideoEncoder.from_pretrained(run))


def test_results_are_shown_beside_frozen_with_gain(make: Make) -> None:
    a, b = make("a"), make("b", learning_rate=1e-3)
    write_result(a, 0.525)
    write_result(b, 0.61)
    write_result(b, 0.7, 0.65, file="knn", task="knn", by=None)
    report = compare_runs([a, b])
    assert report.columns == ["a", "b"]
    assert report.rows == [
        ("my | videos, zero-shot by category, top-1", ["52.5", "61.0"]),
        ("my | videos, k-NN, top-1", ["–", "70.0"]),
    ]
    page = ParsedPage(report.html)
    words = " ".join(page.visible_text)
    gains = ("+12.5 over frozen", "+21.0 over frozen", "+5.0 over frozen")
    for text in (*gains, "95 % 42.5 to 62.5", "not measured", "0.001"):
        assert text in words
    assert "training.learning_rate" in words
    assert "training.batch_size" not in words  # equal in both runs
    assert not page.open_tags
    assert not page.loaded_urls
    for svg in re.findall(r"<svg.*?</svg>", report.html, re.DOTALL):
        ElementTree.fromstring(svg)


def test_seeds_of_one_run_share_a_column(make: Make) -> None:
    runs = [make(f"waves-seed-{seed}", seed) for seed in (0, 1, 2)] + [make("other", epochs=3)]
    for run, top1 in zip(runs, (0.5, 0.52, 0.54, 0.6)):
        write_result(run, top1)
    report = compare_runs(runs)
    assert report.columns == ["waves (3 seeds)", "other"]
    assert report.rows[0][1] == ["52.0 ± 2.0", "60.0"]
    words = " ".join(ParsedPage(report.html).visible_text)
    assert "by seed 50.0, 52.0, 54.0" in words
    assert "+12.0 over frozen" in words
    both = group_by_seed(read_runs(runs))
    assert [len(group.runs) for group in both] == [3, 1]
    assert [name for name, _ in find_setting_differences(read_runs(runs))] == ["training.epochs", "training.seed"]


def test_runs_on_different_videos_have_separate_columns(make: Make) -> None:
    """Runs with unknown videos are grouped only with each other."""
    one, other = f"({'1' * 16})", f"({'2' * 16})"
    first = {"count": 640, "source": "world/train", "hash": "1" * 16}
    runs = [
        make("a0", 0, run_info={"videos": first}),
        make("a1", 1, run_info={"videos": {**first, "source": "/elsewhere/world/train"}}),
        make("b0", 0, run_info={"videos": {**first, "hash": "2" * 16}}),
        make("c0", 0),
        make("c1", 1),
        make("d0", 1, run_info={"videos": first, "init_from": "a0"}),
    ]
    for number, run in enumerate(runs):
        write_result(run, 0.5 + number / 100)
    report = compare_runs(runs)
    assert report.columns == ["a (2 seeds)", "b0", "c (2 seeds)", "d0"]
    assert report.rows[0][1] == ["50.5 ± 0.7", "52.0", "53.5 ± 0.7", "55.0"]
    assert report.seeds == [("a (2 seeds)", ["a0", "a1"]), ("c (2 seeds)", ["c0", "c1"])]
    differences = dict(find_setting_differences(read_runs(runs)))
    videos = [f"640 of /elsewhere/world/train {one}", f"640 of world/train {other}", "unknown"]
    assert differences["videos"][1:4] == videos
    assert differences["encoder"][4:] == ["some/clip", "some/clip, continued from a0"]
    assert "videos" not in dict(find_setting_differences(read_runs(runs[:2])))  # equal videos with different paths
    words = ParsedPage(report.html).visible_text
    assert {"a0, a1", "c0, c1", "640 of world/train", "1" * 16} <= set(words)


def test_copy_of_a_run_is_not_a_second_seed(make: Make, tmp_path: Path) -> None:
    a = make("runs/a")
    copy = shutil.copytree(a, tmp_path / "x" / "run2")
    with pytest.raises(
        ValueError, match=rf"^a and run2: both have the weights {checkpoint(a)}, so they are one run; omit one$"
    ):
        compare_runs([a, copy])
    (copy / "config.yaml").write_text((a / "config.yaml").read_text().replace("seed: 0", "seed: 1"))
    with pytest.raises(ValueError, match=r"^a and run2: both have the weights"):
        compare_runs([a, copy])
    again = make("runs/again")
    equal = r"training\.seed \(0\) and all other settings are equal; "
    with pytest.raises(ValueError, match=rf"^a and again: {equal}.*, if their videos differ"):
        compare_runs([a, again])
    with pytest.raises(ValueError, match=f"^again and half: {equal}"):
        compare_runs([again, make("half", finished=False)])


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"frames": 16}, "frames 8 and 16"),
        ({"data_hash": "e" * 16}, f"data_hash {'d' * 16} and {'e' * 16}"),
        ({"templates": ("a {}",)}, r"templates \[\] and \['a \{\}'\]"),
        ({"clips": 39, "missing": 2}, "clips 40 and 39, missing 1 and 2"),
        ({"details": {"k": 20}}, "detail k none and 20"),
    ],
)
def test_different_protocols_are_rejected_with_the_differences(
    make: Make, changes: dict[str, Any], difference: str
) -> None:
    a, b = make("a"), make("b", epochs=3)
    write_result(a, 0.5)
    write_result(b, 0.6, **changes)
    message = rf"^a and b cannot be compared on my \| videos, zero-shot .*differ in {difference} "
    with pytest.raises(ValueError, match=message):
        compare_runs([a, b])


def test_several_protocols_shared_by_all_runs_have_separate_rows(make: Make) -> None:
    a, b = make("a"), make("b", epochs=3)
    for run, top1 in ((a, 0.5), (b, 0.6)):
        write_result(run, top1)
        write_result(run, top1 + 0.1, file="more", frames=16)
    rows = compare_runs([a, b]).rows
    values = {title.partition(" · ")[2]: values for title, values in rows}
    assert values == {"frames 8": ["50.0", "60.0"], "frames 16": ["60.0", "70.0"]}
    write_result(b, 0.8, file="most", frames=32)
    with pytest.raises(ValueError, match=r"differ in frames 8 and 32|differ in frames 16 and 32"):
        compare_runs([a, b])


def test_results_of_other_checkpoints_are_rejected(make: Make, tmp_path: Path) -> None:
    a, b = make("a"), make("b", epochs=3)
    path = write_result(a, 0.5)
    with pytest.raises(ValueError, match=r"zs\.json: the result belongs to .* which is none of these runs"):
        compare_runs([b], [path])
    assert compare_runs([a, b], [path]).rows[0][1] == ["50.0", "–"]
    (b / "results").mkdir()
    path.rename(b / "results" / "zs.json")
    with pytest.raises(ValueError, match=r"zs\.json: the result belongs to .*; run `verbspace evaluate` again"):
        compare_runs([a, b])


def test_conflicting_results_of_one_measurement_are_rejected(make: Make) -> None:
    a = make("a")
    write_result(a, 0.5)
    write_result(a, 0.5, file="again")
    assert len(compare_runs([a]).rows) == 1
    write_result(a, 0.51, file="other")
    with pytest.raises(ValueError, match=r"51\.00 %, but .* has 50\.00 % for the same encoder and protocol"):
        compare_runs([a])


def test_folder_without_config_is_rejected_and_unfinished_run_is_shown(make: Make, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: not a run, because there is no config\.yaml"):
        compare_runs([tmp_path / "nowhere"])
    a = make("a", finished=False)
    with pytest.raises(ValueError, match="the run is given twice"):
        compare_runs([a, a])
    page = compare_runs([a])
    assert page.rows == []
    assert "30, not finished" in " ".join(ParsedPage(page.html).visible_text)
    assert "There are no results yet" in page.html
    (a / "metrics.jsonl").write_text('{"step": 1}\n[1, 2}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl: line 2: not a JSON object"):
        compare_runs([a])


def test_demo_results_are_read_and_checked_against_the_checkpoint(make: Make) -> None:
    a, b = make("a"), make("b", seed=1)
    kinds = ("zero_shot", "linear_probe", "knn", "held_out_actions", "images")

    def write(run: Path, world: int, by: float) -> None:
        content: dict[str, Any] = {
            kind: {side: {"top1": top1, "ci95": [0.3, 0.7], "seeds": [0], "n": 40} for side, top1 in sides}
            for kind in kinds
            for sides in [(("frozen", 0.4), ("adapted", by))]
        }
        content["protocol"] = {
            "checkpoint": {"adapted": checkpoint(run)}, "world": {"seed": world}, "views": "8 frames",
            "decoder": "PyAV 18", "machine": run.name,
        }  # fmt: skip
        (run / "results.json").write_text(json.dumps(content))

    write(a, 0, 0.5)
    write(b, 0, 0.54)
    report = compare_runs([a, b])
    assert report.rows[0] == ("playground, zero-shot, top-1", ["52.0 ± 2.8"])
    assert len(report.rows) == len(kinds)
    write(b, 1, 0.54)
    with pytest.raises(ValueError, match=r"differ in world \{'seed': 0\} and \{'seed': 1\}"):
        compare_runs([a, b])
    (b / "results.json").write_text((a / "results.json").read_text())
    with pytest.raises(ValueError, match=r"results\.json: the result belongs to the checkpoint"):
        compare_runs([a, b])
    (b / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results\.json: not a results file of `verbspace demo`"):
        compare_runs([a, b])


def test_page_escapes_names(make: Make) -> None:
    a = make("<img src=x onerror=y>")
    write_result(a, 0.5, data=HOSTILE_TEXT)
    page = ParsedPage(compare_runs([a], title=HOSTILE_TEXT).html)
    assert not {"script", "img"} & set(page.tags)
    assert not page.event_attributes
    assert HOSTILE_TEXT in page.visible_text


def test_compare_command_writes_the_page_and_prints_the_results(make: Make, tmp_path: Path) -> None:
    a = make("a")
    path = write_result(a, 0.525)
    out = tmp_path / "page.html"
    run = CliRunner().invoke(app, ["compare", str(a), "--out", str(out)])
    assert run.exit_code == 0, run.output
    assert "52.5" in run.output
    assert out.read_text().startswith("<!doctype html>")
    run = CliRunner().invoke(app, ["compare", str(a), str(make("a-again", 1)), "--out", str(out)])
    assert "a (2 seeds): a, a-again\n" in run.output
    path.write_text("{")
    assert isinstance(CliRunner().invoke(app, ["compare", str(a), "--out", str(out)]).exception, ValueError)
