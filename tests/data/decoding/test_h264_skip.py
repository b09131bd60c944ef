from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.video_files import numbered_frames, write_video
from verbspace.data.decoding.container import open_video
from verbspace.data.decoding.h264_skip import is_non_reference, required_packets
from verbspace.data.decoding.pyav import decode_frames, frame_times

KINDS = {
    "three B-frames": {"bf": "3"},
    "pyramid of B-frames": {"bf": "7", "x264-params": "b-pyramid=normal:b-adapt=0"},
    "no pyramid": {"bf": "3", "x264-params": "b-pyramid=none:b-adapt=0"},
    "no B-frames": {"bf": "0"},
    "open groups": {"bf": "3", "g": "8", "x264-params": "open-gop=1"},
    "many slices": {"bf": "3", "x264-params": "slices=4"},
    "interlaced": {"bf": "3", "x264-params": "interlaced=1"},
}


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("skipping")
    frames = numbered_frames(30)
    return {kind: write_video(folder / f"{n}.mp4", frames, **KINDS[kind]) for n, kind in enumerate(KINDS)}


def count_skipped(path: Path, frame_indices: set[int]) -> int:
    """Number of packets that are skipped for the given frames."""
    with open_video(path) as file:
        packets = list(file.iter_packets())
        pts = sorted(packet.pts for packet in packets if packet.size)
        numbers, required = required_packets(file.stream.codec_context, packets, pts, frame_indices)
    assert len(packets) - len(required) == len(pts) - len(numbers)
    return len(packets) - len(required)


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=15)
@given(indices=st.lists(st.integers(0, 29), min_size=1, max_size=8))
def test_frames_are_those_of_the_full_decode(videos: dict[str, Path], kind: str, indices: list[int]) -> None:
    assert torch.equal(decode_frames(videos[kind], indices), decode_frames(videos[kind])[indices])


def test_unneeded_packets_are_skipped(videos: dict[str, Path]) -> None:
    assert len(frame_times(videos["no pyramid"])) == 30
    assert count_skipped(videos["no pyramid"], {29}) >= 15
    assert count_skipped(videos["no pyramid"], set(range(30))) == 0
    assert count_skipped(videos["no B-frames"], {29}) == 0
    assert 0 < count_skipped(videos["pyramid of B-frames"], {0}) < 30


def test_nothing_is_skipped_for_other_codecs(tmp_path: Path) -> None:
    other = write_video(tmp_path / "a.mp4", numbered_frames(12), codec="mpeg4")
    assert count_skipped(other, {11}) == 0


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"\0\0\0\2\x01\xff", True),  # a slice, no reference
        (b"\0\0\0\2\x41\xff", False),  # a reference slice
        (b"\0\0\0\2\x06\xff\0\0\0\2\x01\xff", True),  # a message, then a slice
        (b"\0\0\0\2\x01\xff\0\0\0\2\x21\xff", False),  # two fields, one of them a reference
        (b"\0\0\0\2\x06\xff", False),  # no picture
        (b"\0\0\0\x09\x01\xff", False),  # longer than the packet
        (b"\0\0\0\0\x01\xff", False),  # empty
        (b"\0\0", False),
        (b"", False),
    ],
)
def test_is_non_reference(packet: bytes, expected: bool) -> None:
    assert is_non_reference(packet, 4) == expected
