"""What the app shows without a browser: clips to pick and to play, more like a result, and a quiet console."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.browser import serve_app
from support.indices import random_index
from support.video_files import numbered_frames, write_video
from verbspace.app import media as app_clips
from verbspace.app import page as app_page
from verbspace.app.controller import AppController, resolve_clips
from verbspace.app.html import WindowIds, clip_html, hits_html
from verbspace.app.limits import RequestRejected
from verbspace.app.media import ClipStore, is_browser_playable
from verbspace.app.opaque_ids import OpaqueIds
from verbspace.cli import main
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.decoding.pyav import frame_times
from verbspace.inference.predictor import WindowConfig
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.schema import Hit
from verbspace.search.searcher import Searcher, nearest_windows


def test_clips_that_are_not_there_are_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("verbspace.app.server.serve", lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["verbspace", "app", "playground", "--clips", str(tmp_path / "nope")])
    with pytest.raises(SystemExit) as left:
        main.main()
    assert left.value.code == 1
    said = capsys.readouterr().err
    assert said == f"error: --clips {tmp_path / 'nope'}: there is no such file or folder; name one that is there\n"
    with pytest.raises(ValueError, match=r"--clips memory://c\.mp4: a URL; .* copy it here first"):
        resolve_clips(["memory://c.mp4"])
    clip = write_video(tmp_path / "there" / "a.mp4", numbered_frames(3), rate=10)
    assert resolve_clips([str(tmp_path / "there")]) == resolve_clips([str(clip)]) == [clip]


def test_a_whole_clip_is_encoded_anew_only_where_browsers_do_not_play_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = []
    write = app_clips.write_mp4
    monkeypatch.setattr(app_clips, "write_mp4", lambda *args, **how: (runs.append(1), write(*args, **how))[1])
    clips = ClipStore()
    new = write_video(tmp_path / "new.mp4", numbered_frames(20), rate=10)
    address = clips.full_clip_url(new)
    assert address is not None
    assert clips.playable_file(address.removeprefix("clips/")) == new
    assert not runs
    old = write_video(tmp_path / "old.avi", numbered_frames(20), "mpeg4", rate=10)
    address = clips.full_clip_url(old)
    assert address is not None
    assert runs == [1]
    made = clips.playable_file(address.removeprefix("clips/"))
    assert made is not None
    assert is_browser_playable(made)
    assert len(frame_times(made)) == 20
    assert clips.full_clip_url(old) == address
    assert runs == [1]
    (tmp_path / "words.avi").write_text("these are words")
    assert clips.full_clip_url(tmp_path / "words.avi") is None
    assert "words.avi cannot be played here" in clip_html("words.avi", None)
    assert "<b>" not in clip_html("<b>.avi", "clips/0") + clip_html("<b>.avi", None)


def test_clips_made_anew_have_so_much_room_and_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app_clips, "_MAX_CACHE_BYTES", 1)
    clips = ClipStore()
    olds = [write_video(tmp_path / f"{n}.avi", numbered_frames(9, seed=n), "mpeg4", rate=10) for n in range(3)]
    keys = [(clips.full_clip_url(old) or "").removeprefix("clips/") for old in olds]
    for key in keys:
        made = clips.playable_file(key)
        assert made is not None
        assert list(made.parent.glob("*.mp4")) == [made]


def test_keys_give_back_what_they_were_given_for_and_forget_the_oldest() -> None:
    forgotten: list[str] = []
    keys: OpaqueIds[int] = OpaqueIds(2, forgotten.append)
    one, two = keys.register("one", 1), keys.register("two", 2)
    assert keys.register("one", 1) == one != two
    assert keys.register("three\ud800", 3) not in (one, two)
    assert (keys.lookup(one), keys.lookup(two), keys.lookup("")) == (1, None, None)
    assert forgotten == [two]
    assert OpaqueIds[int](2).register("one", 1) != one  # another server's


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """An index of 20 files with four windows each, of which none is on the disk."""
    found = object.__new__(Searcher)
    found.index = random_index(tmp_path_factory.mktemp("index"), 80)
    return found


def test_more_like_a_window_is_what_its_own_vector_finds(searcher: Searcher) -> None:
    rows = searcher.index.table.to_arrow()
    paths, windows = rows["path"].to_pylist(), rows["window"].to_pylist()
    vector = rows["vector"][9].as_py()
    own, hits = searcher.find_similar(paths[9], windows[9], top=5)
    assert (own.path, own.window, own.start, own.end) == (paths[9], 1, 4.0, 8.0)
    assert hits == nearest_windows(searcher.index, vector, 6)[1:]
    _, hits = searcher.find_similar(paths[9], windows[9], top=5, per_video=True)
    assert hits == nearest_windows(searcher.index, vector, 6, per_video=True)[1:]
    assert paths[9] not in {hit.path for hit in hits}
    for path, window in ((paths[9], 4), ("a'; drop", 0), ("", 0), (f"{paths[9]}' OR '1'='1", 1)):
        with pytest.raises(ValueError, match="this window is not in the index any more; search again"):
            searcher.find_similar(path, window)


@pytest.fixture(scope="module")
def studio(searcher: Searcher) -> AppController:
    encoder = VideoEncoder.from_pretrained("playground", temporal=False)
    return AppController(
        {"encoder": encoder}, ConceptSet.load("playground"), window_config=WindowConfig(2.0), searcher=searcher
    )


def test_the_page_asks_for_more_by_a_key_and_by_nothing_else(studio: AppController, searcher: Searcher) -> None:
    windows: WindowIds = OpaqueIds(10)
    clips = ClipStore()
    (hit,) = nearest_windows(searcher.index, searcher.index.table.to_arrow()["vector"][9].as_py(), 1)
    shown = hits_html([hit], clips, [None], windows)
    key = shown.partition('data-more="')[2].partition('"')[0]
    assert windows.lookup(key) == (hit.path, hit.window)
    assert f'aria-label="more like this: {hit.path}, 0:04.0 – 0:08.0"' in shown
    found = app_page._similar_html(studio, clips, windows, {"key": key}, 3, True)
    assert f"More like {hit.path}, 0:04.0 – 0:08.0" in found
    assert found.count("data-more") == 3
    for asked in (None, 3, "x", key, [key], {}, {"key": 3}, {"key": [key]}, {"key": hit.path}, {"key": key + "0"}):
        said = app_page._similar_html(studio, clips, windows, asked, 3, True)
        assert "the app does not know this window any more; search again" in said
    gone = windows.register("gone", ("gone.mp4", 0))
    assert "not in the index any more" in app_page._similar_html(studio, clips, windows, {"key": gone}, 3, True)
    with pytest.raises(RequestRejected, match="there is no index"):
        AppController(studio.encoders, studio.concepts, window_config=WindowConfig(2.0)).find_similar(
            hit.path, hit.window, 3
        )


def test_names_in_results_stay_words() -> None:
    evil = Hit('/x/a"b/<i onclick=1>.mp4', 0.0, 1.0, 0.5, 0, 1.0, 25.0)
    shown = hits_html([evil], ClipStore(), [None], OpaqueIds(10), evil)
    assert "<i" not in shown
    assert 'a"b' not in shown


def test_news_of_a_session_that_is_not_there_leave_the_console_alone(studio: AppController) -> None:
    class Heard(logging.Handler):
        def __init__(self) -> None:
            super().__init__()
            self.records: list[Any] = []

        def emit(self, record: logging.LogRecord) -> None:
            self.records.append(record.getMessage())

    heard = Heard()
    with serve_app(studio) as address:
        logging.getLogger("uvicorn.error").addHandler(heard)
        try:
            reply = httpx.get(f"{address}/gradio_api/queue/data?session_hash=x", timeout=60)
            assert httpx.get(address).status_code == 200
        finally:
            logging.getLogger("uvicorn.error").removeHandler(heard)
    assert "404" in reply.text
    assert heard.records == []
