from __future__ import annotations

import os

import pytest

from verbspace.utils.cpu import available_cpus


def test_available_cpus_on_each_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 5}, raising=False)
    assert available_cpus() == 2
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cpus() == 1
