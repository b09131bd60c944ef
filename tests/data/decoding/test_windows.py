from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from support.video_files import numbered_frames, write_video
from verbspace.data.decoding import windows
from verbspace.data.decoding.pyav import decode_frames, frame_times, frame_timestamps
from verbspace.data.decoding.timestamps import PacketTimes, TimestampMismatch
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import linspace_in_window, nearest_frame, plan_windows
from verbspace.data.sources.manifest import Record
from verbspace.data.transforms import center_crop
from verbspace.inference.embedding import embed_videos, embed_windows
from verbspace.models.video_encoder import VideoEncoder

FORMATS = {"h264.mp4": "libx264", "mpeg4.avi": "mpeg4", "vp9.webm": "libvpx-vp9"}
plan = partial(plan_windows, length=1.0, stride=0.4)


@pytest.fixture(scope="module", params=FORMATS)
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video of three seconds."""
    path = tmp_path_factory.mktemp("streamed") / request.param
    return write_video(path, numbered_frames(60), FORMATS[request.param], rate=20)


@pytest.mark.parametrize("use_packet_times", [True, False])
def test_windows_have_the_frames_of_a_full_decode(video: Path, use_packet_times: bool) -> None:
    times, every = frame_times(video), decode_frames(video)
    found = list(
        stream_windows(
            video, plan, num_frames=5, preprocessing=FramePreprocessing(32), use_packet_times=use_packet_times
        )
    )
    assert [window for window, _, _ in found] == plan(frame_timestamps(video).duration)
    assert len(found) > 4
    for window, clip, seconds in found:
        places = nearest_frame(times, linspace_in_window(window, 5))
        assert torch.equal(clip, center_crop(every[torch.from_numpy(places)], 32))
        np.testing.assert_allclose(seconds.numpy(), times[places] - window.start, atol=1e-6)


def test_memory_holds_only_the_open_windows(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = windows._decode_crops

    def record(*args: object) -> object:
        for number, crop in original(*args):
            decoded.append(number)
            yield number, crop

    monkeypatch.setattr(windows, "_decode_crops", record)
    next(stream_windows(video, plan, num_frames=5, preprocessing=FramePreprocessing(32)))
    assert max(decoded) < 20  # of 60: only the first window


def test_a_short_video_has_the_embedding_of_embed_videos(video: Path, tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    found = embed_windows(encoder, video, length=10.0)
    assert torch.equal(found.embeddings, embed_videos(encoder, [Record(video)]).embeddings)
    assert found.windows[0].end == pytest.approx(3.0, abs=0.01)


def test_batch_size_does_not_change_embeddings(video: Path, tiny_clip: Path) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    one, many = (embed_windows(encoder, video, length=1.0, stride=0.4, batch_size=size) for size in (1, 16))
    assert one.windows == many.windows
    torch.testing.assert_close(one.embeddings, many.embeddings, atol=1e-5, rtol=0)
    assert one.embeddings.norm(dim=-1).allclose(torch.ones(len(one.windows)))


def test_wrong_packet_times_fall_back_to_a_full_decode(
    video: Path, tiny_clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = VideoEncoder.from_pretrained(tiny_clip)
    right = embed_windows(encoder, video, length=1.0)
    monkeypatch.setattr(windows, "demux", lambda file, keep_packets: PacketTimes(list(range(90)), 1, None))
    if not video.name.endswith(".avi"):  # whose packet times are not used
        with pytest.raises(TimestampMismatch):
            list(stream_windows(video, plan, num_frames=5, preprocessing=FramePreprocessing(32)))
    found = embed_windows(encoder, video, length=1.0)
    assert found.windows == right.windows
    assert torch.equal(found.embeddings, right.embeddings)
