"""Which decoders return the right frames? Ours, torchcodec and OpenCV against FFmpeg's own sequential decode.

    python benchmarks/decoders.py                  # files that this script encodes
    python benchmarks/decoders.py --videos FOLDER  # and every video below a folder, by folder

Asked for every frame by number, in a shuffled order, as samplers do. A frame is wrong when it is missing, or nearer to
another frame of a sequential decode than to the one of its number (mean absolute difference, RGB). Peers are optional:
pip install --no-deps torchcodec==0.13.0 opencv-python-headless (torchcodec needs FFmpeg's libraries).
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from verbspace.data.decoding.pyav import decode_frames
from verbspace.data.decoding.torchcodec import read_with_torchcodec
from verbspace.data.errors import DecodeError

Frames = np.ndarray  # uint8 (n, H, W, 3)
Backend = Callable[[Path, Sequence[int]], list[Frames | None]]
NUM_FRAMES = 60
VARIABLE_RATE_PTS = np.cumsum([10] + [20, 60, 33, 100] * NUM_FRAMES)[:NUM_FRAMES].tolist()
LATE_START_PTS = [1000 + 40 * n for n in range(NUM_FRAMES)]
X265_QUIET = {"x265-params": "log-level=none:pools=1"}
ALT_REF_OPTIONS = {"auto-alt-ref": "1", "lag-in-frames": "16"}  # frames that are decoded and never shown
# container and codec: settings of the encoder; the frames last 40 ms unless times are given.
ENCODINGS: dict[str, dict[str, object]] = {
    "H.264 with B-frames in MP4": {"name": "h264.mp4", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in MKV": {"name": "h264.mkv", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in AVI": {"name": "h264.avi", "codec": "libx264", "bf": "3"},
    "H.264 with B-frames in MPEG-TS": {"name": "h264.ts", "codec": "libx264", "bf": "3"},
    "H.264, variable frame rate, MP4": {"name": "vfr.mp4", "codec": "libx264", "times": VARIABLE_RATE_PTS},
    "H.264, starts at 1 s, MP4": {"name": "late.mp4", "codec": "libx264", "times": LATE_START_PTS},
    "HEVC in MP4": {"name": "hevc.mp4", "codec": "libx265", **X265_QUIET},
    "HEVC, 10 bit, MKV": {"name": "hevc10.mkv", "codec": "libx265", "pix_fmt": "yuv420p10le", **X265_QUIET},
    "VP8 in WebM": {"name": "vp8.webm", "codec": "libvpx", **ALT_REF_OPTIONS},
    "VP9 in WebM": {"name": "vp9.webm", "codec": "libvpx-vp9", "cpu-used": "8", **ALT_REF_OPTIONS},
    "VP9, variable frame rate, WebM": {"name": "vfr.webm", "codec": "libvpx-vp9", "cpu-used": "8", "times": VARIABLE_RATE_PTS},
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
    folder: Path, name: str, codec: str, times: list[int] | None = None, pix_fmt: str = "yuv420p", **options: str
) -> Path:
    """Sixty frames with their number in dark and light columns, moving over a soft texture."""
    rng = np.random.default_rng(0)
    path = folder / name
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(25), options={"threads": "1", **options})
        stream.width, stream.height, stream.pix_fmt = 128, 96, pix_fmt
        stream.gop_size = 24
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        texture = rng.uniform(60, 200, (12, 16, 3)).repeat(8, 0).repeat(8, 1)
        for n in range(NUM_FRAMES):
            picture = np.roll(texture, 3 * n, 1)
            for bit in range(6):
                picture[:40, 21 * bit : 21 * bit + 21] = 235 if n >> bit & 1 else 20
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[n], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_sequentially(path: Path) -> Frames:
    """FFmpeg's own sequential decode, in one thread."""
    with av.open(str(path), metadata_errors="ignore") as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def read_verbspace(path: Path, order: Sequence[int]) -> list[Frames | None]:
    """verbspace, which decodes to the last frame that is needed."""
    try:
        return list(decode_frames(path, order).permute(0, 2, 3, 1).numpy())
    except (DecodeError, IndexError):
        return [None] * len(order)


def read_verbspace_torchcodec(path: Path, order: Sequence[int]) -> list[Frames | None]:
    """verbspace with torchcodec where it is right."""
    try:
        return list(read_with_torchcodec(path, lambda timeline: order)[1].permute(0, 2, 3, 1).numpy())
    except (DecodeError, IndexError):
        return [None] * len(order)


def make_torchcodec_reader(mode: str) -> Backend:
    """torchcodec in one of its two seek modes."""
    from torchcodec.decoders import VideoDecoder

    def read(path: Path, order: Sequence[int]) -> list[Frames | None]:
        found: list[Frames | None] = []
        try:
            decoder = VideoDecoder(str(path), seek_mode=mode, dimension_order="NHWC", num_ffmpeg_threads=1)
        except (RuntimeError, ValueError):
            return [None] * len(order)
        for index in order:
            try:
                found.append(decoder[index].numpy())
            except (RuntimeError, IndexError, ValueError):
                found.append(None)
        return found

    return read


def read_opencv(path: Path, order: Sequence[int]) -> list[Frames | None]:
    """OpenCV, seeking by frame number."""
    import cv2

    capture, found = cv2.VideoCapture(str(path)), []
    for index in order:
        capture.set(cv2.CAP_PROP_POS_FRAMES, index)
        good, frame = capture.read()
        found.append(frame[:, :, ::-1] if good else None)
    return found


def count_wrong_frames(reference: Frames, order: Sequence[int], frames: list[Frames | None]) -> int:
    """How many frames are not the ones asked for."""
    small = reference[:, ::4, ::4].astype(np.int16)
    count = 0
    for index, frame in zip(order, frames, strict=True):
        if frame is None or frame.shape != reference[0].shape:
            count += 1
            continue
        differences = np.abs(small - frame[::4, ::4].astype(np.int16)).mean((1, 2, 3))
        count += bool(differences[index] > differences.min() + 1e-9)
    return count


def available_backends() -> dict[str, Backend]:
    """Those that are installed."""
    found: dict[str, Backend] = {"verbspace": read_verbspace}
    try:
        found |= {f"torchcodec, {mode}": make_torchcodec_reader(mode) for mode in ("exact", "approximate")}
        found["verbspace, decoder=torchcodec"] = read_verbspace_torchcodec
    except (ImportError, RuntimeError, OSError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}")
    try:
        import cv2  # noqa: F401

        found["OpenCV"] = read_opencv
    except ImportError:
        print("OpenCV is left out: not installed")
    return found


def print_timings(folder: Path) -> None:
    """Print how long 8 even frames take, and 80, from clips of 10 s and of 5 min: median of 5 rounds in turns."""
    print("\n| frames, even over the clip | decoder=pyav | decoder=torchcodec |\n|---|---|---|")
    for seconds in (10, 300):
        path = folder / f"{seconds}s.mp4"
        picture = np.random.default_rng(0).uniform(0, 255, (16, 20, 3)).repeat(16, 0).repeat(17, 1).astype(np.uint8)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "medium"})
            stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
            for n in range(30 * seconds):
                frame = av.VideoFrame.from_ndarray(np.roll(picture, 3 * n, 1), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        for count in (8, 80):
            order = np.linspace(0, 30 * seconds - 1, count).astype(int).tolist()
            taken: dict[str, list[float]] = {"pyav": [], "torchcodec": []}
            for _ in range(5):
                for name, read in (("pyav", read_verbspace), ("torchcodec", read_verbspace_torchcodec)):
                    began = time.perf_counter()
                    read(path, order)
                    taken[name].append(time.perf_counter() - began)
            cells = (f"{1000 * sorted(times)[2]:.0f} ms" for times in taken.values())
            print(
                f"| {count} of {30 * seconds} ({seconds} s, 340×256 H.264 MP4) | " + " | ".join(cells) + " |",
                flush=True,
            )


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder whose videos are tried too, by its folders")
    chosen = parser.parse_args()
    readers = available_backends()
    print("| wrong frames of all | frames | " + " | ".join(readers) + " |\n|---|---|" + "---|" * len(readers))

    def print_row(title: str, paths: Sequence[Path]) -> None:
        total, counts = 0, dict.fromkeys(readers, 0)
        for path in paths:
            truth = decode_sequentially(path)
            order = random.Random(0).sample(range(len(truth)), len(truth))
            total += len(truth)
            for name, read in readers.items():
                counts[name] += count_wrong_frames(truth, order, read(path, order))
        print(f"| {title} | {total} | " + " | ".join(map(str, counts.values())) + " |", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        for title, how in ENCODINGS.items():
            try:
                path = encode(Path(folder), **how)  # type: ignore[arg-type]
            except (av.FFmpegError, ValueError) as error:
                print(f"| {title} | not encoded here: {error} |")
                continue
            print_row(title, [path])
    if chosen.videos:
        for folder in sorted(path for path in chosen.videos.iterdir() if path.is_dir()):
            by_kind: dict[str, list[Path]] = {}
            for path in sorted(folder.rglob("*")):
                if path.suffix in (".avi", ".mp4", ".mkv"):
                    by_kind.setdefault(path.suffix[1:].upper(), []).append(path)
            for kind, paths in by_kind.items():
                print_row(f"{folder.name}, {len(paths)} {kind} files", paths)
    if "verbspace, decoder=torchcodec" in readers:
        with tempfile.TemporaryDirectory() as folder:
            print_timings(Path(folder))


if __name__ == "__main__":
    main()
