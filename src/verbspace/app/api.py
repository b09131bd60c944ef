"""The REST interface: predictions, embeddings and search over HTTP, with an OpenAPI schema.

FastAPI reads the annotations of the handlers, so this module does not postpone their evaluation.
"""

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from verbspace.app.controller import MAX_HITS, AppController
from verbspace.app.limits import RequestRejected
from verbspace.app.middleware import MULTIPART_OVERHEAD_BYTES, BearerToken, BodyLimit
from verbspace.data.errors import DecodeError
from verbspace.inference.predictor import Prediction, WindowConfig
from verbspace.models.hashing import encoder_hash

MAX_WAITING = 32  # requests that run or wait for the model; further ones get status 503
MAX_TEXTS = 256  # of one request


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Span(_Body):
    """An interval in seconds."""

    start: float
    end: float
    action: str
    score: float


class PredictResponse(_Body):
    """The ranked actions of a clip.

    Attributes:
        actions: Probabilities by action, most probable first.
        timeline: Segments of one action each, if a window was given.
        spans: Spans of each action, if they were asked for.
    """

    actions: dict[str, float]
    timeline: list[Span] | None = None
    spans: list[Span] | None = None


class EmbedTextRequest(_Body):
    """Texts to embed."""

    texts: list[str] = Field(min_length=1, max_length=MAX_TEXTS)


class EmbeddingsResponse(_Body):
    """Normalized embeddings, one list of numbers each."""

    embeddings: list[list[float]]


class SearchRequest(_Body):
    """A search as `verbspace search` does it."""

    query: str
    top: int = Field(10, ge=1, le=MAX_HITS)
    per_video: bool = False
    spans: bool = False


class SearchHit(_Body):
    """A window or span that was found."""

    path: str
    start: float
    end: float
    score: float
    window: int
    duration: float
    fps: float
    index: str = ""


class Info(_Body):
    """What is served."""

    version: str
    encoder: str
    concepts: str
    actions: list[str]
    windows: int | None


def make_api(controller: AppController, *, token: str | None = None, hosts: Sequence[str] = ("*",)) -> Any:
    """Create the ASGI application.

    One request at a time runs the model; up to `MAX_WAITING` wait, and further ones get 503. Uploads are limited by
    `controller.limits` and deleted after the request.

    Args:
        controller: Its first encoder is used.
        token: Bearer token that all requests but `/health` must have. None: no token.
        hosts: Accepted Host headers, which prevents DNS rebinding; "*" allows any.
    """
    from fastapi import Depends, FastAPI, File, Form, HTTPException, Request, UploadFile
    from fastapi.responses import JSONResponse
    from fastapi.security import HTTPBearer
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    predictor_of, limits = controller.main_predictor, controller.limits
    api = FastAPI(title="verbspace", version=version("verbspace"), docs_url=None, redoc_url=None)
    api.add_middleware(BodyLimit, max_bytes=int(limits.max_upload_mb * 1e6) + MULTIPART_OVERHEAD_BYTES)
    if token is not None:
        api.add_middleware(BearerToken, token=token, open_paths=("/health",))
    api.add_middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))
    model, waiting = threading.Lock(), threading.BoundedSemaphore(MAX_WAITING)

    @contextmanager
    def turn() -> Iterator[None]:
        if not waiting.acquire(blocking=False):
            raise HTTPException(503, "too many requests are waiting; try again", {"Retry-After": "5"})
        try:
            with model:
                yield
        finally:
            waiting.release()

    @contextmanager
    def saved(upload: UploadFile) -> Iterator[Path]:
        """Write an upload to a temporary file, and check it."""
        name = Path(upload.filename or "clip").name
        with tempfile.TemporaryDirectory(prefix="verbspace-api-") as folder:
            path = Path(folder) / f"clip{Path(name).suffix[:12]}"
            with path.open("wb") as file:
                while chunk := upload.file.read(1 << 20):
                    file.write(chunk)
            limits.check_clip(path, name)
            yield path

    @api.exception_handler(RequestRejected)
    @api.exception_handler(DecodeError)
    async def reject(_: Request, error: Exception) -> JSONResponse:
        reason = error.reason if isinstance(error, DecodeError) else str(error)
        return JSONResponse({"detail": reason}, 422)

    @api.get("/health")
    def health() -> dict[str, str]:
        """Tell that the server runs."""
        return {"status": "ok"}

    # The middleware checks the token; this says so in the schema.
    secured: dict[str, Any] = {} if token is None else {"dependencies": [Depends(HTTPBearer(auto_error=False))]}

    @api.get("/info", **secured)
    def info() -> Info:
        """Describe the encoder, its actions and the index."""
        encoder, searcher = controller.main_encoder, controller.searcher
        return Info(
            version=version("verbspace"), encoder=encoder_hash(encoder), concepts=controller.concepts.name,
            actions=controller.concepts.action_names,
            windows=None if searcher is None else sum(map(len, searcher.indices)),
        )  # fmt: skip

    @api.post("/predict", response_model_exclude_none=True, **secured)
    def predict(
        clip: Annotated[UploadFile, File(description="A video.")],
        actions: Annotated[list[str] | None, Form(description="Actions. Default: those of the server.")] = None,
        top: Annotated[int, Form(ge=1, description="Number of actions. Larger than all: all.")] = 5,
        window: Annotated[float | None, Form(ge=0.1, description="Seconds per window, for a timeline.")] = None,
        stride: Annotated[float | None, Form(gt=0)] = None,
        spans: Annotated[bool, Form(description="With window: also spans of each action.")] = False,
    ) -> PredictResponse:
        """Rank actions for a video."""
        if window is None and (spans or stride is not None):
            raise RequestRejected("spans and stride need a window")
        names = None if actions is None else limits.parse_actions("\n".join(actions))
        config = None if window is None else WindowConfig(window, stride, spans=spans)
        with saved(clip) as path, turn():
            ((_, found),) = predictor_of(names).predict_stream([str(path)], config)
        if isinstance(found, DecodeError):
            raise found
        return _to_response(found, top)

    @api.post("/embed", **secured)
    def embed(clip: Annotated[UploadFile, File(description="A video.")]) -> EmbeddingsResponse:
        """Embed a video as one clip."""
        with saved(clip) as path, turn():
            rows = controller.main_encoder.encode_video([path], frames=controller.frames)
        return EmbeddingsResponse(embeddings=rows.tolist())

    @api.post("/embed-text", **secured)
    def embed_text(request: EmbedTextRequest) -> EmbeddingsResponse:
        """Embed texts."""
        for text in request.texts:
            limits.check_text(text)
        with turn():
            rows = controller.main_encoder.encode_text(request.texts)
        return EmbeddingsResponse(embeddings=rows.tolist())

    @api.post("/search", **secured)
    def search(request: SearchRequest) -> list[SearchHit]:
        """Search the index by text."""
        with turn():
            hits = controller.search(request.query, request.top, per_video=request.per_video, spans=request.spans)
        return [SearchHit(**asdict(hit)) for hit in hits]

    return api


def _to_response(found: Prediction, top: int) -> PredictResponse:
    def rows(segments: list[Any] | None) -> list[Span] | None:
        return None if segments is None else [Span(**asdict(segment)) for segment in segments]

    return PredictResponse(actions=dict(found.ranking[:top]), timeline=rows(found.timeline), spans=rows(found.spans))
