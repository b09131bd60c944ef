"""Moved videos: their rows get the new paths, and are not embedded again."""

import shutil
from pathlib import Path

import pytest

from support.indices import run_quick_embed, sorted_rows
from verbspace.cli.console.search_tables import format_hits, is_missing
from verbspace.search.index import Index
from verbspace.search.move import move_files
from verbspace.search.schema import Hit


@pytest.fixture
def moved(tiny_clip: Path, clips: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    """An index, the folder that its videos were in, and the one that they are in now."""
    old, new, index = tmp_path / "it's old", tmp_path / "new \\ 新", tmp_path / "index"
    shutil.copytree(clips, old)
    run_quick_embed(tiny_clip, old, index)
    old.rename(new)
    return index, old, new


def test_moved_files_are_not_embedded_again(moved: tuple[Path, Path, Path], tiny_clip: Path) -> None:
    index, old, new = moved
    before, failures = sorted_rows(index), Index.open(index).failed_files()
    assert all(is_missing(path) for path in before["path"].to_pylist())
    count = move_files(index, f"{old}/", str(new))
    after = sorted_rows(index)
    assert count == len(set(before["path"].to_pylist())) > 1
    assert after["path"].to_pylist() == [str(new) + path[len(str(old)) :] for path in before["path"].to_pylist()]
    assert after.drop(["path"]).equals(before.drop(["path"]))
    assert Index.open(index).failed_files() == {str(new) + p[len(str(old)) :]: r for p, r in failures.items()}
    assert not any(is_missing(path) for path in after["path"].to_pylist())
    summary = run_quick_embed(tiny_clip, new, index)
    assert (summary.files, summary.unchanged) == (0, count)


def test_what_cannot_be_moved(moved: tuple[Path, Path, Path], tiny_clip: Path) -> None:
    index, old, new = moved
    rows = sorted_rows(index)
    with pytest.raises(ValueError, match=r"no path of the index starts with .*新 2 \(one of them is .*it's old"):
        move_files(index, str(new) + " 2", str(new))
    with pytest.raises(ValueError, match=r"no path of the index starts with .*it's ol \(one"):
        move_files(index, str(old)[:-1], str(new))
    with pytest.raises(FileNotFoundError, match=r"gone: there is no such file or folder; move the videos first"):
        move_files(index, str(old), "gone")
    with pytest.raises(FileNotFoundError, match="no index found"):
        move_files(new, str(old), str(new))
    assert sorted_rows(index).equals(rows)
    shutil.copytree(new, old)  # while both exist, the copies are embedded
    assert run_quick_embed(tiny_clip, new, index).files == 4
    with pytest.raises(ValueError, match=r"has .*新.* already; remove the old rows with"):
        move_files(index, str(old), str(new))


def test_missing_files_are_marked_among_the_results(tmp_path: Path) -> None:
    (tmp_path / "there.mp4").touch()
    hits = [
        Hit(str(tmp_path / "there.mp4"), 0, 1, 0.5, 0, 1, 25),
        Hit(str(tmp_path / "gone.mp4"), 0, 1, 0.4, 0, 1, 25),
        Hit("https://example.org/clip.mp4", 0, 1, 0.3, 0, 1, 25),
        Hit(str(tmp_path / "there.mp4#t=0,1"), 0, 1, 0.2, 0, 1, 25),
    ]
    assert [line.endswith("gone.mp4  (missing)") for line in format_hits(hits)] == [False, True, False, False]
    assert not is_missing(hits[-1].path)
