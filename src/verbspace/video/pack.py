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

from verbspace.video.check import Checked, Report, run_apart
from verbspace.video.decode import decode_frames, frame_times, stream_frames
from verbspace.video.writing import CLOCK, write_mp4

REPORT = "verbspace-pack.jsonl"
ALIKE = 25.0  # dB that frames read again must reach; a wrong frame is far below


@dataclass(frozen=True)
class Packing:
    """How: short side in pixels, frames from key frame to key frame, x264's quality (lower is better) and preset."""

    size: int = 256
    gop: int = 12
    crf: int = 20
    preset: str = "veryfast"


def pack_file(file: str, source: str, out: str, how: Packing) -> int:
    """Write one file under `out`, at its place under `source`. Returns the number of frames.

    Raises DecodeError for a file that cannot be read, and ValueError where what was written does not read back.
    """
    target = target_of(file, source, out)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    times = frame_times(file)
    step = float(np.median(np.diff(times))) if len(times) > 1 else 0.04
    pictures = zip(stream_frames(file, how.size), times.tolist(), strict=True)
    count = write_mp4(part, pictures, step=step, gop=how.gop, crf=how.crf, preset=how.preset)
    fault = _differs(Path(file), part, times, how.size)
    if fault:
        part.unlink()
        raise ValueError(f"{file}: what was packed {fault}; keep the original")
    os.replace(part, target)
    return count


def target_of(file: str, source: str, out: str) -> Path:
    """Where a packed file lies: the same folders, the same name, as .mp4."""
    return (Path(out) / os.path.relpath(file, source)).with_suffix(".mp4")


def _differs(original: Path, packed: Path, times: np.ndarray, size: int) -> str | None:
    """What is wrong with a packed file: its times, or its first, middle or last frame."""
    found = frame_times(packed)
    if len(found) != len(times):
        return f"has {len(found)} frames of {len(times)}"
    if np.abs(found - times).max() > 2 / CLOCK:
        return "shows its frames at other times"
    some = sorted({0, len(times) // 2, len(times) - 1})
    before, after = (decode_frames(path, some, size).float() for path in (original, packed))
    height, width = after.shape[2:]
    error = (before[:, :, :height, :width] - after).square().mean((1, 2, 3)).clamp_min(1e-3)
    worst = float((10 * (255**2 / error).log10()).min())
    return None if worst >= ALIKE else f"differs from the original by {worst:.0f} dB"


def pack(
    files: Sequence[str],
    source: Path,
    out: Path,
    how: Packing | None = None,
    *,
    limit: float = 600.0,
    workers: int = 1,
    on_file: Callable[[int, int, Checked], None] = lambda done, total, outcome: None,
) -> list[Checked]:
    """Pack files below `source` into `out`. Run again, it does what is missing, new or changed. Returns all outcomes.

    A file that cannot be packed is named in its outcome, and the rest goes on. limit: seconds for a file.
    What was packed in another way is packed anew. Raises ValueError where two files would get one name.
    """
    how = how or Packing()
    if Path(os.path.abspath(out)) == Path(os.path.abspath(source)):
        raise ValueError(f"{out}: is the folder of the originals; give another one")
    targets: dict[Path, str] = {}
    for file in files:
        if (other := targets.setdefault(target_of(file, str(source), str(out)), file)) != file:
            raise ValueError(f"{file}: and {other} would both be packed as {target_of(file, str(source), str(out))}")
    report = Report(out / REPORT, settings=vars(how))
    done: dict[str, Checked] = {}
    for target, file in targets.items():
        known = report.find(file)
        if known is not None and (known.fault is not None or target.is_file()):
            done[file] = known
            on_file(len(done), len(files), known)
    task = partial(pack_file, source=str(source), out=str(out), how=how)
    for outcome in run_apart(task, [file for file in files if file not in done], limit=limit, workers=workers):
        report.add(outcome)
        done[outcome.file] = outcome
        on_file(len(done), len(files), outcome)
    return [done[file] for file in files]
