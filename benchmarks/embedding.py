"""Videos to embeddings, ViT-B/32: ours, the loops of tutorials, and what decoder and model take by themselves.

    python benchmarks/embedding.py

16 clips of 10 s of 340×256 H.264, 8 frames of each, random weights, in this order: a tutorial's loop takes one video
after the other, decodes it with PyAV (the frames asked for, up to the last of them) or OpenCV (every frame), and gives
the frames to `CLIPProcessor` and `CLIPModel.get_image_features`, in fp32. Ours is `embed_videos`, in fp32 and with bf16
products. The limit on a CPU, where decoder and model share the cores, is the sum of both alone: the decode of the
packets that are needed, with all cores, and the model's forward on frames in memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from checkpoints import save_random_checkpoint
from harness import Row, compare, compare_to_limit, interleaved_timings, main
from loading import encode_clip
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.timestamps import timestamps_from_packets
from verbspace.data.sampling import plan_eval
from verbspace.data.sources.record import Record
from verbspace.inference.embedding import embed_videos
from verbspace.models.video_encoder import VideoEncoder

CLIPS, FRAMES = 16, 8


def sampled_frame_indices(path: Path) -> list[int]:
    """Which frames we take."""
    with open_video(path) as file:
        found = timestamps_from_packets(file, None)
    assert found is not None
    return [place for plan in plan_eval(found[0].times, FRAMES) for place in plan.frame_indices]


def read_pyav(path: Path, indices: list[int]) -> list[np.ndarray]:
    """The frames as in the guides of video models."""
    frames = []
    with av.open(str(path)) as container:
        for place, frame in enumerate(container.decode(video=0)):
            if place > indices[-1]:
                break
            if place in indices:
                frames.append(frame.to_ndarray(format="rgb24"))
    return frames


def read_opencv(path: Path, indices: list[int]) -> list[np.ndarray]:
    """Every frame is read, then some are taken."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while True:
        there, frame = capture.read()
        if not there:
            break
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
    return [frames[place] for place in indices]


def embed_with_transformers(
    model: Any, processor: Any, paths: list[Path], read: Callable[[Path, list[int]], Any]
) -> Tensor:
    """(N, D)."""
    rows = []
    for path in paths:
        inputs = processor(images=read(path, sampled_frame_indices(path)), return_tensors="pt")
        with torch.no_grad():
            found = model.get_image_features(**inputs)
        mean = getattr(found, "pooler_output", found).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows)


def decode_only(paths: list[Path]) -> None:
    """Bare decodes up to the last frame needed, on all cores."""

    def decode_one(path: Path) -> None:
        last = sampled_frame_indices(path)[-1]
        with open_video(path) as file:
            for number, _ in enumerate(file.iter_frames()):
                if number == last:
                    break

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(decode_one, paths))


def measure(rounds: int) -> list[Row]:
    """In turns."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = encode_clip(folder / "0.mp4")
        paths = [first, *(Path(shutil.copy(first, folder / f"{n}.mp4")) for n in range(1, CLIPS))]
        saved = save_random_checkpoint(folder / "clip")
        encoder = VideoEncoder.from_pretrained(saved, temporal=False)
        model, processor = CLIPModel.from_pretrained(saved).eval(), CLIPProcessor.from_pretrained(saved)
        records = [Record(path) for path in paths]
        frames = torch.randint(0, 256, (CLIPS, FRAMES, 3, 224, 224), dtype=torch.uint8)
        found: dict[str, Tensor] = {}

        def model_only() -> None:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                encoder(encoder.normalize(frames))

        def store_result(kind: str, embed: Callable[[], Tensor]) -> Callable[[], object]:
            return lambda: found.update({kind: embed()})

        seconds = interleaved_timings(
            {
                "bf16": store_result("bf16", lambda: embed_videos(encoder, records, dtype="bf16").embeddings),
                "fp32": store_result("fp32", lambda: embed_videos(encoder, records).embeddings),
                "PyAV": store_result("PyAV", lambda: embed_with_transformers(model, processor, paths, read_pyav)),
                "OpenCV": store_result("OpenCV", lambda: embed_with_transformers(model, processor, paths, read_opencv)),
                "decode": lambda: decode_only(paths),
                "model": model_only,
            },
            rounds,
        )
    near = {kind: float((found[kind] * found["PyAV"]).sum(1).min()) for kind in ("bf16", "fp32")}
    assert near["fp32"] > 0.9999, near
    assert near["bf16"] > 0.999, near
    note = (
        f"smallest cosine to the tutorial's embeddings {near['bf16']:.5f} with bf16 products, {near['fp32']:.6f} fp32"
    )
    what, pace = "embedding videos, ViT-B/32, bf16", {"work": float(CLIPS), "unit": "videos/s"}
    least = [a + b for a, b in zip(seconds["decode"], seconds["model"], strict=True)]
    return [
        compare(what, "a tutorial's loop, PyAV", 4, seconds["bf16"], seconds["PyAV"], note=note, **pace),
        compare(what, "a tutorial's loop, OpenCV", 4, seconds["bf16"], seconds["OpenCV"], **pace),
        compare("the same, fp32", "a tutorial's loop, PyAV", 1, seconds["fp32"], seconds["PyAV"], **pace),
        compare_to_limit(what, "bare decode and bare model, one after the other", 0.85, seconds["bf16"], least),
    ]


if __name__ == "__main__":
    main(__doc__ or "", measure)
