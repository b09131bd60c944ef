"""What stands before the page: calls are short and name no address, uploads fit in the room that there is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# Gradio's own page needs inline scripts and styles; nothing is loaded from, or sent to, another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
LONGEST_CALL = 4_000_000  # bytes of what is not an upload
FORM = 100_000  # bytes of an upload that are not the file's


class _TooLong(Exception):
    pass


class Guard:
    """Middleware of ASGI. uploads: the folder that they go to; largest: bytes of one; room: bytes of all of them."""

    def __init__(self, app: App, *, uploads: Path, largest: int, room: int) -> None:
        self.app, self.uploads, self.largest, self.room = app, uploads, largest, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it with a refusal. A body is never held that is longer than it may be."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        upload = scope["path"].rstrip("/").endswith("/upload")
        most = self.largest + FORM if upload else LONGEST_CALL
        if _promised(scope) > most:
            await _refuse(send, 413, "this is too long")
            return
        if upload and size_of(self.uploads) + self.largest > self.room:
            await _refuse(send, 503, "there is no room for more uploads now; come back within an hour")
            return
        begun = ended = False

        async def told(message: MutableMapping[str, Any]) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            elif message["type"] == "http.response.body":
                ended = not message.get("more_body", False)
            await send(message)

        try:
            if upload or scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, _counted(receive, most), told)
                return
            body = await _whole(_counted(receive, most))
        except _TooLong:
            if not begun:
                await _refuse(send, 413, "this is too long")
            return
        except RuntimeError as error:
            # Gradio tells who asks for a session that is not there so, and then raises a 404 that comes too late.
            if not begun or getattr(error.__cause__, "status_code", 0) not in range(400, 500):
                raise
            if not ended:
                await send({"type": "http.response.body", "body": b""})
            return
        if names_address(body):
            await _refuse(send, 403, "a file is uploaded, not named")
            return
        held: list[bytes] = [body]

        async def again() -> MutableMapping[str, Any]:
            if held:
                return {"type": "http.request", "body": held.pop(), "more_body": False}
            return await receive()

        await self.app(scope, again, told)


def names_address(body: bytes) -> bool:
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


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, of which some may be going just now."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _promised(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0


def _counted(receive: Receive, most: int) -> Receive:
    """The same messages, until their bodies are longer than `most` bytes."""
    got = 0

    async def one() -> MutableMapping[str, Any]:
        nonlocal got
        message = await receive()
        got += len(message.get("body", b""))
        if got > most:
            raise _TooLong
        return message

    return one


async def _whole(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":  # the other side has gone
            return b""
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = reason.encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *HEADERS]})
    await send({"type": "http.response.body", "body": body})
