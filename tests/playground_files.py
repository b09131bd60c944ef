"""One tiny filmed world, shared by the tests that need one."""

from pathlib import Path

import pytest

from verbspace.playground.world import WorldSettings, make_world

WORLD = WorldSettings(train=16, probe=40, validation=20, test=40)
_filmed: list[Path] = []


def tiny_world(factory: pytest.TempPathFactory) -> Path:
    """The world of `WORLD`, all four splits. Filmed once a session: do not write into it."""
    if not _filmed:
        _filmed.append(make_world(factory.mktemp("playground") / "world", WORLD, workers=1))
    return _filmed[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
