"""The web server: on the loopback interface by default, without other hosts, serving only files that were shown."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verbspace.app.address import validate_address
from verbspace.app.controller import AppController
from verbspace.app.media import ClipStore, thumbnail
from verbspace.app.middleware import LOOPBACK_ADDRESSES, LOOPBACK_HOSTS, BasicPassword, RequestLimits
from verbspace.app.page import TITLE, build_page
from verbspace.reporting.templating import render_template

MAX_STORED_UPLOADS = 20  # of the largest size; Gradio removes uploads after an hour
DISABLE_API_DOCS: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}

logger = logging.getLogger(__name__)


def make_app(controller: AppController, hosts: Sequence[str] = LOOPBACK_HOSTS, password: str | None = None) -> Any:
    """Create the ASGI application: the page at `/`, and the clips that it shows at `/clips/`.

    Requests whose Host header is not in `hosts` are rejected, which prevents DNS rebinding; "*" allows any. With a
    `password`, everything is rejected without it.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    upload_dir = tempfile.TemporaryDirectory(prefix="verbspace-uploads-")
    os.environ["GRADIO_TEMP_DIR"] = upload_dir.name  # Gradio reads it when the page is built and when it is mounted
    clips = ClipStore()
    page = build_page(controller, clips)
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse, Response
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(title=TITLE, **DISABLE_API_DOCS)
    app.state.upload_dir = upload_dir  # deleted together with the app
    max_upload_bytes = int(controller.limits.max_upload_mb * 1e6)
    app.add_middleware(
        RequestLimits,
        upload_dir=Path(upload_dir.name),
        max_upload_bytes=max_upload_bytes,
        max_total_bytes=MAX_STORED_UPLOADS * max_upload_bytes,
    )
    if password is not None:
        app.add_middleware(BasicPassword, password=password)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.get("/clips/{clip_id}", include_in_schema=False)
    def clip(clip_id: str) -> Any:
        # Not async: FastAPI runs it in a thread, because it may encode a video.
        file = clips.playable_file(clip_id)
        if file is None:
            raise HTTPException(404)
        return FileResponse(file, headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/examples/{number}.jpg", include_in_schema=False)
    def example_thumbnail(number: int) -> Any:
        paths = list(controller.clips.values())
        image = thumbnail(paths[number]) if 0 <= number < len(paths) else None
        if image is None:
            raise HTTPException(404)
        return Response(image, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})

    # Fonts of the system, because Gradio's default fonts are loaded from another host.
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="",
        css=render_template("app.css.jinja"),
        theme=gr.themes.Default(primary_hue="blue", **fonts),
        show_error=False,
        footer_links=[],
        ssr_mode=False,
        max_file_size=max_upload_bytes,
        enable_monitoring=False,
        app_kwargs=DISABLE_API_DOCS,
        allowed_paths=[str(path.resolve()) for path in controller.clips.values()],
    )
    # Gradio checks that the paths in a request are in the upload folder only for pages that were launched, which a
    # mounted page never is. Without this line a request could name any file of this machine.
    page.has_launched = page.is_running = True
    return mounted


def serve(controller: AppController, host: str, port: int, password: str | None = None) -> None:
    """Serve the app until it is stopped."""
    _run(make_app(controller, _accepted_hosts(host), password), "app", host, port)


def serve_rest(controller: AppController, host: str, port: int, token: str | None = None) -> None:
    """Serve the REST interface until it is stopped. See `make_api`."""
    from verbspace.app.api import make_api

    _run(make_api(controller, token=token, hosts=_accepted_hosts(host)), "server", host, port)


def _accepted_hosts(host: str) -> Sequence[str]:
    return LOOPBACK_HOSTS if host in LOOPBACK_ADDRESSES else ("*",)


def _run(app: Any, title: str, host: str, port: int) -> None:
    import uvicorn

    validate_address(host, port)
    logger.info("%s: http://%s:%d", title, f"[{host}]" if ":" in host else host, port)
    uvicorn.run(app, host=host, port=port, log_level="warning")
