"""ASGI middleware in front of the page: limits the size of requests and of the upload folder, and rejects URLs."""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Gradio's page needs inline scripts and styles. Nothing is loaded from, or sent to, another host.
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
LOOPBACK_ADDRESSES = ("127.0.0.1", "localhost", "::1")  # that only this machine can reach
LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")  # the same in Host headers
MAX_BODY_BYTES = 4_000_000  # of requests other than uploads
MULTIPART_OVERHEAD_BYTES = 100_000  # bytes of an upload besides the file


class _BodyTooLarge(Exception):
    pass


class RequestLimits:
    """ASGI middleware that limits the size of requests, uploads and `upload_dir`, and adds security headers."""

    def __init__(self, app: ASGIApp, *, upload_dir: Path, max_upload_bytes: int, max_total_bytes: int) -> None:
        self.app, self.upload_dir = app, upload_dir
        self.max_upload_bytes, self.max_total_bytes = max_upload_bytes, max_total_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it. A body is never read beyond its limit."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.requests import ClientDisconnect, Request
        from starlette.responses import PlainTextResponse

        started = finished = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started, finished
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            elif message["type"] == "http.response.body":
                finished = not message.get("more_body", False)
            await send(message)

        async def reject(status: int, reason: str) -> None:
            await PlainTextResponse(reason, status)(scope, receive, send_with_headers)

        is_upload = scope["path"].rstrip("/").endswith("/upload")
        max_bytes = self.max_upload_bytes + MULTIPART_OVERHEAD_BYTES if is_upload else MAX_BODY_BYTES
        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > max_bytes:
            await reject(413, "the request is too large")
            return
        if is_upload and directory_size(self.upload_dir) + self.max_upload_bytes > self.max_total_bytes:
            await reject(503, "the storage for uploads is full; try again in an hour")
            return
        try:
            if is_upload or scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, _limit_body(receive, max_bytes), send_with_headers)
                return
            body = await Request(scope, _limit_body(receive, max_bytes)).body()
        except ClientDisconnect:
            return
        except _BodyTooLarge:
            if not started:
                await reject(413, "the request is too large")
            return
        except RuntimeError as error:
            # For an unknown session Gradio sends a response, and then raises a 404 that comes too late.
            if not started or getattr(error.__cause__, "status_code", 0) not in range(400, 500):
                raise
            if not finished:
                await send({"type": "http.response.body", "body": b""})
            return
        if references_url(body):
            await reject(403, "upload the file; URLs are not accepted")
            return
        bodies = [body]

        async def replay_body() -> Message:
            if bodies:
                return {"type": "http.request", "body": bodies.pop(), "more_body": False}
            return await receive()

        await self.app(scope, replay_body, send_with_headers)


class BodyLimit:
    """ASGI middleware that rejects requests whose body has more than `max_bytes`, without reading beyond them."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        started = False

        async def watched_send(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"")
        too_large = JSONResponse({"detail": f"the request is larger than {self.max_bytes / 1e6:.0f} MB"}, 413)
        if length.isdigit() and int(length) > self.max_bytes:
            await too_large(scope, receive, send)
            return
        try:
            await self.app(scope, _limit_body(receive, self.max_bytes), watched_send)
        except _BodyTooLarge:
            if not started:
                await too_large(scope, receive, send)


class BearerToken:
    """ASGI middleware that rejects requests without the token, before their body is read.

    Args:
        app: The application.
        token: The token.
        open_paths: Paths that need no token.
    """

    def __init__(self, app: ASGIApp, *, token: str, open_paths: tuple[str, ...]) -> None:
        self.app, self.expected, self.open_paths = app, f"Bearer {token}".encode(), open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        is_open = scope["type"] != "http" or scope["path"] in self.open_paths
        if is_open or secrets.compare_digest(given, self.expected):
            await self.app(scope, receive, send)
            return
        from starlette.responses import JSONResponse

        response = JSONResponse({"detail": "a bearer token is needed"}, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)


class BasicPassword:
    """ASGI middleware that asks the browser for a password (HTTP Basic), with any user name.

    Args:
        app: The application.
        password: The password.
    """

    def __init__(self, app: ASGIApp, *, password: str) -> None:
        self.app, self.expected = app, password.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        given = dict(scope.get("headers", ())).get(b"authorization", b"")
        if scope["type"] == "lifespan" or secrets.compare_digest(_basic_password(given), self.expected):
            await self.app(scope, receive, send)
            return
        from starlette.responses import PlainTextResponse

        headers = {"WWW-Authenticate": 'Basic realm="verbspace", charset="UTF-8"'}
        await PlainTextResponse("a password is needed", 401, headers)(scope, receive, send)


def _basic_password(header: bytes) -> bytes:
    """Return the password of an Authorization header; empty if it has none."""
    scheme, _, value = header.partition(b" ")
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2] if scheme.lower() == b"basic" else b""
    except ValueError:
        return b""


def references_url(body: bytes) -> bool:
    """Whether a request names a file by URL, which Gradio would download, or is not valid JSON.

    The body is parsed as Gradio parses it, because JSON can encode the same text in many ways.
    """
    if not body:
        return False
    try:
        values = [json.loads(body)]
    except (ValueError, RecursionError):
        return True
    while values:
        value = values.pop()
        if isinstance(value, dict):
            if "://" in str(value.get("path", "")):
                return True
            values += value.values()
        elif isinstance(value, list):
            values += value
    return False


def directory_size(folder: Path) -> int:
    """Return the total size of all files in a folder, in bytes. Files that disappear meanwhile are skipped."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _limit_body(receive: Receive, max_bytes: int) -> Receive:
    """Wrap `receive` to raise _BodyTooLarge when the bodies of all messages exceed `max_bytes`."""
    total = 0

    async def receive_limited() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > max_bytes:
            raise _BodyTooLarge
        return message

    return receive_limited
