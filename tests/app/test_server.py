"""The server: which files it sends, hosts, uploads."""

from __future__ import annotations

import logging.handlers
import queue
import socket
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.browser import serve_app
from support.video_files import numbered_frames, write_video
from verbspace.app.controller import AppController
from verbspace.app.server import serve_rest


def test_server_sends_no_other_files(address: str, clip: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    page = httpx.get(address)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in (
        f"/gradio_api/file={secret}", "/gradio_api/file=/etc/passwd", f"/gradio_api/file={clip}/../../secret.mp4",
        "/file=/etc/passwd", "/clips/..%2f..%2fetc%2fpasswd", "/clips/0000", "/static/../../etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/x", "/docs", "/openapi.json",
    ):  # fmt: skip
        response = httpx.get(address + path)
        assert "secret" not in response.text.replace("secret.mp4", ""), path
        assert "root:" not in response.text, path


def test_other_host_names_are_rejected(address: str) -> None:
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(address, headers={"Host": "localhost"}).status_code == 200


def analyze_file(address: str, path: str) -> str:
    """Call the Gradio function that analyzes a clip, and return all messages of the queue about it."""
    config = httpx.get(f"{address}/config").json()
    function = next(d["id"] for d in config["dependencies"] if len(d["inputs"]) == 2 and len(d["outputs"]) == 4)
    session = f"test{function}{threading.get_ident()}"
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, "waving\nbowing"]
    body = {"data": data, "fn_index": function, "session_hash": session}
    joined = httpx.post(f"{address}/gradio_api/queue/join", json=body, timeout=60)
    if joined.status_code != 200:
        return f"{joined.status_code} {joined.text}"
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60) as lines:
        response = ""
        for line in lines.iter_lines():
            response += line
            if "process_completed" in line or "close_stream" in line:
                break
    return response


def test_uploaded_playlist_is_not_opened(address: str, tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.ts", numbered_frames(9), rate=10)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nfile:{secret}\n#EXT-X-ENDLIST\n"
    files = {"files": ("a.m3u8", playlist.encode())}
    (stored,) = httpx.post(f"{address}/gradio_api/upload", files=files).json()
    messages = analyze_file(address, stored)
    assert "a playlist of files" in messages
    assert 'class=\\"rank' not in messages


def test_large_upload_is_rejected(address: str) -> None:
    response = httpx.post(f"{address}/gradio_api/upload", files={"files": ("big.mp4", bytes(1_200_000))})
    assert response.status_code == 413
    small = httpx.post(f"{address}/gradio_api/upload", files={"files": ("../../../evil<b>.mp4", b"x" * 100)})
    assert small.status_code == 200
    (stored,) = small.json()
    assert ".." not in stored


def test_path_instead_of_an_upload_is_not_opened(address: str, tmp_path: Path, clip: Path) -> None:
    outside = write_video(tmp_path / "outside.mp4", numbered_frames(10), rate=10)
    system_files = ("/etc/passwd", "../../../etc/passwd", "file:///etc/passwd")
    for path in (str(outside), str(clip), f"{address}/clips/x", *system_files):
        messages = analyze_file(address, path)
        assert "root:" not in messages
        assert 'class=\\"rank' not in messages
        assert '"success":false' in messages.replace(" ", "") or messages[:1] in "45", messages[:500]


def test_unknown_session_logs_no_error(search_controller: AppController) -> None:
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handler = logging.handlers.QueueHandler(records)
    with serve_app(search_controller) as address:
        logging.getLogger("uvicorn.error").addHandler(handler)
        try:
            response = httpx.get(f"{address}/gradio_api/queue/data?session_hash=x", timeout=60)
            assert httpx.get(address).status_code == 200
        finally:
            logging.getLogger("uvicorn.error").removeHandler(handler)
    assert "404" in response.text
    assert records.empty()


def test_a_port_in_use_is_one_sentence(search_controller: AppController) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=rf"^127\.0\.0\.1:{port}: address already in use; choose another --port"):
            serve_rest(search_controller, "127.0.0.1", port)
