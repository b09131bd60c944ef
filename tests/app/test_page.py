"""Requests for similar windows."""

from __future__ import annotations

from pathlib import Path

from verbspace.app import page as app_page
from verbspace.app.controller import AppController
from verbspace.app.html import WindowIds, hits_html
from verbspace.app.media import ClipStore, OpaqueIds
from verbspace.search.nearest import nearest_windows
from verbspace.search.schema import Hit
from verbspace.search.searcher import Searcher


def test_windows_of_a_part_of_a_video_are_played(clips: Path) -> None:
    hits = [Hit(f"{clips}/00.mp4{part}", 1, 2, 0.5, 0, 2.6, 10) for part in ("", "#t=1,2.6")]
    urls = [hits_html([hit], ClipStore(), OpaqueIds(10)).partition('src="')[2].partition('"')[0] for hit in hits]
    assert [url.startswith("clips/") and url.endswith("#t=1.00,2.00") for url in urls] == [True, True]


def test_similar_windows_need_a_registered_id(search_controller: AppController, random_searcher: Searcher) -> None:
    window_ids: WindowIds = OpaqueIds(10)
    clips = ClipStore()
    (hit,) = nearest_windows(random_searcher.index, random_searcher.index.table.to_arrow()["vector"][9].as_py(), 1)
    html = hits_html([hit], clips, window_ids)
    window_id = html.partition('data-window-id="')[2].partition('"')[0]
    assert window_ids.lookup(window_id) == (hit.path, hit.window)
    assert f'aria-label="find similar: {hit.path}, 0:04.0 – 0:08.0"' in html

    def find_similar(event_data: object) -> str:
        return app_page._similar_html(search_controller, clips, window_ids, event_data, 3, True)

    html_of_similar = find_similar({"window_id": window_id})
    assert f"Similar to {hit.path}, 0:04.0 – 0:08.0" in html_of_similar
    assert html_of_similar.count("data-window-id") == 3
    ids = (3, [window_id], hit.path, window_id + "0")
    for event_data in (None, 3, "x", window_id, [window_id], {}, *({"window_id": value} for value in ids)):
        assert "the app no longer knows this window; search again" in find_similar(event_data)
    gone = window_ids.register("gone", ("gone.mp4", 0))
    assert "no longer in the index" in find_similar({"window_id": gone})
