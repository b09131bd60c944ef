"""A local model hub with the HTTP endpoints that the Hugging Face client uses.

The client can create a repository, upload to it (small files in the commit, large ones by git-lfs) and download.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

LFS_EXTENSIONS = (".safetensors", ".onnx", ".pt2")  # uploaded by git-lfs, as on the hub
IGNORED_ROUTES = ("/api/agent-harnesses",)  # requested by the client, but not required


class FakeHub:
    """Repositories, each a list of commits (message and all files), and a record of the requests."""

    def __init__(self) -> None:
        self.commits: dict[str, list[tuple[str, dict[str, bytes]]]] = {}
        self.is_private: dict[str, bool] = {}
        self.lfs_objects: dict[str, bytes] = {}  # by SHA-256
        self.lfs_paths: set[str] = set()
        self.tokens: set[str] = set()
        self.unexpected_requests: list[str] = []
        self.endpoint = ""

    def files(self, repo: str) -> dict[str, bytes]:
        """Return the files of a repository's last commit."""
        return self.commits[repo][-1][1]

    def commit_sha(self, repo: str) -> str:
        message, files = self.commits[repo][-1]
        digest = hashlib.sha1(message.encode())
        for name, content in sorted(files.items()):
            digest.update(name.encode() + hashlib.sha256(content).digest())
        return digest.hexdigest()

    def add_commit(self, repo: str, operations: list[dict[str, Any]]) -> None:
        files, message = dict(self.files(repo)), ""
        for line in operations:
            value = line["value"]
            if line["key"] == "header":
                message = value["summary"]
            elif line["key"] == "file":
                assert value["encoding"] == "base64"
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.lfs_objects[value["oid"]]
                self.lfs_paths.add(value["path"])
            elif line["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise AssertionError(line["key"])
        self.commits[repo].append((message, files))


class HubRequestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        body, path = self.rfile.read(int(self.headers.get("Content-Length", 0))), self.route()
        if path == "/api/validate-yaml":  # checks a README before it is uploaded
            head = re.match(r"---\n(.*?)\n---\n", json.loads(body)["content"], re.DOTALL)
            content = yaml.safe_load(head[1]) if head else {}
            named = all(one.get("name") and one.get("results") for one in content.get("model-index", []))
            return self.send_json({"errors": [] if named else [{"message": "model-index"}], "warnings": []})
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.tokens.add(token)
        if not token:
            return self.send_json({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            if repo in self.hub.commits:
                return self.send_json({"error": "You already created this model repo", "url": self.repo_url(repo)}, 409)
            self.hub.commits[repo] = [("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})]
            self.hub.is_private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
            return self.send_json({"url": self.repo_url(repo), "id": repo, "name": repo})
        if found := re.fullmatch(r"/api/models/(.+/.+)/preupload/main", path):
            paths = [one["path"] for one in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(LFS_EXTENSIONS) else "regular" for path in paths}
            files = [{"path": path, "uploadMode": modes[path], "shouldIgnore": False, "oid": None} for path in paths]
            return self.send_json({"files": files})
        if found := re.fullmatch(r"/(.+/.+)\.git/info/lfs/objects/batch", path):
            objects = json.loads(body)["objects"]
            for one in objects:
                one["actions"] = {"upload": {"href": f"{self.hub.endpoint}/lfs/{one['oid']}", "header": {}}}
            return self.send_json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/api/models/(.+/.+)/commit/main", path):
            self.hub.add_commit(found[1], [json.loads(line) for line in body.splitlines()])
            sha = self.hub.commit_sha(found[1])
            url = f"{self.repo_url(found[1])}/commit/{sha}"
            return self.send_json({"success": True, "commitOid": sha, "commitUrl": url})
        return self.not_found()

    def do_PUT(self) -> None:
        body, oid = self.rfile.read(int(self.headers["Content-Length"])), self.route().removeprefix("/lfs/")
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.lfs_objects[oid] = body
        self.send_json({})

    def do_GET(self) -> None:
        path = self.route()
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/.+)?", path):
            if found[1] in self.hub.commits:
                siblings = [{"rfilename": name} for name in self.hub.files(found[1])]
                return self.send_json({"id": found[1], "sha": self.hub.commit_sha(found[1]), "siblings": siblings})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/.+", path):
            return self.send_json([self.tree_entry(name, data) for name, data in self.hub.files(found[1]).items()])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            content = self.hub.files(found[1]).get(found[2]) if found[1] in self.hub.commits else None
            if content is not None:
                headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": self.hub.commit_sha(found[1])}
                return self.send_bytes(content, headers)
            return self.send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self.not_found()

    do_HEAD = do_GET

    def tree_entry(self, name: str, content: bytes) -> dict[str, Any]:
        entry = {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
        if name in self.hub.lfs_paths:
            entry["lfs"] = {"oid": etag(content), "size": len(content), "pointerSize": 134}
        return entry

    def route(self) -> str:
        return unquote(urlsplit(self.path).path)

    def repo_url(self, repo: str) -> str:
        return f"{self.hub.endpoint}/{repo}"

    def not_found(self) -> None:
        if self.route() not in IGNORED_ROUTES and not re.fullmatch(r"/api/models/[^/]+/[^/]+", self.route()):
            self.hub.unexpected_requests.append(f"{self.command} {self.path}")
        self.send_json({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def send_json(self, content: object, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(json.dumps(content).encode(), {"Content-Type": "application/json", **(headers or {})}, status)

    def send_bytes(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run a hub on a free local port."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (HubRequestHandler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
