"""Search results as an HTML page of playable clips."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from verbspace.data.decoding.mp4_writer import write_mp4
from verbspace.data.decoding.pyav import read_video
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import nearest_frame
from verbspace.data.sources.inputs import is_url, localize
from verbspace.data.sources.storage import split_segment, split_shard_path
from verbspace.reporting.templating import jpeg_data_uri, render_template
from verbspace.search.schema import Hit
from verbspace.utils.text import format_timestamp

SHORT_SIDE = 320  # pixels, of preview images and embedded clips
BROWSER_EXTENSIONS = (".mp4", ".webm", ".m4v", ".mov", ".ogv")  # files that browsers can play


def render_search_page(
    hits: Sequence[Hit], query: str, folder: Path, *, indices: Sequence[str], embed_clips: bool = False
) -> str:
    """Render search results as an HTML page. A video that cannot be read is shown with the reason.

    Args:
        hits: Search results, best first.
        query: Title of the page.
        folder: Folder of the page. Links to videos are relative to it.
        indices: Names of the indices to show.
        embed_clips: Whether to embed each window as an H.264 clip. The page then needs no other file, and also plays
            videos that browsers cannot play, such as AVI files and members of shards.
    """
    cards = [hit_card(hit, folder, embed_clips) for hit in hits]
    top = max((abs(hit.score) for hit in hits), default=1.0)
    for hit, card in zip(hits, cards, strict=True):
        card["width"] = 100 * max(hit.score, 0) / top
    return render_template("search.html.jinja", query=query, cards=cards, indices=indices, copied=embed_clips)


def hit_card(hit: Hit, folder: Path, embed_clips: bool = False) -> dict[str, Any]:
    """Return the template variables of one search result."""
    card: dict[str, Any] = {
        "path": display_path(hit.path),
        "name": PurePosixPath(hit.path).name,
        "when": f"{format_timestamp(hit.start)} to {format_timestamp(hit.end)}",
        "score": hit.score,
        "index": hit.index,
        "still": None,
        "video": None,
        "reason": None,
    }
    try:
        with localize(hit.path) as local_path:
            preview, clip = extract_window(local_path, hit, embed_clips)
    except (DecodeError, OSError) as error:
        card["reason"] = str(error)
        return card
    card["still"] = jpeg_data_uri(preview)
    card["video"] = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}" if clip else window_url(hit, folder)
    return card


def window_url(hit: Hit, folder: Path) -> str | None:
    """Return the URL of a window relative to a folder, or None if a browser cannot load or play the file."""
    fragment = f"#t={hit.start:.3f},{hit.end:.3f}"
    path, _ = split_segment(hit.path)
    if is_url(path):
        return path + fragment if path.startswith(("http://", "https://")) else None
    if split_shard_path(path) is not None or not path.lower().endswith(BROWSER_EXTENSIONS):
        return None
    return quote(Path(os.path.relpath(path, os.path.abspath(folder))).as_posix()) + fragment


def extract_window(path: Path, hit: Hit, embed_clips: bool) -> tuple[np.ndarray, bytes | None]:
    """Decode the middle frame of a window, RGB (H, W, 3), and encode the window as MP4 if `embed_clips` is set."""
    middle, times = 0, np.empty(0)

    def select_frames(timeline: FrameTimestamps) -> list[int]:
        nonlocal middle, times
        nearest = int(nearest_frame(timeline.times, np.array([(hit.start + hit.end) / 2]))[0])
        inside = np.flatnonzero((timeline.times >= hit.start) & (timeline.times < hit.end))
        selected = sorted({nearest, *inside.tolist()}) if embed_clips else [nearest]
        middle, times = selected.index(nearest), timeline.times[selected]
        return selected

    frames = read_video(path, select_frames, SHORT_SIDE)[1].permute(0, 2, 3, 1).numpy()
    if not embed_clips:
        return frames[middle], None
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    timed_frames = zip(frames, (times - times[0]).tolist(), strict=True)
    with tempfile.TemporaryDirectory(prefix="verbspace-") as folder:
        target = Path(folder) / "clip.mp4"
        write_mp4(target, timed_frames, frame_interval=interval, crf=26, faststart=True)
        return frames[middle], target.read_bytes()


def display_path(path: str) -> str:
    """Return a path relative to the current directory if it is below it; URLs and other paths are unchanged."""
    if is_url(path):
        return path
    relative = os.path.relpath(path)
    return path if relative.startswith("..") else relative
