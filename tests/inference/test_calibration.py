"""Temperature scaling without labels."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from verbspace.concepts.concept_set import ConceptSet
from verbspace.concepts.scoring import ScoringMode
from verbspace.data.datasets import ClipDataset
from verbspace.data.sources.record import Record
from verbspace.evaluation.calibration import expected_calibration_error
from verbspace.inference.calibration import Calibration, calibrate, fit_temperature, resolve_reference
from verbspace.inference.part_embedder import embedder_for
from verbspace.inference.predictor import predict
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import Precision


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.3, 20))
def test_fitted_temperature_maximizes_the_likelihood(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = scale * torch.randn(200, 5, generator=generator)
    targets = torch.multinomial((scores / scale * 1.5).softmax(1), 1, generator=generator)[:, 0]

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(scores.double() / np.exp(log_t), targets))

    best = minimize_scalar(loss, bounds=(-3, 5), method="bounded", options={"xatol": 1e-8})
    assert np.log(fit_temperature(scores, targets)) == pytest.approx(best.x, abs=1e-4)


def test_fit_recovers_the_temperature_that_targets_were_sampled_with() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = 8 * torch.randn(20000, 10, generator=generator)
    targets = torch.multinomial((scores / 3).softmax(1), 1, generator=generator)[:, 0]
    temperature = fit_temperature(scores, targets)
    assert temperature == pytest.approx(3, rel=0.03)
    calibrated = expected_calibration_error((scores / temperature).softmax(1), targets)
    assert calibrated < 0.01 < expected_calibration_error(scores.softmax(1), targets)


def test_reference_encoder(encoder: VideoEncoder, files: list[str]) -> None:
    concepts = ConceptSet.load("playground")
    reference = resolve_reference(encoder)
    assert reference is not None
    found = calibrate(encoder, files, concepts, reference=reference)
    scores = encoder.logit_scale * encoder.encode_video(files) @ _categories(encoder, concepts).T
    reference_predictions = (reference.encode_video(files) @ _categories(reference, concepts).T).argmax(1)
    assert found.temperature == pytest.approx(fit_temperature(scores, reference_predictions), rel=1e-3)
    assert found.agreement == pytest.approx(float((scores.argmax(1) == reference_predictions).double().mean()))
    assert found.method == "another encoder"
    assert found.videos == len(files)
    confidence = (scores / found.temperature).softmax(1).max(1).values.mean()
    assert found.confidence[1] == pytest.approx(float(confidence), abs=1e-4)
    assert "by another encoder: the two encoders agree on" in found.summary()


def test_halves_without_a_reference_encoder(files: list[str]) -> None:
    base, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    assert resolve_reference(base) is None
    vision_adapted = VideoEncoder.from_pretrained("playground", temporal=False)
    with torch.no_grad():
        next(vision_adapted.base.vision_model.parameters()).add_(0.1)
    assert resolve_reference(vision_adapted) is not None
    found = calibrate(base, files, concepts)
    assert found.method == "halves"
    assert 0 < found.agreement < 1
    assert found.temperature > 1  # this CLIP is overconfident on the synthetic dataset


@pytest.mark.parametrize(("scoring", "dtype"), [("category", "bf16"), ("phases", "fp32")])
def test_halves_are_scored_as_videos_are(files: list[str], scoring: ScoringMode, dtype: Precision) -> None:
    base, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    embedder, space = embedder_for(base, scoring), base.build_concept_space(concepts)
    dataset = ClipDataset([Record(Path(file)) for file in files], num_frames=16, preprocessing=base.preprocessing)
    items = [dataset[n] for n in range(len(files))]
    halves = []
    for half in (slice(0, 8), slice(8, 16)):
        video, times = (torch.cat([item[key] for item in items])[:, half] for key in ("video", "times"))
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
            z = torch.cat([
                embedder(embedder.normalize(video[n : n + 16]), times[n : n + 16]) for n in range(0, len(video), 16)
            ])  # fmt: skip
        halves.append(space.action_scores(F.normalize(z.float(), dim=-1), scoring))
    answers = [scores.argmax(1) for scores in halves]
    found = calibrate(base, files, concepts, scoring=scoring, dtype=dtype)
    assert found.agreement == pytest.approx(float((answers[0] == answers[1]).double().mean()))
    expected = fit_temperature(torch.cat(halves), torch.cat(answers[::-1]))
    assert found.temperature == pytest.approx(expected, rel=1e-4)


def _categories(encoder: VideoEncoder, concepts: ConceptSet) -> torch.Tensor:
    rows = [encoder.encode_text([t.format(n) for t in concepts.templates]).mean(0) for n in concepts.action_names]
    return F.normalize(torch.stack(rows), dim=-1)


def test_predictions_use_a_calibration_and_reject_one_for_other_settings(
    encoder: VideoEncoder, files: list[str], tmp_path: Path
) -> None:
    concepts = ConceptSet.load("playground")
    found = calibrate(encoder, files, concepts, reference=resolve_reference(encoder))
    found.save(tmp_path / "calibration.json")
    assert Calibration.load(tmp_path / "calibration.json") == found
    (uncalibrated,) = predict(encoder, files[0], concepts=concepts, top=20)
    (calibrated,) = predict(encoder, files[0], concepts=concepts, top=20, calibration=tmp_path / "calibration.json")
    logs = {name: np.log(p) for name, p in uncalibrated.ranking}
    first, second = calibrated.ranking[0], calibrated.ranking[5]
    expected = (logs[first[0]] - logs[second[0]]) / found.temperature
    assert np.log(first[1] / second[1]) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match=r"fitted for frames 8, not for 4; .*run `verbspace calibrate` again"):
        predict(encoder, files[0], concepts=concepts, frames=4, calibration=found)
    with pytest.raises(ValueError, match="was fitted for concepts"):
        predict(encoder, files[0], ["waving", "bowing"], calibration=found)
    with pytest.raises(ValueError, match="was fitted for encoder"):
        predict("playground", files[0], concepts=concepts, calibration=found)


def test_calibration_errors_name_the_cause(encoder: VideoEncoder, files: list[str], tmp_path: Path) -> None:
    concepts = ConceptSet.load("playground")
    for few in ([], files[:5], [str(tmp_path / f"{n}.mp4") for n in range(30)]):
        for reference in (None, resolve_reference(encoder)):
            with pytest.raises(
                ValueError, match=r"videos (can be read|are given), and a temperature needs 20 or more; pass more"
            ):
                calibrate(encoder, few, concepts, reference=reference)
    with pytest.raises(ValueError, match=r"the two predictions agree on all .* videos"):
        calibrate(encoder, files, concepts, reference=encoder)
    with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such file; create it with"):
        Calibration.load(tmp_path / "none.json")
    for content, field in (("{", "content"), ('{"temperature": -1}', "temperature"), ("{}", "temperature")):
        (tmp_path / "bad.json").write_text(content)
        with pytest.raises(ValueError, match=rf"bad\.json: {field}: .*create it again"):
            Calibration.load(tmp_path / "bad.json")
