"""Training and inference on a device whose tensors do not mix with those of the CPU (`support.pretend_device`).

Results are compared with the CPU's. Not reached: bf16 autocast, fused attention kernels and CUDA graphs of a GPU,
asynchronous copies from pinned memory, `torch.compile`, NCCL, Ray, and the search index, whose threads the pretended
device does not reach.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from support.pretend_device import DEVICE, pretend_device
from support.small_encoders import TINY_CHECKPOINTS, random_times, random_video, with_random_temporal
from support.training_fixtures import (
    deterministic_metrics,
    make_concept_set,
    make_distiller,
    make_settings,
    random_views,
    write_clips,
)
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.evaluate import evaluate
from verbspace.export.traced_towers import to_cpu_float32
from verbspace.inference.calibration import calibrate
from verbspace.inference.embedding import embed_videos, embed_windows
from verbspace.inference.explain import explain
from verbspace.inference.predictor import Predictor, WindowConfig
from verbspace.inference.suggest import suggest
from verbspace.models.attention_rollout import attention_rollout
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.callbacks import ZeroShotValidation
from verbspace.training.lora import merge_lora, select_trainable
from verbspace.training.optimizer import build_optimizer
from verbspace.training.trainer import Trainer
from verbspace.utils import device as device_module

ACTIONS = ["waving", "jumping", "clapping", "running"]


@pytest.fixture
def device() -> Iterator[torch.device]:
    with pretend_device() as pretended:
        yield pretended


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 6)


def load(checkpoint: Path, device: torch.device | str) -> VideoEncoder:
    encoder = with_random_temporal(VideoEncoder.from_pretrained(checkpoint))
    encoder.to(device)
    return encoder


def test_devices_do_not_mix(device: torch.device) -> None:
    here, there = torch.arange(6.0).view(2, 3), torch.ones(2, 3, device=device)
    assert there.device == DEVICE
    with pytest.raises(RuntimeError, match="on the same device"):
        here + there
    with pytest.raises(RuntimeError, match="on the same device"):
        torch.cat([there, here])
    with pytest.raises(RuntimeError, match="on the same device"):
        here[there.bool()]
    with pytest.raises((RuntimeError, TypeError)):
        there.numpy()
    moved = here.to(device)
    assert (moved * 2 + torch.tensor(1.0)).cpu().tolist() == (here * 2 + 1).tolist()
    assert moved[torch.tensor([1])].tolist() == [[3, 4, 5]]
    assert float(moved.sum()) == 15
    assert here.copy_(there).tolist() == there.tolist()
    weight = torch.ones(3, device=device, requires_grad=True)
    (moved @ weight).sum().backward()
    assert weight.grad is not None
    assert weight.grad.device == DEVICE


def train(checkpoint: Path, device: torch.device | str, out: Path, **training: Any) -> tuple[list[Any], VideoEncoder]:
    """Three steps. Returns their metrics and the teacher."""
    settings = make_settings(**training).training
    distiller = make_distiller(checkpoint, centering=True)
    select_trainable(distiller.student, distiller.teacher, settings)
    distiller.to(device).train()
    trainer = Trainer(distiller, build_optimizer(distiller.student, settings), settings, num_steps=3, out=out)
    assert trainer.distributed.device == torch.device(device)
    return [trainer.training_step(random_views(step, 3)) for step in range(3)], distiller.teacher


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"gradient_checkpointing": True},
        {"trainable": "temporal"},
        {"trainable": "temporal+lora", "lora_rank": 2},
    ],
    ids=lambda training: next(iter(training.values()), "plain"),
)
def test_training_step(training: dict[str, Any], tiny_clip: Path, tmp_path: Path) -> None:
    expected, expected_teacher = train(tiny_clip, "cpu", tmp_path, **training)
    with pretend_device() as device:
        found, teacher = train(tiny_clip, device, tmp_path, **training)
        if "lora_rank" in training:
            expected_teacher, teacher = merge_lora(expected_teacher), merge_lora(teacher)
        assert {p.device for p in teacher.parameters()} == {device}
        teacher.to("cpu")
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "clips_per_second", "memory_gb"}:
            assert one[name] == pytest.approx(other[name], abs=1e-4), name
    for (name, p), q in zip(teacher.named_parameters(), expected_teacher.parameters(), strict=True):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0, msg=name)


def test_adapt_resume_validate_and_export(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    plan = {"steps": 4, "batch_size": 3, "val_interval": 2, "validation_tolerance": 1.0, "adam_eps": 1e-5}

    def run(out: Path, device: str, **options: Any) -> VideoEncoder:
        start = VideoEncoder.from_pretrained(tiny_clip)
        validation = ZeroShotValidation(start, clips, make_concept_set(), num_frames=4)
        settings = make_settings(**plan, device=device)
        exported = adapt(start, clips, make_concept_set(), out, settings, callbacks=[validation], **options)
        assert start.device == torch.device("cpu")  # an encoder object is not changed
        return exported

    run(tmp_path / "cpu", "cpu")
    with pretend_device() as device:
        run(tmp_path / "there", str(device), max_steps_this_call=2)
        exported = run(tmp_path / "there", str(device))
        assert exported.device == device
        saved = VideoEncoder.from_pretrained(tmp_path / "there" / "encoder")
        assert encoder_hash(exported) == encoder_hash(saved)
        run(tmp_path / "more", str(device), init_from=tmp_path / "there", max_steps_this_call=1)
    rows = zip(deterministic_metrics(tmp_path / "there"), deterministic_metrics(tmp_path / "cpu"), strict=True)
    for found, expected in rows:
        assert found == pytest.approx(expected, abs=1e-4)
    for (name, p), q in zip(
        saved.named_parameters(),
        VideoEncoder.from_pretrained(tmp_path / "cpu" / "encoder").parameters(),
        strict=True,
    ):
        torch.testing.assert_close(p, q, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("name", TINY_CHECKPOINTS)
def test_encoder(name: str, request: pytest.FixtureRequest) -> None:
    family = request.getfixturevalue(name)
    video, times = random_video(2, 4, 3, 32, 32), random_times(2, 4)
    frames = torch.randint(0, 256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    here = load(family, "cpu")
    with pretend_device() as device:
        there = load(family, device)
        assert encoder_hash(there) == encoder_hash(here)
        with torch.no_grad():
            torch.testing.assert_close(there(video.to(device), times.to(device)).cpu(), here(video, times))
        for method, args in (("encode_video", (frames, times)), ("encode_text", (ACTIONS,))):
            found = getattr(there, method)(*args)
            assert found.device == torch.device("cpu")
            torch.testing.assert_close(found, getattr(here, method)(*args), atol=1e-5, rtol=0)
        rollout = attention_rollout(there, video[0].to(device), times[0].to(device))
        torch.testing.assert_close(rollout, attention_rollout(here, video[0], times[0]), atol=1e-5, rtol=0)
        base = VideoEncoder.from_pretrained(family, temporal=False).to(device)
        mixed = base.interpolate_with(there, 0.5)
        assert mixed.device == device
        assert to_cpu_float32(mixed).device == torch.device("cpu")


def test_inference(tiny_clip: Path, clips: Path) -> None:
    records = read_manifest(clips)
    path = records[0].path

    def run(device: torch.device | str) -> dict[str, Any]:
        encoder = load(tiny_clip, device)
        predictor = Predictor(encoder, concepts=make_concept_set(), frames=4)
        explanation = explain(predictor, path)
        timeline = predictor.predict_timeline(path, WindowConfig(0.4))
        _, prediction = next(iter(predictor.predict_stream([str(path)])))
        return {
            "embeddings": embed_videos(encoder, records, frames=4).embeddings,
            "windows": embed_windows(encoder, path, length=0.4, frames=2).embeddings,
            "prediction": torch.tensor([p for _, p in prediction.ranking]),
            "timeline": torch.tensor([p for _, p in timeline.ranking]),
            "explanation": torch.tensor([p for _, p in explanation.ranking]),
            "attention": explanation.attention_map,
            "suggestions": torch.tensor([a.probability for a in suggest(encoder, clips, ACTIONS).actions]),
        }

    expected = run("cpu")
    with pretend_device() as device:
        found = run(device)
    for name, tensor in expected.items():
        assert found[name].device == torch.device("cpu")
        torch.testing.assert_close(found[name], tensor, atol=1e-4, rtol=0, msg=name)


@pytest.mark.parametrize("protocol", ["zero-shot", "linear-probe", "knn"])
def test_evaluation(protocol: Any, tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    train_clips = write_clips(tmp_path, 8)
    options = {"concepts": make_concept_set(), "frames": 2, "train": None if protocol == "zero-shot" else train_clips}
    expected = evaluate(load(tiny_clip, "cpu"), clips, protocol, **options)
    with pretend_device() as device:
        found = evaluate(load(tiny_clip, device), clips, protocol, **options)
    for one, other in ((found.result, expected.result), (found.frozen, expected.frozen)):
        assert one is not None
        assert other is not None
        assert one.protocol.checkpoint == other.protocol.checkpoint
        assert (one.top1, one.top5) == (other.top1, other.top5)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, "bfloat16 products"), (False, "float32")])
def test_protocols_have_the_resolved_precision(
    has_bf16: bool, expected: str, tiny_clip: Path, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_module, "has_bf16", lambda device: has_bf16)
    options = {"concepts": make_concept_set(), "frames": 2, "baseline": False}
    assert evaluate(tiny_clip, clips, dtype="auto", **options).result.protocol.dtype == expected
    assert evaluate(tiny_clip, clips, **options).result.protocol.dtype == "float32"  # does not depend on the machine
    assert evaluate(tiny_clip, clips, dtype="int8", **options).result.protocol.dtype == "int8 products"


@pytest.mark.parametrize("has_reference", [False, True])
def test_calibration(has_reference: bool, tiny_clip: Path, tmp_path: Path) -> None:
    files = [record.path for record in read_manifest(write_clips(tmp_path, 20))]

    def run(device: torch.device | str) -> Any:
        encoder = load(tiny_clip, device)
        reference = encoder.base_encoder() if has_reference else None
        return calibrate(encoder, files, ConceptSet.from_actions(ACTIONS), reference=reference, frames=2)

    expected = run("cpu")
    with pretend_device() as device:
        found = run(device)
    assert found.temperature == pytest.approx(expected.temperature, rel=1e-2)
