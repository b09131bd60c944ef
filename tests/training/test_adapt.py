"""`adapt` on real files: what comes out, what labels cannot do, what bad files cannot stop."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
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
from verbspace.config.settings import AdaptSettings, parse_settings
from verbspace.data.errors import DecodeFailures
from verbspace.data.sources.manifest import data_hash
from verbspace.reporting.compare.runs import read_runs
from verbspace.training import adapt as module
from verbspace.training.adapt import adapt, build_dataset, build_optimizer, read_videos
from verbspace.training.trainer import TrainingInterrupted


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"))


def moving(encoder: vs.VideoEncoder) -> dict[str, torch.Tensor]:
    sees = {id(p) for p in (*encoder.spatial_parameters(), *encoder.temporal_parameters())}
    return {name: p.detach() for name, p in encoder.named_parameters() if id(p) in sees}


def same(a: vs.VideoEncoder, b: vs.VideoEncoder) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


def test_a_run_and_its_folder(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    before = {name: p.clone() for name, p in start.named_parameters()}
    told: list[tuple[int, int]] = []
    exported = vs.adapt(
        start, clips, make_concept_set(), tmp_path / "run", make_settings(steps=4),
        on_step=lambda done, steps, values: told.append((done, steps)),
    )  # fmt: skip
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(torch.equal(p, before[name]) for name, p in start.named_parameters())  # the one given stays as it is
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == {"config.yaml", "encoder", "metrics.jsonl", "state"}
    assert parse_settings(yaml.safe_load((folder / "config.yaml").read_text())) == make_settings(steps=4)
    assert "# concepts: small (" in (folder / "config.yaml").read_text()
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]
    loaded = vs.VideoEncoder.from_pretrained(folder)
    files = sorted(clips.rglob("*.mp4"))
    assert torch.equal(loaded.encode_video(files), exported.encode_video(files))
    assert (loaded.encode_video(files) - start.encode_video(files)).abs().max() > 1e-3
    assert torch.equal(loaded.encode_text(["waving"]), start.encode_text(["waving"]))
    assert loaded.concept_set == make_concept_set()


def test_a_run_says_what_it_was_trained_on(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
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
        f"5 of {clips}", f"5 of {tmp_path}/tab\\there\\n# encoder: a lie", "5 of the paths given",
        "4 of the paths given", f"5 of {clips}",
    ]  # fmt: skip
    assert [run.data_id == whole for run in runs] == [True, True, True, False, True]
    assert {run.base for run in runs[:4]} == {start.config.base_name}
    assert runs[4].base == f"{start.config.base_name}, continued from {tmp_path / '0'}"


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_what_is_exported_lies_between(tiny_clip: Path, clips: Path, tmp_path: Path, share: float) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    chosen = make_settings(steps=3).model_copy(update={"export_alpha": share})
    exported = adapt(start, clips, make_concept_set(), tmp_path / "run", chosen)
    teacher = checkpoint_tensors(tmp_path / "run" / "state" / "step-000003")
    out = dict(exported.named_parameters())
    for name, was in moving(start).items():
        became = teacher[f"teacher/{name}"]
        if not name.startswith("temporal"):
            assert torch.allclose(out[name], (1 - share) * was + share * became, atol=1e-6), name
        elif ".out." in name:
            assert torch.allclose(out[name], share * became, atol=1e-6), name
        else:
            assert torch.equal(out[name], became), name


def test_labels_never_reach_training(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders that name classes, lists with labels, lists with wrong labels, lists without: the same weights."""
    files = sorted(clips.rglob("*.mp4"))
    lists = {
        "labelled": [f"{path} {path.parent.name}" for path in files],
        "wrong": [f"{path} {index % 3}" for index, path in enumerate(files)],
        "bare": [str(path) for path in files],
    }
    for name, lines in lists.items():
        (tmp_path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    given = {"paths": files, **{name: tmp_path / f"{name}.txt" for name in lists}}
    assert any(record.label for record in module.read_manifest(tmp_path / "labelled.txt"))
    seen: list[Any] = []
    keys: set[str] = set()
    real, load = module.ViewDataset, module.load_views

    def noted(records: Any, views: Any, **values: Any) -> Any:
        seen.extend(records)
        return real(records, views, **values)

    def loaded(*given: Any, **values: Any) -> Iterator[dict[str, torch.Tensor]]:
        for batch in load(*given, **values):
            keys.update(batch)
            yield batch

    monkeypatch.setattr(module, "ViewDataset", noted)
    monkeypatch.setattr(module, "load_views", loaded)
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    runs = {
        name: adapt(start, videos, make_concept_set(), tmp_path / name, make_settings(steps=3))
        for name, videos in given.items()
    }
    assert len(seen) == 4 * len(files)
    assert all(record.label is None for record in seen)
    assert keys == {"global", "global_times", "local", "local_times", "index"}
    assert all(same(runs["paths"], run) for run in runs.values())
    assert not same(runs["paths"], start)


def test_a_folder_gives_records_without_labels(clips: Path) -> None:
    assert {record.label for record in module.read_manifest(clips)} == {"waving", "jumping"}
    records = read_videos(clips)
    assert len(records) == 5
    assert all(record.label is None for record in records)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_ten_and_ten_are_twenty(tiny_clip: Path, clips: Path, tmp_path: Path, dtype: str) -> None:
    """Mid-epoch too: 5 clips in batches of 3."""
    start, chosen = vs.VideoEncoder.from_pretrained(tiny_clip), make_settings(steps=20, dtype=dtype)
    whole = adapt(start, clips, make_concept_set(), tmp_path / "whole", chosen)
    adapt(start, clips, make_concept_set(), tmp_path / "parts", chosen, max_steps_this_call=10)
    parts = adapt(start, clips, make_concept_set(), tmp_path / "parts", chosen)
    assert same(whole, parts)
    a, b = (checkpoint_tensors(tmp_path / name / "state" / "step-000020") for name in ("whole", "parts"))
    assert all(torch.equal(t, b[name]) for name, t in a.items())
    lines = [deterministic_metrics(tmp_path / name) for name in ("whole", "parts")]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 20


def test_a_seed_decides(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    runs = [
        adapt(start, clips, make_concept_set(), tmp_path / str(i), make_settings(steps=2, seed=s))
        for i, s in enumerate((0, 0, 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_a_finished_run_is_returned_as_it_is(
    tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    first = adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=2))

    def none(*_: Any, **__: Any) -> Any:
        raise AssertionError("no view is asked for")

    monkeypatch.setattr(module.ViewDataset, "__getitem__", none)
    assert same(first, adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=2)))


def test_a_run_goes_on_under_its_own_settings_only(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start, config = vs.VideoEncoder.from_pretrained(tiny_clip), tmp_path / "config.yaml"
    adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=4), max_steps_this_call=2)
    written = config.read_text()
    with pytest.raises(ValueError, match=r"begun with training.learning_rate 0.001 \(now 0.01\), training.seed 0"):
        adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=4, learning_rate=0.01, seed=3))
    with pytest.raises(ValueError, match=r"begun with concepts '\w+' \(now '\w+'\)"):
        adapt(start, clips, make_concept_set(with_descriptions=False), tmp_path, make_settings(steps=4))
    with pytest.raises(ValueError, match=r"begun with videos 5 \(now 1\)"):
        adapt(start, sorted(clips.rglob("*.mp4"))[:1], make_concept_set(), tmp_path, make_settings(steps=4))
    assert config.read_text() == written
    adapt(
        start,
        clips,
        make_concept_set(),
        tmp_path,
        make_settings(steps=4, log_interval=2, save_interval=1, frame_cache_mb=10),
    )


def test_every_setting_tells_but_those_that_cannot_change_results() -> None:
    chosen = make_settings(seed=3)
    dumped = chosen.model_dump(mode="json")
    assert {group for group, fields in dumped.items() if not isinstance(fields, dict)} == {"export_alpha"}
    every = {f"{group}.{key}": v for group, f in dumped.items() if isinstance(f, dict) for key, v in f.items()}
    told = module.result_affecting_settings(chosen)
    assert all(every[name] == value for name, value in told.items())
    silent = (
        "device", "num_workers", "frame_cache_mb", "log_interval", "save_interval", "save_total_limit", "gradient_checkpointing",
        "gradient_accumulation_steps", "compile", "distributed_strategy", "val_interval", "validation_tolerance",
        "steps", "epochs",  # the number of steps stands among the facts itself
    )  # fmt: skip
    assert every.keys() - told.keys() == {f"training.{key}" for key in silent}


def test_what_cannot_change_results_may_change(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
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
    assert same(whole, again)
    with pytest.raises(ValueError, match=r"begun with steps 4 \(now 5\); go on with the same"):
        adapt(start, clips, make_concept_set(), tmp_path / "parts", make_settings(steps=5))


def test_ctrl_c_saves_and_the_same_call_goes_on(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)

    def strike(done: int, steps: int, values: dict[str, float]) -> None:
        if done == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(TrainingInterrupted, match="run the same command again to go on"):
        adapt(start, clips, make_concept_set(), tmp_path / "struck", make_settings(steps=5), on_step=strike)
    assert not (tmp_path / "struck" / "encoder").exists()
    struck = adapt(start, clips, make_concept_set(), tmp_path / "struck", make_settings(steps=5))
    assert same(struck, adapt(start, clips, make_concept_set(), tmp_path / "whole", make_settings(steps=5)))


def test_bad_files_are_set_aside(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(clips, videos)
    (videos / "waving" / "cut.mp4").write_bytes((videos / "waving" / "0.mp4").read_bytes()[:400])
    (videos / "waving" / "empty.mp4").write_bytes(b"")
    found: list[DecodeFailures] = []
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapted = adapt(
        start, videos, make_concept_set(), tmp_path / "run", make_settings(steps=6), on_decode_failures=found.append
    )
    assert not same(adapted, start)
    assert {path.name for path in found[0].by_path} == {"cut.mp4", "empty.mp4"}
    assert found[0].fraction == pytest.approx(2 / 7)
    assert found[0].summary().startswith("2 of 7 videos could not be read and were left out (28.6%)\n")
    adapt(start, clips, make_concept_set(), tmp_path / "good", make_settings(steps=2), on_decode_failures=found.append)
    assert len(found) == 1


def test_flips_keep_out_of_directional_vocabularies(tiny_clip: Path, clips: Path) -> None:
    encoder, records = vs.VideoEncoder.from_pretrained(tiny_clip), read_videos(clips)
    flips = [
        build_dataset(records, encoder, make_concept_set(directional=way), make_settings()).views.flip_prob
        for way in (False, True)
    ]
    assert flips == [0.5, 0.0]
    always = parse_settings({"views": {"flip": 1.0, "global_scale": [1, 1], "brightness": 0, "contrast": 0,
                                       "saturation": 0, "grey": 0, "blur": 0, "local_views": 0}})  # fmt: skip
    plain = always.model_copy(update={"views": always.views.model_copy(update={"flip": 0.0})})
    mirrored, straight, directed = (
        build_dataset(records, encoder, make_concept_set(directional=way), chosen)[0]["global"].int()
        for way, chosen in ((False, always), (False, plain), (True, always))
    )
    assert torch.equal(directed, straight)
    assert (mirrored - straight).abs().max() > 30
    assert (mirrored.flip(-1) - straight).abs().float().mean() < 3


def test_view_sizes_follow_the_encoder(tiny_clip: Path, clips: Path) -> None:
    """Where nothing is said: the tower's own size, and 3/7 of it in whole patches, as 96 is of 224."""
    encoder, records = vs.VideoEncoder.from_pretrained(tiny_clip), read_videos(clips)
    item = build_dataset(records, encoder, make_concept_set(), AdaptSettings())[0]
    assert item["global"].shape == (2, 8, 3, 32, 32)
    assert item["local"].shape == (8, 8, 3, 16, 16)


def test_training_the_temporal_part_alone(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    adapted = adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=3, train="temporal"))
    became = dict(adapted.named_parameters())
    for name, was in moving(start).items():
        if not name.startswith("temporal"):
            assert torch.equal(became[name], was), name
        elif ".norm." not in name and "bias" not in name:
            assert not torch.equal(became[name], was), name
    still = torch.zeros(1, 1, 3, 32, 32, dtype=torch.uint8)
    assert torch.equal(adapted.encode_video(still), start.encode_video(still))  # a single frame is an image
    bare = vs.VideoEncoder.from_pretrained(tiny_clip, temporal=False)
    learner = module.build_distiller(bare, make_concept_set(), make_settings(train="temporal"), torch.device("cpu"))
    with pytest.raises(ValueError, match=r"training\.train: there is nothing to train"):
        build_optimizer(learner.student, make_settings(train="temporal"))
    with pytest.raises(ValueError, match="without temporal attention needs train: full"):
        adapt(bare, clips, make_concept_set(), tmp_path / "bare", make_settings(steps=3, train="temporal"))
    adapt(
        bare, clips, make_concept_set(), tmp_path / "bare", make_settings(steps=1)
    )  # the mend works, in the same folder


def test_shares_of_classes(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = vs.VideoEncoder.from_pretrained(tiny_clip)
    shares = {"waving": 4.0, "jumping": 2.0, "clapping": 1.0, "running": 1.0}
    chosen = parse_settings({"losses": {"class_shares": shares}})
    learner = module.build_distiller(start, make_concept_set(), chosen, torch.device("cpu"))
    assert learner.category_prior.tolist() == [0.5, 0.25, 0.125, 0.125]
    odd = parse_settings({"losses": {"class_shares": {"waving": 1.0, "flying": 1.0}}})
    with pytest.raises(ValueError, match=r"losses.class_prior: 'clapping' is not on both sides"):
        adapt(start, clips, make_concept_set(), tmp_path, odd)


def test_nothing_to_watch(tiny_clip: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for videos in (tmp_path / "none", []):
        with pytest.raises(ValueError, match="no video"):
            adapt(tiny_clip, videos, make_concept_set(), tmp_path / "run")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        adapt(tiny_clip, tmp_path / "nowhere", make_concept_set(), tmp_path / "run")
