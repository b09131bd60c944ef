"""What an index contains, as an HTML page: a map, clusters with frames of typical videos, outliers and copies."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from verbspace.data.decoding.pyav import read_video
from verbspace.data.decoding.timestamps import FrameTimestamps
from verbspace.data.errors import DecodeError
from verbspace.data.sampling import limit_to_segment, nearest_frame
from verbspace.data.sources.inputs import localize
from verbspace.reporting.found_clips import display_path
from verbspace.reporting.templating import jpeg_data_uri, render_template
from verbspace.search.overview import Overview
from verbspace.utils.text import format_timestamp

THUMBNAILS = 5  # per cluster
MAX_ORIGINALS = 20  # videos whose copies are shown
MAX_COPIES = 4  # copies shown per video
SHORT_SIDE = 120  # pixels
MAP_WIDTH, MAP_HEIGHT, MAP_MARGIN = 1000, 620, 24


def render_collection_page(overview: Overview, *, index: str) -> str:
    """Render an overview as an HTML page that needs no other file. `index` is the name to show."""
    return render_template("collection.html.jinja", index=index, **collection_context(overview))


def collection_context(overview: Overview, display: Callable[[str], str] = display_path) -> dict[str, Any]:
    """Return the template variables of an overview. Frames are read from the videos that are shown.

    Args:
        overview: The overview.
        display: Returns a path as it is shown.
    """
    files = overview.files

    @cache
    def still(path: str) -> tuple[str | None, str | None]:
        try:
            return jpeg_data_uri(read_middle_frame(path)), None
        except DecodeError as error:
            return None, error.reason  # without the path, which the app does not show
        except OSError as error:
            return None, error.strerror or "cannot be read"

    def card(number: int, detail: str = "") -> dict[str, Any]:
        image, reason = still(files[number].path)
        path = files[number].path
        return {
            "name": PurePosixPath(path).name,
            "path": display(path),
            "image": image,
            "reason": reason,
            "detail": detail,
        }

    clusters = [
        {
            "number": number,
            "hue": _hue(number),
            "names": cluster.names,
            "description": cluster.description,
            "count": len(cluster.members),
            "time": format_timestamp(sum(files[n].duration for n in cluster.members)),
            "cards": [card(n) for n in cluster.members[:THUMBNAILS]],
        }
        for number, cluster in enumerate(overview.clusters, 1)
    ]
    index_of = {file.path: n for n, file in enumerate(files)}
    groups: dict[str, list[dict[str, Any]]] = {}
    for copy in overview.duplicates:
        how = "same content" if copy.exact else f"motion {copy.motion:.2f}, embedding {copy.similarity:.3f}"
        groups.setdefault(copy.copy_of, []).append({"number": index_of[copy.path], "how": how})
    largest = sorted(groups, key=lambda path: (-len(groups[path]), path))[:MAX_ORIGINALS]
    copies = [
        {
            "original": card(index_of[path], "stays"),
            "cards": [card(each["number"], each["how"]) for each in groups[path][:MAX_COPIES]],
            "more": len(groups[path]) - MAX_COPIES,
        }
        for path in largest
    ]
    return {
        "videos": len(files),
        "time": format_timestamp(overview.seconds),
        "clusters": clusters,
        "outliers": [card(n, f"similarity {score:.2f}") for n, score in overview.outliers],
        "copies": copies,
        "num_copies": len(overview.duplicates),
        "more_originals": len(groups) - len(copies),
        "map": _map_context(overview),
    }


def read_middle_frame(path: str, short_side: int = SHORT_SIDE) -> np.ndarray:
    """Read the middle frame of a video, uint8 RGB (H, W, 3), with a short side of at most `short_side` pixels."""

    def select_frames(timeline: FrameTimestamps) -> list[int]:
        first, times, duration = limit_to_segment(path, timeline.times, timeline.duration)
        return [first + int(nearest_frame(times, np.array([duration / 2]))[0])]

    with localize(path) as local_path:
        frame: np.ndarray = read_video(local_path, select_frames, short_side)[1][0].permute(1, 2, 0).numpy()
    return frame


def _map_context(overview: Overview) -> dict[str, Any]:
    """Return the points of the map in the units of its view box, and a label on the middle point of each cluster."""
    cluster_of = {n: number for number, cluster in enumerate(overview.clusters, 1) for n in cluster.members}
    outliers = {n for n, _ in overview.outliers}
    size = np.array([MAP_WIDTH - 2 * MAP_MARGIN, MAP_HEIGHT - 2 * MAP_MARGIN])
    places = MAP_MARGIN + overview.positions * size
    points = [
        {
            "x": x, "y": y, "cluster": cluster_of[n], "hue": _hue(cluster_of[n]), "outlier": n in outliers,
            "name": PurePosixPath(overview.files[n].path).name,
        }
        for n, (x, y) in zip(overview.points, places.tolist(), strict=True)
    ]  # fmt: skip
    labels = []
    for number in range(1, len(overview.clusters) + 1):
        inside = places[[point["cluster"] == number for point in points]]
        if len(inside):
            x, y = inside[np.linalg.norm(inside - np.median(inside, axis=0), axis=1).argmin()].tolist()
            labels.append({"number": number, "x": x, "y": y})
    radius = 6.0 if len(points) < 300 else 4.0 if len(points) < 1200 else 3.0
    return {"points": points, "labels": labels, "radius": radius, "width": MAP_WIDTH, "height": MAP_HEIGHT}


def _hue(number: int) -> int:
    """Return the hue of a cluster in degrees. Neighboring numbers are far apart (golden angle)."""
    return round(215 + 137.5 * (number - 1)) % 360
