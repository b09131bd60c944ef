"""A local model hub with the HTTP endpoints that the Hugging Face client uses.

The client can create a repository, upload to it (small files in the commit, large ones by git-lfs), list the commits
and pull requests, and download any revision.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
import yaml

LFS_EXTENSIONS = (".safetensors", ".onnx", ".pt2")  # uploaded by git-lfs, as on the hub
IGNORED_ROUTES = ("/api/agent-harnesses",)  # requested by the client, but not required


Commit = tuple[str, dict[str, bytes]]  # message and all files
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class PullRequest:
    """A pull request of one commit with all files, on top of a commit of the main branch."""

    title: str
    author: str
    commit: Commit
    parent: str
    status: str = "open"


class FakeHub:
    """Repositories, each a list of commits, and a record of the requests."""

    def __init__(self) -> None:
        self.commits: dict[str, list[Commit]] = {}
        self.pull_requests: dict[str, list[PullRequest]] = {}
        self.downloads: list[str] = []  # names of the files whose content was requested
        self.is_private: dict[str, bool] = {}
        self.lfs_objects: dict[str, bytes] = {}  # by SHA-256
        self.lfs_paths: set[str] = set()
        self.tokens: set[str] = set()
        self.unexpected_requests: list[str] = []
        self.endpoint = ""

    def files(self, repo: str) -> dict[str, bytes]:
        """Return the files of a repository's last commit."""
        return self.commits[repo][-1][1]

    def commit_sha(self, repo: str, revision: str = "main") -> str:
        """Return the hash of the commit of a revision. Raise KeyError if there is none."""
        return sha_of(self.history(repo, revision)[0])

    def history(self, repo: str, revision: str = "main") -> list[Commit]:
        """Return the commits of a branch, pull request or commit hash, the newest first."""
        main = self.commits[repo][::-1]
        pulls = {f"refs/pr/{number}": pull for number, pull in enumerate(self.pull_requests.get(repo, ()), 1)}
        chains = {"main": main, **{sha_of(commit): main[n:] for n, commit in enumerate(main)}}
        for name, pull in pulls.items():
            chains[name] = chains[sha_of(pull.commit)] = [pull.commit, *chains[pull.parent]]
        return chains[revision]

    def add_files(self, repo: str, files: dict[str, bytes], message: str = "Add files") -> str:
        """Commit files to the main branch, creating the repository if necessary, and return the commit's hash."""
        commits = self.commits.setdefault(repo, [])
        commits.append((message, {**(commits[-1][1] if commits else {}), **files}))
        self.is_private.setdefault(repo, False)
        return self.commit_sha(repo)

    def add_pull_request(
        self,
        repo: str,
        files: dict[str, bytes],
        *,
        author: str,
        title: str = "Adding `safetensors` variant of this model",
    ) -> str:
        """Open a pull request that adds files to the main branch, and return its reference."""
        pulls = self.pull_requests.setdefault(repo, [])
        commit = (f"{title} {len(pulls)}", {**self.files(repo), **files})
        pulls.append(PullRequest(title, author, commit, self.commit_sha(repo)))
        return f"refs/pr/{len(pulls)}"

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
        path = urlsplit(self.path).path  # quoted: a revision may contain a slash
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|commits|discussions)(?:/([^/]+))?)?", path)
        if not found:
            found = re.fullmatch(r"/([^/]+/[^/]+)/(resolve)/([^/]+)/(.+)", path)
        if not found or found[1] not in self.hub.commits:
            return self.not_found()
        repo, kind, revision = found[1], found[2], unquote(found[3] or "main")
        try:
            commits = self.hub.history(repo, revision)
        except KeyError:
            return self.send_json({"error": f"Invalid rev id: {revision}"}, 404, {"X-Error-Code": "RevisionNotFound"})
        files, sha = commits[0][1], sha_of(commits[0])
        if kind == "tree":
            return self.send_json([self.tree_entry(name, data) for name, data in files.items()])
        if kind == "commits":
            return self.send_json([commit_entry(commit) for commit in commits])
        if kind == "discussions":
            pulls = enumerate(self.hub.pull_requests.get(repo, ()), 1)
            entries = [pull_request_entry(repo, number, pull) for number, pull in pulls][::-1]
            return self.send_json({"discussions": entries, "count": len(entries), "start": 0})
        if kind == "resolve":
            content = files.get(unquote(found[4]))
            if content is None:
                return self.send_json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            if self.command == "GET":
                self.hub.downloads.append(unquote(found[4]))
            return self.send_bytes(content, {"ETag": f'"{etag(content)}"', "X-Repo-Commit": sha})
        siblings = [{"rfilename": name} for name in files]
        return self.send_json(
            {"id": repo, "sha": sha, "siblings": siblings, "private": self.hub.is_private.get(repo, False)}
        )

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


def sha_of(commit: Commit) -> str:
    message, files = commit
    digest = hashlib.sha1(message.encode())
    for name, content in sorted(files.items()):
        digest.update(f"{name}{etag(content)}".encode())
    return digest.hexdigest()


def commit_entry(commit: Commit) -> dict[str, Any]:
    return {"id": sha_of(commit), "authors": [], "date": DATE, "title": commit[0], "message": ""}


def pull_request_entry(repo: str, number: int, pull: PullRequest) -> dict[str, Any]:
    return {
        "num": number, "title": pull.title, "status": pull.status, "isPullRequest": True, "createdAt": DATE,
        "author": {"name": pull.author}, "repo": {"name": repo, "type": "model"},
    }  # fmt: skip


@lru_cache(maxsize=32)
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


def use_fake_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """Make the client of this process use the hub and an empty cache. It reads its settings when it is imported."""
    constants = huggingface_hub.constants
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)
