from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import av
import pytest

from support.video_files import numbered_frames, write_video
from verbspace.data.decoding import container
from verbspace.data.decoding.probe import probe
from verbspace.data.decoding.pyav import decode_frames, frame_times, stream_frames
from verbspace.data.errors import DecodeError


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{other}\n#EXT-X-ENDLIST\n"),
        # Without an end tag, FFmpeg would wait for a live stream to continue.
        ("live.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:100000\n#EXTINF:3.0,\nfile:{other}\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\n{other}\n#EXT-X-ENDLIST\n"),
        ("list.ffconcat", "ffconcat version 1.0\nfile {other}\n"),
        ("list.sdp", "v=0\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"),
    ],
)
def test_playlists_are_rejected(tmp_path: Path, name: str, content: str) -> None:
    other = write_video(tmp_path / "other.ts", numbered_frames(9))
    assert len(frame_times(other)) == 9
    path = tmp_path / name
    path.write_text(content.format(other=other))
    for read in (decode_frames, frame_times, probe):
        with pytest.raises(DecodeError, match=rf"{re.escape(name)}: not decodable as video: "):
            read(path)


def test_frames_much_larger_than_the_header_states_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stream may change its size, but a small file must not fill the memory."""
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 64 * 64)
    path = tmp_path / "grows.ts"
    with av.open(str(path), "w", format="mpegts") as out:
        stream = out.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        packets = [packet for side in (64, 256) for packet in encode_intra(side, 40)]
        for number, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base, packet.pts, packet.dts = stream, Fraction(1, 10), number, number
            out.mux(packet)
    with pytest.raises(DecodeError, match=r"grows\.ts: "):
        list(stream_frames(path))
    monkeypatch.setattr(container, "MAX_FRAME_PIXELS", 256 * 256)
    assert len(list(stream_frames(path))) == 80


def encode_intra(side: int, count: int) -> list[bytes]:
    """Encode H.264 key frames."""
    context = av.CodecContext.create("libx264", "w")
    context.width = context.height = side
    context.pix_fmt, context.time_base, context.framerate = "yuv420p", Fraction(1, 10), Fraction(10, 1)
    context.options = {"preset": "ultrafast", "g": "1"}
    found = []
    for number in range(count):
        frame = av.VideoFrame(side, side, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts = number
        found += [bytes(packet) for packet in context.encode(frame)]
    return found + [bytes(packet) for packet in context.encode(None)]
