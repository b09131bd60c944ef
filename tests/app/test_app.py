"""The app without a browser: its limits, what it answers, and what its server sends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from support.browser import serve_app
from support.video_files import numbered_frames, read_frame_numbers, write_video
from verbspace.app import media as app_clips
from verbspace.app import middleware
from verbspace.app.controller import AppController, TextEmbeddingCache, clips_by_name, with_actions
from verbspace.app.html import analysis_html, explanation_html, hits_html, rejection_html
from verbspace.app.limits import InputLimits, RequestRejected
from verbspace.app.media import ClipSegment, ClipStore, is_browser_playable
from verbspace.app.opaque_ids import OpaqueIds
from verbspace.concepts.concept_set import ConceptSet
from verbspace.data.decoding.pyav import decode_frames, frame_times
from verbspace.inference.calibration import Calibration
from verbspace.inference.predictor import WindowConfig, predict
from verbspace.models.hashing import encoder_hash
from verbspace.models.video_encoder import VideoEncoder
from verbspace.search.schema import Hit

HOSTILE = ["<img src=x onerror=alert(1)>", "${alert(1)}", "{{7*7}}", "</textarea><script>alert(1)</script>", "‮gnivaw"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("app") / "clip.mp4", numbered_frames(40), rate=10)


@pytest.fixture(scope="module")
def studio(clip: Path) -> AppController:
    frozen = VideoEncoder.from_pretrained("playground", temporal=False)
    adapted = VideoEncoder.from_pretrained("playground")
    with torch.no_grad():
        for parameter in adapted.temporal_parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return AppController(
        {"adapted": adapted, "frozen CLIP": frozen}, ConceptSet.load("playground"), window_config=WindowConfig(2.0), clips=[clip],
        limits=InputLimits(max_upload_mb=1, max_duration=10),
    )  # fmt: skip


def words(*names: str) -> str:
    return "\n".join(names)


def test_both_encoders_answer_as_predict_does(studio: AppController, clip: Path) -> None:
    looked = studio.analyze(clip, "clip.mp4")
    answers = studio.rank(looked, words(*studio.concepts.action_names))
    assert [one.name for one in answers] == ["adapted", "frozen CLIP"]
    for one, encoder in zip(answers, studio.encoders.values(), strict=True):
        (expected,) = predict(encoder, clip, concepts=studio.concepts, window_config=WindowConfig(2.0))
        assert dict(one.ranking) == pytest.approx(dict(expected.ranking), abs=1e-5)
        assert expected.timeline is not None
        assert [part.action for part in one.timeline] == [part.action for part in expected.timeline]
    assert "adapted" in analysis_html(looked, answers)
    found = studio.explain(looked, words(*studio.concepts.action_names), 0.0, looked.duration)
    assert found.activated_descriptions
    assert "what the encoder saw" in explanation_html(found)


def test_other_words_give_other_scores_and_keep_the_descriptions_known(studio: AppController, clip: Path) -> None:
    looked = studio.analyze(clip, "clip.mp4")
    one, _ = studio.rank(looked, "waving\n  bowing \n\nwaving\nplaying the piano")
    assert {name for name, _ in one.ranking} == {"waving", "bowing", "playing the piano"}
    changed = with_actions(studio.concepts, ["waving", "playing the piano"])
    assert changed.action_names == ["waving", "playing the piano"]
    assert {name for d in changed.descriptions for name in d.actions} == {"waving"}
    assert with_actions(studio.concepts, studio.concepts.action_names) is studio.concepts


def test_calibration_holds_for_the_words_that_it_was_fitted_for(clip: Path) -> None:
    encoder, concepts = VideoEncoder.from_pretrained("playground"), ConceptSet.load("playground")
    fitted = Calibration(
        temperature=2.0, method="halves", videos=20, agreement=0.5, confidence=(0.8, 0.5),
        encoder=encoder_hash(encoder),
        concepts=concepts.hash, by="category", frames=8,
    )  # fmt: skip
    studio = AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0), calibration=fitted)
    looked = studio.analyze(clip, "clip.mp4")
    assert studio.rank(looked, words(*concepts.action_names))[0].calibrated
    assert not studio.rank(looked, "waving\nbowing")[0].calibrated
    with pytest.raises(ValueError, match="the calibration was fitted for frames 8, and what is used is 4"):
        AppController({"encoder": encoder}, concepts, window_config=WindowConfig(2.0), calibration=fitted, frames=4)


def test_texts_are_encoded_once() -> None:
    class Counting:
        def __init__(self) -> None:
            self.asked: list[str] = []

        def encode_text(self, texts: list[str]) -> torch.Tensor:
            self.asked += texts
            return torch.tensor([[float(len(text)), 1.0] for text in texts])

    encoder = Counting()
    texts = TextEmbeddingCache(encoder)  # type: ignore[arg-type]
    first = texts(["a", "bb", "a"])
    assert torch.equal(first[0], first[2])
    texts(["bb", "ccc"])
    assert encoder.asked == ["a", "bb", "ccc"]


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=400))
def test_any_text_is_a_list_of_actions_or_refused(text: str) -> None:
    limits = InputLimits(max_actions=5, max_chars=20)
    try:
        names = limits.parse_actions(text)
    except RequestRejected:
        return
    assert 0 < len(names) <= 5
    assert len(set(names)) == len(names)
    assert all(name == " ".join(name.split()) and 0 < len(name) <= 20 for name in names)


def test_what_is_too_much_is_refused_in_a_sentence(studio: AppController, clip: Path, tmp_path: Path) -> None:
    looked = studio.analyze(clip, "clip.mp4")
    refused = {
        "x" * 1_000_000: r"the list of actions has 1,000,000 letters; give at most 500 short names",
        "\n".join(map(str, range(501))): r"there are 501 actions, and 500 is the most",
        "y" * 201: r"“y{40}…” has 201 letters, and 200 is the most",
        " \n ": r"there is no action to choose among",
    }
    for text, reason in refused.items():
        with pytest.raises(RequestRejected, match=reason):
            studio.rank(looked, text)
    with pytest.raises(RequestRejected, match=r"the query has 1,000,000 letters, and 200 is the most"):
        studio.limits.clean_query("x" * 1_000_000)
    with pytest.raises(RequestRejected, match=r"there is no index to search; start the app with --index"):
        studio.search("waving", 3)
    long = write_video(tmp_path / "long.mp4", numbered_frames(60), rate=5)
    with pytest.raises(RequestRejected, match=r"^mine\.mp4: 12 s, and 10 s is the most; cut it$"):
        studio.analyze(long, "mine.mp4")
    (tmp_path / "big.mp4").write_bytes(bytes(1_100_000))
    with pytest.raises(RequestRejected, match=r"^big\.mp4: 1 MB, and 1 MB is the most; cut or shrink it$"):
        studio.analyze(tmp_path / "big.mp4", "big.mp4")
    (tmp_path / "words.mp4").write_text("no video")
    with pytest.raises(RequestRejected, match=r"^words\.mp4: not decodable as video"):
        studio.analyze(tmp_path / "words.mp4", "words.mp4")
    wide = write_video(tmp_path / "wide.mp4", numbered_frames(2, 1100, 1000), rate=5)
    with pytest.raises(RequestRejected, match=r"wide\.mp4: 1000×1100 px, and 1 megapixels is the most"):
        InputLimits(max_megapixels=1.0).check_clip(wide, "wide.mp4")


def test_hostile_words_stay_words(studio: AppController, clip: Path) -> None:
    looked = studio.analyze(clip, HOSTILE[0])
    answers = studio.rank(looked, words(*HOSTILE))
    hits = [Hit("<script>/a/b.mp4", 0.0, 1.0, 0.5, 0, 1.0, 25.0)]
    pages = [
        analysis_html(looked, answers), explanation_html(studio.explain(looked, words(*HOSTILE), 0.0, 1.0)),
        hits_html(hits, ClipStore(), [None], OpaqueIds(10)), rejection_html(HOSTILE[0]),
    ]  # fmt: skip
    for page in pages:
        assert "<img src=x" not in page
        assert "<script" not in page
    assert "&lt;img src=x onerror=alert(1)&gt;" in pages[0]
    assert "49" not in analysis_html(looked, studio.rank(looked, "{{7*7}}"))


def test_clips_are_named_by_what_tells_them_apart() -> None:
    paths = [Path("a/x/1.mp4"), Path("a/y/1.mp4"), Path("b/x/1.mp4")]
    assert clips_by_name(paths) == {"a/x/1.mp4": paths[0], "a/y/1.mp4": paths[1], "b/x/1.mp4": paths[2]}
    assert list(clips_by_name(paths[:2])) == ["x/1.mp4", "y/1.mp4"]
    assert clips_by_name([]) == {}


def test_an_address_gives_its_clip_and_no_other_file(clip: Path, tmp_path: Path) -> None:
    clips = ClipStore()
    address = clips.url_for(ClipSegment(clip, 1.0, 2.5))
    assert address.endswith("#t=1.00,2.50")
    key = address.removeprefix("clips/").partition("#")[0]
    assert clips.playable_file(key) == clip
    assert ClipStore().url_for(ClipSegment(clip, 1.0, 2.5)) != address  # another server's keys are others
    for guess in ("", "..", str(clip), key[:-1] + ("0" if key[-1] != "0" else "1")):
        assert clips.playable_file(guess) is None
    assert clips.playable_file(clips.url_for(ClipSegment(tmp_path / "gone.mp4", 0, 1)).removeprefix("clips/")) is None


def test_what_browsers_do_not_play_is_cut_and_encoded_anew(tmp_path: Path) -> None:
    old = write_video(tmp_path / "old.avi", numbered_frames(40), "mpeg4", rate=10)
    assert not is_browser_playable(old)
    clips = ClipStore()
    address = clips.url_for(ClipSegment(old, 1.0, 2.0))
    assert "#" not in address
    made = clips.playable_file(address.removeprefix("clips/"))
    assert made is not None
    assert is_browser_playable(made)
    times = frame_times(made)
    assert len(times) == 10
    assert times[-1] == pytest.approx(0.9, abs=1e-3)
    assert read_frame_numbers(decode_frames(made).numpy()) == list(range(10, 20))
    assert clips.playable_file(address.removeprefix("clips/")) == made


@pytest.fixture(scope="module")
def address(studio: AppController) -> Iterator[str]:
    with serve_app(studio) as url:
        yield url


def test_the_server_sends_the_page_and_no_file_of_the_machine(address: str, clip: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    page = httpx.get(address)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in (
        f"/gradio_api/file={secret}", "/gradio_api/file=/etc/passwd", f"/gradio_api/file={clip}/../../secret.mp4",
        "/file=/etc/passwd", "/clips/..%2f..%2fetc%2fpasswd", "/clips/0000", "/static/../../etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/x", "/docs", "/openapi.json",
    ):  # fmt: skip
        reply = httpx.get(address + path)
        assert reply.status_code in (400, 403, 404, 405) or "root:" not in reply.text, path
        assert "secret" not in reply.text.replace("secret.mp4", ""), path
        assert "root:" not in reply.text, path


def test_other_names_for_this_machine_lead_nowhere(address: str) -> None:
    assert httpx.get(address, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(address, headers={"Host": "localhost"}).status_code == 200


def test_a_call_may_be_so_long_and_names_no_url(address: str) -> None:
    long = httpx.post(f"{address}/gradio_api/queue/join", json={"data": ["x" * 5_000_000], "fn_index": 0})
    assert long.status_code == 413
    assert "content-security-policy" in long.headers
    named = '{"data": [{"path": "http://127.0.0.1:1/a.mp4"}]}'
    for body in (
        named.encode(),
        named.replace("/", r"\/").encode(),  # the same, as JSON may write it
        named.replace(":", r"\u003a", 3).replace(r"\u003a", ":", 2).encode(),
        named.encode("utf-16"),
        named.encode("utf-32-be"),
        b'{"path": "file:///etc/passwd"',
        b"[" * 100_000 + b"://",
        b"\xff\xfe words",
    ):
        assert middleware.references_url(body), body[:60]
        reply = httpx.post(f"{address}/gradio_api/queue/join", content=body)
        assert (reply.status_code, reply.text) == (403, "a file is uploaded, not named")
    assert not middleware.references_url(b'{"data": ["http://words.are.fine", {"path": "/a/b.mp4"}]}')
    assert not middleware.references_url(b"")


@pytest.mark.parametrize(
    ("path", "most"),
    [
        ("/nothing/here", middleware.MAX_BODY_BYTES),
        ("/gradio_api/upload", 1_000_000 + middleware.MULTIPART_OVERHEAD_BYTES),
    ],
)
def test_a_long_body_is_not_held_even_where_nobody_said_how_long(tmp_path: Path, path: str, most: int) -> None:
    given, answers = 0, []

    async def receive() -> dict[str, Any]:
        nonlocal given
        given += 65_536
        return {"type": "http.request", "body": b"x" * 65_536, "more_body": True}

    async def send(message: Any) -> None:
        answers.append(message)

    async def page(scope: Any, receive: Any, send: Any) -> None:
        while True:
            await receive()

    guarded = middleware.RequestLimits(
        page, upload_dir=tmp_path, max_upload_bytes=1_000_000, max_total_bytes=10_000_000
    )
    asyncio.run(guarded({"type": "http", "method": "POST", "path": path, "headers": []}, receive, send))
    assert answers[0]["status"] == 413
    assert most < given <= most + 65_536


def test_uploads_have_so_much_room(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware, "directory_size", lambda folder: 19_500_000)
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.mp4", b"x")})
    assert reply.status_code == 503
    assert "no room for more uploads" in reply.text


def test_forgotten_clips_leave_no_file_and_many_askers_cost_one_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_clips, "_SHOWN", 2)
    runs = []
    write = app_clips.write_mp4
    monkeypatch.setattr(app_clips, "write_mp4", lambda *args, **how: (runs.append(1), write(*args, **how))[1])
    old = write_video(tmp_path / "old.avi", numbered_frames(30), "mpeg4", rate=10)
    clips = ClipStore()
    for start in range(4):
        key = clips.url_for(ClipSegment(old, start / 2, start / 2 + 0.5)).removeprefix("clips/")
        with ThreadPoolExecutor(6) as pool:
            made = set(pool.map(clips.playable_file, [key] * 6))
        assert len(made) == 1
        assert len(runs) == start + 1
    (last,) = made
    assert last is not None
    assert len(list(last.parent.iterdir())) == 2


def test_half_a_letter_is_refused(studio: AppController) -> None:
    for ask_for in (studio.limits.parse_actions, studio.limits.clean_query):
        with pytest.raises(RequestRejected, match="half of a letter"):
            ask_for("\ud800x")


def test_a_list_of_files_that_is_uploaded_reads_none_of_them(address: str, tmp_path: Path) -> None:
    secret = write_video(tmp_path / "secret.ts", numbered_frames(9), rate=10)
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3.0,\nfile:{secret}\n#EXT-X-ENDLIST\n"
    files = {"files": ("a.m3u8", playlist.encode())}
    (stored,) = httpx.post(f"{address}/gradio_api/upload", files=files).json()
    said = ask(address, looking(address), [{"path": stored, "meta": {"_type": "gradio.FileData"}}, "waving\nbowing"])
    assert "a list of files" in said
    assert 'class=\\"rank' not in said


def test_an_upload_that_is_too_large_is_refused(address: str) -> None:
    reply = httpx.post(f"{address}/gradio_api/upload", files={"files": ("big.mp4", bytes(1_200_000))})
    assert reply.status_code == 413
    small = httpx.post(f"{address}/gradio_api/upload", files={"files": ("../../../evil<b>.mp4", b"x" * 100)})
    assert small.status_code == 200
    (stored,) = small.json()
    assert ".." not in stored
    assert Path(stored).name != "evil<b>.mp4" or "/" not in Path(stored).name


def ask(address: str, function: int, data: list[object]) -> str:
    """Everything that the queue says about one call."""
    session = f"test{function}{threading.get_ident()}"
    body = {"data": data, "fn_index": function, "session_hash": session}
    joined = httpx.post(f"{address}/gradio_api/queue/join", json=body, timeout=60)
    if joined.status_code != 200:
        return f"{joined.status_code} {joined.text}"
    with httpx.stream("GET", f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60) as lines:
        said = ""
        for line in lines.iter_lines():
            said += line
            if "process_completed" in line or "close_stream" in line:
                break
    return said


def looking(address: str) -> int:
    """The number of the function that looks at a clip."""
    config = httpx.get(f"{address}/config").json()
    return next(d["id"] for d in config["dependencies"] if len(d["inputs"]) == 2 and len(d["outputs"]) == 4)


def test_a_path_in_place_of_an_upload_is_not_opened(address: str, tmp_path: Path, clip: Path) -> None:
    outside = write_video(tmp_path / "outside.mp4", numbered_frames(10), rate=10)
    for path in (
        str(outside),
        str(clip),
        "/etc/passwd",
        "../../../etc/passwd",
        f"{address}/clips/x",
        "file:///etc/passwd",
    ):
        said = ask(address, looking(address), [{"path": path, "meta": {"_type": "gradio.FileData"}}, "waving\nbowing"])
        assert "root:" not in said
        assert 'class=\\"rank' not in said
        assert '"success":false' in said.replace(" ", "") or said[:1] in "45", said[:500]
