"""Analysis, ranking, explanation and search, without the page."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support.small_encoders import random_fit
from support.video_files import numbered_frames, write_video
from verbspace.app.controller import AppController, TextEmbeddingCache, clips_by_name, resolve_clips, with_actions
from verbspace.app.html import analysis_html, explanation_html
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.calibration import Calibration
from verbspace.inference.predictor import WindowConfig, predict
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.nearest import nearest_windows
from verbspace.search.searcher import Searcher


def test_rank_equals_predict(controller: AppController, clip: Path) -> None:
    progress: list[tuple[str, int, int]] = []
    analysis = controller.analyze(clip, "clip.mp4", lambda stage, done, total, _: progress.append((stage, done, total)))
    counts = [len(found.windows) for found in analysis.window_embeddings]
    assert progress == [("adapted", counts[0], counts[0]), ("frozen CLIP", counts[1], counts[1])]
    predictions = controller.rank(analysis, "\n".join(controller.concepts.action_names))
    assert [prediction.name for prediction in predictions] == ["adapted", "frozen CLIP"]
    for prediction, encoder in zip(predictions, controller.encoders.values(), strict=True):
        (expected,) = predict(encoder, clip, concepts=controller.concepts, window_config=WindowConfig(2.0))
        assert dict(prediction.ranking) == pytest.approx(dict(expected.ranking), abs=1e-5)
        assert expected.timeline is not None
        assert [part.action for part in prediction.timeline] == [part.action for part in expected.timeline]
    assert "adapted" in analysis_html(analysis, predictions)
    explanation = controller.explain(analysis, "\n".join(controller.concepts.action_names), 0.0, analysis.duration)
    assert explanation.description_fits
    assert "input frames" in explanation_html(explanation)


def test_texts_are_encoded_before_the_first_request(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    controller = AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0))
    controller.encode_texts()

    def fail(*_: object) -> None:
        raise AssertionError("a text is encoded")

    monkeypatch.setattr(VideoEncoder, "encode_text", fail)
    analysis, actions = controller.analyze(clip, "clip.mp4"), "\n".join(concepts.action_names)
    assert controller.rank(analysis, actions)
    assert controller.explain(analysis, actions, 0.0, analysis.duration).description_fits


def test_with_actions_keeps_known_descriptions(controller: AppController, clip: Path) -> None:
    analysis = controller.analyze(clip, "clip.mp4")
    prediction, _ = controller.rank(analysis, "waving\n  bowing \n\nwaving\nplaying the piano")
    assert {name for name, _ in prediction.ranking} == {"waving", "bowing", "playing the piano"}
    changed = with_actions(controller.concepts, ["waving", "playing the piano"])
    assert changed.action_names == ["waving", "playing the piano"]
    assert {name for d in changed.descriptions for name in d.actions} == {"waving"}
    assert with_actions(controller.concepts, controller.concepts.action_names) is controller.concepts


def test_calibration_applies_only_to_its_actions(clip: Path) -> None:
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    calibration = Calibration(
        temperature=2.0, method="halves", videos=20, agreement=0.5, confidence=(0.8, 0.5),
        encoder=encoder_hash(encoder), concepts=concepts.hash, by="category", frames=8,
    )  # fmt: skip
    controller = AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0), calibration=calibration)
    analysis = controller.analyze(clip, "clip.mp4")
    assert controller.rank(analysis, "\n".join(concepts.action_names))[0].calibrated
    assert not controller.rank(analysis, "waving\nbowing")[0].calibrated
    window_config = WindowConfig(2.0)
    with pytest.raises(ValueError, match="it was fitted for frames 8, not for 4"):
        AppController({"encoder": encoder}, concepts, window_config=window_config, calibration=calibration, frames=4)


def test_fitted_actions_apply_only_to_their_actions(clip: Path) -> None:
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    fitted = random_fit(encoder, concepts)
    controller = AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0), fitted=fitted)
    analysis = controller.analyze(clip, "clip.mp4")
    actions = "\n".join(concepts.action_names)
    (found,), (edited,) = controller.rank(analysis, actions), controller.rank(analysis, "waving\nbowing")
    (expected,) = predict(encoder, clip, concepts=concepts, fitted=fitted, window_config=WindowConfig(2.0))
    assert dict(found.ranking) == pytest.approx(dict(expected.ranking), abs=1e-5)
    assert (found.fitted, edited.fitted) == (True, False)
    assert "by fitted actions; " in analysis_html(analysis, [found])
    (whole,) = predict(encoder, clip, concepts=concepts, fitted=fitted)
    assert controller.explain(analysis, actions, 0.0, analysis.duration).ranking[0][0] == whole.ranking[0][0]
    with pytest.raises(ValueError, match="the vectors were fitted for frames 8, not for 4"):
        AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0), fitted=fitted, frames=4)


def test_text_embeddings_are_cached() -> None:
    class CountingEncoder:
        def __init__(self) -> None:
            self.encoded: list[str] = []

        def encode_text(self, texts: list[str]) -> torch.Tensor:
            self.encoded += texts
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

        def cached_text_encoder(self) -> Callable[[list[str]], torch.Tensor]:
            return self.encode_text

    encoder = CountingEncoder()
    texts = TextEmbeddingCache(encoder)  # type: ignore[arg-type]
    first = texts(["a", "bb", "a"])
    assert torch.equal(first[0], first[2])
    texts(["bb", "ccc"])
    assert encoder.encoded == ["a", "bb", "ccc"]


def test_clips_are_named_by_unique_path_endings() -> None:
    paths = [Path("a/x/1.mp4"), Path("a/y/1.mp4"), Path("b/x/1.mp4")]
    assert clips_by_name(paths) == {"a/x/1.mp4": paths[0], "a/y/1.mp4": paths[1], "b/x/1.mp4": paths[2]}
    assert list(clips_by_name(paths[:2])) == ["x/1.mp4", "y/1.mp4"]
    assert list(clips_by_name([Path("/1.mp4")])) == ["1.mp4"]
    assert clips_by_name([]) == {}


def test_missing_example_clips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("verbspace.app.server.serve", lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["verbspace", "app", "--encoder", "playground", "--clips", str(tmp_path / "nope")])
    with pytest.raises(SystemExit) as exit_info:
        main.main()
    assert exit_info.value.code == 1
    error = capsys.readouterr().err
    assert error == f"error: --clips {tmp_path / 'nope'}: there is no such file; give local files or folders\n"
    with pytest.raises(FileNotFoundError, match=r"--clips memory:/c\.mp4: there is no such file; give local files"):
        resolve_clips(["memory://c.mp4"])
    clip = write_video(tmp_path / "there" / "a.mp4", numbered_frames(3), rate=10)
    assert resolve_clips([str(tmp_path / "there")]) == resolve_clips([str(clip)]) == [clip]


def test_find_similar_uses_the_stored_vector(random_searcher: Searcher) -> None:
    rows = random_searcher.index.table.to_arrow()
    paths, windows = rows["path"].to_pylist(), rows["window"].to_pylist()
    vector = rows["vector"][9].as_py()
    window, hits = random_searcher.find_similar(paths[9], windows[9], top=5)
    assert (window.path, window.window, window.start, window.end) == (paths[9], 1, 4.0, 8.0)
    assert hits == nearest_windows(random_searcher.index, vector, 6)[1:]
    _, hits = random_searcher.find_similar(paths[9], windows[9], top=5, per_video=True)
    assert hits == nearest_windows(random_searcher.index, vector, 6, per_video=True)[1:]
    assert paths[9] not in {hit.path for hit in hits}
    for path, window in ((paths[9], 4), ("a'; drop", 0), ("", 0), (f"{paths[9]}' OR '1'='1", 1)):
        with pytest.raises(ValueError, match="this window is no longer in the index; search again"):
            random_searcher.find_similar(path, window)
