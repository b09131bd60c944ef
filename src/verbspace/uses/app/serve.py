"""The server: loopback unless told otherwise, nothing from other hosts, no file but those that were shown."""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from verbspace.uses.app.clips import Clips
from verbspace.uses.app.fragments import style
from verbspace.uses.app.page import TITLE, build
from verbspace.uses.app.studio import Studio

# Gradio's own page needs inline scripts and styles; nothing is loaded from, or sent to, another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LONGEST_CALL = 4_000_000  # bytes of what is not an upload
NO_DOCS: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}


def make_app(studio: Studio, hosts: Sequence[str] = LOOPBACK) -> Any:
    """The app as ASGI: the page at /, clips that it shows at /clips/. Raises ValueError where gradio is missing.

    hosts: by which names the app may be called, so that no other site's name can be made to lead here; "*" is any.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    clips = Clips()
    page = build(studio, clips)
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse, PlainTextResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(title=TITLE, **NO_DOCS)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.get("/clips/{key}", include_in_schema=False)
    def clip(key: str) -> Any:
        """In a thread of its own, as it may encode."""
        found = clips.file(key)
        if found is None:
            raise HTTPException(404)
        return FileResponse(found, headers={"Cache-Control": "private, max-age=3600"})

    @app.middleware("http")
    async def guard(request: Any, answer: Callable[[Any], Awaitable[Any]]) -> Any:
        if request.method == "POST" and not request.url.path.endswith("/upload"):
            body = await request.body()
            if len(body) > LONGEST_CALL:
                return PlainTextResponse("this call is too long", 413)
            if names_remote_file(body):
                return PlainTextResponse("a file is uploaded, not named", 403)
        response = await answer(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        return response

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", **fonts)  # fonts by name: Gradio's own come from another host
    mounted = gr.mount_gradio_app(
        app, page, path="", css=style(), theme=theme, show_error=False, footer_links=[], ssr_mode=False,
        max_file_size=f"{studio.limits.megabytes:g}mb", enable_monitoring=False, app_kwargs=NO_DOCS,
        allowed_paths=[str(path.resolve()) for path in studio.clips.values()],
    )  # fmt: skip
    # Gradio holds the paths in a call against its folder of uploads only for pages that have been launched, which a
    # mounted one never is: without this, a call could name any file of this machine.
    page.has_launched = page.is_running = True
    return mounted


def names_remote_file(body: bytes) -> bool:
    """Whether a call names a file by URL, which Gradio would fetch from here."""
    if b"://" not in body:
        return False
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return True  # what cannot be understood is not passed on
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            if "://" in str(one.get("path", "")):
                return True
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
    return False


def serve(studio: Studio, host: str, port: int) -> None:
    """Serve until it is stopped. Raises OSError where the port is taken."""
    import socket

    import uvicorn

    app = make_app(studio, LOOPBACK if host in ("127.0.0.1", "localhost", "::1") else ("*",))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port}: cannot listen there: {error.strerror}; give another --port") from None
    print(f"verbspace app: http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")
