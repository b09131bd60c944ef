"""Limits on requests."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from verbspace.app import middleware
from verbspace.app.controller import AppController
from verbspace.app.server import make_app


def test_long_bodies_and_urls_are_rejected(address: str) -> None:
    long = httpx.post(f"{address}/gradio_api/queue/join", json={"data": ["x" * 5_000_000], "fn_index": 0})
    assert long.status_code == 413
    assert "content-security-policy" in long.headers
    request = '{"data": [{"path": "http://127.0.0.1:1/a.mp4"}]}'
    for body in (
        request.encode(),
        request.replace("/", r"\/").encode(),  # other JSON encodings of the same text
        request.replace(":", r"\u003a", 3).replace(r"\u003a", ":", 2).encode(),
        request.encode("utf-16"),
        request.encode("utf-32-be"),
        b'{"path": "file:///etc/passwd"',
        b"[" * 100_000 + b"://",
        b"\xff\xfe words",
    ):
        assert middleware.references_url(body), body[:60]
        response = httpx.post(f"{address}/gradio_api/queue/join", content=body)
        assert (response.status_code, response.text) == (403, "upload the file; URLs are not accepted")
    assert not middleware.references_url(b'{"data": ["http://words.are.fine", {"path": "/a/b.mp4"}]}')
    assert not middleware.references_url(b"")


@pytest.mark.parametrize(
    ("path", "max_bytes"),
    [
        ("/nothing/here", middleware.MAX_BODY_BYTES),
        ("/gradio_api/upload", 1_000_000 + middleware.MULTIPART_OVERHEAD_BYTES),
    ],
)
def test_body_without_content_length_is_limited(tmp_path: Path, path: str, max_bytes: int) -> None:
    total, messages = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal total
        total += 65_536
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    async def send(message: Any) -> None:
        messages.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()

    limited_app = middleware.RequestLimits(
        page, upload_dir=tmp_path, max_upload_bytes=1_000_000, max_total_bytes=10_000_000
    )
    asyncio.run(limited_app({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send))
    assert messages[0]["status"] == 413
    assert max_bytes < total <= max_bytes + 65_536


def test_full_upload_folder_rejects_uploads(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "directory_size", lambda folder: 19_500_000)
    response = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.mp4", b"x")})
    assert response.status_code == 503
    assert "the storage for uploads is full" in response.text


def test_password_is_needed_for_everything(controller: AppController, monkeypatch: pytest.MonkeyPatch) -> None:
    # `make_app` sets it, and the app of the other tests reads it at each upload.
    monkeypatch.setenv("GRADIO_TEMP_DIR", os.environ.get("GRADIO_TEMP_DIR", ""))
    client = TestClient(make_app(controller, password="open sesame: é"), base_url="http://127.0.0.1")
    for path in ("/", "/config", "/clips/0000", "/gradio_api/queue/data?session_hash=a"):
        response = client.get(path)
        assert response.status_code == 401, path
        assert response.headers["www-authenticate"].startswith("Basic")
    right, wrong = ("any", "open sesame: é".encode()), ("any", b"open")
    assert client.get("/", auth=right).status_code == 200
    assert client.get("/", auth=wrong).status_code == 401
    for header in ("Basic", "Basic ???", "Bearer open sesame", "Basic b3Blbg=="):
        assert client.get("/", headers={"Authorization": header}).status_code == 401
