"""Opening a video file with PyAV: allowed formats, stream information, packets and frames."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import av

from verbspace.data.decoding.streams import (
    HDR_TRANSFERS,
    PICTURES,
    best_video_stream,
    format_names,
    header_duration,
    square_pixel_size,
)
from verbspace.data.errors import DecodeError, read_error
from verbspace.data.sources import storage
from verbspace.data.sources.frame_folders import frame_rate, frame_sequence

# For these codecs in these containers, each packet holds exactly one frame and its presentation time.
RELIABLE_PTS_FORMATS = {"mov", "mp4", "matroska", "webm", "image2"}
RELIABLE_PTS_CODECS = {
    "h264",
    "hevc",
    "vp9",
    "libvpx-vp9",
    "av1",
    "libdav1d",
    "mpeg4",
    "mjpeg",
    "ffv1",
    "png",
    "bmp",
    "webp",
}
# FFmpeg may only open formats that contain their own frames. Playlists and similar formats (HLS, DASH, concat, SDP,
# image sequences) refer to other files, so a malicious video could make us read any file of this machine.
ALLOWED_FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,asf_o,flv,kux,live_flv,mpegts,mpegtsraw,mpeg,mpegvideo,m4v,mjpeg,"
    "mjpeg_2000,h261,h263,h264,hevc,vvc,av1,obu,ivf,vc1,vc1test,dirac,ogg,nut,mxf,gxf,dv,rm,wtv,swf,nsv,pva,vob,"
    "yuv4mpegpipe,gif,apng,png_pipe,jpeg_pipe,webp_pipe,bmp_pipe,tiff_pipe"
)
ALLOWED_PROTOCOLS = "file,subfile"
MAX_FRAME_PIXELS = 4096 * 2304  # limit for a frame, unless the header already announces larger ones


class VideoFile:
    """An open video file, decoded in one thread. As a context manager, it turns FFmpeg's errors into DecodeError."""

    max_buffer_bytes = 256 << 20  # packets or decoded frames kept in memory; larger videos are read twice

    def __init__(self, path: Path, byte_range: storage.ByteRange) -> None:
        self.path = path
        url, format_name = storage.ffmpeg_url(byte_range), None
        options = {"format_whitelist": ALLOWED_FORMATS, "protocol_whitelist": ALLOWED_PROTOCOLS}
        self.is_frame_folder = path.is_dir()
        if self.is_frame_folder:
            # FFmpeg numbers the images itself, so it reads no others.
            format_name, url, sequence = "image2", *image_sequence(path)
            options |= {"format_whitelist": "image2", **sequence}
        try:
            # Metadata is not used, so its encoding errors do not matter.
            self.container = av.open(url, format=format_name, metadata_errors="ignore", options=options)
        except av.ArgumentError:  # FFmpeg's error for a format outside the whitelist
            raise DecodeError(path, "not decodable as video: not a video container, or a playlist of files") from None
        except av.FFmpegError as error:
            raise _not_decodable(path, error) from None
        try:
            self.stream = self._find_video_stream()
        except DecodeError:
            self.container.close()
            raise

    def _find_video_stream(self) -> Any:
        stream = best_video_stream(self.container)
        if stream is None:
            others = [s for s in self.container.streams if s.type != "video" or s.disposition & PICTURES]
            kinds = sorted({"a picture" if s.type == "video" else s.type for s in others}) or ["nothing"]
            raise DecodeError(self.path, f"no video stream found, only {' and '.join(kinds)}; pass a video file")
        context = stream.codec_context
        if context is None:
            raise DecodeError(self.path, "the video codec is unknown, or the file is damaged")
        context.thread_count = 1  # data loading runs one worker per core
        # The frame size may change within a stream, but must not fill the memory.
        max_pixels = max(4 * context.width * context.height, MAX_FRAME_PIXELS)
        context.options = {**context.options, "max_pixels": str(max_pixels)}
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.container.close()
        if isinstance(error, av.FFmpegError):
            raise _not_decodable(self.path, error) from None

    @property
    def has_reliable_pts(self) -> bool:
        """Whether the presentation times of the packets are those of the frames."""
        formats = format_names(self.container)
        return bool(formats & RELIABLE_PTS_FORMATS) and self.stream.codec_context.codec.name in RELIABLE_PTS_CODECS

    def iter_frames(self, packets: Sequence[Any] | None = None) -> Iterator[Any]:
        """Yield the decoded frames in display order, by default of the whole file. Concealed damage is an error."""
        count = 0
        for packet in self.iter_packets() if packets is None else packets:
            for frame in packet.decode():
                if frame.is_corrupt:
                    raise DecodeError(self.path, f"damaged at frame {count}")
                yield frame
                count += 1

    def iter_packets(self) -> Iterator[Any]:
        """Yield the packets of the video stream in decoding order. The last one is empty and flushes the decoder."""
        for count, packet in enumerate(self.container.demux(self.stream)):
            if packet.is_corrupt:
                raise DecodeError(self.path, f"truncated or damaged at packet {count}")
            yield packet

    @property
    def hdr(self) -> str | None:
        """The kind of high dynamic range that the header states: ``HLG``, ``PQ`` or None."""
        return HDR_TRANSFERS.get(int(self.stream.codec_context.color_trc))

    @property
    def has_square_pixels(self) -> bool:
        """Whether frames are shown as they are stored."""
        context = self.stream.codec_context
        size = context.height, context.width
        return self.square_pixel_size(*size) == size

    def square_pixel_size(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) of a stored frame of this video once its pixels are square."""
        return square_pixel_size(self.stream, height, width)

    def header_duration(self) -> float | None:
        """Return the seconds of the video, from the first frame to the end of the last; None if it is not stated."""
        return header_duration(self.container, self.stream)

    def frame_bytes(self, max_short_side: int | None) -> int:
        """Return the size in bytes of one RGB frame after `fit_short_side`."""
        context = self.stream.codec_context
        height, width = fit_short_side(*self.square_pixel_size(context.height, context.width), max_short_side)
        return height * width * 3


def image_sequence(folder: Path) -> tuple[str, dict[str, str]]:
    """Return the pattern and options of FFmpeg for a folder of images. Raises DecodeError if a number is missing."""
    try:
        sequence, rate = frame_sequence(os.listdir(folder)), frame_rate(os.fspath(folder))
    except OSError as error:
        raise read_error(folder, error, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise DecodeError(folder, str(error)) from None
    if sequence is None:
        raise DecodeError(folder, "not a file, and not a folder with the numbered images of one video")
    first, count = sequence.numbers[0], len(sequence.numbers)
    missing = next(
        (n for n, number in zip(range(first, first + count), sequence.numbers, strict=True) if n != number), None
    )
    if missing is not None:
        raise DecodeError(folder, f"image {missing} is missing; number the images without gaps")
    pattern = f"{folder}{os.sep}{sequence.prefix}".replace("%", "%%")
    url = f"file:{pattern}%0{sequence.digits}d{sequence.extension.replace('%', '%%')}"
    return url, {"pattern_type": "sequence", "start_number": str(first), "framerate": str(rate)}


def _not_decodable(path: Path, error: av.FFmpegError) -> DecodeError:
    return read_error(path, error, f"not decodable as video: {error.strerror or error}")


def open_video(path: Path) -> VideoFile:
    """Open a video file, or a video in a tar shard."""
    try:
        byte_range = storage.locate(str(path))
        exists = byte_range is not None or path.exists()
    except OSError as error:  # no permission for a parent folder, or the name is too long
        raise read_error(path, error, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ValueError as error:
        raise DecodeError(path, str(error)) from None
    if byte_range is None:
        reason = "not a file, and not a folder with the numbered images of one video"
        raise DecodeError(path, reason if exists else "there is no such file")
    if byte_range.size == 0:
        raise DecodeError(path, "the file is empty")
    return VideoFile(path, byte_range)


def fit_short_side(height: int, width: int, max_short_side: int | None) -> tuple[int, int]:
    """Scale (height, width) down so that the short side is at most `max_short_side`; never scale up."""
    short = min(height, width)
    if max_short_side is None or short <= max_short_side:
        return height, width
    return max(1, round(height * max_short_side / short)), max(1, round(width * max_short_side / short))
