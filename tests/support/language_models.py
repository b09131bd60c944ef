"""Replies, scripted language models and HTTP servers for tests of concept generation."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

VALID_REPLY = {
    "name": "brushing hair",
    "motion": ["Bristles travel from the crown down to the tips.", "A wrist turns outward at the end of every pass."],
    "pose": ["One elbow is lifted beside a tilted head."],
    "objects": ["A paddle of soft bristles with a wooden handle is gripped in the fist."],
    "scene": ["A bathroom mirror reflects a face above a white sink."],
}
HttpResponse = tuple[int, bytes, dict[str, str]]  # status, body, headers


def reply_json(**changes: Any) -> str:
    return json.dumps({**VALID_REPLY, **changes})


def reply_about(action: str, attempt: int = 1) -> str:
    """Return a valid reply whose sentences are unique to the action."""
    token = "".join(c for c in action if c.isalnum())
    sentences = {
        kind: [text.replace(".", f" near token {token}.") for text in texts]
        for kind, texts in VALID_REPLY.items()
        if isinstance(texts, list)
    }
    return json.dumps({"name": action, **sentences})


class ScriptedLLM:
    """A language model whose reply is a function of the action and the number of requests about it so far."""

    name, parameters = "scripted", {"temperature": 0.0}

    def __init__(self, reply_fn: Callable[[str, int], str]) -> None:
        self.reply_fn = reply_fn
        self.requested_actions: list[str] = []
        self.received_messages: list[list[dict[str, str]]] = []

    async def complete(self, messages: Sequence[dict[str, str]], schema: Any) -> str:
        action = json.loads(messages[1]["content"].removeprefix("The action: "))
        self.requested_actions.append(action)
        self.received_messages.append(list(messages))
        await asyncio.sleep(0)
        return self.reply_fn(action, self.requested_actions.count(action))

    async def close(self) -> None:
        pass


class ScriptedServer:
    """An HTTP server whose response is a function of the request's JSON and its number."""

    def __init__(self, respond: Callable[[dict[str, Any], int], HttpResponse]) -> None:
        self.requests: list[dict[str, Any]] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                requests.append(request)
                status, body, headers = respond(request, len(requests))
                try:
                    self.send_response(status)
                    for key, value in {"Content-Type": "application/json", **headers}.items():
                        self.send_header(key, value)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    pass  # the client has disconnected

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def relay_server(target: str, request_log: list[str], delay_s: float = 0.0) -> ScriptedServer:
    """Create a server that logs the action of each chat request and forwards the request to `target`."""
    import httpx2

    def forward(request: dict[str, Any], number: int) -> HttpResponse:
        request_log.append(request["messages"][1]["content"])
        time.sleep(delay_s)
        response = httpx2.post(f"{target}/chat/completions", json=request, timeout=60)
        return response.status_code, response.content, {}

    return ScriptedServer(forward)


def completion_response(content: Any, finish_reason: str = "stop", **message_fields: Any) -> HttpResponse:
    message = {"role": "assistant", "content": content, **message_fields}
    choices = [{"index": 0, "finish_reason": finish_reason, "message": message}]
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": choices}
    return 200, json.dumps(body).encode(), {}


def error_response(text: str, status: int = 400) -> HttpResponse:
    return status, json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode(), {}
