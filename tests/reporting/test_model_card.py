import json
import re
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from support.measured_results import make_protocol, make_result
from support.small_encoders import with_random_temporal
from verbspace.cli.main import app
from verbspace.config.settings import AdaptSettings, dump_settings
from verbspace.evaluation.results import BenchmarkResult, Evaluation, MultiLabelEvaluation
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.model_card import read_result, results_card


@pytest.fixture(scope="module")
def encoder(tiny_clip: Path) -> VideoEncoder:
    loaded = with_random_temporal(VideoEncoder.from_pretrained(tiny_clip))
    loaded.config.base_name = "some/clip"
    return loaded


def evaluation(encoder: VideoEncoder, top1: float = 0.525, frozen: float | None = 0.4, **changes: Any) -> Evaluation:
    sides = {"result": make_result(top1, encoder_hash(encoder), **changes)}
    if frozen is not None:
        sides["frozen"] = make_result(frozen, "f" * 16, **changes)
    return Evaluation.model_validate(sides)


def model_index(card: str) -> list[dict[str, Any]]:
    """Return the results as the hub parses them."""
    entries: list[dict[str, Any]] = ModelCard(card).data.to_dict()["model-index"]
    return entries


def test_card_has_results_beside_frozen(encoder: VideoEncoder) -> None:
    result = evaluation(encoder)
    card = results_card(encoder, [result, evaluation(encoder, 0.61, None, task="knn", by=None)], name="waves")
    assert "| zero-shot by category | top-1 | 52.5 (95% 42.5 to 62.5) | 40.0 (95% 30.0 to 50.0) |" in card
    assert "| knn | top-1 | 61.0 (95% 51.0 to 71.0) | not measured |" in card
    assert result.result.protocol.summary().replace("|", "\\|") in card
    (model,) = model_index(card)
    assert model["name"] == "waves"
    (one,) = model["results"]
    assert one["task"] == {"type": "video-classification", "name": "Action recognition"}
    assert one["dataset"] == {"name": "my | videos", "type": "custom", "config": "d" * 16}
    first, second = one["metrics"]
    assert (first["type"], first["value"]) == ("accuracy", 0.525)
    assert first["name"] == "zero-shot by category, top-1, 95% 42.5 to 62.5"
    assert first["args"] == {"protocol": [result.result.protocol.summary()], "frozen": 0.4}
    assert second["name"] == "knn, top-1, 95% 51.0 to 71.0"
    assert "frozen" not in second["args"]
    data = ModelCard(card).data
    assert (data.library_name, data.base_model) == ("verbspace", "some/clip")
    assert "self-supervised" in data.tags
    assert "## Intended use and limitations" in card


def test_benchmark_shows_mean_over_splits(encoder: VideoEncoder) -> None:
    folds = {n: evaluation(encoder, top1, data=f"ucf101, split {n}") for n, top1 in ((1, 0.5), (2, 0.6), (3, 0.7))}
    card = results_card(encoder, [BenchmarkResult(name="ucf101/zero-shot", folds=folds)])
    assert "| ucf101 | zero-shot by category | top-1 | 60.0 (± 10.0 over 3 splits) | 40.0 (± 0.0 over" in card
    assert all(fold.result.protocol.summary().replace("|", "\\|") in card for fold in folds.values())
    (one,) = model_index(card)[0]["results"]
    assert one["dataset"] == {"name": "ucf101", "type": "ucf101"}
    assert one["metrics"][0]["value"] == pytest.approx(0.6)
    alone = BenchmarkResult(name="k400/zero-shot", folds={1: evaluation(encoder)})
    assert "52.5 (95% 42.5 to 62.5)" in results_card(encoder, [alone])


def test_custom_data_sets_are_separate_entries(encoder: VideoEncoder) -> None:
    results = [evaluation(encoder, top1, data=name, data_hash=name * 16) for name, top1 in (("a", 0.5), ("b", 0.6))]
    first, second = model_index(results_card(encoder, results))[0]["results"]
    assert (first["dataset"]["name"], first["metrics"][0]["value"]) == ("a", 0.5)
    assert (second["dataset"]["name"], second["metrics"][0]["value"]) == ("b", 0.6)


def test_multi_label_result_shows_mean_average_precision(encoder: VideoEncoder) -> None:
    content = {
        "mean_average_precision": 0.25, "average_precision": [0.2, None, 0.3], "n": 9, "ci95": [0.2, 0.3],
        "protocol": make_protocol(encoder_hash(encoder)),
    }  # fmt: skip
    card = results_card(encoder, [MultiLabelEvaluation.model_validate({"result": content})])
    assert "| mAP | 25.0 (95% 20.0 to 30.0) | not measured |" in card
    assert model_index(card)[0]["results"][0]["metrics"][0]["type"] == "mean_average_precision"


def test_results_of_another_encoder_are_rejected(encoder: VideoEncoder, tiny_clip: Path) -> None:
    other = evaluation(VideoEncoder.from_pretrained(tiny_clip))
    with pytest.raises(ValueError, match=r"the result on my \| videos belongs to the checkpoint \w+, but this encoder"):
        results_card(encoder, [other])


def test_read_result_reads_what_evaluate_writes(encoder: VideoEncoder, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    single = evaluation(encoder)
    for result in (single, BenchmarkResult(name="k400/zero-shot", folds={1: single})):
        path.write_text(json.dumps(result.to_json()))
        assert read_result(path) == result
    with pytest.raises(FileNotFoundError, match=r"no\.json: no such file; create it with verbspace evaluate"):
        read_result(tmp_path / "no.json")
    for content, message in (
        ("{", "invalid JSON"),
        ("[]", "not a result of verbspace evaluate --out: top level"),
        ('{"result": {"top1": 1}}', r"not a result of verbspace evaluate --out: result\."),
        ('{"result": {"protocol": {"task": "retrieval"}}}', "a result of --protocol retrieval, which model cards and"),
        ('{"result": null}', "not a result of verbspace evaluate --out: result: "),
    ):
        path.write_text(content)
        with pytest.raises(ValueError, match=message) as caught:
            read_result(path)
        assert len(str(caught.value).splitlines()) == 1


def test_card_command_includes_the_settings_of_the_run(encoder: VideoEncoder, tmp_path: Path) -> None:
    run = tmp_path / "run"
    encoder.save_pretrained(run / "encoder")
    settings = AdaptSettings.model_validate({"training": {"steps": 123}})
    (run / "config.yaml").write_text(f"# encoder: {tmp_path}/clip\n{dump_settings(settings)}")
    (tmp_path / "result.json").write_text(json.dumps(evaluation(encoder).to_json()))
    for folder in (run, run / "encoder"):
        (run / "encoder" / "README.md").unlink()
        invocation = CliRunner().invoke(
            app, ["card", "--encoder", str(folder), "--result", str(tmp_path / "result.json")]
        )
        assert invocation.exit_code == 0, invocation.output
        card = (run / "encoder" / "README.md").read_text()
        assert model_index(card)[0]["name"] == "run"
        assert re.search(r"^  steps: 123$", card, re.MULTILINE)
        assert str(tmp_path) not in card
    encoder.save_pretrained(tmp_path / "alone")
    out = tmp_path / "card.md"
    assert CliRunner().invoke(app, ["card", "--encoder", str(tmp_path / "alone"), "--out", str(out)]).exit_code == 0
    assert "## Results" not in out.read_text()
    assert out.read_text() == (tmp_path / "alone" / "README.md").read_text()
    invocation = CliRunner().invoke(app, ["card", "--encoder", "playground"])
    assert isinstance(invocation.exception, ValueError)
    assert "pass --out to say where to write the card" in str(invocation.exception)
