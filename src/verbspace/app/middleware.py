"""What stands before the page: calls are short and name no address, uploads fit in the room that there is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Gradio's own page needs inline scripts and styles; nothing is loaded from, or sent to, another host.
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
SECURITY_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
MAX_BODY_BYTES = 4_000_000  # bytes of what is not an upload
MULTIPART_OVERHEAD_BYTES = 100_000  # bytes of an upload that are not the file's


class _BodyTooLarge(Exception):
    pass


class RequestLimits:
    """Middleware of ASGI. uploads: the folder that they go to; largest: bytes of one; room: bytes of all of them."""

    def __init__(self, app: ASGIApp, *, upload_dir: Path, max_upload_bytes: int, max_total_bytes: int) -> None:
        self.app, self.upload_dir, self.max_upload_bytes, self.max_total_bytes = (
            app,
            upload_dir,
            max_upload_bytes,
            max_total_bytes,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal. A body is never held that is longer than it may be."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"].rstrip("/").endswith("/upload")
        most = self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES if upload else MAX_BODY_BYTES
        if _content_length(scope) > most:
            await _reject(send, 413, "this is too long")
            return
        if upload and directory_size(self.upload_dir) + self.max_upload_bytes > self.max_total_bytes:
            await _reject(send, 503, "there is no room for more uploads now; come back within an hour")
            return
        begun = ended = False

        async def send_with_headers(message: MutableMapping[str, Any]) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            if upload or scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, _limit_body(receive, most), send_with_headers)
                return
            body = await _read_body(_limit_body(receive, most))
        except _BodyTooLarge:
            if not begun:
                await _reject(send, 413, "this is too long")
            return
        except RuntimeError as error:
            # Gradio tells who asks for a session that is not there so, and then raises a 404 that comes too late.
            if not begun or getattr(error.__cause__, "status_code", 0) not in range(400, 500):
                raise
            if not ended:
                await send({"type": "http.response.body", "body": b""})
            return
        if references_url(body):
            await _reject(send, 403, "a file is uploaded, not named")
            return
        held: list[bytes] = [body]

        async def replay_body() -> MutableMapping[str, Any]:
            if held:
                return {"type": "http.request", "body": held.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replay_body, send_with_headers)


def references_url(body: bytes) -> bool:
    """Whether a call names a file by URL, which Gradio would fetch from here, or cannot be understood. The body is
    read as Gradio reads it, for a text can be written in many ways."""
    if not body:
        return False
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return True
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "://" in str(one.get("path", "")):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


def directory_size(folder: Path) -> int:
    """Bytes of all files in a folder, of which some may be going just now."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _limit_body(receive: Receive, max_bytes: int) -> Receive:
    """The same messages, until their bodies are longer than `most` bytes."""
    got = 0

    async def receive_limited() -> MutableMapping[str, Any]:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > max_bytes:
            raise _BodyTooLarge
        return message

    return receive_limited


async def _read_body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the other side has gone
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _reject(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *SECURITY_HEADERS]})
    await send({"type": "http.response.body", "body": body})
