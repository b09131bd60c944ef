"""Average precision against scikit-learn, and the Charades benchmark on a small data set in its layout."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from support.video_files import numbered_frames, write_video
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.sources.manifest import Record, detect_manifest, read_manifest
from verbspace.data.summary import summarize_dataset
from verbspace.evaluation.benchmarks import evaluate_benchmark
from verbspace.evaluation.evaluate import evaluate
from verbspace.evaluation.multi_label import average_precisions, multi_label_metrics
from verbspace.evaluation.results import BenchmarkResult
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder

CLASSES = ("Holding some clothes", "Closing a door", "Someone is sneezing", "Sitting in a chair")


@given(
    st.integers(1, 40).flatmap(
        lambda n: st.tuples(
            st.lists(st.integers(0, 6), min_size=n, max_size=n), st.lists(st.booleans(), min_size=n, max_size=n)
        )
    )
)
@settings(max_examples=200, deadline=None)
def test_average_precision_matches_scikit_learn_with_ties(case: tuple[list[int], list[bool]]) -> None:
    scores, positive = (np.array(part) for part in case)
    found = average_precisions(torch.tensor(scores)[:, None].float(), torch.tensor(positive)[:, None]).item()
    if not positive.any():
        assert np.isnan(found)
    else:
        assert found == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def test_weights_equal_repetitions() -> None:
    rng = np.random.default_rng(0)
    scores, positive = torch.tensor(rng.integers(0, 5, (20, 3))).float(), torch.tensor(rng.random((20, 3)) < 0.4)
    weights = torch.tensor(rng.integers(0, 3, (4, 20)))
    found = average_precisions(scores, positive, weights)
    for round_, row in enumerate(weights):
        repeated = torch.arange(20).repeat_interleave(row)
        torch.testing.assert_close(found[round_], average_precisions(scores[repeated], positive[repeated]))


def test_mean_is_over_classes_with_videos() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5], [0.8, 0.2, 0.5]])
    positive = torch.tensor([[True, False, False], [False, True, False], [False, True, False]])
    found = multi_label_metrics(scores, positive)
    assert found.average_precision == [1.0, 1.0, None]
    assert found.mean_average_precision == 1.0
    assert found.n == 3
    assert found.ci95[0] <= 1.0 <= found.ci95[1]
    assert multi_label_metrics(scores, positive, seed=1) == multi_label_metrics(scores, positive, seed=1)


def test_invalid_arguments() -> None:
    with pytest.raises(ValueError, match="one positive target or more"):
        multi_label_metrics(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="NaN"):
        multi_label_metrics(torch.full((1, 1), torch.nan), torch.ones(1, 1, dtype=torch.bool))


@pytest.fixture(scope="module")
def charades(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("charades")
    (root / "Charades_v1_classes.txt").write_text("".join(f"c{n:03d} {name}\n" for n, name in enumerate(CLASSES)))
    head = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
    rows = [
        'YSE1G,EIF9,Pantry,6,7,Yes,"A person, alone",door;clothes,"He ""holds"" it",c001 0.00 4.2;c000 1.1 9.0,12.3',
        "AXIW1,0RNU,Bathroom,4,3,Yes,x,y,z,c002 11.90 21.20;c002 1.0 2.0,30.9",
        "UN2Q2,B3H9,Kitchen,6,7,No,x,y,z,,30.0",
    ]
    (root / "Charades_v1_test.csv").write_text("\n".join([head, *rows]))
    for n, name in enumerate(("YSE1G", "AXIW1", "UN2Q2")):
        write_video(root / f"Charades_v1_480/{name}.mp4", numbered_frames(8, seed=n))
    return root


def test_annotations_are_read(charades: Path) -> None:
    found = detect_manifest(charades / "Charades_v1_test.csv")
    assert found.format == "CSV file of Charades"
    videos = charades / "Charades_v1_480"
    assert found.records == [
        Record(videos / "YSE1G.mp4", None, (CLASSES[0], CLASSES[1])),
        Record(videos / "AXIW1.mp4", None, (CLASSES[2],)),
        Record(videos / "UN2Q2.mp4", None, ()),
    ]
    info = summarize_dataset(found)
    assert (info.class_counts[CLASSES[1]], len(info.class_counts), info.num_unlabeled) == (1, 3, 1)


def test_charades_metric_is_mean_average_precision(charades: Path, tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    found = evaluate_benchmark(encoder, "charades/zero-shot", charades)
    fold = found.folds[1]
    records = read_manifest(charades / "Charades_v1_test.csv")[:2]
    concepts = ConceptSet.from_actions([name.lower() for name in CLASSES], "charades/zero-shot")
    space = encoder.build_concept_space(concepts)
    scores = (embed_videos(encoder, records).embeddings @ space.categories.T).numpy()
    positive = np.array([[name in (record.labels or ()) for name in CLASSES] for record in records])
    expected = average_precision_score(positive[:, :3], scores[:, :3], average="macro")
    assert found.mean_and_std()[0] == pytest.approx(expected)
    assert found.clip_counts() == (2, 2)  # the third video has no action
    assert fold.result.protocol.details == {"figure": "mean average precision", "scores": "cosine"}
    assert fold.frozen is not None
    written = json.loads(json.dumps(found.to_json()))
    assert written["mean"]["result"]["mean_average_precision"] == found.mean_and_std()[0]
    assert BenchmarkResult.model_validate(found.model_dump(mode="json")) == found


def test_single_label_protocols_reject_multi_label_data(charades: Path, tiny_clip: Path) -> None:
    with pytest.raises(ValueError, match=r"several classes; use a multi-label benchmark, such as charades/zero-shot"):
        evaluate(str(tiny_clip), charades / "Charades_v1_test.csv")


def test_errors_name_file_and_line(charades: Path, tmp_path: Path) -> None:
    source = tmp_path / "Charades_v1_test.csv"
    source.write_text("id,script,actions\nABC,x,c900 0 1\n")
    with pytest.raises(FileNotFoundError, match=r"Charades_v1_classes\.txt: there is no such file"):
        read_manifest(source)
    (tmp_path / "Charades_v1_classes.txt").write_text("c000 Holding some clothes\n")
    with pytest.raises(ValueError, match=r"Charades_v1_test\.csv: line 2: class 'c900' is not in"):
        read_manifest(source)
