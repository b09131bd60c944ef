"""Embeddings of videos with ViT-B/32, compared with the loops of tutorials and with decoder and model separately.

    python benchmarks/embedding.py

16 clips of 10 s (340×256 H.264), 8 frames each, random weights. A tutorial's loop processes one video after the other
with `CLIPModel` in fp32: it decodes with PyAV (up to the last needed frame) or OpenCV (every frame). Tutorials and
verbspace have a process each. One limit is the sum of decoding on all cores and the model's forward pass, which share
the cores of a CPU; another is the model's matrix products alone, at the best rate of this processor.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from harness import Row, SubprocessBenchmark, compare, interleaved_timings, main
from loading import encode_clip
from random_models import matmul_rate, save_random_checkpoint
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPModel, CLIPProcessor

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.timestamps import timestamps_from_packets
from verbspace.data.sampling import plan_eval
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_clips, embed_videos
from verbspace.models.video_encoder import VideoEncoder
from verbspace.utils.precision import Precision

NUM_CLIPS, NUM_FRAMES = 16, 8


def sampled_frame_indices(path: Path) -> list[int]:
    """Return the indices of the frames that `embed_videos` uses."""
    with open_video(path) as file:
        timestamps = timestamps_from_packets(file, None)
    assert timestamps is not None
    (plan,) = plan_eval(timestamps[0].times, timestamps[0].duration, NUM_FRAMES)
    return list(plan.frame_indices)


def read_pyav(path: Path, indices: list[int]) -> list[np.ndarray]:
    """Read frames as in the guides of video models: decode up to the last of them."""
    with av.open(str(path)) as container:
        frames = itertools.islice(container.decode(video=0), indices[-1] + 1)
        return [frame.to_ndarray(format="rgb24") for index, frame in enumerate(frames) if index in indices]


def read_opencv(path: Path, indices: list[int]) -> list[np.ndarray]:
    """Read every frame, and select some of them."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        success, frame = capture.read()
        if not success:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return [frames[index] for index in indices]


def embed_with_transformers(
    model: Any, processor: Any, paths: list[Path], read: Callable[[Path, list[int]], Any]
) -> Tensor:
    """Embed videos one by one with `transformers`, as (N, D)."""
    embeddings = []
    for path in paths:
        inputs = processor(images=read(path, sampled_frame_indices(path)), return_tensors="pt")
        with torch.no_grad():
            features = model.get_image_features(**inputs)
        mean = getattr(features, "pooler_output", features).mean(0)
        embeddings.append(mean / mean.norm())
    return torch.stack(embeddings)


def make_tutorial(checkpoint: Path, paths: list[Path], reader: str, output: Path) -> Callable[[], None]:
    """Load the model; the function embeds the videos and saves the embeddings."""
    model, processor = CLIPModel.from_pretrained(checkpoint).eval(), CLIPProcessor.from_pretrained(checkpoint)
    read = {"PyAV": read_pyav, "OpenCV": read_opencv}[reader]
    return lambda: torch.save(embed_with_transformers(model, processor, paths, read), output)


def make_verbspace(checkpoint: Path, paths: list[Path], dtype: Precision, output: Path) -> Callable[[], None]:
    """Load the encoder; the function embeds the videos and saves the embeddings."""
    encoder = VideoEncoder.from_pretrained(checkpoint, temporal=False)
    records = [Record(path) for path in paths]
    return lambda: torch.save(embed_videos(encoder, records, dtype=dtype).embeddings, output)


def make_model_only(checkpoint: Path) -> Callable[[], object]:
    """Load the encoder; the function embeds as many frames in bf16."""
    encoder = VideoEncoder.from_pretrained(checkpoint, temporal=False)
    frames = torch.randint(0, 256, (NUM_CLIPS, NUM_FRAMES, 3, 224, 224), dtype=torch.uint8)
    return lambda: embed_clips(encoder, frames, torch.zeros(frames.shape[:2]), "bf16")


def decode_only(paths: list[Path]) -> None:
    """Decode each video up to the last frame that is needed, on all cores."""

    def decode_one(path: Path) -> None:
        last = sampled_frame_indices(path)[-1]
        with open_video(path) as file:
            for _ in itertools.islice(file.iter_frames(), last + 1):
                pass

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(decode_one, paths))


def time_of_products(checkpoint: Path) -> dict[str, float]:
    """Return the seconds that the products of the model would take at the rate of a large product, by data type."""
    encoder = VideoEncoder.from_pretrained(checkpoint, temporal=False)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        encoder(torch.zeros(1, NUM_FRAMES, 3, 224, 224))
    dtypes = {"bf16": torch.bfloat16, "int8": torch.int8, "fp32": torch.float32}
    return {name: NUM_CLIPS * counter.get_total_flops() / matmul_rate(dtype=dtype) for name, dtype in dtypes.items()}


def measure(rounds: int) -> list[Row]:
    """Time all implementations, each in a process of its own, and compare their embeddings."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = encode_clip(folder / "0.mp4")
        paths = [first, *(Path(shutil.copy(first, folder / f"{n}.mp4")) for n in range(1, NUM_CLIPS))]
        checkpoint = save_random_checkpoint(folder / "clip")
        products = time_of_products(checkpoint)
        processes = {
            **{dtype: (make_verbspace, checkpoint, paths, dtype, folder / dtype) for dtype in ("bf16", "int8", "fp32")},
            **{name: (make_tutorial, checkpoint, paths, name, folder / name) for name in ("PyAV", "OpenCV")},
            "model": (make_model_only, checkpoint),
        }
        candidates = {name: SubprocessBenchmark(*arguments) for name, arguments in processes.items()}
        try:
            decode = {"decode": lambda: decode_only(paths)}
            seconds = interleaved_timings({**candidates, **decode}, rounds, num_warmup=3)
        finally:
            for process in candidates.values():
                process.close()
        embeddings = {name: torch.load(folder / name, weights_only=True) for name in ("bf16", "int8", "fp32", "PyAV")}
    cosine = {name: float((embeddings[name] * embeddings["PyAV"]).sum(1).min()) for name in ("bf16", "int8", "fp32")}
    assert cosine["fp32"] > 0.9999, cosine
    assert cosine["int8"] > 0.99, cosine
    assert cosine["bf16"] > 0.999, cosine

    def note(dtype: str) -> str:
        ratio = statistics.median(seconds["PyAV"]) / products[dtype]
        return (
            f"smallest cosine similarity to the tutorial's embeddings {cosine[dtype]:.6f}; its matrix products alone, "
            f"at the best rate, would take 1/{ratio:.1f} of the tutorial's time (PyAV)"
        )

    rate = partial(compare, work=float(NUM_CLIPS), unit="videos/s")
    bf16, int8, fp32 = (f"embedding videos, ViT-B/32, {dtype}" for dtype in ("bf16", "int8", "fp32"))
    limit = [decode + model for decode, model in zip(seconds["decode"], seconds["model"], strict=True)]
    return [
        rate(bf16, "a tutorial's loop, PyAV", 5, seconds["bf16"], seconds["PyAV"], note=note("bf16")),
        rate(bf16, "a tutorial's loop, OpenCV", 5, seconds["bf16"], seconds["OpenCV"]),
        rate(int8, "a tutorial's loop, PyAV", 3, seconds["int8"], seconds["PyAV"], note=note("int8")),
        rate(fp32, "a tutorial's loop, PyAV", 1, seconds["fp32"], seconds["PyAV"], note=note("fp32")),
        compare(bf16, "limit: decoding only, then the model only", 0.85, seconds["bf16"], limit),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure)
