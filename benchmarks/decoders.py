"""Frame accuracy of video decoders: verbspace, torchcodec and OpenCV, compared with a sequential decode by FFmpeg.

    python benchmarks/decoders.py                  # files that this script encodes
    python benchmarks/decoders.py --videos FOLDER  # also the videos of a folder, by subfolder and file type

Every frame is requested by its index, in random order, as samplers do. A frame is wrong if it is missing, or if another
frame of the sequential decode is nearer to it (mean absolute RGB difference) than the one with its index. The other
decoders are optional: pip install --no-deps torchcodec==0.13.0 opencv-python-headless (torchcodec needs FFmpeg's
libraries). With torchcodec, a second table compares the time of both decoders of verbspace.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from harness import interleaved_timings
from loading import videos_by_folder

from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.decoding.torchcodec import read_with_torchcodec
from verbspace.data.errors import DecodeError

Frames = np.ndarray  # uint8 (N, H, W, 3)
Reader = Callable[[Path, Sequence[int]], list[Frames | None]]
NUM_FRAMES = 60
VARIABLE_RATE_PTS = np.cumsum([10] + [20, 60, 33, 100] * NUM_FRAMES)[:NUM_FRAMES].tolist()
LATE_START_PTS = [1000 + 40 * n for n in range(NUM_FRAMES)]
X265_QUIET = {"x265-params": "log-level=none:pools=1"}
ALT_REF_OPTIONS = {"auto-alt-ref": "1", "lag-in-frames": "16"}  # adds frames that are decoded but never shown
# Arguments of `encode`. A frame takes 40 ms unless `pts`, in milliseconds, is given.
ENCODINGS: dict[str, dict[str, Any]] = {
    "H.264 with B-frames in MP4": {"name": "h264.mp4", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in MKV": {"name": "h264.mkv", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in AVI": {"name": "h264.avi", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in MPEG-TS": {"name": "h264.ts", "codec": "libx264", "bf": "3"},
    "H.264, variable frame rate, MP4": {"name": "vfr.mp4", "codec": "libx264", "pts": VARIABLE_RATE_PTS},
    "H.264, starts at 1 s, MP4": {"name": "late.mp4", "codec": "libx264", "pts": LATE_START_PTS},
    "HEVC in MP4": {"name": "hevc.mp4", "codec": "libx265", **X265_QUIET},
    "HEVC, 10 bit, MKV": {"name": "hevc10.mkv", "codec": "libx265", "pix_fmt": "yuv420p10le", **X265_QUIET},
    "VP8 in WebM": {"name": "vp8.webm", "codec": "libvpx", **ALT_REF_OPTIONS},
    "VP9 in WebM": {"name": "vp9.webm", "codec": "libvpx-vp9", "cpu-used": "8", **ALT_REF_OPTIONS},
    "VP9, variable frame rate, WebM": {
        "name": "vfr.webm", "codec": "libvpx-vp9", "cpu-used": "8", "pts": VARIABLE_RATE_PTS,
    },
    "AV1 in MP4": {"name": "av1.mp4", "codec": "libsvtav1", "preset": "12"},
    "AV1 in WebM, no frame count": {"name": "av1.webm", "codec": "libsvtav1", "preset": "12"},
    "MPEG-4 in AVI": {"name": "mpeg4.avi", "codec": "mpeg4"},
    "MPEG-4 with B-frames in AVI": {"name": "mpeg4_b.avi", "codec": "mpeg4", "bf": "2"},
    "MPEG-4 with B-frames in MP4": {"name": "mpeg4_b.mp4", "codec": "mpeg4", "bf": "2"},
    "MPEG-2 with B-frames in MPG": {"name": "mpeg2.mpg", "codec": "mpeg2video", "bf": "2"},
    "MPEG-2, interlaced, MKV": {"name": "interlaced.mkv", "codec": "mpeg2video", "flags": "+ilme+ildct"},
    "MJPEG in AVI": {"name": "mjpeg.avi", "codec": "mjpeg", "pix_fmt": "yuvj420p"},
}  # fmt: skip


def encode(
    folder: Path, name: str, codec: str, pts: list[int] | None = None, pix_fmt: str = "yuv420p", **options: str
) -> Path:
    """Encode 60 frames of a moving texture; dark and light columns show the index of each frame in binary."""
    rng = np.random.default_rng(0)
    path = folder / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        stream.gop_size = 24
        if pts is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        texture = rng.uniform(60, 200, (12, 16, 3)).repeat(8, 0).repeat(8, 1)
        for n in range(NUM_FRAMES):
            image = np.roll(texture, 3 * n, 1)
            for bit in range(6):
                image[:40, 21 * bit : 21 * bit + 21] = 235 if n >> bit & 1 else 20
            frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")
            if pts is not None:
                frame.pts, frame.time_base = pts[n], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def encode_long_clip(path: Path, seconds: int) -> Path:
    """Encode a moving texture: 340×256 H.264 at 30 frames per second."""
    texture = np.random.default_rng(0).uniform(0, 255, (16, 20, 3)).repeat(16, 0).repeat(17, 1).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "medium"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for n in range(30 * seconds):
            frame = av.VideoFrame.from_ndarray(np.roll(texture, 3 * n, 1), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_sequentially(path: Path) -> Frames:
    """Decode all frames with FFmpeg, in one thread."""
    with av.open(str(path), metadata_errors="ignore") as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_pyav(path: Path, indices: Sequence[int]) -> list[Frames | None]:
    """Read with verbspace's default decoder, which decodes up to the last frame that is needed."""
    try:
        return list(decode_frames(path, indices).permute(0, 2, 3, 1).numpy())
    except (DecodeError, IndexError):
        return [None] * len(indices)


def read_torchcodec(path: Path, indices: Sequence[int]) -> list[Frames | None]:
    """Read with verbspace's torchcodec decoder, which uses PyAV for files that torchcodec misreads."""
    try:
        return list(read_with_torchcodec(path, lambda timestamps: indices)[1].permute(0, 2, 3, 1).numpy())
    except (DecodeError, IndexError):
        return [None] * len(indices)


def make_torchcodec_reader(mode: str) -> Reader:
    """Return a reader that uses torchcodec itself, in one of its seek modes."""
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, indices: Sequence[int]) -> list[Frames | None]:
        frames: list[Frames | None] = []
        try:
            decoder = VideoDecoder(str(path), seek_mode=mode, dimension_order="NHWC", num_ffmpeg_threads=1)
        except (RuntimeError, ValueError):
            return [None] * len(indices)
        for index in indices:
            try:
                frames.append(decoder[index].numpy())
            except (RuntimeError, IndexError, ValueError):
                frames.append(None)
        return frames

    return read


def read_opencv(path: Path, indices: Sequence[int]) -> list[Frames | None]:
    """Read with OpenCV, seeking to each frame by its index."""
    import cv2

    capture, frames = cv2.VideoCapture(str(path)), []
    for index in indices:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        success, frame = capture.read()
        frames.append(frame[:, :, ::-1] if success else None)
    return frames


def count_wrong_frames(reference: Frames, indices: Sequence[int], frames: list[Frames | None]) -> int:
    """Count the frames that are not the requested ones."""
    small = reference[:, ::4, ::4].astype(np.int16)
    count = 0
    for index, frame in zip(indices, frames, strict=True):
        if frame is None or frame.shape != reference[0].shape:
            count += 1
            continue
        differences = np.abs(small - frame[::4, ::4].astype(np.int16)).mean((1, 2, 3))
        count += bool(differences[index] > differences.min() + 1e-9)
    return count


def available_readers() -> dict[str, Reader]:
    """Return the readers that are installed, by name."""
    readers: dict[str, Reader] = {"verbspace, decoder=pyav": read_pyav}
    try:
        exact, approximate = (make_torchcodec_reader(mode) for mode in ("exact", "approximate"))
        readers["verbspace, decoder=torchcodec"] = read_torchcodec
        readers |= {"torchcodec, exact": exact, "torchcodec, approximate": approximate}
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchcodec is skipped: {str(error).splitlines()[0]}")
    try:
        import cv2  # noqa: F401

        readers["OpenCV"] = read_opencv
    except ImportError:
        print("OpenCV is skipped: it is not installed")
    return readers


def print_accuracy(title: str, paths: Sequence[Path], readers: dict[str, Reader]) -> None:
    """Print a row with the number of wrong frames of each reader."""
    num_frames, num_wrong = 0, dict.fromkeys(readers, 0)
    for path in paths:
        reference = decode_sequentially(path)
        indices = random.Random(0).sample(range(len(reference)), len(reference))
        num_frames += len(reference)
        for name, read in readers.items():
            num_wrong[name] += count_wrong_frames(reference, indices, read(path, indices))
    print(f"| {title} | {num_frames} | " + " | ".join(map(str, num_wrong.values())) + " |", flush=True)


def print_timings(folder: Path) -> None:
    """Print the time to read 8 and 80 frames of clips of 10 s and 5 min: the median of 5 interleaved rounds."""
    print("\n| frames, evenly spaced | decoder=pyav | decoder=torchcodec |\n|---|---|---|")
    for seconds in (10, 300):
        path = encode_long_clip(folder / f"{seconds}s.mp4", seconds)
        num_frames = 30 * seconds
        for count in (8, 80):
            indices = np.linspace(0, num_frames - 1, count).astype(int).tolist()
            readers = {"pyav": partial(read_pyav, path, indices), "torchcodec": partial(read_torchcodec, path, indices)}
            timings = interleaved_timings(readers, 5, num_warmup=0)
            cells = " | ".join(f"{1000 * statistics.median(durations):.0f} ms" for durations in timings.values())
            print(f"| {count} of {num_frames} ({seconds} s, 340×256 H.264 MP4) | {cells} |", flush=True)


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder with further videos; each subfolder and file type is a row")
    args = parser.parse_args()
    readers = available_readers()
    print("| video | frames | " + " | ".join(readers) + " |\n|---|---|" + "---|" * len(readers))
    with tempfile.TemporaryDirectory() as folder:
        for title, options in ENCODINGS.items():
            try:
                path = encode(Path(folder), **options)
            except (av.FFmpegError, ValueError) as error:
                print(f"| {title} | cannot be encoded here: {error} |")
                continue
            print_accuracy(title, [path], readers)
        for title, paths in (videos_by_folder(args.videos) if args.videos else {}).items():
            print_accuracy(title, paths, readers)
        if "verbspace, decoder=torchcodec" in readers:
            print_timings(Path(folder))


if __name__ == "__main__":
    main()
