"""The clip store: which files are served, and encoding for browsers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.app import media
from verbspace.app.html import clip_html
from verbspace.app.media import ClipSegment, ClipStore, is_browser_playable
from verbspace.data.decoding.pyav import decode_frames, frame_times


def test_url_gives_its_clip_and_no_other_file(clip: Path, tmp_path: Path) -> None:
    clips = ClipStore()
    url = clips.url_for(ClipSegment(clip, 1.0, 2.5))
    assert url.endswith("#t=1.00,2.50")
    clip_id = url.removeprefix("clips/").partition("#")[0]
    assert clips.playable_file(clip_id) == clip
    assert ClipStore().url_for(ClipSegment(clip, 1.0, 2.5)) != url  # another instance has other ids
    for guess in ("", "..", str(clip), clip_id[:-1] + ("0" if clip_id[-1] != "0" else "1")):
        assert clips.playable_file(guess) is None
    assert clips.playable_file(clips.url_for(ClipSegment(tmp_path / "gone.mp4", 0, 1)).removeprefix("clips/")) is None


def test_unplayable_segment_is_encoded(tmp_path: Path) -> None:
    unplayable = write_video(tmp_path / "old.avi", numbered_frames(40), "mpeg4", rate=10)
    assert not is_browser_playable(unplayable)
    clips = ClipStore()
    url = clips.url_for(ClipSegment(unplayable, 1.0, 2.0))
    assert "#" not in url
    encoded = clips.playable_file(url.removeprefix("clips/"))
    assert encoded is not None
    assert is_browser_playable(encoded)
    times = frame_times(encoded)
    assert len(times) == 10
    assert times[-1] == pytest.approx(0.9, abs=1e-3)
    assert read_frame_numbers(decode_frames(encoded).numpy()) == list(range(10, 20))
    assert clips.playable_file(url.removeprefix("clips/")) == encoded


def test_concurrent_requests_encode_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    write = media.write_mp4
    monkeypatch.setattr(media, "write_mp4", lambda *args, **how: (runs.append(1), write(*args, **how))[1])
    unplayable = write_video(tmp_path / "old.avi", numbered_frames(30), "mpeg4", rate=10)
    clips = ClipStore()
    clip_id = clips.url_for(ClipSegment(unplayable, 0.5, 1.0)).removeprefix("clips/")
    with ThreadPoolExecutor(6) as pool:
        assert len(set(pool.map(clips.playable_file, [clip_id] * 6))) == 1
    assert runs == [1]


def test_full_clip_is_encoded_only_if_unplayable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    write = media.write_mp4
    monkeypatch.setattr(media, "write_mp4", lambda *args, **how: (runs.append(1), write(*args, **how))[1])
    clips = ClipStore()
    new = write_video(tmp_path / "new.mp4", numbered_frames(20), rate=10)
    url = clips.full_clip_url(new)
    assert url is not None
    assert clips.playable_file(url.removeprefix("clips/")) == new
    assert not runs
    unplayable = write_video(tmp_path / "old.avi", numbered_frames(20), "mpeg4", rate=10)
    url = clips.full_clip_url(unplayable)
    assert url is not None
    assert runs == [1]
    encoded = clips.playable_file(url.removeprefix("clips/"))
    assert encoded is not None
    assert is_browser_playable(encoded)
    assert len(frame_times(encoded)) == 20
    assert clips.full_clip_url(unplayable) == url
    assert runs == [1]
    (tmp_path / "words.avi").write_text("these are words")
    assert clips.full_clip_url(tmp_path / "words.avi") is None
    assert "words.avi cannot be played here" in clip_html("words.avi", None)
    assert "<b>" not in clip_html("<b>.avi", "clips/0") + clip_html("<b>.avi", None)


def test_encoded_clips_fit_the_cache_and_are_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_MAX_CACHE_BYTES", 1)
    clips = ClipStore()
    unplayable = [write_video(tmp_path / f"{n}.avi", numbered_frames(9, seed=n), "mpeg4", rate=10) for n in range(3)]
    clip_ids = [(clips.full_clip_url(path) or "").removeprefix("clips/") for path in unplayable]
    for clip_id in clip_ids:
        encoded = clips.playable_file(clip_id)
        assert encoded is not None
        assert list(encoded.parent.glob("*.mp4")) == [encoded]
