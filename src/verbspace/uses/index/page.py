"""What was found, as a page of clips that play."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np

from verbspace.uses.index.hits import Hit
from verbspace.uses.inputs import fetch, is_url
from verbspace.uses.pictures import data_uri, jpeg
from verbspace.uses.printing import clock
from verbspace.uses.rendering import render
from verbspace.video.decode import DecodeError, Timeline, read_video
from verbspace.video.sampling import nearest
from verbspace.video.storage import shard_of
from verbspace.video.writing import write_mp4

SHORT_SIDE = 320  # pixels of a still, and of a clip that is copied
PLAYED = (".mp4", ".webm", ".m4v", ".mov", ".ogv")  # by browsers


def search_page(hits: Sequence[Hit], query: str, folder: Path, *, index: str, copy: bool = False) -> str:
    """One HTML page with a card for each hit: a still of the window's middle, and the window to play.

    folder: where the page will lie; videos are linked from there. copy: clips are cut out, encoded as H.264 and kept
    in the page, which then needs no other file and plays what browsers cannot: AVI files, members of shards. A file
    that is gone has its reason in the place of its picture.
    """
    cards = [card(hit, folder, copy) for hit in hits]
    top = max((abs(hit.score) for hit in hits), default=1.0)
    for hit, one in zip(hits, cards, strict=True):
        one["width"] = 100 * max(hit.score, 0) / top
    return render("search.html.jinja", query=query, cards=cards, index=index, copied=copy)


def card(hit: Hit, folder: Path, copy: bool = False) -> dict[str, Any]:
    """What the template shows of one hit."""
    found: dict[str, Any] = {
        "path": shown_path(hit.path),
        "name": PurePosixPath(hit.path).name,
        "when": f"{clock(hit.start)} to {clock(hit.end)}",
        "score": hit.score,
        "still": None,
        "video": None,
        "reason": None,
    }
    try:
        with ExitStack() as keep:
            local = fetch(hit.path, keep)
            still, clip = pictures(local, hit, copy)
    except (DecodeError, OSError) as error:
        found["reason"] = str(error)
        return found
    found["still"] = data_uri(jpeg(still))
    found["video"] = f"data:video/mp4;base64,{base64.b64encode(clip).decode()}" if clip else link(hit, folder)
    return found


def link(hit: Hit, folder: Path) -> str | None:
    """The address of a window in its video, seen from a folder; None where a browser cannot get at it."""
    part = f"#t={hit.start:.3f},{hit.end:.3f}"
    if is_url(hit.path):
        return hit.path + part if hit.path.startswith(("http://", "https://")) else None
    if shard_of(hit.path) is not None or not hit.path.lower().endswith(PLAYED):
        return None
    return quote(Path(os.path.relpath(hit.path, os.path.abspath(folder))).as_posix()) + part


def pictures(path: Path, hit: Hit, copy: bool) -> tuple[np.ndarray, bytes | None]:
    """The frame in the middle of a window, RGB (H, W, 3), and the window as MP4 where asked for, from one decode."""
    middle, when = 0, np.empty(0)

    def choose(timeline: Timeline) -> list[int]:
        nonlocal middle, when
        place = int(nearest(timeline.times, np.array([(hit.start + hit.end) / 2]))[0])
        inside = np.flatnonzero((timeline.times >= hit.start) & (timeline.times < hit.end))
        chosen = sorted({place, *inside.tolist()}) if copy else [place]
        middle, when = chosen.index(place), timeline.times[chosen]
        return chosen

    frames = read_video(path, choose, SHORT_SIDE)[1].permute(0, 2, 3, 1).numpy()
    if not copy:
        return frames[middle], None
    step = float(np.median(np.diff(when))) if len(when) > 1 else 1.0
    with tempfile.TemporaryDirectory(prefix="verbspace-") as folder:
        target = Path(folder) / "clip.mp4"
        write_mp4(target, zip(frames, (when - when[0]).tolist(), strict=True), step=step, crf=26, faststart=True)
        return frames[middle], target.read_bytes()


def shown_path(path: str) -> str:
    """A path for eyes: from the folder where one is, if it lies below that."""
    if is_url(path):
        return path
    near = os.path.relpath(path)
    return path if near.startswith("..") else near
