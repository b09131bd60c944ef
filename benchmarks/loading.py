"""From file to views: ours, the way of SVT's data set, and FFmpeg's bare decode of the frames that are needed.

    python benchmarks/loading.py --videos FOLDER   # by its folders and containers; and a clip that this script encodes

All ten views of a sample (2 global ones of 8 frames at 224 px, 8 local ones of 8 frames at 96 px), uint8, in one
process with one thread, in turns, median of the rounds with their range.

SVT's way, as its data set is documented to work: the whole clip is decoded to arrays; then each view by itself is
indexed, turned to floats, colour-jittered, blurred, cropped and resized (bilinear), and flipped, with torch operations.
The limit is what no loader can go below: the decoder running to the last needed frame (to the end where the container
cannot tell), nothing converted.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from harness import Row, compare, main
from torch import Tensor

from verbspace.config.settings import ViewSettings
from verbspace.data.datasets import ViewDataset
from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.pyav import frame_times
from verbspace.data.sampling import plan_views
from verbspace.data.sources.record import VIDEO_EXTENSIONS, Record
from verbspace.utils.malloc import disable_malloc_trim

VIEWS = ViewSettings(
    global_views=2, global_frames=8, global_size=224, global_clip_fraction=(0.6, 1.0), global_scale=(0.4, 1.0),
    local_views=8, local_frames=8, local_size=96, local_clip_fraction=(0.15, 0.5), local_scale=(0.15, 0.5),
    flip_prob=0.5, brightness=0.4, contrast=0.4, saturation=0.2, grayscale_prob=0.2, blur_prob=0.2,
)  # fmt: skip


def make_dataset(paths: Sequence[Path], seed: int) -> ViewDataset:
    """Ours, with SVT's augmentation."""
    return ViewDataset([Record(path) for path in paths], VIEWS, seed=seed, max_short_side=256)


def load_verbspace(paths: Sequence[Path], seed: int) -> int:
    """Views made."""
    data = make_dataset(paths, seed)
    for index in range(len(paths)):
        assert not data[index]["bad"]
    return 10 * len(paths)


def make_view(clip: Tensor, size: int, scale: tuple[float, float], generator: torch.Generator) -> Tensor:
    """One view by itself, in floats: jitter, grey, blur, crop, resize, flip. (T, H, W, 3) uint8 to (T, 3, S, S)."""
    x = clip.permute(0, 3, 1, 2).float() / 255
    draw = torch.rand(9, generator=generator).tolist()
    if draw[0] < 0.8:
        x = (x * (0.6 + 0.8 * draw[1])).clamp(0, 1)
        x = (x.mean((2, 3), keepdim=True) + (x - x.mean((2, 3), keepdim=True)) * (0.6 + 0.8 * draw[2])).clamp(0, 1)
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    grey = (x * weights).sum(1, keepdim=True)
    x = (grey + (x - grey) * (0.8 + 0.4 * draw[3])).clamp(0, 1)
    if draw[4] < 0.2:
        x = grey.expand_as(x)
    if draw[5] < 0.2:
        place = torch.arange(-11, 12, dtype=torch.float32)
        kernel = torch.softmax(-0.5 * (place / 1.0) ** 2, 0)
        x = F.conv2d(F.pad(x, (11, 11, 0, 0), "reflect"), kernel.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
        x = F.conv2d(F.pad(x, (0, 0, 11, 11), "reflect"), kernel.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
    height, width = x.shape[-2:]
    side = (scale[0] + (scale[1] - scale[0]) * draw[6]) ** 0.5
    h, w = round(height * side), round(width * side)
    top, left = int(draw[7] * (height - h)), int(draw[8] * (width - w))
    x = F.interpolate(x[..., top : top + h, left : left + w], (size, size), mode="bilinear", antialias=True)
    return x.flip(-1) if draw[0] < 0.5 else x


def load_svt(paths: Sequence[Path], seed: int) -> int:
    """Views made the way of SVT."""
    generator = torch.Generator().manual_seed(seed)
    for path in paths:
        with av.open(str(path), metadata_errors="ignore") as container:
            container.streams.video[0].thread_count = 1
            whole = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        for count, size, scale in ((2, 224, (0.4, 1.0)), (8, 96, (0.15, 0.5))):
            for _ in range(count):
                share = 1.0 if size == 224 else 0.3
                start = float(torch.rand(1, generator=generator)) * (1 - share)
                places = np.linspace(start * (len(whole) - 1), (start + share) * (len(whole) - 1), 8).astype(int)
                make_view(torch.from_numpy(whole[places]), size, scale, generator)
    return 10 * len(paths)


def decode_lower_bound(paths: Sequence[Path], seed: int) -> int:
    """Nothing but the decode of the frames that ours has to decode for the same views."""
    for index, path in enumerate(paths):
        plans = plan_views(FRAME_TIMES[path], VIEWS, np.random.default_rng([seed, 0, index, 0]))
        last = max(frame for plan in plans for frame in plan.frame_indices)
        with open_video(path) as file:
            stop = last if file.has_reliable_pts else len(FRAME_TIMES[path]) - 1
            for number, _ in enumerate(file.iter_frames()):
                if number == stop:
                    break
    return 10 * len(paths)


FRAME_TIMES: dict[Path, np.ndarray] = {}
LOADERS: dict[str, Callable[[Sequence[Path], int], int]] = {
    "ours": load_verbspace,
    "svt": load_svt,
    "limit": decode_lower_bound,
}


def encode_clip(path: Path, seconds: int = 10) -> Path:
    """340×256 H.264 at 30 frames a second: moving texture with film grain."""
    rng = np.random.default_rng(0)
    texture = rng.uniform(30, 220, (32, 43, 3)).repeat(8, 0).repeat(8, 1)[:256, :340]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(30), options={"preset": "medium", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for n in range(30 * seconds):
            picture = np.roll(texture, (n, 3 * n), (0, 1)) + rng.normal(0, 4, texture.shape)
            frame = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def compare_loaders(title: str, paths: Sequence[Path], rounds: int) -> list[Row]:
    """Measure in turns."""
    FRAME_TIMES.update({path: frame_times(path) for path in paths})
    seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
    for seed in range(rounds + 1):
        for name, way in LOADERS.items():
            began = time.perf_counter()
            way(paths, seed)
            if seed:
                seconds[name].append(time.perf_counter() - began)
    work = 10.0 * len(paths)
    return [
        compare(f"views of {title}", "SVT's way", 4, seconds["ours"], seconds["svt"], work=work, unit="views/s"),
        compare(f"views of {title}", "FFmpeg decoding them one after the other, no more", 0.8, seconds["ours"],
                seconds["limit"], work=work, unit="views/s"),
    ]  # fmt: skip


def measure(rounds: int, videos: Path | None = None) -> list[Row]:
    """The clip made here, and the folders of `videos`."""
    torch.set_num_threads(1)
    disable_malloc_trim()  # as loading workers do
    with tempfile.TemporaryDirectory() as folder:
        rows = compare_loaders("10 s of 340×256 H.264", [encode_clip(Path(folder) / "a.mp4")], rounds)
    for part in sorted(path for path in videos.iterdir() if path.is_dir()) if videos else []:
        kinds: dict[str, list[Path]] = {}
        for path in sorted(part.rglob("*")):
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                kinds.setdefault(path.suffix[1:].upper(), []).append(path)
        for kind, paths in kinds.items():
            rows += compare_loaders(f"{len(paths)} {kind} files of {part.name}", paths, rounds)
    return rows


if __name__ == "__main__":
    main(__doc__ or "", measure, videos="folder whose videos are tried too, by its folders")
