"""What a run measures and reports before its first step."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from support.training_fixtures import make_concept_set, make_settings, write_clips
from verbspace.config.settings import LossSettings
from verbspace.data.sources.record import Record
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import MIN_HELD_OUT, adapt, hold_out_sample
from verbspace.training.preview import NUM_PREVIEW_VIDEOS, RunPreview, embed_sample, frozen_statistics


def records(count: int) -> list[Record]:
    return [Record(Path(f"{n}.mp4")) for n in range(count)]


def test_the_sample_is_held_out_of_large_collections_only() -> None:
    sample, train = hold_out_sample(records(MIN_HELD_OUT - 1))
    assert len(sample) == NUM_PREVIEW_VIDEOS
    assert len(train) == MIN_HELD_OUT - 1
    sample, train = hold_out_sample(records(MIN_HELD_OUT))
    assert len(sample) == NUM_PREVIEW_VIDEOS
    assert len(train) == MIN_HELD_OUT - NUM_PREVIEW_VIDEOS
    assert not {r.path for r in sample} & {r.path for r in train}
    assert len(hold_out_sample(records(3))[0]) == 3


def test_a_run_measures_its_temperatures_once_and_keeps_them(tiny_clip: Path, tmp_path: Path) -> None:
    """The preview, run.json and the losses have the same values, also after resuming."""
    clips, out = write_clips(tmp_path / "v"), tmp_path / "run"
    start = VideoEncoder.from_pretrained(tiny_clip)
    concepts, settings = make_concept_set(), make_settings(steps=3, learning_rate=None)
    previews: list[RunPreview] = []
    adapt(start, clips, concepts, out, settings, on_start=previews.append, max_steps_this_call=2)
    (preview,) = previews
    info = json.loads((out / "run.json").read_text())
    assert info["frozen"] == preview.statistics.model_dump(mode="json")
    assert info["learning_rate"] == preview.learning_rates[0]
    assert preview.num_videos == 5
    assert preview.num_steps == 3
    assert 0 < preview.seconds < 60
    parameters = sum(p.numel() for p in start.parameters())
    assert 8 * parameters < preview.memory.state < 20 * parameters

    space = start.build_concept_space(concepts)
    records = [Record(path) for path in sorted(clips.rglob("*.mp4"))]
    _, z = embed_sample(start, records, space, settings, None)
    expected = (z @ space.categories.T).std(-1, correction=0).mean()
    assert preview.statistics.spaces["category"].spread == pytest.approx(float(expected), rel=1e-4)

    info["frozen"]["spaces"]["category"]["scale"]["teacher_temperature"] = 0.5
    (out / "run.json").write_text(json.dumps(info))
    adapt(start, clips, concepts, out, settings, on_start=previews.append)
    assert len(previews) == 1
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["category_entropy"] > rows[0]["category_entropy"]  # the changed temperature was used
    assert {"watch/agreement", "watch/drift", "watch/bias_ratio", "actions_in_use"} <= rows[-1].keys()


@pytest.mark.parametrize(
    ("losses", "sentence"),
    [
        ({"student_temperature": 50.0, "teacher_temperature": 20.0}, "little to learn from them; lower"),
        ({"student_temperature": 1e-4, "teacher_temperature": 1e-5}, "learned as certain; raise"),
    ],
)
def test_flat_and_sharp_targets_are_warned_of(
    losses: dict[str, Any], sentence: str, tiny_clip: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings(steps=1).model_copy(update={"losses": LossSettings(**losses)})
    with caplog.at_level(logging.WARNING):
        adapt(VideoEncoder.from_pretrained(tiny_clip), write_clips(tmp_path / "v"), make_concept_set(),
              tmp_path / "run", settings)  # fmt: skip
    assert sentence in caplog.text
    assert "category space" in caplog.text


def test_defaults_are_not_warned_of(tiny_clip: Path) -> None:
    start = VideoEncoder.from_pretrained(tiny_clip)
    space = start.build_concept_space(make_concept_set())
    z = torch.nn.functional.normalize(torch.randn(40, space.categories.shape[1]), dim=-1)
    statistics = frozen_statistics(z, space, make_settings())
    assert not [s for s in statistics.warnings() if "entropy" in s]
