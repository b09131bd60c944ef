"""A video file, opened: what FFmpeg may take it for, its video stream, its packets and frames (PyAV)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av

from verbspace.data.errors import DecodeError
from verbspace.data.sources import storage

# One packet shows exactly one frame, at the packet's time, for these codecs in these containers.
RELIABLE_PTS_FORMATS = {"mov", "mp4", "matroska", "webm"}
RELIABLE_PTS_CODECS = {"h264", "hevc", "vp9", "libvpx-vp9", "av1", "libdav1d", "mpeg4", "mjpeg", "ffv1"}
# What FFmpeg may take a file for: formats whose pictures lie in the file itself. Playlists and the like (HLS, DASH,
# concat, SDP, numbered pictures) name other files, and who wrote one would say which files of this machine are read.
ALLOWED_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,kux,live_flv,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,mjpeg,"
    "mjpeg_2000,h261,h263,h264,hevc,vvc,av1,obu,ivf,vc1,vc1test,dirac,ogg,nut,mxf,gxf,dv,rm,wtv,swf,nsv,pva,vob,"
    "yuv4mpegpipe,gif,apng,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
ALLOWED_PROTOCOLS = "file,subfile"
MAX_FRAME_PIXELS = 4096 * 2304  # pixels of a frame, where the header promises no larger ones


@dataclass(frozen=True)
class StreamInfo:
    """What a file's header says, which nothing has checked: codec, container, pixels, frames a second, seconds."""

    codec: str
    container: str
    width: int
    height: int
    fps: float
    duration: float | None


class VideoFile:
    """An open file and its video stream, decoded in one thread."""

    def __init__(self, path: Path, byte_range: storage.ByteRange) -> None:
        self.path = path
        # Tags in unknown encodings are no reason to refuse a file: we do not read them.
        allowed = {"format_whitelist": ALLOWED_FORMATS, "protocol_whitelist": ALLOWED_PROTOCOLS}
        try:
            self.container = av.open(storage.ffmpeg_url(byte_range), metadata_errors="ignore", options=allowed)
        except av.ArgumentError:  # what FFmpeg answers where a format is not among these
            raise DecodeError(path, "not decodable as video: it is no container of video, or a list of files") from None
        try:
            streams = [s for s in self.container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not streams:
                kinds = sorted({stream.type for stream in self.container.streams}) or ["nothing"]
                raise DecodeError(path, f"there is no video in this file, only {' and '.join(kinds)}")
            self.stream = streams[0]
            if self.stream.codec_context is None:
                raise DecodeError(path, "the video is of an unknown codec, or the file is damaged")
            context = self.stream.codec_context
            context.thread_count = 1  # data loading runs one worker per core
            # Frames may grow within a stream; not so far that a small file fills the memory.
            context.options = {
                **context.options,
                "max_pixels": str(max(4 * context.width * context.height, MAX_FRAME_PIXELS)),
            }
        except BaseException:
            self.container.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self.container.close()

    @property
    def has_reliable_pts(self) -> bool:
        """Whether packets tell the frames' times."""
        formats = set(self.container.format.name.split(","))
        return bool(formats & RELIABLE_PTS_FORMATS) and self.stream.codec_context.codec.name in RELIABLE_PTS_CODECS

    def iter_frames(self, packets: Sequence[Any] | None = None) -> Iterator[Any]:
        """Decoded frames in display order, from packets already read or from the file.

        What the decoder guesses in place of lost data is no frame of the video: such a frame raises
        DecodeError.
        """
        count = 0
        for packet in self.iter_packets() if packets is None else packets:
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise DecodeError(self.path, f"damaged at frame {count}")
                yield frame
                count += 1

    def iter_packets(self) -> Iterator[Any]:
        """The video stream's packets, in decoding order; the last is empty and flushes the decoder."""
        for count, packet in enumerate(self.container.demux(self.stream)):
            if packet.is_corrupt:
                raise DecodeError(self.path, f"cut short or damaged at packet {count}")
            yield packet

    def frame_bytes(self, max_short_side: int | None) -> int:
        """Bytes of one RGB frame after shrinking."""
        context = self.stream.codec_context
        height, width = fit_short_side(context.height, context.width, max_short_side)
        return height * width * 3


def open_video(path: Path) -> VideoFile:
    """Raises DecodeError, and what PyAV raises for a file that is no video."""
    try:
        where = storage.locate(str(path))
        exists = where is not None or path.exists()
    except OSError as error:  # a folder on the way may not be entered, or a name is too long
        raise DecodeError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise DecodeError(path, str(error)) from None
    if where is None:
        raise DecodeError(path, "not a file" if exists else "there is no such file")
    if where.size == 0:
        raise DecodeError(path, "the file is empty")
    return VideoFile(path, where)


def probe(path: str | Path) -> StreamInfo:
    """Open a file and read its header; nothing is decoded. Raises DecodeError."""
    path = Path(path)
    try:
        with closing(open_video(path)) as file:
            stream, context = file.stream, file.stream.codec_context
            unit = stream.time_base if stream.duration else 1 / av.time_base if file.container.duration else None
            ticks = stream.duration or file.container.duration
            return StreamInfo(
                context.codec.name,
                file.container.format.name.split(",")[0],
                context.width,
                context.height,
                float(stream.average_rate or stream.guessed_rate or 0),
                None if unit is None else float(ticks * unit),
            )
    except av.FFmpegError as error:
        raise DecodeError(path, f"not decodable as video: {error.strerror or error}") from None


def fit_short_side(height: int, width: int, max_short_side: int | None) -> tuple[int, int]:
    """Height and width with the short side at most `size`, in the same shape."""
    short = min(height, width)
    if max_short_side is None or short <= max_short_side:
        return height, width
    return max(1, round(height * max_short_side / short)), max(1, round(width * max_short_side / short))
