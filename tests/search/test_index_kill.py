"""Embedding and merging, killed at any moment: nothing that was committed is lost, and nothing is doubled."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.indices import run_quick_embed, sorted_rows, write_clips
from verbspace.search.index import Index, list_index_shards

FILES = 40
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_clips(tmp_path_factory.mktemp("clips"), FILES)
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture(scope="module")
def whole(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    run_quick_embed(tiny_clip, clips, folder)
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "verbspace.cli.main", *(str(word) for word in words)]


def embed_command(encoder: Path, clips: Path, out: Path) -> list[str]:
    """Commits after each file."""
    quick = ("--window", 1, "--frames", 2, "--workers", 1, "--device", "cpu", "--commit-interval", 0)
    return command("embed", clips, "--index", out, "--encoder", encoder, *quick)


def commits(folder: Path) -> int:
    return sum(len(list(one.glob("*.manifest"))) for one in folder.rglob("_versions"))


def kill_while_it_writes(run: list[str], folder: Path, chosen: random.Random, after: float) -> bool:
    """Start a command and kill it a random while after its first commit; whether it was still running."""
    process = subprocess.Popen(run, env=ENVIRONMENT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    before, limit = commits(folder), time.monotonic() + 60
    while commits(folder) == before and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.001)
    time.sleep(chosen.uniform(0, after))
    process.send_signal(signal.SIGKILL)
    said = process.communicate()[1]
    assert process.returncode in (-signal.SIGKILL, 0, 1), said  # 1: one file cannot be read
    return process.returncode == -signal.SIGKILL


def check_whole_files(folder: Path, whole: Path) -> int:
    """What is there now is right: a part of the whole, by whole files, without doubles. Returns how many rows."""
    rows, full = sorted_rows(folder), sorted_rows(whole)
    paths = set(rows["path"].to_pylist())
    expected = full.filter([path in paths for path in full["path"].to_pylist()])
    assert rows.equals(expected)
    return len(rows)


@pytest.mark.parametrize(
    "kills", [pytest.param(3, id="3 kills"), pytest.param(20, id="20 kills", marks=pytest.mark.slow)]
)
def test_embedding_killed_and_resumed_gives_the_same_table(
    kills: int, tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path
) -> None:
    chosen, out, done, met = random.Random(kills), tmp_path / "index", 0, []
    while done < kills:
        if not kill_while_it_writes(embed_command(tiny_clip, clips, out), out, chosen, 0.6 / kills):
            break  # so quick that it was done
        done += 1
        if (out / "index.json").exists():
            met.append(check_whole_files(out, whole))
    print(f"rows after each kill: {met}")
    assert met == sorted(met)
    assert min(met) < len(Index.open(whole))
    assert done >= kills // 2
    last = subprocess.run(embed_command(tiny_clip, clips, out), env=ENVIRONMENT, capture_output=True, text=True)
    assert last.returncode == 1, last.stderr
    assert check_whole_files(out, whole) == len(Index.open(whole))
    assert Index.open(out).checksum() == Index.open(whole).checksum()
    assert Index.open(out).failed_files().keys() == {str(clips / "bad.mp4")}


@pytest.mark.slow
def test_a_merge_killed_and_resumed_gives_the_same_table(
    tiny_clip: Path, clips: Path, whole: Path, tmp_path: Path
) -> None:
    chosen, met = random.Random(0), []
    for n in range(6):
        out = tmp_path / str(n)
        for part in range(1, 5):
            run_quick_embed(tiny_clip, clips, out, shard=f"{part}/4")
        killed = kill_while_it_writes(command("index", "merge", out), out, chosen, 0.1)
        met.append((killed, len(list_index_shards(out))))
        if (out / "index.json").exists():
            check_whole_files(out, whole)
        if list_index_shards(out):
            subprocess.run(command("index", "merge", out), env=ENVIRONMENT, check=True, capture_output=True)
        assert Index.open(out).checksum() == Index.open(whole).checksum()
        assert Index.open(out).failed_files() == Index.open(whole).failed_files()
    print(f"killed, shards left: {met}")
    assert any(killed for killed, _ in met)
