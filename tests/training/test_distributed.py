"""Two processes give the losses and weights of one, however the work is split."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from support.training_fixtures import (
    checkpoint_tensors,
    deterministic_metrics,
    make_concept_set,
    make_distiller,
    make_optimizer,
    make_settings,
    random_views,
    write_clips,
)
from verbspace.models.video_encoder import VideoEncoder
from verbspace.training.adapt import adapt
from verbspace.training.checkpoint import list_checkpoints
from verbspace.training.distributed import DistributedContext, init_distributed
from verbspace.training.grad_cache import GradCacheStep

TESTS = Path(__file__).parents[1]
CLOSE = 1e-5
# Settings of runs with two processes. Batches of 3 clips are split unevenly, 1 and 2.
SCENARIOS: dict[str, dict[str, Any]] = {
    "even": {"batch_size": 4},
    "uneven": {"batch_size": 3},
    "accumulated": {"batch_size": 4, "gradient_accumulation_steps": 2},
    "uneven, accumulated": {"batch_size": 3, "gradient_accumulation_steps": 2},  # 1 and 2 clips in 2 micro-batches
    "temporal": {"batch_size": 3, "trainable": "temporal"},
    "lora": {"batch_size": 3, "trainable": "temporal+lora", "lora_rank": 2},
    "recomputed": {"batch_size": 3, "gradient_checkpointing": True},
    "sharded": {"batch_size": 3, "distributed_strategy": "fsdp"},
    "sharded, accumulated": {"batch_size": 5, "distributed_strategy": "fsdp", "gradient_accumulation_steps": 3},
    "sharded, temporal": {"batch_size": 3, "distributed_strategy": "fsdp", "trainable": "temporal"},
    "sharded, lora": {
        "batch_size": 3,
        "distributed_strategy": "fsdp",
        "trainable": "temporal+lora",
        "lora_rank": 2,
    },
}
# Clips of each rank, and micro-batches per rank.
UNEVEN_BATCHES: list[tuple[list[int], int]] = [([1, 2], 2), ([2, 3], 3), ([3, 2], 8), ([1, 0], 1), ([0, 1], 2)]
# Adam divides by the gradient's size. If a gradient is only rounding error (the bias of keys, which does not affect
# attention), its steps are as large as any and of random sign. An epsilon above the rounding error avoids that.
PLAIN = {"steps": 10, "dtype": "fp32", "save_interval": 5, "save_total_limit": 2, "adam_eps": 1e-5}


def launch(*command: str, processes: int = 2, limit: float = 240) -> subprocess.CompletedProcess[str]:
    """Run a command under torchrun."""
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))
    python_path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path}
    return subprocess.run(
        [*run, *command], capture_output=True, text=True, timeout=limit, env=environment, check=False, cwd=TESTS
    )


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clips(tmp_path_factory.mktemp("clips"), 6)


@pytest.fixture(scope="module")
def shared(tiny_clip: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The gradients of `UNEVEN_BATCHES` and the runs of all scenarios, one resumed, from two processes."""
    out = tmp_path_factory.mktemp("two")
    start = VideoEncoder.from_pretrained(tiny_clip)
    adapt(
        start, clips, make_concept_set(), out / "resumed", make_settings(**PLAIN, batch_size=3), max_steps_this_call=5
    )
    scenarios = [
        *({"out": str(out / name), "training": {**PLAIN, **how}} for name, how in SCENARIOS.items()),
        {"out": str(out / "resumed"), "training": {**PLAIN, "batch_size": 3}},
        *(
            {
                "out": str(out / f"validated {strategy}"),
                "validate": True,
                "training": {
                    **PLAIN,
                    "batch_size": 4,
                    "distributed_strategy": strategy,
                    "val_interval": 4,
                    "validation_tolerance": 1.0,
                },
            }
            for strategy in ("ddp", "fsdp")
        ),
    ]
    gradients = [
        {"strategy": strategy, "clips_per_rank": counts, "chunks": k, "out": str(out / f"{strategy}-{n}.safetensors")}
        for strategy in ("ddp", "fsdp")
        for n, (counts, k) in enumerate(UNEVEN_BATCHES)
    ]
    task = {"encoder": str(tiny_clip), "videos": str(clips), "scenarios": scenarios, "gradients": gradients}
    (out / "task.json").write_text(json.dumps(task))
    done = launch(str(TESTS / "support" / "rank_run.py"), str(out / "task.json"), limit=900)
    assert done.returncode == 0, done.stderr[-9000:]
    return out


@pytest.mark.parametrize("name", [*SCENARIOS, "resumed"])
def test_two_processes_equal_one(name: str, shared: Path, tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    how = {
        key: value
        for key, value in SCENARIOS.get(name, {"batch_size": 3}).items()
        if key != "gradient_accumulation_steps"
    }
    start = VideoEncoder.from_pretrained(tiny_clip)
    alone = adapt(start, clips, make_concept_set(), tmp_path, make_settings(**PLAIN, **how))
    both = VideoEncoder.from_pretrained(shared / name)
    for one, other in zip(deterministic_metrics(tmp_path), deterministic_metrics(shared / name), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert other[key] == pytest.approx(value, abs=CLOSE, rel=CLOSE), (one["step"], key)
    first, second = (checkpoint_tensors(list_checkpoints(out / "state")[-1]) for out in (tmp_path, shared / name))
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        if not key.startswith("optimizer"):
            assert (tensor - second[key]).abs().max() <= CLOSE, key
    for (key, p), q in zip(alone.named_parameters(), both.parameters(), strict=True):
        assert (p - q).abs().max() <= CLOSE, key


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
@pytest.mark.parametrize("number", range(len(UNEVEN_BATCHES)))
def test_ranks_with_different_numbers_of_clips_give_the_gradient_of_one_process(
    number: int, strategy: str, shared: Path, tiny_clip: Path
) -> None:
    num_clips = sum(UNEVEN_BATCHES[number][0])
    distiller = make_distiller(tiny_clip).train()
    distiller.teacher.eval()
    step = GradCacheStep(distiller, DistributedContext())
    views, state = random_views(2, num_clips=num_clips), distiller.init_state()
    step(views, state, lambda: torch.autocast("cpu", enabled=False), [num_clips])
    expected = {name: p.grad for name, p in distiller.student.named_parameters() if p.grad is not None}
    found = load_file(shared / f"{strategy}-{number}.safetensors")
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["even", "resumed", "sharded", "validated ddp"])
def test_each_rank_embeds_a_part_of_the_sample(name: str, shared: Path, clips: Path) -> None:
    """At the start, also of a resumed run, at the last step, and in validation. FSDP embeds all with the teacher."""
    sample = [path.name for path in sorted(clips.rglob("*.mp4"))]
    halves = [sample[:3], sample[3:]]
    expected = {
        "even": [2 * half for half in halves],
        "resumed": [2 * half for half in halves],
        "sharded": [half + sample for half in halves],
        "validated ddp": [7 * half for half in halves],  # also watched twice more, and validated twice and frozen
    }[name]
    loaded = json.loads((shared / name / "loaded.json").read_text())
    assert [sorted(names) for names in loaded] == [sorted(names) for names in expected]


def test_validation_with_several_processes(shared: Path) -> None:
    plain = {row["step"]: row for row in deterministic_metrics(shared / "even")}
    for strategy in ("ddp", "fsdp"):
        rows = deterministic_metrics(shared / f"validated {strategy}")
        assert [row["step"] for row in rows if "val/top1" in row] == [4, 8]
        assert all(row["loss"] == pytest.approx(plain[row["step"]]["loss"], abs=CLOSE) for row in rows)


def test_a_changed_number_of_processes_is_logged(
    shared: Path, tiny_clip: Path, clips: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place, note = json.loads((shared / "resumed/notes.json").read_text())
    assert place == "training on cpu in fp32"
    assert "saved by 1 process, resuming with 2; batches are split differently" in note
    assert json.loads((shared / "even/notes.json").read_text()) == [place]
    start = VideoEncoder.from_pretrained(tiny_clip)
    settings = make_settings(**{**PLAIN, "steps": 10}, batch_size=3)
    with caplog.at_level("INFO", "verbspace.training"):
        adapt(start, clips, make_concept_set(), shared / "uneven", settings)
    assert "saved by 2 processes, resuming with 1" in caplog.text


def test_an_error_in_one_rank_ends_all(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    make_concept_set().save(tmp_path / "words.json")
    (tmp_path / "fail.py").write_text(
        "import os, sys\n"
        "from verbspace.training import trainer\n"
        "plain = trainer.update_teacher\n"
        "def update_teacher(*rest):\n"
        "    update_teacher.calls = getattr(update_teacher, 'calls', 0) + 1\n"
        "    if os.environ['RANK'] == '1' and update_teacher.calls == 3:\n"
        "        raise RuntimeError('CUDA device lost')\n"
        "    return plain(*rest)\n"
        "trainer.update_teacher = update_teacher\n"
        "from verbspace.cli.main import main\n"
        "main()\n"
    )
    began = time.monotonic()
    done = launch(
        str(tmp_path / "fail.py"), "adapt", "--encoder", str(tiny_clip), "--videos", str(clips),
        "--concepts", str(tmp_path / "words.json"), "--out", str(tmp_path / "run"),
        "--set", "training.batch_size=4", "--set", "training.steps=2000", "--set", "views.global_frames=2",
        "--set", "views.local_views=0", "--set", "training.save_interval=2",
    )  # fmt: skip
    assert time.monotonic() - began < 60
    assert done.returncode != 0
    assert "error, process 1 of 2: CUDA device lost" in done.stderr
    assert [state.name for state in list_checkpoints(tmp_path / "run/state")] == ["step-000002"]


def adapt_arguments(tiny_clip: Path, clips: Path, out: Path, steps: int) -> list[str]:
    """Return command-line arguments of a small run."""
    words = clips / "words.json"
    if not words.exists():
        make_concept_set().save(words)
    given = ["--encoder", tiny_clip, "--videos", clips, "--concepts", words, "--out", out]
    sets = ["training.batch_size=4", f"training.steps={steps}", "training.save_interval=5", "views.local_views=0",
            "views.global_frames=2"]  # fmt: skip
    return ["adapt", *map(str, given), *(part for one in sets for part in ("--set", one))]


def test_sigterm_to_torchrun_saves_and_stops_all_ranks(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    run = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = subprocess.Popen(
        [*run, "-m", "verbspace.cli.main", *adapt_arguments(tiny_clip, clips, tmp_path, 5000)], stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        limit = time.monotonic() + 60
        while not list_checkpoints(tmp_path / "state"):
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.05)
        process.terminate()
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert "of 5000; run the same command again to resume" in said
    last = int(json.loads((list_checkpoints(tmp_path / "state")[-1] / "state.json").read_text())["step"])
    assert f"stopped after step {last} of 5000" in said


@pytest.mark.slow
def test_accelerate_launch(tiny_clip: Path, clips: Path, tmp_path: Path) -> None:
    run = (sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
           "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
           "-m", "verbspace.cli.main")  # fmt: skip
    done = subprocess.run(
        [*run, *adapt_arguments(tiny_clip, clips, tmp_path, 5)], capture_output=True, text=True, timeout=120,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    (state,) = list_checkpoints(tmp_path / "state")
    assert json.loads((state / "state.json").read_text())["processes"] == 2
    assert done.stdout.count("adapted encoder: ") == 1


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_micro_batches_give_the_gradient_of_the_whole_batch(tiny_clip: Path, accumulate: int) -> None:
    views = random_views(0, num_clips=5)
    gradients, totals = [], []
    for parts in (1, accumulate):
        distiller = make_distiller(tiny_clip).train()
        distiller.teacher.eval()
        make_optimizer(distiller)
        compute_gradients = GradCacheStep(distiller, DistributedContext(), gradient_accumulation_steps=parts)
        output = compute_gradients(views, distiller.init_state(), lambda: torch.autocast("cpu", enabled=False), [5])
        totals.append(output.total.item())
        gradients.append({name: p.grad for name, p in distiller.student.named_parameters() if p.grad is not None})
    assert totals[0] == pytest.approx(totals[1], abs=1e-6)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_shards_make_the_batch() -> None:
    for world in (1, 2, 3, 5):
        for count in range(world, 12):
            parts = [DistributedContext(rank, world).shard_batch(range(count)) for rank in range(world)]
            assert [item for part in parts for item in part] == list(range(count))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    with pytest.raises(ValueError, match=r"training\.batch_size: 2 is less than the 3 processes"):
        DistributedContext(0, 3).shard_batch([1, 2])


def test_one_process_has_no_process_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with init_distributed("cpu") as alone:
        assert (alone.rank, alone.world_size, alone.is_main_process, alone.all_gather_ints(4, 1)) == (
            0,
            1,
            True,
            [[4, 1]],
        )
        assert not torch.distributed.is_initialized()
        z = torch.randn(2, 3, 4, requires_grad=True)
        assert torch.equal(alone.all_gather_embeddings(z, [3]), z.detach())
