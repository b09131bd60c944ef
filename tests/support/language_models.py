"""What stands in for language models: replies, scripted models, and servers of every temper."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VALID_REPLY = {
    "name": "brushing hair",
    "motion": ["Bristles travel from the crown down to the tips.", "A wrist turns outward at the end of every pass."],
    "pose": ["One elbow is lifted beside a tilted head."],
    "objects": ["A paddle of soft bristles with a wooden handle is gripped in the fist."],
    "scene": ["A bathroom mirror reflects a face above a white sink."],
}


def reply_json(**changes: Any) -> str:
    return json.dumps({**VALID_REPLY, **changes})


class ScriptedLLM:
    """A language model that answers from a function of (action, how often it was asked about it)."""

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


def reply_about(action: str, attempt: int = 1) -> str:
    """A usable reply that differs from action to action."""
    tail = "".join(c for c in action if c.isalnum())
    return json.dumps(
        {
            key: [text.replace(".", f" near token {tail}.") for text in value] if isinstance(value, list) else action
            for key, value in VALID_REPLY.items()
        }
    )


HttpResponse = tuple[int, bytes, dict[str, str]]  # status, body, headers


class RelayServer:
    """A server between the command and llama.cpp's, which counts the actions that it is asked about."""

    def __init__(self, target: str, request_log: list[str], delay_s: float = 0.0) -> None:
        import httpx2

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                asked = json.loads(body)["messages"][1]["content"]
                request_log.append(asked)
                time.sleep(delay_s)
                got = httpx2.post(target + self.path.removeprefix("/v1"), content=body, timeout=60)
                self.send_response(got.status_code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(got.content)))
                self.end_headers()
                self.wfile.write(got.content)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class ScriptedServer:
    """An HTTP server whose answers a function gives: (status, body, headers) of the request's JSON and its number."""

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
                    pass  # the client has left

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> "ScriptedServer":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


def completion_response(content: Any, finish_reason: str = "stop", **message_fields: Any) -> HttpResponse:
    message = {"role": "assistant", "content": content, **message_fields}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": "m"}
    return (
        200,
        json.dumps({**body, "choices": [{"index": 0, "finish_reason": finish_reason, "message": message}]}).encode(),
        {},
    )


def error_response(text: str, status: int = 400) -> HttpResponse:
    return status, json.dumps({"error": {"message": text, "type": "invalid_request_error"}}).encode(), {}
