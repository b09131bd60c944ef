"""A data set once more, small and quick to decode: short side shrunk, H.264 with short distances between key frames.

Frames and their times are kept, every one; what was written is read again and compared before it counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from verbspace.data.decoding.mp4_writer import TICKS_PER_SECOND, write_mp4
from verbspace.data.decoding.pyav import decode_frames, frame_times, stream_frames
from verbspace.data.verify import CheckLog, CheckResult, run_in_subprocesses
from verbspace.utils.atomic_io import atomic_write

TRANSCODE_LOG_NAME = "verbspace-pack.jsonl"
MIN_PSNR_DB = 25.0  # dB that frames read again must reach; a wrong frame is far below


@dataclass(frozen=True)
class TranscodeConfig:
    """How: short side in pixels, frames from key frame to key frame, x264's quality (lower is better) and preset."""

    size: int = 256
    gop: int = 12
    crf: int = 20
    preset: str = "veryfast"


def transcode_file(file: str, source: str, out: str, config: TranscodeConfig) -> int:
    """Write one file under `out`, at its place under `source`. Returns the number of frames.

    Raises DecodeError for a file that cannot be read, and ValueError where what was written does not read back.
    """
    target = target_path(file, source, out)
    times = frame_times(file)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    pictures = zip(stream_frames(file, config.size), times.tolist(), strict=True)
    with atomic_write(target) as temp:
        count = write_mp4(temp, pictures, frame_interval=step, gop=config.gop, crf=config.crf, preset=config.preset)
        fault = _find_mismatch(Path(file), temp, times, config.size)
        if fault:
            raise ValueError(f"{file}: what was packed {fault}; keep the original")
    return count


def target_path(file: str, source: str, out: str) -> Path:
    """Where a packed file lies: the same folders, the same name, as .mp4."""
    return (Path(out) / os.path.relpath(file, source)).with_suffix(".mp4")


def _find_mismatch(original: Path, transcoded: Path, times: np.ndarray, max_short_side: int) -> str | None:
    """What is wrong with a packed file: its times, or its first, middle or last frame."""
    found = frame_times(transcoded)
    if len(found) != len(times):
        return f"has {len(found)} frames of {len(times)}"
    if np.abs(found - times).max() > 2 / TICKS_PER_SECOND:
        return "shows its frames at other times"
    some = sorted({0, len(times) // 2, len(times) - 1})
    before, after = (decode_frames(path, some, max_short_side).float() for path in (original, transcoded))
    height, width = after.shape[2:]
    error = (before[:, :, :height, :width] - after).square().mean((1, 2, 3)).clamp_min(1e-3)
    worst = float((10 * (255**2 / error).log10()).min())
    return None if worst >= MIN_PSNR_DB else f"differs from the original by {worst:.0f} dB"


def transcode(
    files: Sequence[str],
    source: Path,
    out: Path,
    config: TranscodeConfig | None = None,
    *,
    timeout: float = 600.0,
    num_workers: int = 1,
    on_file: Callable[[int, int, CheckResult], None] = lambda done, total, outcome: None,
) -> list[CheckResult]:
    """Pack files below `source` into `out`. Run again, it does what is missing, new or changed. Returns all outcomes.

    A file that cannot be packed is named in its outcome, and the rest goes on. limit: seconds for a file.
    What was packed in another way is packed anew. Raises ValueError where two files would get one name.
    """
    config = config or TranscodeConfig()
    if Path(os.path.abspath(out)) == Path(os.path.abspath(source)):
        raise ValueError(f"{out}: is the folder of the originals; give another one")
    targets: dict[Path, str] = {}
    for file in files:
        if (other := targets.setdefault(target_path(file, str(source), str(out)), file)) != file:
            raise ValueError(f"{file}: and {other} would both be packed as {target_path(file, str(source), str(out))}")
    report = CheckLog(out / TRANSCODE_LOG_NAME, settings=vars(config))
    done: dict[str, CheckResult] = {}
    for target, file in targets.items():
        known = report.lookup(file)
        if known is not None and (known.error is not None or target.is_file()):
            done[file] = known
            on_file(len(done), len(files), known)
    task = partial(transcode_file, source=str(source), out=str(out), config=config)
    for outcome in run_in_subprocesses(
        task, [file for file in files if file not in done], timeout=timeout, num_workers=num_workers
    ):
        report.add(outcome)
        done[outcome.file] = outcome
        on_file(len(done), len(files), outcome)
    return [done[file] for file in files]
