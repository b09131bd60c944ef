from __future__ import annotations

import os

import pytest

from verbspace.utils.cpu import available_cpus


@pytest.mark.parametrize(
    ("present", "missing", "expected"),
    [
        ({"sched_getaffinity": lambda pid: {0, 5}}, [], 2),
        ({"cpu_count": lambda: 7}, ["sched_getaffinity"], 7),  # macOS
        ({"cpu_count": lambda: None}, ["sched_getaffinity"], 1),
    ],
)
def test_available_cpus_on_each_platform(
    present: dict[str, object], missing: list[str], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in missing:
        monkeypatch.delattr(os, name, raising=False)
    for name, function in present.items():
        monkeypatch.setattr(os, name, function, raising=False)
    assert available_cpus() == expected
