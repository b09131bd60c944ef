"""Cuts between shots, and windows that follow them."""

import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.video_files import numbered_frames, write_shots, write_video
from verbspace.data.decoding.pyav import frame_times
from verbspace.data.decoding.shots import detect_cuts
from verbspace.data.decoding.windows import stream_windows
from verbspace.data.errors import DecodeError
from verbspace.data.frame_preprocessing import FramePreprocessing
from verbspace.data.sampling import Window, plan_shot_windows, plan_windows, validate_window_kind
from verbspace.inference.embedding import embed_windows
from verbspace.models.video_encoder import VideoEncoder


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")])
def test_cuts_are_the_times_of_the_first_frames(tmp_path: Path, name: str, codec: str) -> None:
    video = write_shots(tmp_path / name, codec=codec)
    assert detect_cuts(video) == frame_times(video)[[20, 44]].tolist()


def test_cuts_of_a_part_are_seconds_of_the_part(tmp_path: Path) -> None:
    video = write_shots(tmp_path / "a.mp4")
    assert detect_cuts(f"{video}#t=0.5,2") == pytest.approx([0.5])
    assert detect_cuts(f"{video}#t=1,2.2") == []  # a part that begins with a shot, and ends with one


def test_a_video_of_one_shot_has_no_cut(tmp_path: Path) -> None:
    video = write_shots(tmp_path / "a.mp4", (30,))
    assert detect_cuts(video) == []
    image = write_video(tmp_path / "one.mp4", numbered_frames(1))
    assert detect_cuts(image) == []
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(DecodeError, match=r"bad\.mp4"):
        detect_cuts(tmp_path / "bad.mp4")


def test_windows_show_frames_of_one_shot(tmp_path: Path, tiny_clip: Path) -> None:
    video = write_shots(tmp_path / "a.mp4")
    cuts = detect_cuts(video)
    found = stream_windows(
        video,
        lambda duration: plan_shot_windows(duration, cuts, 1.0, 0.5),
        num_frames=8,
        preprocessing=FramePreprocessing(48),
    )
    windows = []
    for window, clip, _ in found:
        colors = clip[:, :, 30:].float().mean((2, 3)).argmax(1)
        assert set(colors.tolist()) == {sum(window.start >= cut for cut in cuts)}
        windows.append(window)
    assert windows[0] == Window(0.0, cuts[0])
    assert [window.start for window in windows] == pytest.approx([0, 1.0, 1.2, 2.2])
    embedded = embed_windows(VideoEncoder.from_pretrained(tiny_clip), video, length=1.0, windows="shots")
    assert embedded.windows == windows
    assert len(embedded.embeddings) == 4


@settings(deadline=None, max_examples=200)
@given(
    st.floats(0.1, 60),
    st.lists(st.floats(0, 60), max_size=6, unique=True).map(sorted),
    st.floats(0.2, 9),
    st.floats(0.1, 1),
)
def test_windows_cover_each_shot_and_contain_no_cut(
    duration: float, cuts: list[float], length: float, overlap: float
) -> None:
    windows = plan_shot_windows(duration, cuts, length, overlap * length)
    inside = [cut for cut in cuts if 0 < cut < duration]
    assert (windows[0].start, windows[-1].end) == (0, duration)
    for before, after in pairwise(windows):
        assert before.start < after.start <= before.end + 1e-9
        assert before.end < after.end or before.end in inside
    for cut in inside:
        assert all(window.end <= cut or window.start >= cut for window in windows)
        assert any(window.start == cut for window in windows)
        assert any(window.end == cut for window in windows)
    assert max(window.end - window.start for window in windows) <= length + 1e-9
    assert plan_shot_windows(duration, [], length, overlap * length) == plan_windows(duration, length, overlap * length)


def test_a_missing_package_and_an_unknown_kind_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ValueError, match=r"need PySceneDetect; pip install 'verbspace\[shots\]'"):
        detect_cuts(tmp_path / "a.mp4")
    with pytest.raises(ValueError, match="windows: 'scenes' is not one of fixed, shots"):
        validate_window_kind("scenes")
