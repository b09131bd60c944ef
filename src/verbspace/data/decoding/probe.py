"""Properties of a video file, read without decoding frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av

from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.timestamps import timestamps_from_packets


@dataclass(frozen=True)
class StreamInfo:
    """Properties of a video as its header states them. `fps` is 0 and `duration`, in seconds, None if unknown.

    `width` and `height` are those of the decoded frames, which have square pixels. `hdr` is ``HLG``, ``PQ`` or None.
    """

    codec: str
    container: str
    width: int
    height: int
    fps: float
    duration: float | None
    hdr: str | None = None


def probe(path: str | Path) -> StreamInfo:
    """Read the header of a video file, and all packets if the header does not state how long the video is."""
    with open_video(Path(path)) as file:
        stream, context = file.stream, file.stream.codec_context
        height, width = file.square_pixel_size(context.height, context.width)
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        container = file.container.format.name.split(",")[0]
        duration = file.header_duration()
        if duration is None and file.has_reliable_pts:
            found = timestamps_from_packets(file, None)
            duration = None if found is None else found[0].duration
        if duration is None and file.container.duration:
            duration = file.container.duration / av.time_base
        return StreamInfo(context.codec.name, container, width, height, fps, duration, file.hdr)
