"""Limits on clips, actions and queries."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.video_files import numbered_frames, write_video
from verbspace.app.controller import AppController
from verbspace.app.limits import InputLimits, RequestRejected


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=400))
def test_any_text_is_parsed_or_rejected(text: str) -> None:
    limits = InputLimits(max_actions=5, max_chars=20)
    try:
        names = limits.parse_actions(text)
    except RequestRejected:
        return
    assert 0 < len(names) <= 5
    assert len(set(names)) == len(names)
    assert all(name == " ".join(name.split()) and 0 < len(name) <= 20 for name in names)


def test_inputs_over_the_limits_are_rejected(controller: AppController, clip: Path, tmp_path: Path) -> None:
    analysis = controller.analyze(clip, "clip.mp4")
    rejected = {
        "\n".join(map(str, range(501))): r"501 actions are over the limit of 500",
        "y" * 1_000_000: r"“y{40}…” has 1,000,000 characters, and the limit is 200",
        " \n ": r"there are no actions",
    }
    for text, reason in rejected.items():
        with pytest.raises(RequestRejected, match=reason):
            controller.rank(analysis, text)
    with pytest.raises(RequestRejected, match=r"the query has 1,000,000 characters, and the limit is 200"):
        controller.search("x" * 1_000_000, 3)
    with pytest.raises(RequestRejected, match=r"there is no index to search; start the server with --index"):
        controller.search("waving", 3)
    long = write_video(tmp_path / "long.mp4", numbered_frames(60), rate=5)
    with pytest.raises(RequestRejected, match=r"^mine\.mp4: 12 s is over the limit of 10 s; upload a shorter clip$"):
        controller.analyze(long, "mine.mp4")
    (tmp_path / "big.mp4").write_bytes(bytes(1_100_000))
    with pytest.raises(RequestRejected, match=r"^big\.mp4: 1 MB is over the limit of 1 MB; upload a smaller file$"):
        controller.analyze(tmp_path / "big.mp4", "big.mp4")
    (tmp_path / "words.mp4").write_text("no video")
    with pytest.raises(RequestRejected, match=r"^words\.mp4: not decodable as video"):
        controller.analyze(tmp_path / "words.mp4", "words.mp4")
    wide = write_video(tmp_path / "wide.mp4", numbered_frames(2, 1100, 1000), rate=5)
    with pytest.raises(RequestRejected, match=r"wide\.mp4: 1000×1100 px is over the limit of 1 megapixels"):
        InputLimits(max_megapixels=1.0).check_clip(wide, "wide.mp4")


def test_unpaired_surrogates_are_rejected(controller: AppController) -> None:
    with pytest.raises(RequestRejected, match="unpaired Unicode surrogate"):
        controller.limits.parse_actions("\ud800x")
