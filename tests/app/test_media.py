"""The clip store: which files are served, and encoding for browsers."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.app import media
from verbspace.app.html import clip_html
from verbspace.app.media import ClipSegment, ClipStore, OpaqueIds, is_browser_playable, thumbnail
from verbspace.data.decoding.pyav import decode_frames, frame_times


@pytest.fixture
def encodings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were encoded for browsers."""
    files: list[Path] = []
    write = media.write_mp4
    monkeypatch.setattr(media, "write_mp4", lambda path, *args, **how: (files.append(path), write(path, *args, **how)))
    return files


def clip_id(url: str | None) -> str:
    assert url is not None
    return url.removeprefix("clips/").partition("#")[0]


def test_url_gives_its_clip_and_no_other_file(clip: Path, tmp_path: Path) -> None:
    clips = ClipStore()
    url = clips.url_for(ClipSegment(clip, 1.0, 2.5))
    assert url.endswith("#t=1.00,2.50")
    key = clip_id(url)
    assert clips.playable_file(key) == clip
    assert clips.url_for(ClipSegment(clip, 1.0, 2.5)) == url != clips.url_for(ClipSegment(clip, 1.0, 2.0))
    assert ClipStore().url_for(ClipSegment(clip, 1.0, 2.5)) != url  # another instance has other ids
    for guess in ("", "..", str(clip), key[:-1] + ("0" if key[-1] != "0" else "1")):
        assert clips.playable_file(guess) is None
    assert clips.playable_file(clip_id(clips.url_for(ClipSegment(tmp_path / "gone.mp4", 0, 1)))) is None


def test_oldest_ids_are_dropped() -> None:
    keys: OpaqueIds[int] = OpaqueIds(2)
    one, two = keys.register("one", 1), keys.register("two", 2)
    assert keys.register("one", 1) == one
    keys.register("three\ud800", 3)
    assert (keys.lookup(one), keys.lookup(two)) == (1, None)


def test_unplayable_segment_is_encoded(tmp_path: Path) -> None:
    unplayable = write_video(tmp_path / "old.avi", numbered_frames(40), "mpeg4", rate=10)
    assert not is_browser_playable(unplayable)
    clips = ClipStore()
    url = clips.url_for(ClipSegment(unplayable, 1.0, 2.0))
    assert "#" not in url
    encoded = clips.playable_file(clip_id(url))
    assert encoded is not None
    assert is_browser_playable(encoded)
    times = frame_times(encoded)
    assert len(times) == 10
    assert times[-1] == pytest.approx(0.9, abs=1e-3)
    assert read_frame_numbers(decode_frames(encoded).numpy()) == list(range(10, 20))
    assert clips.playable_file(clip_id(url)) == encoded


def test_full_clip_is_encoded_once_if_unplayable(tmp_path: Path, encodings: list[Path]) -> None:
    clips = ClipStore()
    new = write_video(tmp_path / "new.mp4", numbered_frames(20), rate=10)
    assert clips.playable_file(clip_id(clips.full_clip_url(new))) == new
    assert not encodings
    unplayable = write_video(tmp_path / "old.avi", numbered_frames(20), "mpeg4", rate=10)
    with ThreadPoolExecutor(6) as pool:
        (url,) = set(pool.map(clips.full_clip_url, [unplayable] * 6))
    encoded = clips.playable_file(clip_id(url))
    assert encoded is not None
    assert is_browser_playable(encoded)
    assert len(frame_times(encoded)) == 20
    assert len(encodings) == 1
    (tmp_path / "words.avi").write_text("these are words")
    assert clips.full_clip_url(tmp_path / "words.avi") is None
    assert "words.avi cannot be played here" in clip_html("words.avi", None)
    assert "<b>" not in clip_html("<b>.avi", "clips/0") + clip_html("<b>.avi", None)


def test_encoded_clips_fit_the_cache_and_are_encoded_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "_MAX_CACHE_BYTES", 1)
    clips = ClipStore()
    unplayable = [write_video(tmp_path / f"{n}.avi", numbered_frames(9, seed=n), "mpeg4", rate=10) for n in range(3)]
    for url in [clips.full_clip_url(path) for path in unplayable]:
        encoded = clips.playable_file(clip_id(url))
        assert encoded is not None
        assert list(encoded.parent.glob("*.mp4")) == [encoded]


def test_thumbnail_is_a_small_jpeg_of_the_middle_frame(tmp_path: Path) -> None:
    frames = np.full((11, 240, 320, 3), 20, np.uint8)
    frames[4:7] = 200
    image = thumbnail(write_video(tmp_path / "bright middle.mp4", frames, rate=10))
    assert image is not None
    with Image.open(io.BytesIO(image)) as decoded:
        assert decoded.format == "JPEG"
        assert decoded.size == (160, 120)
        assert np.asarray(decoded).mean() == pytest.approx(200, abs=4)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert thumbnail(broken) is None
