"""The HTML page of search results."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import av
import torch
from typer.testing import CliRunner

from support.indices import write_clip
from verbspace.cli.main import app
from verbspace.reporting.found_clips import extract_window, render_search_page, window_url
from verbspace.search.schema import Hit
from verbspace.search.searcher import Searcher


def test_page_links_videos_and_contains_stills(clips: Path, searcher: Searcher, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    folder, query = str(searcher.index.folder), "<b>waving</b> & more"
    result = CliRunner().invoke(app, ["search", folder, query, "--top", "3", "--format", "html", "--out", str(page)])
    assert (result.exit_code, result.stdout) == (0, f"{page}: 3 results\n")
    text = page.read_text()
    assert "<h1>&lt;b&gt;waving&lt;/b&gt; &amp; more</h1>" in text
    sources = re.findall(r'<video [^>]*src="([^"]+)"', text)
    assert len(sources) == 3
    for source, hit in zip(sources, searcher.search("<b>waving</b> & more", top=3), strict=True):
        path, _, part = source.partition("#t=")
        assert (tmp_path / path).resolve() == Path(hit.path).resolve()
        assert part == f"{hit.start:.3f},{hit.end:.3f}"
    stills = [base64.b64decode(one) for one in re.findall(r'poster="data:image/jpeg;base64,([^"]+)"', text)]
    assert len(stills) == 3
    assert all(still.startswith(b"\xff\xd8") for still in stills)
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', text)


def test_page_with_embedded_clips(clips: Path, searcher: Searcher, tmp_path: Path) -> None:
    hits = searcher.search("waving", top=2, where="`window` = 2")
    text = render_search_page(hits, "waving", tmp_path, indices=["i"], embed_clips=True)
    clips_inside = [base64.b64decode(one) for one in re.findall(r'src="data:video/mp4;base64,([^"]+)"', text)]
    assert len(clips_inside) == 2
    for content in clips_inside:
        (tmp_path / "clip.mp4").write_bytes(content)
        with av.open(str(tmp_path / "clip.mp4")) as file:
            assert sum(1 for _ in file.decode(video=0)) == 10  # a second of ten frames


def test_still_is_the_middle_frame(tmp_path: Path) -> None:
    from support.video_files import read_frame_numbers

    path = write_clip(tmp_path / "a.mp4", 0, 3.0)
    still, clip = extract_window(path, Hit(str(path), 1.0, 2.0, 0.5, 1, 3.0, 10.0), embed_clips=False)
    assert clip is None
    assert read_frame_numbers(torch.from_numpy(still).permute(2, 0, 1)[None].numpy()) == [15]
    still, _ = extract_window(path, Hit(str(path), 1.0, 2.0, 0.5, 1, 3.0, 10.0), embed_clips=True)
    assert read_frame_numbers(torch.from_numpy(still).permute(2, 0, 1)[None].numpy()) == [15]


def test_unplayable_videos_are_not_linked(tmp_path: Path) -> None:
    def address(path: str) -> str | None:
        return window_url(Hit(path, 1.0, 2.5, 0.5, 0, 3.0, 25.0), tmp_path)

    assert address(f"{tmp_path}/a b#%?.mp4") == "a%20b%23%25%3F.mp4#t=1.000,2.500"
    assert address("https://x.org/a.mp4") == "https://x.org/a.mp4#t=1.000,2.500"
    assert address(f"{tmp_path}/a.mp4#t=1,9") == "a.mp4#t=1.000,2.500"  # a part of a video
    assert address("https://x.org/a.mp4#t=1,9") == "https://x.org/a.mp4#t=1.000,2.500"
    assert address("s3://bucket/a.mp4") is None
    assert address(f"{tmp_path}/a.avi") is None


def test_missing_video_shows_the_reason(tmp_path: Path) -> None:
    page = render_search_page([Hit(f"{tmp_path}/<i>.mp4", 0, 1, -0.2, 0, 1, 25)], "x", tmp_path, indices=["i"])
    assert "&lt;i&gt;.mp4: there is no such file" in page
    assert "<i>.mp4" not in page
    assert "No results" in render_search_page([], "x", tmp_path, indices=["i"])
