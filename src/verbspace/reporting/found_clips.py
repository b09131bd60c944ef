"""What was found, as a page of clips that play."""

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
from verbspace.data.sources.storage import split_shard_path
from verbspace.reporting.images import data_uri, encode_jpeg
from verbspace.reporting.templating import render_template
from verbspace.search.schema import Hit
from verbspace.utils.text import format_timestamp

SHORT_SIDE = 320  # pixels of a still, and of a clip that is copied
BROWSER_EXTENSIONS = (".mp4", ".webm", ".m4v", ".mov", ".ogv")  # by browsers


def render_search_page(hits: Sequence[Hit], query: str, folder: Path, *, index: str, embed_clips: bool = False) -> str:
    """One HTML page with a card for each hit: a still of the window's middle, and the window to play.

    folder: where the page will lie; videos are linked from there. copy: clips are cut out, encoded as H.264 and kept
    in the page, which then needs no other file and plays what browsers cannot: AVI files, members of shards. A file
    that is gone has its reason in the place of its picture.
    """
    cards = [hit_card(hit, folder, embed_clips) for hit in hits]
    top = max((abs(hit.score) for hit in hits), default=1.0)
    for hit, one in zip(hits, cards, strict=True):
        one["width"] = 100 * max(hit.score, 0) / top
    return render_template("search.html.jinja", query=query, cards=cards, index=index, copied=embed_clips)


def hit_card(hit: Hit, folder: Path, embed_clips: bool = False) -> dict[str, Any]:
    """What the template shows of one hit."""
    found: dict[str, Any] = {
        "path": display_path(hit.path),
        "name": PurePosixPath(hit.path).name,
        "when": f"{format_timestamp(hit.start)} to {format_timestamp(hit.end)}",
        "score": hit.score,
        "still": None,
        "video": None,
        "reason": None,
    }
    try:
        with localize(hit.path) as local:
            still, clip = extract_window(local, hit, embed_clips)
    except (DecodeError, OSError) as error:
        found["reason"] = str(error)
        return found
    found["still"] = data_uri(encode_jpeg(still))
    found["video"] = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}" if clip else window_url(hit, folder)
    return found


def window_url(hit: Hit, folder: Path) -> str | None:
    """The address of a window in its video, seen from a folder; None where a browser cannot get at it."""
    part = f"#t={hit.start:.3f},{hit.end:.3f}"
    if is_url(hit.path):
        return hit.path + part if hit.path.startswith(("http://", "https://")) else None
    if split_shard_path(hit.path) is not None or not hit.path.lower().endswith(BROWSER_EXTENSIONS):
        return None
    return quote(Path(os.path.relpath(hit.path, os.path.abspath(folder))).as_posix()) + part


def extract_window(path: Path, hit: Hit, embed_clips: bool) -> tuple[np.ndarray, bytes | None]:
    """The frame in the middle of a window, RGB (H, W, 3), and the window as MP4 where asked for, from one decode."""
    middle, when = 0, np.empty(0)

    def select_frames(timeline: FrameTimestamps) -> list[int]:
        nonlocal middle, when
        place = int(nearest_frame(timeline.times, np.array([(hit.start + hit.end) / 2]))[0])
        inside = np.flatnonzero((timeline.times >= hit.start) & (timeline.times < hit.end))
        chosen = sorted({place, *inside.tolist()}) if embed_clips else [place]
        middle, when = chosen.index(place), timeline.times[chosen]
        return chosen

    frames = read_video(path, select_frames, SHORT_SIDE)[1].permute(0, 2, 3, 1).numpy()
    if not embed_clips:
        return frames[middle], None
    step = float(np.median(np.diff(when))) if len(when) > 1 else 1.0
    with tempfile.TemporaryDirectory(prefix="verbspace-") as folder:
        target = Path(folder) / "clip.mp4"
        write_mp4(
            target, zip(frames, (when - when[0]).tolist(), strict=True), frame_interval=step, crf=26, faststart=True
        )
        return frames[middle], target.read_bytes()


def display_path(path: str) -> str:
    """A path for eyes: from the folder where one is, if it lies below that."""
    if is_url(path):
        return path
    near = os.path.relpath(path)
    return path if near.startswith("..") else near
