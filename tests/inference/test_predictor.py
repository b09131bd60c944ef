"""Ranked actions for videos."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from verbspace.concepts.concept_set import ConceptSet, ConceptSetError
from verbspace.concepts.space import description_action_mask
from verbspace.data.datasets import ClipDataset
from verbspace.data.errors import DecodeError
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos
from verbspace.inference.predictor import Prediction, Predictor, WindowConfig, predict
from verbspace.models.clip_parts import clip_parts
from verbspace.models.video_encoder import VideoEncoder
from verbspace.playground.actions import ACTIONS
from verbspace.utils.precision import PrecisionSetting

NAMES = ["waving", "bowing", "kicking a ball"]


@pytest.fixture(scope="module")
def paths(files: list[str]) -> list[Path]:
    return [Path(file) for file in files[:6]]


def reference_logits(
    encoder: VideoEncoder, paths: list[Path], concepts: ConceptSet, frames: int = 8
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scaled cosines with each action's mean prompt (N, K) and with each description (N, M)."""
    z = F.normalize(encoder.encode_video(paths, frames=frames), dim=-1)
    columns = []
    for name in concepts.action_names:
        prompts = encoder.encode_text([template.replace("{}", name) for template in concepts.templates])
        columns.append(F.normalize(F.normalize(prompts, dim=-1).mean(0), dim=-1))
    texts = [description.text for description in concepts.descriptions_of_phase(None)]
    described = encoder.encode_text(texts) if texts else torch.zeros(0, z.shape[1])
    return encoder.logit_scale * z @ torch.stack(columns, 1), encoder.logit_scale * z @ described.T


@pytest.mark.parametrize("concepts", [ConceptSet.from_actions(NAMES), ConceptSet.load("playground")])
def test_ranking_is_the_softmax_of_scaled_cosines(
    encoder: VideoEncoder, paths: list[Path], concepts: ConceptSet
) -> None:
    cosines, near = reference_logits(encoder, paths, concepts)
    found = predict(encoder, paths, concepts=concepts, top=100)
    assert [one.path for one in found] == [str(path) for path in paths]
    for one, row, close in zip(found, cosines.softmax(-1), near, strict=True):
        values = [probability for _, probability in one.ranking]
        assert sum(values) == pytest.approx(1, abs=1e-5)
        assert values == sorted(values, reverse=True)
        assert dict(one.ranking) == pytest.approx(dict(zip(concepts.action_names, row.tolist(), strict=True)), abs=1e-5)
        ordered = [concepts.descriptions_of_phase(None)[index] for index in close.argsort(descending=True).tolist()]
        assert one.descriptions == [each.text for each in ordered if one.ranking[0][0] in each.actions][:3]
    assert len(found[0].descriptions) == (3 if concepts.descriptions else 0)


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_dtype_is_that_of_the_embeddings(dtype: PrecisionSetting, encoder: VideoEncoder, paths: list[Path]) -> None:
    expected = embed_videos(encoder, [Record(path) for path in paths], dtype=dtype).embeddings
    predictor = Predictor(encoder, NAMES, dtype=dtype, top=len(NAMES))
    for windows in (None, WindowConfig(1e6)):
        found = [outcome for _, outcome in predictor.predict_stream(map(str, paths), windows)]
        for one, p in zip(found, predictor.probabilities(expected), strict=True):
            assert isinstance(one, Prediction)
            assert dict(one.ranking) == pytest.approx(dict(zip(NAMES, p.tolist(), strict=True)), abs=1e-6)
    exact = predict(encoder, paths, NAMES)[0]
    assert dict(exact.ranking) != dict(found[0].ranking)


def test_scoring_by_description_and_both(encoder: VideoEncoder, paths: list[Path]) -> None:
    concepts = ConceptSet.load("playground")
    cosines, near = reference_logits(encoder, paths, concepts)
    mask = description_action_mask(concepts).float()
    described = torch.stack([near[:, mask[:, k].bool()].mean(1) for k in range(20)], 1)
    for by, expected in (("description", described), ("both", (described + cosines) / 2)):
        found = predict(encoder, paths, concepts=concepts, scoring=by, top=20)  # type: ignore[arg-type]
        for one, row in zip(found, expected.softmax(-1), strict=True):
            assert dict(one.ranking) == pytest.approx(dict(zip(ACTIONS, row.tolist(), strict=True)), abs=1e-4)


def test_scoring_by_phases(encoder: VideoEncoder, paths: list[Path]) -> None:
    concepts, space = ConceptSet.load("playground"), encoder.build_concept_space(ConceptSet.load("playground"))
    dataset = ClipDataset([Record(path) for path in paths], num_frames=8, preprocessing=encoder.preprocessing)
    expected = []
    for index in range(len(paths)):
        item: Any = dataset[index]
        video, times = encoder.normalize(item["video"]), item["times"]
        parts = clip_parts(encoder.frame_embeddings(video, times), times, encoder(video, times))
        expected.append(space.action_scores(parts, "phases").softmax(-1)[0].tolist())
    found = predict(encoder, paths, concepts=concepts, scoring="phases", top=20)
    whole = predict(encoder, paths, concepts=concepts, scoring="description", top=20)
    for one, row, other in zip(found, expected, whole, strict=True):
        assert dict(one.ranking) == pytest.approx(dict(zip(ACTIONS, row, strict=True)), abs=1e-4)
        assert dict(one.ranking) != pytest.approx(dict(other.ranking), abs=1e-3)
        assert one.descriptions == other.descriptions


def test_top_truncates_the_ranking_without_renormalizing(encoder: VideoEncoder, paths: list[Path]) -> None:
    (full,) = predict(encoder, paths[0], list(ACTIONS), top=20)
    (truncated,) = predict(encoder, str(paths[0]), list(ACTIONS), top=2)
    assert truncated.ranking == full.ranking[:2]
    assert len(predict(encoder, paths[0], list(ACTIONS))[0].ranking) == 5
    assert [name for name, _ in predict(encoder, paths[0], ["waving"])[0].ranking] == ["waving"]


def test_number_of_frames(encoder: VideoEncoder, paths: list[Path]) -> None:
    (few,) = predict(encoder, paths[0], NAMES, frames=2)
    row = reference_logits(encoder, paths[:1], ConceptSet.from_actions(NAMES), frames=2)[0].softmax(-1)[0]
    assert dict(few.ranking) == pytest.approx(dict(zip(NAMES, row.tolist(), strict=True)), abs=1e-5)
    assert few.ranking != predict(encoder, paths[0], NAMES)[0].ranking


def test_concepts_from_an_object_a_name_a_file_or_the_encoder(
    encoder: VideoEncoder, paths: list[Path], tmp_path: Path
) -> None:
    concepts = ConceptSet.load("playground").subset(NAMES)
    concepts.save(tmp_path / "set.json")
    expected = predict(encoder, paths[:2], concepts=concepts)
    assert predict(encoder, paths[:2], concepts=tmp_path / "set.json") == expected
    assert [name for name, _ in predict(encoder, paths[0], concepts="playground", top=20)[0].ranking] != list(ACTIONS)
    copy = encoder.copy()
    copy.concept_set = concepts
    assert predict(copy, paths[:2]) == expected
    copy.save_pretrained(tmp_path / "encoder")
    assert predict(tmp_path / "encoder", paths[:2]) == expected
    # Actions take precedence over the encoder's own set.
    without_descriptions = predict(copy, paths[:2], list(reversed(NAMES)))
    assert [one.descriptions for one in without_descriptions] == [[], []]


def test_errors_name_the_cause(encoder: VideoEncoder, paths: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="this encoder has no concept set of its own; give actions or concepts"):
        predict(encoder, paths)
    with pytest.raises(ValueError, match="give actions or concepts, not both"):
        predict(encoder, paths, NAMES, concepts="playground")
    with pytest.raises(ConceptSetError, match="actions: is empty; fill it in"):
        predict(encoder, paths, [])
    with pytest.raises(ValueError, match="no descriptions of waving"):
        predict(encoder, paths, NAMES, scoring="description")
    with pytest.raises(DecodeError, match=r"gone\.mp4: there is no such file"):
        predict(encoder, [*paths, tmp_path / "gone.mp4"], NAMES)
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(DecodeError, match=r"text\.mp4"):
        predict(encoder, tmp_path / "text.mp4", NAMES)
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder"):
        predict(tmp_path / "nowhere", paths, NAMES)
    assert predict(encoder, [], NAMES) == []
