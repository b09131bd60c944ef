"""Fixtures of the tests of verbspace.data."""

from __future__ import annotations

from typing import Any

import pytest

from verbspace.data import verify


@pytest.fixture
def processed_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that subprocesses verify or transcode, in order."""
    processed: list[str] = []
    run = verify.run_in_subprocesses

    def record(task: Any, files: Any, **options: Any) -> Any:
        processed.extend(files)
        return run(task, files, **options)

    monkeypatch.setattr(verify, "run_in_subprocesses", record)
    return processed
