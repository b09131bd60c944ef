"""The REST interface."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from support.indices import run_quick_embed
from support.playground_files import tiny_world
from support.small_encoders import random_fit
from verbspace.app import api as api_module
from verbspace.app.api import make_api
from verbspace.app.controller import AppController, with_actions
from verbspace.app.limits import InputLimits
from verbspace.cli.main import app
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.predictor import WindowConfig, predict
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.searcher import Searcher

CONCEPTS = ConceptSet.load("playground")


@pytest.fixture(scope="module")
def encoder() -> VideoEncoder:
    return VideoEncoder.from_pretrained("playground")


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return sorted((tiny_world(tmp_path_factory) / "test").rglob("*.mp4"))[:4]


@pytest.fixture(scope="module")
def client(encoder: VideoEncoder, clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    index = tmp_path_factory.mktemp("index")
    run_quick_embed(Path("playground"), [str(clip) for clip in clips], index, window=1.0)
    controller = AppController(
        {"encoder": encoder}, CONCEPTS, window_config=WindowConfig(4.0), searcher=Searcher(index, encoder),
        limits=InputLimits(max_upload_mb=1, max_duration=5),
    )  # fmt: skip
    return TestClient(make_api(controller))


def upload(path: Path) -> dict[str, Any]:
    return {"clip": (path.name, path.read_bytes(), "video/mp4")}


def test_predict_equals_the_library(client: TestClient, encoder: VideoEncoder, clips: list[Path]) -> None:
    (expected,) = predict(encoder, clips[0], concepts=CONCEPTS)
    found = client.post("/predict", files=upload(clips[0])).json()
    assert found["actions"] == pytest.approx(dict(expected.ranking), abs=1e-5)
    assert list(found["actions"]) == [name for name, _ in expected.ranking]
    assert found.keys() == {"actions"}
    two = client.post("/predict", files=upload(clips[0]), data={"actions": ["waving", "a cat"], "top": 1}).json()
    (expected,) = predict(encoder, clips[0], concepts=with_actions(CONCEPTS, ["waving", "a cat"]))
    assert two["actions"] == pytest.approx(dict(expected.ranking[:1]), abs=1e-5)
    windows = client.post("/predict", files=upload(clips[0]), data={"window": 0.8, "spans": True}).json()
    (expected,) = predict(encoder, clips[0], concepts=CONCEPTS, window_config=WindowConfig(0.8, spans=True))
    assert [row["action"] for row in windows["timeline"]] == [row.action for row in expected.timeline or []]
    assert len(windows["spans"]) == len(expected.spans or [])


def test_as_many_results_as_asked(client: TestClient, encoder: VideoEncoder, clips: list[Path]) -> None:
    """Not at most five actions, and not at most fifty windows."""
    for top, expected in ((7, 7), (20, 20), (5000, 20)):
        found = client.post("/predict", files=upload(clips[0]), data={"top": top}).json()
        assert len(found["actions"]) == expected
    (ranking,) = predict(encoder, clips[0], concepts=CONCEPTS, top=20)
    assert list(found["actions"]) == [name for name, _ in ranking.ranking]
    assert client.post("/search", json={"query": "x", "top": 1001}).status_code == 422


def test_search_returns_more_than_the_page_shows(
    search_controller: AppController, monkeypatch: pytest.MonkeyPatch
) -> None:
    searcher = search_controller.searcher
    assert searcher is not None
    ones = SimpleNamespace(encode=lambda texts: torch.ones(len(texts), searcher.index.manifest.dim))
    monkeypatch.setattr(searcher, "query_encoder", ones, raising=False)
    hits = TestClient(make_api(search_controller)).post("/search", json={"query": "x", "top": 80}).json()
    assert len(hits) == 80


def test_fitted_actions(encoder: VideoEncoder, clips: list[Path]) -> None:
    fitted = random_fit(encoder, CONCEPTS)
    controller = AppController({"encoder": encoder}, CONCEPTS, window_config=WindowConfig(4.0), fitted=fitted)
    client = TestClient(make_api(controller))
    found = client.post("/predict", files=upload(clips[0]), data={"top": 20}).json()
    (expected,) = predict(encoder, clips[0], concepts=CONCEPTS, fitted=fitted, top=20)
    (by_text,) = predict(encoder, clips[0], concepts=CONCEPTS, top=20)
    assert found["actions"] == pytest.approx(dict(expected.ranking), abs=1e-5)
    assert found["actions"] != pytest.approx(dict(by_text.ranking), abs=1e-2)
    edited = client.post("/predict", files=upload(clips[0]), data={"actions": ["waving", "a cat"]}).json()
    (expected,) = predict(encoder, clips[0], concepts=with_actions(CONCEPTS, ["waving", "a cat"]))
    assert edited["actions"] == pytest.approx(dict(expected.ranking), abs=1e-5)  # fitted for other actions


def test_embeddings_and_search(client: TestClient, encoder: VideoEncoder, clips: list[Path]) -> None:
    (row,) = client.post("/embed", files=upload(clips[1])).json()["embeddings"]
    assert row == pytest.approx(encoder.encode_video([clips[1]])[0].tolist(), abs=1e-5)
    rows = client.post("/embed-text", json={"texts": ["waving", "bowing"]}).json()["embeddings"]
    assert rows[1] == pytest.approx(encoder.encode_text(["bowing"])[0].tolist(), abs=1e-5)
    hits = client.post("/search", json={"query": "waving", "top": 2, "per_video": True}).json()
    assert len(hits) == 2
    assert {hit["path"] for hit in hits} <= {str(clip) for clip in clips}
    assert client.post("/search", json={"query": "waving", "spans": True}).json()
    info = client.get("/info").json()
    assert info["actions"] == CONCEPTS.action_names
    assert info["windows"] > 0
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/health", "/info", "/predict", "/embed", "/embed-text", "/search"}


@pytest.mark.parametrize(
    ("path", "request_", "status", "message"),
    [
        ("/predict", {"files": {"clip": ("a.mp4", b"no video")}}, 422, "a.mp4: "),
        ("/predict", {"files": {"clip": ("../../a.mp4", b"")}}, 422, "a.mp4: "),
        ("/predict", {"data": {"top": 1}}, 422, "Field required"),
        ("/predict", {"files": {"clip": ("big.mp4", b"x" * 1_200_000)}}, 413, "larger than 1 MB"),
        ("/embed-text", {"json": {"texts": []}}, 422, "at least 1 item"),
        ("/embed-text", {"json": {"texts": ["x" * 300]}}, 422, "has 300 characters, and the limit is 200"),
        ("/embed-text", {"json": {"text": "x"}}, 422, "Field required"),
        ("/search", {"json": {"query": ""}}, 422, "the query is empty"),
        ("/search", {"json": {"query": "x", "top": 0}}, 422, "greater than or equal to 1"),
    ],
)
def test_invalid_requests(client: TestClient, path: str, request_: dict[str, Any], status: int, message: str) -> None:
    response = client.post(path, **request_)
    assert response.status_code == status
    assert message in response.text
    assert "Traceback" not in response.text


def test_spans_need_a_window(client: TestClient, clips: list[Path]) -> None:
    response = client.post("/predict", files=upload(clips[0]), data={"spans": True})
    assert (response.status_code, response.json()) == (422, {"detail": "spans and stride need a window"})


def test_token_and_hosts(encoder: VideoEncoder) -> None:
    controller = AppController({"encoder": encoder}, CONCEPTS, window_config=WindowConfig(4.0))
    client = TestClient(make_api(controller, token="secret", hosts=("testserver",)))
    assert client.get("/health").json() == {"status": "ok"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}):
        assert client.get("/info", headers=headers).status_code == 401
    assert client.get("/info", headers={"Authorization": "Bearer secret"}).status_code == 200
    schema = client.get("/openapi.json", headers={"Authorization": "Bearer secret"}).json()
    assert schema["paths"]["/predict"]["post"]["security"] == [{"HTTPBearer": []}]
    assert client.get("/health", headers={"Host": "evil.example"}).status_code == 400
    search = client.post("/search", json={"query": "x"}, headers={"Authorization": "Bearer secret"})
    assert (search.status_code, "--index" in search.json()["detail"]) == (422, True)


def test_requests_beyond_the_queue_are_told_to_come_back(
    encoder: VideoEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_module, "MAX_WAITING", 2)
    controller = AppController({"encoder": encoder}, CONCEPTS, window_config=WindowConfig(4.0))
    client = TestClient(make_api(controller))
    texts = {"texts": [f"a person doing {number}" for number in range(256)]}
    with ThreadPoolExecutor(8) as pool:
        statuses = [r.status_code for r in pool.map(lambda _: client.post("/embed-text", json=texts), range(16))]
    assert set(statuses) == {200, 503}
    assert client.post("/embed-text", json=texts).status_code == 200  # and afterwards there is room again


def test_other_machines_need_a_token() -> None:
    found = CliRunner().invoke(app, ["serve", "--encoder", "playground", "--host", "0.0.0.0"])
    assert str(found.exception).startswith("--host 0.0.0.0: other machines could use the server; give a --token")
