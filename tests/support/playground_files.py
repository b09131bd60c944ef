"""One tiny filmed world, shared by the tests that need one."""

from pathlib import Path

import pytest

from verbspace.playground.world import WorldSettings, make_world

TINY_WORLD_SETTINGS = WorldSettings(train=16, probe=40, validation=20, test=40)
_world_cache: list[Path] = []


def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world of `WORLD`, all four splits. Filmed once a session: do not write into it."""
    if not _world_cache:
        _world_cache.append(
            make_world(tmp_path_factory.mktemp("playground") / "world", TINY_WORLD_SETTINGS, num_workers=1)
        )
    return _world_cache[0]


def read_tree(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
