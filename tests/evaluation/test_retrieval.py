"""Retrieval between captions and videos, against naive restatements and on the playground."""

import csv
import json
import math
from pathlib import Path
from statistics import median

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

import verbspace as vs
from support.playground_files import tiny_world
from support.small_encoders import with_random_temporal
from support.video_files import numbered_frames, write_video
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import read_manifest
from verbspace.evaluation.metrics import bootstrap_ci95
from verbspace.evaluation.protocol import are_comparable
from verbspace.evaluation.retrieval import RetrievalEvaluation, evaluate_retrieval
from verbspace.evaluation.retrieval_metrics import DirectionMetrics, RetrievalMetrics, retrieval_metrics
from verbspace.models.video_encoder import VideoEncoder


def naive_direction(queries: list[list[float]], targets: list[int]) -> dict[str, float]:
    """Average over all orders of candidates with equal scores."""
    ranks, recalls = [], {1: 0.0, 5: 0.0, 10: 0.0}
    for scores, target in zip(queries, targets, strict=True):
        better = sum(score > scores[target] for score in scores)
        tied = sum(score == scores[target] for score in scores)  # with the right one
        possible = [better + 1 + place for place in range(tied)]
        ranks.append(sum(possible) / tied)
        for k in recalls:
            recalls[k] += sum(rank <= k for rank in possible) / tied / len(queries)
    named = {f"r{k}": value for k, value in recalls.items()}
    return {**named, "median_rank": median(ranks), "mean_rank": sum(ranks) / len(ranks)}


def naive_metrics(
    cosines: list[list[float]], videos: list[int], temperature: float | None
) -> tuple[dict[str, float], dict[str, float]]:
    """Metrics of both directions from the cosines of each caption with each video."""
    num_videos = len(cosines[0])
    scores = cosines
    if temperature is not None:
        exponentials = [[math.exp(value / temperature) for value in row] for row in cosines]
        columns = [sum(row[v] for row in exponentials) for v in range(num_videos)]
        # Rounded, because the products of equal factors in another order are not always equal.
        scores = [
            [round(math.log(value / sum(row) * value / columns[v]), 9) for v, value in enumerate(row)]
            for row in exponentials
        ]
    best = [
        [max(row[v] for row, own in zip(scores, videos, strict=True) if own == other) for other in range(num_videos)]
        for v in range(num_videos)
    ]
    return naive_direction(scores, videos), naive_direction(best, list(range(num_videos)))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines with many ties, the text and the video of each caption; each video has a caption."""
    num_videos, num_texts = draw(st.integers(2, 7)), draw(st.integers(1, 8))
    values = draw(st.lists(st.integers(-3, 3), min_size=num_texts * num_videos, max_size=num_texts * num_videos))
    more = draw(st.lists(st.integers(0, num_videos - 1), max_size=8))
    videos = draw(st.permutations([*range(num_videos), *more]))
    texts = draw(st.lists(st.integers(0, num_texts - 1), min_size=len(videos), max_size=len(videos)))
    return torch.tensor(values).view(num_texts, -1) / 8, torch.tensor(texts), torch.tensor(videos)


def assert_close(found: DirectionMetrics, expected: dict[str, float]) -> None:
    assert {name: getattr(found, name) for name in expected} == pytest.approx(expected, abs=1e-9)


@given(problems())
@settings(deadline=None)
def test_metrics_equal_a_naive_restatement(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    cosines, texts, videos = problem
    found = retrieval_metrics(cosines, texts, videos)
    for direction, expected in zip(
        (found.text_to_video, found.video_to_text),
        naive_metrics(cosines[texts].tolist(), videos.tolist(), None),
        strict=True,
    ):
        assert_close(direction, expected)
    assert (found.text_to_video.n, found.text_to_video.candidates) == (len(videos), cosines.shape[1])
    assert (found.video_to_text.n, found.video_to_text.candidates) == (cosines.shape[1], len(videos))


@pytest.mark.parametrize("seed", range(5))
def test_dual_softmax_equals_a_naive_restatement(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cosines = torch.rand(9, 5, generator=generator, dtype=torch.float64) * 0.4 - 0.1  # some are negative
    videos = torch.tensor([0, 1, 2, 3, 4, 0, 0, 3, 1, 2])
    texts = torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 0])  # videos 0 and 2 share a caption
    found = retrieval_metrics(cosines, texts, videos, temperature=0.05)
    directions = naive_metrics(cosines[texts].tolist(), videos.tolist(), 0.05)
    assert_close(found.text_to_video, directions[0])
    assert_close(found.video_to_text, directions[1])
    assert found != retrieval_metrics(cosines, texts, videos)


@given(problems(), st.integers(0, 1000), st.sampled_from([None, 0.5]))
@settings(deadline=None)
def test_the_order_of_videos_captions_and_texts_does_not_matter(
    problem: tuple[Tensor, Tensor, Tensor], seed: int, temperature: float | None
) -> None:
    cosines, texts, videos = problem
    generator = torch.Generator().manual_seed(seed)
    if temperature is not None:  # sums of exponentials in another order break ties
        cosines = cosines + torch.rand(cosines.shape, generator=generator) / 8
    of_captions, of_texts, of_videos = (
        torch.randperm(count, generator=generator) for count in (len(texts), *cosines.shape)
    )
    shuffled = retrieval_metrics(
        cosines[of_texts][:, of_videos],
        of_texts.argsort()[texts][of_captions],
        of_videos.argsort()[videos][of_captions],
        temperature=temperature,
    )
    plain = retrieval_metrics(cosines, texts, videos, temperature=temperature)
    for name in ("text_to_video", "video_to_text"):
        one, other = (getattr(each, name).model_dump(exclude={"ci95"}) for each in (plain, shuffled))
        assert one == pytest.approx(other, abs=1e-9)


def test_equal_scores_are_chance() -> None:
    """An encoder that maps all captions and videos to one point."""
    found = retrieval_metrics(torch.ones(20, 20), torch.arange(20), torch.arange(20), temperature=0.01)
    for direction in (found.text_to_video, found.video_to_text):
        assert direction.r1 == pytest.approx(1 / 20)
        assert direction.r10 == pytest.approx(1 / 2)
        assert direction.median_rank == direction.mean_rank == pytest.approx(10.5)


def test_dual_softmax_corrects_a_video_that_suits_all_captions() -> None:
    cosines = 0.2 * torch.eye(6)
    cosines[:, 0] += 0.3  # the first video is the nearest one of all captions
    index = torch.arange(6)
    assert retrieval_metrics(cosines, index, index).text_to_video.r1 == pytest.approx(1 / 6)
    assert retrieval_metrics(cosines, index, index, temperature=0.05).text_to_video.r1 == 1.0


def test_captions_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    cosines, videos = torch.rand(30, 7, generator=generator), torch.arange(30) % 7
    expected = [retrieval_metrics(cosines, torch.arange(30), videos, temperature=t) for t in (None, 0.1)]
    monkeypatch.setattr("verbspace.evaluation.retrieval_metrics._CHUNK_ELEMENTS", 21)
    assert [retrieval_metrics(cosines, torch.arange(30), videos, temperature=t) for t in (None, 0.1)] == expected


def test_the_interval_resamples_videos_with_all_their_captions() -> None:
    hits, counts = torch.tensor([3.0, 0.0, 1.0, 0.0]), torch.tensor([3, 1, 1, 5])
    generator = torch.Generator().manual_seed(3)
    indices = torch.randint(4, (2000, 4), generator=generator)
    shares = torch.stack([hits[row].sum().double() / counts[row].sum() for row in indices])
    expected = shares.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert bootstrap_ci95(hits, counts=counts, seed=3) == pytest.approx(expected)
    assert bootstrap_ci95(hits, seed=3) == bootstrap_ci95(hits, counts=torch.ones(4), seed=3)


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return with_random_temporal(VideoEncoder.from_pretrained("playground"))


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clips of the playground with captions: the name of the action with the clip's number, and a description."""
    world = tiny_world(tmp_path_factory)
    concepts = ConceptSet.load("playground")
    descriptions = {
        name: [d.text for d in concepts.descriptions if name in d.actions] for name in concepts.action_names
    }
    path = tmp_path_factory.mktemp("captions") / "captions.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "caption"])
        for number, record in enumerate(read_manifest(world / "test")):
            assert record.label is not None
            writer.writerow([record.file, f"clip {number}: a person is {record.label}"])
            writer.writerow([record.file, descriptions[record.label][number % len(descriptions[record.label])]])
    return path


@pytest.fixture(scope="module")
def found(encoder: VideoEncoder, captions: Path) -> RetrievalEvaluation:
    return evaluate_retrieval(encoder, captions)


def test_playground_equals_plain_calls(encoder: VideoEncoder, captions: Path, found: RetrievalEvaluation) -> None:
    rows = list(csv.DictReader(captions.open(encoding="utf-8")))
    files = list(dict.fromkeys(row["video"] for row in rows))
    texts = list(dict.fromkeys(row["caption"] for row in rows))
    index = {text: n for n, text in enumerate(texts)}
    cosines = encoder.encode_text(texts) @ encoder.encode_video(files).T
    scores = cosines[[index[row["caption"]] for row in rows]].tolist()
    expected = naive_metrics(scores, [files.index(row["video"]) for row in rows], None)
    result = found.result.cosine
    for direction, values in zip((result.text_to_video, result.video_to_text), expected, strict=True):
        assert {name: getattr(direction, name) for name in values} == pytest.approx(values, abs=0.03)
    assert len(rows) == 80
    assert result.text_to_video.n == 80
    assert result.video_to_text.candidates == 80
    # Better than chance, which is a mean rank of 20.5.
    assert found.frozen is not None
    assert found.frozen.cosine.text_to_video.mean_rank < 15


def test_the_protocol(encoder: VideoEncoder, captions: Path, found: RetrievalEvaluation) -> None:
    assert found.frozen is not None
    protocol = found.result.protocol
    assert are_comparable(protocol, found.frozen.protocol)
    summary = protocol.summary()
    assert summary.startswith("retrieval · captions.csv (")
    assert "40 of 40 clips · 8 frames" in summary  # no actions
    assert "captions 80 · ties mean rank · video to text best caption · " in summary
    assert f"DSL temperature {1 / encoder.logit_scale:g}" in summary
    assert RetrievalEvaluation.model_validate(found.to_json()) == found
    assert protocol.data_hash != evaluate_with_other_caption(encoder, captions).result.protocol.data_hash
    assert vs.evaluate_retrieval is evaluate_retrieval


def evaluate_with_other_caption(encoder: VideoEncoder, captions: Path) -> RetrievalEvaluation:
    other = captions.with_name("other.csv")
    other.write_text(captions.read_text(encoding="utf-8").replace("clip 0:", "clip A:"), encoding="utf-8")
    return evaluate_retrieval(encoder, other, baseline=False)


def test_a_caption_of_several_videos_is_one_query_each(
    encoder: VideoEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for n in range(3):
        write_video(tmp_path / f"{n}.mp4", numbered_frames(10, seed=n))
    (tmp_path / "list.csv").write_text("video,caption\n0,a man waves\n1,a man waves\n2,a man waves\n")
    result = evaluate_retrieval(encoder, tmp_path / "list.csv", baseline=False).result
    # The three videos are ranked in the same way for each query.
    assert result.cosine.text_to_video.n == 3
    assert result.cosine.text_to_video.mean_rank == 2.0
    assert result.cosine.video_to_text.mean_rank == 2.0  # all captions are tied
    assert result.cosine.video_to_text.r1 == pytest.approx(1 / 3)
    assert "captions that several videos have: 1; each is" in caplog.text
    assert result.protocol.details["captions of several videos"] == 1


def test_captions_of_unreadable_videos_are_left_out(encoder: VideoEncoder, tmp_path: Path) -> None:
    for n in range(3):
        write_video(tmp_path / f"{n}.mp4", numbered_frames(10, seed=n))
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    source = tmp_path / "list.csv"
    source.write_text("video,caption\nbad,a dog\n0,a man waves\n1,a man jumps\n2,a man sits\nbad,a cat\n")
    with pytest.raises(ValueError, match=r"1 of 4 videos are missing or cannot be read"):
        evaluate_retrieval(encoder, source, baseline=False)
    result = evaluate_retrieval(encoder, source, baseline=False, max_missing=0.5).result
    assert (result.protocol.clips, result.protocol.missing) == (3, 1)
    assert result.cosine.text_to_video.n == result.cosine.video_to_text.candidates == 3


def test_one_video_is_an_error(encoder: VideoEncoder, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("video,caption\na.mp4,a dog\na.mp4,a cat\n")
    with pytest.raises(ValueError, match="has one video, which is always found"):
        evaluate_retrieval(encoder, tmp_path / "list.csv")


def test_command(captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    command = ["evaluate", "--encoder", "playground", "--protocol", "retrieval", "--data", str(captions)]
    done = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "result.json")])
    assert done.exit_code == 0, done.output
    result = RetrievalEvaluation.model_validate(json.loads((tmp_path / "result.json").read_text()))
    assert "text to video" in done.output
    for metrics in (result.result.cosine, result.result.dual_softmax):
        assert isinstance(metrics, RetrievalMetrics)
        for direction in (metrics.text_to_video, metrics.video_to_text):
            assert f"{direction.r1:.1%}" in done.output
    refused = CliRunner().invoke(app, [*command, "--scoring", "description"])
    assert refused.exit_code != 0
    assert "--scoring: retrieval has no use for it" in str(refused.exception or refused.output)
