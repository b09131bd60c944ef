"""Runs that are killed, run out of disk space, resume with other settings, or start from another run; LoRA; compile."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_fixtures import (
    checkpoint_tensors,
    deterministic_metrics,
    make_concept_set,
    make_settings,
    write_clips,
)
from verbspace.concepts.concept_set import ConceptSet
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training import adapt as adapt_module
from verbspace.training.adapt import adapt
from verbspace.training.checkpoint import list_checkpoints, read_metadata

CHANGES = {
    "training.steps": 60, "training.batch_size": 3, "training.save_interval": 1, "training.log_interval": 1,
    "training.dtype": "fp32", "training.save_total_limit": 2, "training.frame_cache_mb": 64,
    "views.global_frames": 4, "views.local_views": 1, "views.local_frames": 2,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 5)


def command(encoder: Path, clips: Path, out: Path) -> list[str]:
    words = clips / "words.json"
    if not words.exists():
        make_concept_set().save(words)
    run = [
        sys.executable,
        "-m",
        "verbspace.cli.main",
        "adapt",
        "--encoder",
        encoder,
        "--videos",
        clips,
        "--concepts",
        words,
    ]
    sets = [part for key, value in CHANGES.items() for part in ("--set", f"{key}={value}")]
    return [str(part) for part in (*run, "--out", out, *sets)]


def steps_of(out: Path) -> int:
    states = list_checkpoints(out / "state")
    return int(read_metadata(states[-1])["step"]) if states else 0


@pytest.mark.parametrize(
    "kills", [pytest.param(1, id="1 kill"), pytest.param(20, id="20 kills", marks=pytest.mark.slow)]
)
def test_sigkill_at_random_moments_loses_no_checkpoint(
    kills: int, tiny_clip: Path, clips: Path, tmp_path: Path
) -> None:
    """Each run is killed at a random time after its first step; the last checkpoint loads, and the run resumes."""
    rng = random.Random(kills)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    out, whole, killed = tmp_path / "killed", tmp_path / "whole", 0
    while killed < kills:
        before = steps_of(out)
        process = subprocess.Popen(command(tiny_clip, clips, out), env=environment, stderr=subprocess.PIPE, text=True)
        limit = time.monotonic() + 60
        while steps_of(out) == before and process.poll() is None:
            assert time.monotonic() < limit
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.08))
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        said = process.communicate()[1]
        if process.returncode == 0:  # it finished before the kill
            break
        assert process.returncode == -signal.SIGKILL, said
        killed += 1
        for state in list_checkpoints(out / "state"):
            assert checkpoint_tensors(state)
        left = sorted(path.name for path in (out / "state").iterdir() if "." in path.name)
        print(f"kill {killed}: step {before} -> {steps_of(out)}; left behind: {', '.join(left) or 'nothing'}")
    assert killed == kills
    for target in (out, whole):
        subprocess.run(command(tiny_clip, clips, target), env=environment, check=True, capture_output=True)
    assert deterministic_metrics(out) == deterministic_metrics(whole)
    assert [row["step"] for row in deterministic_metrics(out)] == list(range(1, 61))
    first, second = (checkpoint_tensors(list_checkpoints(target / "state")[-1]) for target in (out, whole))
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert not [path for path in (out / "state").iterdir() if path.suffix == ".part"]


def test_sigterm_finishes_the_step_and_exits_with_75(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tiny_clip, clips, tmp_path / "run"), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while not list_checkpoints(tmp_path / "run/state"):
        assert process.poll() is None
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert f"stopped after step {steps_of(tmp_path / 'run')} of 60; run the same command again" in said


def test_a_full_disk_keeps_the_last_checkpoint(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit_file_size(stage: str, done: int, total: int, values: Mapping[str, float]) -> None:
        if done == 10:  # from here on no file may be larger than 20 kB
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))

    start = VideoEncoder.from_pretrained(tiny_clip)
    try:
        with pytest.raises(
            OSError,
            match=r"step-000010: the checkpoint could not be written .*step-000005, is complete; free disk space",
        ):
            adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=20), on_progress=limit_file_size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["step-000005"]
    steps: list[int] = []
    adapt(
        start,
        clips,
        make_concept_set(),
        tmp_path,
        make_settings(steps=20),
        on_progress=lambda stage, done, total, values: steps.append(done),
    )
    assert steps[0] == 6


def test_changed_settings_are_listed_and_must_be_allowed(
    tiny_clip: Path, clips: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=10), max_steps_this_call=5)
    other: dict[str, Any] = {"steps": 10, "learning_rate": 5e-4, "weight_decay": [0.0, 0.0]}
    with pytest.raises(ValueError, match=r"learning_rate 0\.001 \(now 0\.0005\).*pass --allow-config-change"):
        adapt(start, clips, make_concept_set(), tmp_path, make_settings(**other))
    adapt(
        start,
        clips,
        make_concept_set(),
        tmp_path,
        make_settings(**other),
        allow_config_change=True,
    )
    (message,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert "resuming with other settings than the run was started with" in message
    assert "training.weight_decay" in message
    rates = {row["step"]: row["learning_rate"] for row in deterministic_metrics(tmp_path)}
    assert rates[6] < 0.5 * rates[5]
    assert read_metadata(list_checkpoints(tmp_path / "state")[-1])["training.learning_rate"] == 5e-4


def test_init_from(tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    adapt(start, clips, make_concept_set(), tmp_path / "first", make_settings(steps=5))
    before = checkpoint_tensors(list_checkpoints(tmp_path / "first/state")[-1])
    still = make_settings(steps=1, learning_rate=1e-12, teacher_momentum=[1.0, 1.0])
    for source in ("first", "first/state/step-000005"):
        out = tmp_path / f"next {source.count('/')}"
        adapt(start, clips, make_concept_set(), out, still, init_from=tmp_path / source)
        after = checkpoint_tensors(list_checkpoints(out / "state")[-1])
        for name, tensor in before.items():
            if name.startswith(("student/", "teacher/")):
                torch.testing.assert_close(after[name], tensor, atol=1e-8, rtol=0)
        assert not torch.equal(after["ema_state/category_mean"], torch.full((4,), 0.25))
        assert json.loads((out / "metrics.jsonl").read_text().splitlines()[0])["step"] == 1
    monkeypatch.setattr(adapt_module, "embed_sample", None)  # what was given is checked before the work starts
    with pytest.raises(FileNotFoundError, match=r"nowhere: no checkpoint found"):
        adapt(start, clips, make_concept_set(), tmp_path / "x", still, init_from=tmp_path / "nowhere")
    words = ConceptSet.from_actions(["waving", "jumping"])
    with pytest.raises(ValueError, match=r"ema_state\.safetensors: was saved with another concept set"):
        adapt(start, clips, words, tmp_path / "y", still, init_from=tmp_path / "first")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_adapters_are_merged_into_a_plain_encoder(share: float, tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    lora = make_settings(steps=5, trainable="temporal+lora", lora_rank=2).model_copy(update={"export_alpha": share})
    found = adapt(start, clips, make_concept_set(), tmp_path, lora)
    names = set(dict(found.named_parameters()))
    assert names == set(dict(start.named_parameters()))
    state = checkpoint_tensors(list_checkpoints(tmp_path / "state")[-1])
    trained = {name for name in state if name.startswith("student/") and "lora" in name}
    assert trained
    assert all(("lora_A" in name) or ("lora_B" in name) for name in trained)
    moved = {n for (n, p), q in zip(found.named_parameters(), start.parameters(), strict=True) if not torch.equal(p, q)}
    assert any("q_proj.weight" in name for name in moved)
    adapted = {name for name in moved if not name.startswith(("temporal.", "difference."))}
    assert all("encoder.layers" in name and "weight" in name for name in adapted)
    again = VideoEncoder.from_pretrained(tmp_path)
    video = torch.rand(2, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again(again.normalize(video)), found.eval()(found.normalize(video)))


def test_adapters_need_peft(tiny_clip: Path, clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    start = VideoEncoder.from_pretrained(tiny_clip)
    with pytest.raises(ValueError, match=r"training\.trainable: temporal\+lora needs peft"):
        adapt(start, clips, make_concept_set(), tmp_path, make_settings(steps=1, trainable="temporal+lora"))


@pytest.mark.slow
def test_compiled_encoders_give_the_same_losses(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    short = {"steps": 2, "adam_eps": 1e-5}
    for name, compiled in (("plain", False), ("compiled", True)):
        adapt(start, clips, make_concept_set(), tmp_path / name, make_settings(**short, compile=compiled))
    for one, other in zip(
        deterministic_metrics(tmp_path / "plain"), deterministic_metrics(tmp_path / "compiled"), strict=True
    ):
        for key, value in one.items():
            assert other[key] == pytest.approx(value, abs=1e-4), key
