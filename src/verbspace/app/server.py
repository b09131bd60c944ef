"""The server: loopback unless told otherwise, nothing from other hosts, no file but those that were shown."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verbspace.app.controller import AppController
from verbspace.app.html import stylesheet
from verbspace.app.media import ClipStore
from verbspace.app.middleware import RequestLimits
from verbspace.app.page import TITLE, build_page

LOOPBACK_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MAX_STORED_UPLOADS = (
    20  # uploads of the largest size that lie on the disk at once; Gradio clears them away after an hour
)
DISABLE_API_DOCS: dict[str, Any] = {"docs_url": None, "redoc_url": None, "openapi_url": None}


def make_app(controller: AppController, hosts: Sequence[str] = LOOPBACK_HOSTS) -> Any:
    """The app as ASGI: the page at /, clips that it shows at /clips/. Raises ValueError where gradio is missing.

    hosts: by which names the app may be called, so that no other site's name can be made to lead here; "*" is any.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    folder = tempfile.TemporaryDirectory(prefix="verbspace-uploads-")
    os.environ["GRADIO_TEMP_DIR"] = folder.name  # Gradio asks for it when the page is made, and when it is mounted
    clips = ClipStore()
    page = build_page(controller, clips)
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(title=TITLE, **DISABLE_API_DOCS)
    largest = int(controller.limits.max_upload_mb * 1e6)
    app.state.uploads = folder  # goes when the app goes
    app.add_middleware(
        RequestLimits,
        upload_dir=Path(folder.name),
        max_upload_bytes=largest,
        max_total_bytes=MAX_STORED_UPLOADS * largest,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))

    @app.get("/clips/{key}", include_in_schema=False)
    def clip(key: str) -> Any:
        """In a thread of its own, as it may encode."""
        found = clips.playable_file(key)
        if found is None:
            raise HTTPException(404)
        return FileResponse(found, headers={"Cache-Control": "private, max-age=3600"})

    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", **fonts)  # fonts by name: Gradio's own come from another host
    mounted = gr.mount_gradio_app(
        app, page, path="", css=stylesheet(), theme=theme, show_error=False, footer_links=[], ssr_mode=False,
        max_file_size=largest, enable_monitoring=False, app_kwargs=DISABLE_API_DOCS,
        allowed_paths=[str(path.resolve()) for path in controller.clips.values()],
    )  # fmt: skip
    # Gradio holds the paths in a call against its folder of uploads only for pages that have been launched, which a
    # mounted one never is: without this, a call could name any file of this machine.
    page.has_launched = page.is_running = True
    return mounted


def serve(controller: AppController, host: str, port: int) -> None:
    """Serve until it is stopped. Raises OSError where the port is taken."""
    import socket

    import uvicorn

    app = make_app(controller, LOOPBACK_HOSTS if host in ("127.0.0.1", "localhost", "::1") else ("*",))
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OSError(f"{host}:{port}: cannot listen there: {error.strerror}; give another --port") from None
    print(f"verbspace app: http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    uvicorn.run(app, host=host, port=port, log_level="warning")
