"""The Dockerfile, as far as it can be tested without Docker."""

import json
import re
import shlex
import socket
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from verbspace.app import server
from verbspace.app.controller import AppController
from verbspace.cli.main import app

PROJECT = Path(__file__).resolve().parents[1]
DOCKERFILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n", " ", DOCKERFILE).splitlines()


def instructions(name: str) -> list[str]:
    """Return the arguments of all instructions with a name."""
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_copied_files_exist_and_are_the_ones_that_dockerignore_includes() -> None:
    ignore_lines = (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    included = {line[1:] for line in ignore_lines if line.startswith("!")}
    copied = {name for line in instructions("COPY") if "--from" not in line for name in shlex.split(line)[:-1]}
    assert copied == included
    assert all((PROJECT / name).exists() for name in copied)


def test_default_command_serves_the_app_without_network_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    program, *command = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(instructions(name)[-1])]
    assert program == "verbspace"
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(server, "serve", lambda *args: calls.append(args))
    for assignment in " ".join(instructions("ENV")).split():
        name, _, value = assignment.partition("=")
        if name.startswith(("HF_", "GRADIO_")):
            monkeypatch.setenv(name, value)

    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"connection to {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    ((controller, host, port, password),) = calls
    assert password is None
    assert isinstance(controller, AppController)
    assert (host, port) == ("0.0.0.0", 7860)
    assert str(port) in instructions("EXPOSE")
    assert f"127.0.0.1:{port}/" in DOCKERFILE  # URL of the health check


def test_container_does_not_run_as_root_and_versions_are_pinned() -> None:
    assert instructions("USER")[-1] != "root"
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert "'.[app,search]'" in installs[-1]
