"""Small video files whose frames show their own index."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

BITS = 6
REAL_CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "videos"


def numbered_frames(count: int, height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """Return uint8 (count, height, width, 3): the top of frame n shows n in binary, as dark and light columns."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(60, 200, (count, 4, 4, 3))
    frames = low.repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)[:, :height, :width]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    for n in range(count):
        for bit in range(BITS):
            frames[n, : height // 2, edges[bit] : edges[bit + 1]] = 230 if n >> bit & 1 else 25
    return frames.astype(np.uint8)


def read_frame_numbers(frames: np.ndarray) -> list[int]:
    """Read the indices that uint8 (n, 3, H, W) frames show."""
    height, width = frames.shape[-2:]
    edges = np.linspace(0, width, BITS + 1).astype(int)
    numbers = []
    for frame in frames:
        columns = [frame[:, : height // 2 - 2, a + 2 : b - 2].mean() > 128 for a, b in pairwise(edges)]
        numbers.append(sum(int(on) << bit for bit, on in enumerate(columns)))
    return numbers


def write_video(
    path: Path,
    frames: np.ndarray,
    codec: str = "libx264",
    *,
    rate: int = 25,
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rotation: float | None = None,
    audio: bool = False,
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encode uint8 (n, H, W, 3). `pts` are presentation times in ms."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container_options or {}) as container:
        if audio:
            sound = container.add_stream("aac", rate=16000, layout="mono")
        if codec == "libx264":  # its assembly reads beyond buffers, so that files would not be reproducible
            options.setdefault("x264-params", "asm=0")
        stream = container.add_stream(codec, rate=Fraction(rate), options={"threads": "1", **options})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        if audio:
            for _ in range(20):
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                silence.rate = 16000
                container.mux(sound.encode(silence))
            container.mux(sound.encode())
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if codec == "libsvtav1" and hasattr(os, "sched_setscheduler"):
        # SVT-AV1 gives the calling thread real-time priority if it runs as root, which starves PyTorch's threads later.
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    return path


def write_timed_video(
    path: Path, frames: np.ndarray, times: Sequence[float], end: float, *, still_first: bool = False
) -> Path:
    """Encode uint8 (n, H, W, 3) as H.264 with frame times in seconds, where the last frame is shown until `end`.

    With `still_first`, the first stream is a still JPEG that is not flagged as a cover, as old cameras write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        if still_first:
            still = out.add_stream("mjpeg", rate=1)
            still.width, still.height, still.pix_fmt = 40, 32, "yuvj420p"
        film = out.add_stream("libx264", rate=1000, options={"x264-params": "asm=0", "bf": "0"})
        film.height, film.width = frames.shape[1:3]
        film.pix_fmt, film.time_base, film.codec_context.time_base = "yuv420p", Fraction(1, 1000), Fraction(1, 1000)
        if still_first:
            picture = av.VideoFrame.from_ndarray(np.full((32, 40, 3), 90, np.uint8), "rgb24")
            picture.pts = 0
            out.mux([*still.encode(picture), *still.encode(None)])
        packets = []
        for seconds, image in zip(times, frames, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(1000 * seconds), Fraction(1, 1000)
            packets += film.encode(frame)
        packets += film.encode(None)
        for packet, stop in zip(packets, [*times[1:], end], strict=True):
            packet.duration = round(1000 * stop) - packet.pts
            out.mux(packet)
    return path


COUNT = 20
EVEN = np.arange(COUNT) / 25
UNEVEN = np.cumsum([10] + [20, 60, 33, 100] * 5)[:COUNT]
X265 = {"x265-params": "log-level=none:pools=1"}

# File name: encoder settings. Frames last 40 ms unless pts are given.
FILES: dict[str, dict[str, Any]] = {
    "h264.mp4": {"bf": "3"},
    "h264.mkv": {"bf": "3"},
    "h264.ts": {"bf": "3"},
    "h264.avi": {"bf": "3"},
    "raw.h264": {"bf": "2"},
    "hevc.mp4": {"codec": "libx265", **X265},
    "ten_bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le", **X265},
    "vp8.webm": {"codec": "libvpx", "auto-alt-ref": "1", "lag-in-frames": "16"},
    "vp9.webm": {"codec": "libvpx-vp9", "auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    "av1.mp4": {"codec": "libsvtav1", "preset": "12"},
    "av1.webm": {"codec": "libsvtav1", "preset": "12"},
    "alpha.webm": {"codec": "libvpx-vp9", "pix_fmt": "yuva420p", "auto-alt-ref": "0"},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "bf": "2"},
    "mpeg4_b.mp4": {"codec": "mpeg4", "bf": "2"},
    "mpeg2.mpg": {"codec": "mpeg2video", "bf": "2"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mjpeg.mkv": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "interlaced.mkv": {"codec": "mpeg2video", "flags": "+ilme+ildct"},
    "late.mp4": {"pts": [1000 + 40 * n for n in range(COUNT)]},
    "uneven.mp4": {"pts": UNEVEN.tolist()},
    "uneven.webm": {"codec": "libvpx-vp9", "cpu-used": "8", "pts": UNEVEN.tolist()},
    "sound_first.mp4": {"audio": True},
}


def decode_with_ffmpeg(path: Path) -> np.ndarray:
    """Return the frames of FFmpeg's own sequential decode, (F, H, W, 3)."""
    with av.open(str(path), metadata_errors="ignore") as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the videos a.mp4, b.mp4 and deep/c.mp4, and a text file."""
    for name in ("b.mp4", "a.mp4", "deep/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, numbered_frames(4))
    (tmp_path / "notes.txt").write_text("no video")
    return tmp_path


def touch(folder: Path, *names: str) -> Path:
    """Create empty files and return the folder."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def write_shard(path: Path, members: dict[str, bytes]) -> Path:
    """Write a tar file with the given members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def write_bad_files(folder: Path) -> dict[str, str]:
    """Write one file of each bad kind, and good.mp4. Returns a pattern of the reason by file name."""
    whole = write_video(folder / "good.mp4", numbered_frames(20)).read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("hello, this is a text\n" * 50)
    (folder / "dangling.mp4").symlink_to("nowhere.mp4")
    early = write_video(folder / "early.mp4", numbered_frames(20), container_options={"movflags": "faststart"})
    content = early.read_bytes()
    early.unlink()
    cuts = {f"cut{tenth}.mp4": content[: len(content) * tenth // 10] for tenth in range(1, 10)}
    flipped = bytearray(content)
    for place in range(len(flipped) // 2, len(flipped), 50):
        flipped[place] ^= 255
    for name, part in {**cuts, "flipped.mp4": bytes(flipped), "truncated.mp4": whole[: len(whole) // 2]}.items():
        (folder / name).write_bytes(part)
    locked = {}
    if os.geteuid() != 0:  # root can read everything
        (folder / "locked.mp4").write_bytes(whole)
        (folder / "locked.mp4").chmod(0)
        locked = {"locked.mp4": "Permission denied"}
    with av.open(str(folder / "audio.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return {
        "empty.mp4": "the file is empty",
        "text.mp4": "not decodable as video",
        "dangling.mp4": "there is no such file",
        "truncated.mp4": "not decodable as video: Invalid data",
        "flipped.mp4": "damaged at frame|Invalid data",
        **dict.fromkeys(cuts, "truncated or damaged at packet|Invalid data"),
        **locked,
        "audio.mp4": "no video stream found, only audio",
    }


def write_shots(path: Path, lengths: Sequence[int] = (20, 24, 16), rate: int = 20, codec: str = "libx264") -> Path:
    """Write a video of shots with these numbers of frames: red, dark green, blue, red, …, each a little in motion."""
    colors = np.array([[200, 30, 30], [30, 80, 30], [30, 30, 240]])[np.repeat(np.arange(len(lengths)) % 3, lengths)]
    frames = np.broadcast_to(colors[:, None, None], (sum(lengths), 48, 64, 3)).astype(np.uint8)
    for n, frame in enumerate(frames):
        frame[4:12, n % 50 : n % 50 + 8] = 128
    return write_video(path, frames, codec, rate=rate)
