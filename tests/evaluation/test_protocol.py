"""Protocols: summary, comparability, and hashes of data."""

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from verbspace.data.sources.manifest import Record, data_hash
from verbspace.evaluation.metrics import classification_metrics
from verbspace.evaluation.protocol import EvalProtocol, are_comparable
from verbspace.evaluation.results import Result

PROBE = EvalProtocol(
    task="linear-probe", data="test", data_hash="0123", clips=98, missing=2, actions=5, concepts="4567", frames=8,
    views=(2, 1), size=56, decoder="PyAV 18.1.0", seed=3, train="train", train_hash="89ab", train_clips=400,
    details={"C of": (0.1, 1.0)}, checkpoint="cdef", chosen={"C": 0.1},
)  # fmt: skip


def test_summary() -> None:
    assert PROBE.summary() == (
        "linear-probe · test (0123) · 98 of 100 clips · train train (89ab), 400 clips · 5 actions (4567) · "
        "8 frames · 2x1 views · 56 px (short side resized, center crop, bicubic) · PyAV 18.1.0 · float32 · "
        "C of 0.1/1 · C 0.1 · seed 3 · checkpoint cdef"
    )
    assert PROBE.model_copy(update={"base": "ada/clip@12"}).summary().endswith("checkpoint cdef from ada/clip@12")
    other = PROBE.model_copy(
        update={"task": "zero-shot", "by": "both", "templates": ("a {}.",), "train": None, "details": {"k": 20}}
    )
    assert other.summary().startswith(
        "zero-shot by both · test (0123) · 98 of 100 clips · 5 actions (4567) · 1 template ·"
    )
    assert " · k 20 · " in other.summary()
    assert "\n" not in other.summary()


def test_comparable_protocols_differ_in_the_encoder_only() -> None:
    assert are_comparable(
        PROBE, PROBE.model_copy(update={"checkpoint": "other", "base": "ada/clip", "chosen": {"C": 1.0}})
    )
    changes = {
        "task": "knn", "data": "other", "data_hash": "other", "clips": 99, "missing": 1, "actions": 6,
        "concepts": "other", "templates": ("{}",), "by": "category", "frames": 4, "views": (1, 1), "size": 64,
        "preprocessing": "resized to a square, bicubic", "decoder": "PyAV 17", "dtype": "bfloat16", "seed": 4,
        "train": "other", "train_hash": "other", "train_clips": 1, "details": {"k": 20},
    }  # fmt: skip
    assert set(changes) == set(EvalProtocol.model_fields) - {
        "checkpoint", "base", "chosen", "test_in_train", "test_in_adaptation",
    }  # fmt: skip
    for field, value in changes.items():
        assert not are_comparable(PROBE, PROBE.model_copy(update={field: value})), field


def test_result_round_trip() -> None:
    values = classification_metrics(torch.eye(5)[[0, 1, 1, 4]], torch.tensor([0, 1, 2, 4]))
    result = Result(**values.model_dump(), protocol=PROBE)
    again = Result.model_validate_json(result.model_dump_json())
    assert again == result
    assert again.protocol.fingerprint() == PROBE.fingerprint()
    with pytest.raises(ValidationError):
        Result.model_validate({**result.model_dump(), "top2": 0.5})
    with pytest.raises(ValidationError, match="frozen"):
        PROBE.frames = 4


def test_data_hash(tmp_path: Path) -> None:
    def videos(root: Path, size: int = 3) -> list[Record]:
        for name in ("clap/a.mp4", "wave/b.mp4"):
            (root / name).parent.mkdir(parents=True)
            (root / name).write_bytes(b"x" * size)
        return [Record(root / "clap/a.mp4", "clap"), Record(root / "wave/b.mp4", "wave")]

    records = videos(tmp_path / "here")
    first = data_hash(records)
    assert len(first) == 16
    assert data_hash(records[::-1]) == first
    assert data_hash(videos(tmp_path / "there")) == first
    assert data_hash(records[:1]) != first
    assert data_hash([records[0], Record(records[1].path, "clap")]) != first
    assert data_hash(videos(tmp_path / "longer", 4)) != first
    records[0].path.unlink()
    assert data_hash(records) != first
