"""What macOS and Windows lack, by stand-ins: fork, modules and constants of POSIX, glibc's settings."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from support.training_fixtures import write_clips
from verbspace.config.settings import ViewSettings
from verbspace.data import worker_pool
from verbspace.data.dataloader import load_views
from verbspace.data.datasets import ViewDataset
from verbspace.data.sources.manifest import read_manifest
from verbspace.utils.malloc import disable_malloc_trim

IMPORT_WITHOUT_POSIX = """
import os, signal, sys
import av, torch, typer
import filelock, huggingface_hub
from transformers import AutoModel, AutoTokenizer, CLIPModel, PreTrainedModel
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for owner, name in ((signal, "SIGKILL"), (os, "sched_getaffinity"), (os, "uname"), (os, "confstr")):
    delattr(owner, name)
import verbspace.search.searcher, verbspace.training.adapt
import verbspace.evaluation.evaluate, verbspace.inference.explain, verbspace.cli.main
from verbspace.data import worker_pool
from verbspace.training.metrics import peak_memory
from verbspace.utils.cpu import available_cpus
assert peak_memory() == 0.0 and available_cpus() >= 1
assert worker_pool.WorkerCrashed(-9, True).was_killed and not worker_pool.WorkerCrashed(3, True).was_killed
"""


def test_modules_import_without_posix() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT_POSIX], capture_output=True, text=True, check=False, env=os.environ
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_loading_in_spawned_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    views = ViewSettings(global_size=32, global_frames=2, local_views=1, local_frames=2, local_size=16)
    dataset = ViewDataset(read_manifest(write_clips(tmp_path, 3)), views)
    expected = list(islice(load_views(dataset, batch_size=2), 2))
    context = multiprocessing.get_context("spawn")
    monkeypatch.setattr(worker_pool.multiprocessing, "get_context", lambda method=None: context)
    loader = load_views(dataset, batch_size=2, num_workers=2)
    for found, other in zip(islice(loader, 2), expected, strict=True):
        assert all(torch.equal(found[name], other[name]) for name in other)
    loader.close()


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_malloc_settings_are_those_of_glibc(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    assert disable_malloc_trim.__wrapped__() is False
