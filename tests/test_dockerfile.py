"""The container, as far as it can be tried without an engine."""

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
FILE = (PROJECT / "Dockerfile").read_text(encoding="utf-8")
LINES = re.sub(r"\\\n", " ", FILE).splitlines()


def instructions(name: str) -> list[str]:
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    kept = {
        line[1:] for line in (PROJECT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    copied = {name for line in instructions("COPY") if "--from" not in line for name in shlex.split(line)[:-1]}
    assert copied == kept
    assert all((PROJECT / name).exists() for name in copied)


def test_the_command_serves_the_app_and_asks_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [json.loads(instructions(name)[-1]) for name in ("ENTRYPOINT", "CMD")]
    program, *command = [word for each in words for word in each]
    assert program == "verbspace"
    served: list[tuple[Any, ...]] = []
    monkeypatch.setattr(server, "serve", lambda *how: served.append(how))
    for setting in " ".join(instructions("ENV")).split():
        name, _, value = setting.partition("=")
        if name.startswith(("HF_", "GRADIO_")):
            monkeypatch.setenv(name, value)

    def connect(self: socket.socket, address: Any) -> None:
        raise AssertionError(f"asks {address}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0, run.output
    ((studio, host, port),) = served
    assert isinstance(studio, AppController)
    assert (host, port) == ("0.0.0.0", 7860)
    assert str(port) in instructions("EXPOSE")
    assert f"127.0.0.1:{port}/" in FILE  # where the health check looks


def test_it_runs_as_nobody_special_and_installs_pinned_versions() -> None:
    assert instructions("USER")[-1] != "root"
    installs = [line for line in instructions("RUN") if "pip install" in line]
    assert len(installs) == 2
    assert all("-c constraints.txt" in line for line in installs)
    assert "'.[app,search]'" in installs[-1]
