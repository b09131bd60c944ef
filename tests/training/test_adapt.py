"""`adapt` on video files: results, resumption, ignored labels, unreadable files."""

import json
import os
import shutil
import signal
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import verbspace as vs
from support.training_fixtures import (
    checkpoint_tensors,
    deterministic_metrics,
    make_concept_set,
    make_settings,
    write_clips,
)
from verbspace.concepts.concept_set import ConceptSet
from verbspace.config.settings import AdaptSettings, parse_settings, result_affecting_settings
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.manifest import data_hash
from verbspace.models.hashing import encoder_hash
from verbspace.reporting.compare.runs import read_runs
from verbspace.training import adapt as module
from verbspace.training.adapt import adapt, build_dataset, read_videos
from verbspace.training.lora import select_trainable
from verbspace.training.optimizer import build_optimizer
from verbspace.training.run_info import read_run_info
from verbspace.training.trainer import TrainingInterrupted


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def vision_params(encoder: vs.VideoEncoder) -> dict[str, torch.Tensor]:
    vision = {id(p) for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    return {name: p.detach() for name, p in encoder.named_parameters() if id(p) in vision}


def equal_params(a: vs.VideoEncoder, b: vs.VideoEncoder) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_the_files_of_a_run(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    before = {name: p.clone() for name, p in start.named_parameters()}
    reported: list[tuple[str, int, int]] = []
    exported = vs.adapt(
        start, clips, make_concept_set(), tmp_path / "run", make_settings(steps=4),
        on_progress=lambda stage, done, total, values: reported.append((stage, done, total)),
    )  # fmt: skip
    assert reported == [("inspect", 5, 5), *(("adapt", step, 4) for step in (1, 2, 3, 4))]
    assert all(torch.equal(p, before[name]) for name, p in start.named_parameters())
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "encoder", "metrics.jsonl", "run.json", "state"}
    assert parse_settings(yaml.safe_load((folder / "config.yaml").read_text())) == make_settings(steps=4)
    info = read_run_info(folder)
    assert info is not None
    assert (info.concepts.name, info.concepts.hash) == ("small", make_concept_set().hash)
    assert (info.encoder.name, info.encoder.hash) == (start.config.base_name, encoder_hash(start))
    assert info.versions["torch"] == version("torch")
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    loaded = vs.VideoEncoder.from_pretrained(folder)
    files = sorted(clips.rglob("*.mp4"))
    assert torch.equal(loaded.encode_video(files), exported.encode_video(files))
    assert (loaded.encode_video(files) - start.encode_video(files)).abs().max() > 1e-3
    assert torch.equal(loaded.encode_text(["waving"]), start.encode_text(["waving"]))
    assert loaded.concept_set == make_concept_set()


def test_run_json_describes_encoder_and_videos(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    odd = tmp_path / "tab\there\n# encoder: a lie"
    shutil.copytree(clips, odd)
    given: list[Any] = [clips, odd, sorted(clips.rglob("*.mp4")), sorted(clips.rglob("*.mp4"))[1:]]
    for number, videos in enumerate(given):
        adapt(start, videos, make_concept_set(), tmp_path / str(number), make_settings(steps=2), max_steps_this_call=1)
    adapt(
        start,
        clips,
        make_concept_set(),
        tmp_path / "on",
        make_settings(steps=2),
        init_from=tmp_path / "0",
        max_steps_this_call=1,
    )
    runs = read_runs([tmp_path / name for name in ("0", "1", "2", "3", "on")])
    whole = data_hash(read_videos(clips))
    assert [run.videos.rpartition(" (")[0] for run in runs] == [
        f"5 of {clips}", f"5 of {odd}", "5 of a list of paths",
        "4 of a list of paths", f"5 of {clips}",
    ]  # fmt: skip
    assert [run.data_id == whole for run in runs] == [True, True, True, False, True]
    assert {run.base for run in runs[:4]} == {start.config.base_name}
    assert runs[4].base == f"{start.config.base_name}, continued from {tmp_path / '0'}"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_export_alpha_interpolates(tiny_clip: Path, clips: Path, tmp_path: Path, share: float) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    settings = make_settings(steps=3).model_copy(update={"export_alpha": share})
    exported = adapt(start, clips, make_concept_set(), tmp_path / "run", settings)
    teacher = checkpoint_tensors(tmp_path / "run" / "state" / "step-000003")
    out = dict(exported.named_parameters())
    for name, was in vision_params(start).items():
        became = teacher[f"teacher/{name}"]
        if not name.startswith(("temporal", "difference")):
            assert torch.allclose(out[name], (1 - share) * was + share * became, atol=1e-6), name
        elif ".out." in name or name == "difference.weight":
            assert torch.allclose(out[name], share * became, atol=1e-6), name
        else:
            assert torch.equal(out[name], became), name


def test_labels_never_reach_training(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders named by class, lists with, with wrong and without labels all give the same weights."""
    files = sorted(clips.rglob("*.mp4"))
    lists = {
        "labeled": [f"{path} {path.parent.name}" for path in files],
        "wrong": [f"{path} {index % 3}" for index, path in enumerate(files)],
        "bare": [str(path) for path in files],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    given = {"paths": files, **{name: tmp_path / f"{name}.txt" for name in lists}}
    assert any(record.label for record in module.read_manifest(tmp_path / "labeled.txt"))
    seen: list[Any] = []
    keys: set[str] = set()
    real, load = module.ViewDataset, module.load_views

    def record_records(records: Any, views: Any, **values: Any) -> Any:
        seen.extend(records)
        return real(records, views, **values)

    def record_keys(*given: Any, **values: Any) -> Iterator[dict[str, torch.Tensor]]:
        for batch in load(*given, **values):
            keys.update(batch)
            yield batch

    monkeypatch.setattr(module, "ViewDataset", record_records)
    monkeypatch.setattr(module, "load_views", record_keys)
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    runs = {
        name: adapt(start, videos, make_concept_set(), tmp_path / name, make_settings(steps=3))
        for name, videos in given.items()
    }
    assert len(seen) == 4 * len(files)
    assert all(record.label is None for record in seen)
    assert keys == {"global", "global_times", "local", "local_times", "index"}
    assert all(equal_params(runs["paths"], run) for run in runs.values())
    assert not equal_params(runs["paths"], start)


def test_a_folder_gives_records_without_labels(clips: Path) -> None:
    assert {record.label for record in module.read_manifest(clips)} == {"waving", "jumping"}
    records = read_videos(clips)
    assert len(records) == 5
    assert all(record.label is None for record in records)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_resuming_changes_nothing(tiny_clip: Path, clips: Path, tmp_path: Path, dtype: str) -> None:
    """The run stops within an epoch: 5 clips in batches of 3."""
    start, settings = vs.VideoEncoder.from_pretrained(tiny_clip), make_settings(steps=20, dtype=dtype)
    whole = adapt(start, clips, make_concept_set(), tmp_path / "whole", settings)
    adapt(start, clips, make_concept_set(), tmp_path / "parts", settings, max_steps_this_call=10)
    parts = adapt(start, clips, make_concept_set(), tmp_path / "parts", settings)
    assert equal_params(whole, parts)
    a, b = (checkpoint_tensors(tmp_path / name / "state" / "step-000020") for name in ("whole", "parts"))
    assert all(torch.equal(t, b[name]) for name, t in a.items())
    lines = [deterministic_metrics(tmp_path / name) for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 20


def test_the_seed_affects_the_result(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    runs = [
        adapt(start, clips, make_concept_set(), tmp_path / str(i), make_settings(steps=2, seed=s))
        for i, s in enumerate((0, 0, 1))
    ]
    assert equal_params(runs[0], runs[1])
    assert not equal_params(runs[0], runs[2])


def test_a_finished_run_is_not_trained_again(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    first = adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=2))

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("no view must be loaded")

    monkeypatch.setattr(module.ViewDataset, "__getitem__", none)
    assert equal_params(first, adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=2)))


def test_changed_settings_are_an_error(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start, config = vs.VideoEncoder.from_pretrained(tiny_clip), tmp_path / "config.yaml"
    adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=4), max_steps_this_call=2)
    written = config.read_text()
    with pytest.raises(ValueError, match=r"started with training.learning_rate 0.001 \(now 0.01\), training.seed 0"):
        adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=4, learning_rate=0.01, seed=3))
    with pytest.raises(ValueError, match=r"started with concepts [\w ]+ \(\w{16}\) \(now [\w ]+ \(\w{16}\)\)"):
        adapt(start, clips, make_concept_set(with_descriptions=False), tmp_path, make_settings(steps=4))
    with pytest.raises(ValueError, match=r"started with videos 5 of .* \(\w{16}\) \(now 1 of a list \(\w{16}\)\)"):
        adapt(start, sorted(clips.rglob("*.mp4"))[:1], make_concept_set(), tmp_path, make_settings(steps=4))
    assert config.read_text() == written
    adapt(
        start,
        clips,
        make_concept_set(),
        tmp_path,
        make_settings(steps=4, log_interval=2, save_interval=1, frame_cache_mb=10),
    )


@pytest.mark.parametrize("steps", [None, 1], ids=["finished", "unfinished"])
def test_a_run_is_identified_by_content(
    tiny_clip: Path, clips: Path, tmp_path: Path, steps: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Other videos in the same number, and another encoder of the same name, are not those of the run."""
    start, settings, out = vs.VideoEncoder.from_pretrained(tiny_clip), make_settings(steps=2), tmp_path / "run"
    adapt(start, clips, make_concept_set(), out, settings, max_steps_this_call=steps)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    other = write_clips(tmp_path / "other", 5)
    (next(other.rglob("*.mp4"))).write_bytes(next(clips.rglob("*.mp4")).read_bytes() + b"\0\0\0\x08free")
    with pytest.raises(
        ValueError, match=rf"started with videos 5 of {clips} .* \(now 5 of {other} .*use another --out"
    ):
        adapt(start, other, make_concept_set(), out, settings)
    changed = start.copy()
    with torch.no_grad():
        changed.base.visual_projection.weight.add_(0.01)
    with pytest.raises(ValueError, match=rf"started with encoder {tiny_clip} \(\w+\) \(now {tiny_clip} \(\w+\)\);"):
        adapt(changed, clips, make_concept_set(), out, settings)
    with pytest.raises(ValueError, match=rf"started with init_from None \(now '{clips}'\);"):
        adapt(start, clips, make_concept_set(), out, settings, init_from=clips)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    moved = shutil.copytree(clips, tmp_path / "moved" / clips.name)
    caplog.set_level("INFO")
    adapt(start, moved, make_concept_set(), out, settings)
    finished = f"{out}: this run is finished after 2 steps; its encoder is saved again"
    assert (finished in caplog.messages) == (steps is None)


def test_config_and_run_info_follow_an_allowed_change(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=2), max_steps_this_call=1)
    videos = sorted(clips.rglob("*.mp4"))[:4]
    settings = make_settings(steps=2, learning_rate=0.002)
    adapt(start, videos, make_concept_set(), tmp_path, settings, allow_config_change=True)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["training"]["learning_rate"] == 0.002
    info = read_run_info(tmp_path)
    assert info is not None
    assert info.videos is not None
    assert (info.videos.count, info.videos.source) == (4, None)


def test_an_encoder_without_a_checkpoint_is_not_overwritten(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=1))
    shutil.rmtree(tmp_path / "state")
    with pytest.raises(ValueError, match=r"contains an encoder, but no checkpoint in state/"):
        adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=1))


def test_one_action_is_an_error(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has one action, which is right for every video, so there is nothing to lea"):
        adapt(tiny_clip, clips, ConceptSet.from_actions(["waving"]), tmp_path / "run", make_settings(steps=1))
    assert not (tmp_path / "run").exists()


def test_result_affecting_settings() -> None:
    settings = make_settings(seed=3)
    dumped = settings.model_dump(mode="json")
    assert {group for group, fields in dumped.items() if not isinstance(fields, dict)} == {"export_alpha", "method"}
    every = {f"{group}.{key}": v for group, f in dumped.items() if isinstance(f, dict) for key, v in f.items()}
    affecting = result_affecting_settings(settings)
    assert all(every[name] == value for name, value in affecting.items())
    not_affecting = (
        "device", "num_workers", "frame_cache_mb", "log_interval", "save_interval", "save_total_limit",
        "gradient_checkpointing",
        "gradient_accumulation_steps", "compile", "distributed_strategy", "val_interval", "validation_tolerance",
        "steps", "epochs",  # compared as the number of steps
    )  # fmt: skip
    assert every.keys() - affecting.keys() == {f"training.{key}" for key in not_affecting}


def test_settings_that_do_not_affect_results_may_change(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    whole = adapt(start, clips, make_concept_set(), tmp_path / "whole", make_settings(steps=4))
    adapt(start, clips, make_concept_set(), tmp_path / "parts", make_settings(steps=4), max_steps_this_call=2)
    changed = make_settings(
        steps=None,
        epochs=4 * 3 / 5,
        device="cpu",
        frame_cache_mb=10,
        log_interval=2,
        save_interval=1,
        save_total_limit=3,
    ).model_copy(update={"export_alpha": 1.0})
    adapt(start, clips, make_concept_set(), tmp_path / "parts", changed)
    a, b = (checkpoint_tensors(tmp_path / name / "state" / "step-000004") for name in ("whole", "parts"))
    assert all(torch.equal(t, b[name]) for name, t in a.items())
    again = adapt(start, clips, make_concept_set(), tmp_path / "parts", make_settings(steps=4))
    assert equal_params(whole, again)
    with pytest.raises(ValueError, match=r"started with steps 4 \(now 5\); restore these values"):
        adapt(start, clips, make_concept_set(), tmp_path / "parts", make_settings(steps=5))


def test_ctrl_c_saves_and_the_same_call_resumes(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)

    def send_signal(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="run the same command again to resume"):
        adapt(start, clips, make_concept_set(), tmp_path / "stopped", make_settings(steps=5), on_progress=send_signal)
    assert not (tmp_path / "stopped" / "encoder").exists()
    stopped = adapt(start, clips, make_concept_set(), tmp_path / "stopped", make_settings(steps=5))
    assert equal_params(stopped, adapt(start, clips, make_concept_set(), tmp_path / "whole", make_settings(steps=5)))


def test_unreadable_files_are_skipped(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(clips, videos)
    (videos / "waving" / "cut.mp4").write_bytes((videos / "waving" / "0.mp4").read_bytes()[:400])
    (videos / "waving" / "empty.mp4").write_bytes(b"")
    found: list[DecodeFailures] = []
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapted = adapt(
        start, videos, make_concept_set(), tmp_path / "run", make_settings(steps=6), on_failures=found.append
    )
    assert not equal_params(adapted, start)
    assert {path.name for path in found[0].by_path} == {"cut.mp4", "empty.mp4"}
    assert found[0].fraction == pytest.approx(2 / 7)
    assert found[0].summary().startswith("2 of 7 videos could not be read and were left out (28.6%)\n")
    adapt(start, clips, make_concept_set(), tmp_path / "good", make_settings(steps=2), on_failures=found.append)
    assert len(found) == 1


def test_directional_concept_sets_are_not_flipped(tiny_clip: Path, clips: Path) -> None:
    encoder, records = vs.VideoEncoder.from_pretrained(tiny_clip), read_videos(clips)
    flips = [
        build_dataset(records, encoder, make_concept_set(directional=way), make_settings()).views.flip_prob
        for way in (False, True)
    ]
    assert flips == [0.5, 0.0]
    always = parse_settings({"views": {"flip_prob": 1.0, "global_scale": [1, 1], "brightness": 0, "contrast": 0,
                                       "saturation": 0, "grayscale_prob": 0, "blur_prob": 0,
                                       "local_views": 0}})  # fmt: skip
    plain = always.model_copy(update={"views": always.views.model_copy(update={"flip_prob": 0.0})})
    mirrored, straight, directed = (
        build_dataset(records, encoder, make_concept_set(directional=way), settings)[0]["global"].int()
        for way, settings in ((False, always), (False, plain), (True, always))
    )
    assert torch.equal(directed, straight)
    assert (mirrored - straight).abs().max() > 30
    assert (mirrored.flip(-1) - straight).abs().float().mean() < 3


def test_default_view_sizes(tiny_clip: Path, clips: Path) -> None:
    """The encoder's image size, and 3/7 of it rounded to whole patches."""
    encoder, records = vs.VideoEncoder.from_pretrained(tiny_clip), read_videos(clips)
    item = build_dataset(records, encoder, make_concept_set(), AdaptSettings())[0]
    assert item["global"].shape == (2, 8, 3, 32, 32)
    assert item["local"].shape == (8, 8, 3, 16, 16)


def test_training_temporal_attention_only(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapted = adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=3, trainable="temporal"))
    became = dict(adapted.named_parameters())
    for name, was in vision_params(start).items():
        if not name.startswith(("temporal", "difference")):
            assert torch.equal(became[name], was), name
        elif ".norm." not in name and "bias" not in name:
            assert not torch.equal(became[name], was), name
    still = torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(adapted.encode_video(still), start.encode_video(still))  # a single frame is an image
    bare = vs.VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    student = bare.copy()
    select_trainable(student, bare.copy(), make_settings(trainable="temporal").training)
    with pytest.raises(ValueError, match=r"training\.trainable: this encoder has no temporal attention"):
        build_optimizer(student, make_settings(trainable="temporal").training)
    with pytest.raises(ValueError, match="no temporal attention, so nothing would be trained; set it to full"):
        adapt(bare, clips, make_concept_set(), tmp_path / "bare", make_settings(steps=3, trainable="temporal"))
    adapt(
        bare, clips, make_concept_set(), tmp_path / "bare", make_settings(steps=1)
    )  # the suggested fix works in the same folder


def test_class_prior(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    shares = {"waving": 4.0, "jumping": 2.0, "clapping": 1.0, "running": 1.0}
    settings = parse_settings(
        {"losses": {"class_prior": shares, "student_temperature": 0.1, "teacher_temperature": 0.04}}
    )
    space = start.build_concept_space(make_concept_set())
    distiller = module.build_distiller(start, space, settings, torch.device("cpu"))
    assert distiller.category_prior.tolist() == [0.5, 0.25, 0.125, 0.125]
    odd = parse_settings({"losses": {"class_prior": {"waving": 1.0, "flying": 1.0}}})
    with pytest.raises(ValueError, match=r"losses.class_prior: 'clapping' is not in both"):
        adapt(start, clips, make_concept_set(), tmp_path, odd)


def test_no_videos(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for videos in (tmp_path / "none", []):
        with pytest.raises(ValueError, match="no video"):
            adapt(tiny_clip, videos, make_concept_set(), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        adapt(tiny_clip, tmp_path / "nowhere", make_concept_set(), tmp_path / "run")
