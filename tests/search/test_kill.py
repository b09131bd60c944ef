"""Embedding and merging, killed at random moments: no committed row is lost, and no row is duplicated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.indices import assert_same_content, run_quick_embed, sorted_rows
from verbspace.search.index import Index, list_index_shards

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "verbspace.cli.main", *map(str, arguments)]


def count_commits(folder: Path) -> int:
    return len(list(folder.rglob("_versions/*.manifest")))


def run_and_kill(arguments: list[str], folder: Path, rng: random.Random, max_delay: float) -> bool:
    """Start a command and kill it up to `max_delay` s after its first commit. Returns whether it was still running."""
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    before, limit = count_commits(folder), time.monotonic() + 300  # long, because other processes may use the CPU
    while count_commits(folder) == before and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.001)
    time.sleep(rng.uniform(0, max_delay))
    process.send_signal(signal.SIGKILL)
    error = process.communicate()[1]
    assert process.returncode in (-signal.SIGKILL, 0, 1), error  # 1: one file cannot be read
    return process.returncode == -signal.SIGKILL


def assert_complete_files(folder: Path, full_index: Path) -> int:
    """Check that all rows are those of complete files of the full index. Returns the number of rows."""
    rows, full = sorted_rows(folder), sorted_rows(full_index)
    paths = set(rows["path"].to_pylist())
    expected = full.filter([path in paths for path in full["path"].to_pylist()])
    assert rows.equals(expected)
    return len(rows)


@pytest.mark.parametrize(
    "kills", [pytest.param(2, id="2 kills"), pytest.param(20, id="20 kills", marks=pytest.mark.slow)]
)
def test_killed_and_resumed_embed_gives_the_same_rows(
    kills: int, tiny_clip: Path, many_clips: Path, many_clips_index: Path, tmp_path: Path
) -> None:
    rng, out, done, row_counts = random.Random(kills), tmp_path / "index", 0, []
    quick = ("--window", 1, "--frames", 2, "--workers", 1, "--device", "cpu", "--commit-interval", 0)
    arguments = command("embed", many_clips, "--index", out, "--encoder", tiny_clip, *quick)
    while done < kills:
        if not run_and_kill(arguments, out, rng, 0.6 / kills):
            break  # it ended before the kill
        done += 1
        if (out / "index.json").exists():
            row_counts.append(assert_complete_files(out, many_clips_index))
    print(f"rows after each kill: {row_counts}")
    assert row_counts == sorted(row_counts)
    assert min(row_counts) < len(Index.open(many_clips_index))
    assert done >= kills // 2
    last = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True)
    assert last.returncode == 1, last.stderr
    assert_same_content(out, many_clips_index)


@pytest.mark.slow
def test_killed_and_resumed_merge_gives_the_same_rows(
    tiny_clip: Path, many_clips: Path, many_clips_index: Path, tmp_path: Path
) -> None:
    rng, row_counts = random.Random(0), []
    for n in range(6):
        out = tmp_path / str(n)
        for part in range(1, 5):
            run_quick_embed(tiny_clip, many_clips, out, shard=f"{part}/4")
        killed = run_and_kill(command("index", "merge", out), out, rng, 0.1)
        row_counts.append((killed, len(list_index_shards(out))))
        if (out / "index.json").exists():
            assert_complete_files(out, many_clips_index)
        if list_index_shards(out):
            subprocess.run(command("index", "merge", out), env=ENVIRONMENT, check=True, capture_output=True)
        assert_same_content(out, many_clips_index)
    print(f"killed, shards left: {row_counts}")
    assert any(killed for killed, _ in row_counts)
