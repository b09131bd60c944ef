"""Smaller copies of a data set that decode fast. All frames and times are kept, and each copy is verified."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from verbspace.data.decoding.mp4_writer import TICKS_PER_SECOND, write_mp4
from verbspace.data.decoding.pyav import decode_frames, frame_timestamps, stream_frames
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.errors import VideoError
from verbspace.data.verify import CheckLog, CheckResult, run_with_log
from verbspace.utils.atomic_io import check_writable
from verbspace.utils.progress import ProgressCallback

TRANSCODE_LOG_NAME = "verbspace-transcode.jsonl"
MIN_PSNR_DB = 25.0  # required quality of a copy; a wrong frame is far below


@dataclass(frozen=True)
class TranscodeConfig:
    """Encoder settings: largest short side in pixels, frames per key frame, and quality of x264 (0 is the best)."""

    size: int = 256
    gop: int = 12
    crf: int = 20


def transcode(
    files: Sequence[str],
    source: Path,
    out: Path,
    config: TranscodeConfig | None = None,
    *,
    timeout: float = 600.0,
    num_workers: int = 1,
    on_progress: ProgressCallback | None = None,
) -> list[CheckResult]:
    """Transcode `files` of the folder `source` to the same subfolders of `out`, which also gets a log.

    A second call processes only what is missing, new or changed, or has other settings. The results, in the order of
    the files, and the options are those of `run_with_log`. Raises ValueError if `out` is the source, or if two files
    would get the same name.
    """
    config = config or TranscodeConfig()
    if Path(os.path.abspath(out)) == Path(os.path.abspath(source)):
        raise ValueError(f"{out}: this is the folder of the originals; choose another output folder")
    targets: dict[Path, str] = {}
    for file in files:
        target = target_path(file, source, out)
        if (other := targets.setdefault(target, file)) != file:
            raise ValueError(f"{file}: this file and {other} would both be written to {target}; rename one of them")
    check_writable(out / TRANSCODE_LOG_NAME)
    out.mkdir(parents=True, exist_ok=True)
    # One folder for all temporary files, because a worker that is killed cannot remove its own.
    with tempfile.TemporaryDirectory(dir=out, prefix=".", suffix=".part") as staging:
        return run_with_log(
            partial(transcode_file, source=source, out=out, config=config, staging=Path(staging)),
            files,
            CheckLog(out / TRANSCODE_LOG_NAME, settings=asdict(config)),
            stage="transcode",
            timeout=timeout,
            num_workers=num_workers,
            on_progress=on_progress,
            is_valid=lambda result: result.error is not None or target_path(result.file, source, out).is_file(),
        )


def transcode_file(file: str, source: Path, out: Path, config: TranscodeConfig, staging: Path) -> int:
    """Transcode one file to its place in `out`, and return the number of frames. A copy that differs is an error.

    The copy is written to the folder `staging`, on the same disk, and moved when it is complete.
    """
    timestamps = frame_timestamps(file)
    times = timestamps.times
    frame_interval = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    frames = zip(stream_frames(file, config.size), times.tolist(), strict=True)
    part = staging / f"{secrets.token_hex(8)}.mp4"
    try:
        count = write_mp4(
            part,
            frames,
            frame_interval=frame_interval,
            duration=timestamps.duration,
            gop=config.gop,
            crf=config.crf,
        )
        if mismatch := _find_mismatch(Path(file), part, timestamps, config.size):
            raise VideoError(file, f"the transcoded copy {mismatch}; keep the original")
        target = target_path(file, source, out)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return count


def target_path(file: str, source: Path, out: Path) -> Path:
    """Return the path of a file's copy: the same subfolder and name, with the extension .mp4."""
    return (out / os.path.relpath(file, source)).with_suffix(".mp4")


def _find_mismatch(original: Path, transcoded: Path, timestamps: FrameTimestamps, max_short_side: int) -> str | None:
    """Compare all frame times, the duration, and the first, middle and last frame."""
    times, found = timestamps.times, frame_timestamps(transcoded)
    if len(found.times) != len(times):
        return f"has {len(found.times)} frames instead of {len(times)}"
    if np.abs(found.times - times).max() > 2 / TICKS_PER_SECOND:
        return "has other frame times"
    if abs(found.duration - timestamps.duration) > 3 / TICKS_PER_SECOND:
        return f"lasts {found.duration:.3f} s instead of {timestamps.duration:.3f} s"
    sample = sorted({0, len(times) // 2, len(times) - 1})
    before, after = (decode_frames(path, sample, max_short_side).float() for path in (original, transcoded))
    height, width = after.shape[2:]
    error = (before[:, :, :height, :width] - after).square().mean((1, 2, 3)).clamp_min(1e-3)
    psnr = float((10 * (255**2 / error).log10()).min())
    return None if psnr >= MIN_PSNR_DB else f"differs from the original (PSNR {psnr:.0f} dB)"
