"""Views from video files, compared with SVT's data loading and with decoding only.

    python benchmarks/loading.py --videos FOLDER   # a clip that this script encodes, and the videos of a folder

A sample has ten views: 2 global views of 8 frames at 224 px and 8 local views of 8 frames at 96 px, as uint8. All
loaders run in one process with one thread.

SVT's data loading, as documented, decodes the whole clip; then each view is indexed, converted to floats, augmented and
resized by itself with torch operations. The limit for any loader is the time to decode up to the last frame that is
needed (to the end if the container's times are unreliable), without converting the frames.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from harness import Row, compare, interleaved_timings, main
from torch import Tensor

from verbspace.config.settings import ViewSettings
from verbspace.data.datasets import ViewDataset
from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.pyav import frame_timestamps
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.sampling import plan_views
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record
from verbspace.utils.malloc import disable_malloc_trim

# SVT's views and augmentation.
VIEWS = ViewSettings(
    global_views=2, global_frames=8, global_size=224, global_clip_fraction=(0.6, 1.0), global_scale=(0.4, 1.0),
    local_views=8, local_frames=8, local_size=96, local_clip_fraction=(0.15, 0.5), local_scale=(0.15, 0.5),
    flip_prob=0.5, brightness=0.4, contrast=0.4, saturation=0.2, grayscale_prob=0.2, blur_prob=0.2,
)  # fmt: skip
NUM_VIEWS = 10


def load_verbspace(paths: Sequence[Path], seed: int) -> None:
    """Make the views with `ViewDataset`."""
    dataset = ViewDataset([Record(path) for path in paths], VIEWS, seed=seed, max_short_side=256)
    for index in range(len(paths)):
        assert not dataset[index]["bad"]


def make_svt_view(clip: Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Make one view of (T, H, W, 3) uint8 frames as SVT does: (T, 3, size, size) floats in [0, 1]."""
    x = clip.permute(0, 3, 1, 2).float() / 255
    draw = torch.rand(9, generator=generator).tolist()
    if draw[0] < 0.8:
        x = (x * (0.6 + 0.8 * draw[1])).clamp(0, 1)
        x = (x.mean((2, 3), keepdim=True) + (x - x.mean((2, 3), keepdim=True)) * (0.6 + 0.8 * draw[2])).clamp(0, 1)
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    gray = (x * weights).sum(1, keepdim=True)
    x = (gray + (x - gray) * (0.8 + 0.4 * draw[3])).clamp(0, 1)
    if draw[4] < 0.2:
        x = gray.expand_as(x)
    if draw[5] < 0.2:
        kernel = torch.softmax(-0.5 * torch.arange(-11, 12, dtype=torch.float32) ** 2, 0)
        x = F.conv2d(F.pad(x, (11, 11, 0, 0), "reflect"), kernel.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
        x = F.conv2d(F.pad(x, (0, 0, 11, 11), "reflect"), kernel.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    height, width = x.shape[-2:]
    side = (scale[0] + (scale[1] - scale[0]) * draw[6]) ** 0.5
    h, w = round(height * side), round(width * side)
    top, left = int(draw[7] * (height - h)), int(draw[8] * (width - w))
    x = F.interpolate(x[..., top : top + h, left : left + w], (size, size), mode="bilinear", antialias=True)
    return x.flip(-1) if draw[0] < 0.5 else x


def load_svt(paths: Sequence[Path], seed: int) -> None:
    """Make the views as SVT does."""
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        with av.open(str(path), metadata_errors="ignore") as container:
            container.streams.video[0].thread_count = 1
            frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        for count, size, scale in ((2, 224, (0.4, 1.0)), (8, 96, (0.15, 0.5))):
            for _ in range(count):
                fraction = 1.0 if size == 224 else 0.3
                start = float(torch.rand(1, generator=generator)) * (1 - fraction)
                last = len(frames) - 1
                indices = np.linspace(start * last, (start + fraction) * last, 8).astype(int)
                make_svt_view(torch.from_numpy(frames[indices]), size, scale, generator)


def decode_only(paths: Sequence[Path], seed: int, timestamps: Sequence[FrameTimestamps]) -> None:
    """Decode the frames that `load_verbspace` needs. `timestamps`: those of each video."""
    for index, path in enumerate(paths):
        times, rng = timestamps[index], np.random.default_rng([seed, 0, index, 0])
        plans = plan_views(times.times, times.duration, VIEWS, rng)
        last = max(frame for plan in plans for frame in plan.frame_indices)
        with open_video(path) as file:
            stop = last if file.has_reliable_pts else len(times.times) - 1
            for _ in itertools.islice(file.iter_frames(), stop + 1):
                pass


def encode_clip(path: Path, seconds: int = 10) -> Path:
    """Encode a moving texture with film grain: 340×256 H.264 at 30 frames per second."""
    rng = np.random.default_rng(0)
    texture = rng.uniform(30, 220, (32, 43, 3)).repeat(8, 0).repeat(8, 1)[:256, :340]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "medium", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for n in range(30 * seconds):
            image = np.roll(texture, (n, 3 * n), (0, 1)) + rng.normal(0, 4, texture.shape)
            frame = av.VideoFrame.from_ndarray(image.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def videos_by_folder(root: Path) -> dict[str, list[Path]]:
    """Return the videos of each subfolder and file type, for example "hmdb51, 8 MP4 files"."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                groups.setdefault((path.suffix[1:].upper(), folder.name), []).append(path)
    return {f"{folder}, {len(paths)} {kind} files": paths for (kind, folder), paths in groups.items()}


def compare_loaders(title: str, paths: Sequence[Path], rounds: int) -> list[Row]:
    """Time the three loaders. Each round has a seed of its own."""
    timestamps = [frame_timestamps(path) for path in paths]

    def with_seeds(load: Callable[..., None]) -> Callable[[], None]:
        seeds = itertools.count()
        return lambda: load(paths, next(seeds))

    loaders = {"verbspace": load_verbspace, "svt": load_svt, "limit": partial(decode_only, timestamps=timestamps)}
    seconds = interleaved_timings({name: with_seeds(load) for name, load in loaders.items()}, rounds)
    what, work = f"views of {title}", float(NUM_VIEWS * len(paths))
    return [
        compare(what, against, goal, seconds["verbspace"], seconds[name], work=work, unit="views/s")
        for name, against, goal in (("svt", "SVT's data loading", 4), ("limit", "limit: sequential decoding only", 0.8))
    ]


def measure(rounds: int, videos: Path | None = None) -> list[Row]:
    """Measure with a clip that is encoded here, and with the videos below each subfolder of `videos`."""
    torch.set_num_threads(1)
    disable_malloc_trim()  # as the processes that load data do
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_loaders("10 s of 340×256 H.264", [encode_clip(Path(folder) / "a.mp4")], rounds)
    for title, paths in (videos_by_folder(videos) if videos else {}).items():
        rows += compare_loaders(title, paths, rounds)
    return rows


if __name__ == "__main__":
    main(__doc__ or "", measure, videos="folder with further videos; each subfolder and file type is a row")
