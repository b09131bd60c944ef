"""The app in Chromium: upload, predict, edit, search; keyboard, contrast, small screens, hostile texts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from support.browser import find_chromium, launch_chromium, serve_app
from support.playground_files import tiny_world
from support.small_encoders import adapted_and_frozen
from support.video_files import numbered_frames, write_video
from verbspace.app import review_page
from verbspace.app.controller import AppController
from verbspace.app.limits import InputLimits
from verbspace.app.review import ReviewItem, ReviewQueue, read_reviewed
from verbspace.app.review_page import review_html
from verbspace.concepts.concept_set import ConceptSet
from verbspace.inference.predictor import WindowConfig
from verbspace.models.video_encoder import VideoEncoder
from verbspace.reporting.timeline_files import to_webvtt
from verbspace.search.builder import build_index
from verbspace.search.searcher import Searcher
from verbspace.utils.text import format_timestamp

# In CI a missing browser is a failure.
pytestmark = pytest.mark.skipif(
    find_chromium() is None and not os.environ.get("CI"),
    reason="Chromium is not installed; install it, or set CHROMIUM",
)
WAIT = 60_000  # milliseconds; long, because other processes may use the CPU
HOSTILE = ["<img src=x onerror=window.hacked=1>", "${window.hacked=1}", "{{7*7}}", "<script>window.hacked=1</script>"]

# The contrast of each text with its background (WCAG 2.2, 1.4.3), the lowest first.
CONTRAST = """() => {
  const channel = c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const behind = node => {
    for (; node; node = node.parentElement) {
      const c = parse(getComputedStyle(node).backgroundColor);
      if (c[3] > 0.99) return c;
    }
    return [255, 255, 255, 1];
  };
  const ratios = [];
  for (const node of document.querySelectorAll('.verbspace *')) {
    const hasText = [...node.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!hasText || !node.offsetParent || node.closest('.unplayable')) continue;
    const pair = [light(parse(getComputedStyle(node).color)), light(behind(node))].sort((a, b) => b - a);
    ratios.push([(pair[0] + 0.05) / (pair[1] + 0.05), node.className + ': ' + node.textContent.trim().slice(0, 40)]);
  }
  return ratios.sort((a, b) => a[0] - b[0]);
}"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_world(tmp_path_factory) / "test"


@pytest.fixture(scope="module")
def controller(world: Path, tmp_path_factory: pytest.TempPathFactory) -> AppController:
    encoders, folder = adapted_and_frozen(), tmp_path_factory.mktemp("app")
    encoders["adapted"].save_pretrained(folder / "encoder")
    clips = sorted(world.rglob("*.mp4"))[::4]
    old = write_video(folder / "old" / "numbers.avi", numbered_frames(30), "mpeg4", rate=10)
    build_index(str(folder / "encoder"), [*map(str, clips), str(old)], folder / "index", window=1.0, num_workers=1)
    return AppController(
        encoders, ConceptSet.load("playground"), window_config=WindowConfig(1.0), clips=clips,
        searcher=Searcher(folder / "index", encoders["adapted"]), limits=InputLimits(max_upload_mb=2, max_duration=10),
    )  # fmt: skip


@pytest.fixture(scope="module")
def address(controller: AppController) -> Iterator[str]:
    with serve_app(controller) as url:
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launch_chromium() as chromium:
        yield chromium


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    new_page = context.new_page()
    new_page.set_default_timeout(WAIT)
    urls: list[str] = []
    new_page.on("request", lambda request: urls.append(request.url))
    new_page.goto(address)
    new_page.wait_for_selector("#clip")
    yield new_page
    assert [url for url in urls if not url.startswith((address, "data:", "blob:"))] == []  # no other hosts
    context.close()


def upload(page: Any, clip: Path) -> None:
    page.set_input_files("#clip input[type=file]", str(clip))


def submit_query(page: Any, query: str) -> None:
    page.get_by_role("tab", name="Search").click()
    page.fill("#query textarea, #query input", query)
    page.keyboard.press("Enter")


def wait_for_text(page: Any, text: str) -> None:
    page.wait_for_function("text => document.querySelector('#predictions').innerText.includes(text)", arg=text)


def wait_for_explanation(page: Any) -> str:
    """Wait for the explanation of a clip, and return the text of its predictions."""
    page.wait_for_selector("#explanation .strip")
    return str(page.inner_text("#predictions"))


def test_upload_predict_and_edit_actions(page: Any, controller: AppController, world: Path) -> None:
    clip = sorted(world.rglob("*.mp4"))[1]
    upload(page, clip)
    text = wait_for_explanation(page)
    actions = "\n".join(controller.concepts.action_names)
    adapted, frozen = controller.rank(controller.analyze(clip, clip.name), actions)
    for prediction in (adapted, frozen):
        assert prediction.name in text
        assert f"{prediction.ranking[0][0]} {100 * prediction.ranking[0][1]:.1f} %" in text
    assert page.locator("#explanation img").count() == 16
    assert page.locator("#explanation img:not([alt])").count() == 0
    # Edit the actions. The expected values are computed first, because the app uses the encoder in other threads.
    edited, _ = controller.rank(controller.analyze(clip, clip.name), "waving\nbowing\nplaying the piano")
    page.fill("#actions textarea", "waving\nbowing\nplaying the piano")
    page.wait_for_function("!document.querySelector('#predictions').innerText.includes('jumping')")
    wait_for_text(page, f"{100 * edited.ranking[0][1]:.1f} %")
    page.click("#reset")
    wait_for_text(page, f"{100 * adapted.ranking[0][1]:.1f} %")


def test_explain_a_part_of_a_clip(page: Any, controller: AppController) -> None:
    page.locator("#examples [data-example]").first.click()
    wait_for_explanation(page)
    page.click("#part input")
    page.locator("#part [role=option]").nth(1).click()
    page.wait_for_function(
        "!document.querySelector('#explanation h3').innerText.startsWith('Explanation of 0:00.0 to 0:02')"
    )


def test_example_clips_have_thumbnails_and_are_found_by_name(page: Any, controller: AppController) -> None:
    names = list(controller.clips)
    assert len(names) > 6
    assert page.locator("#examples [data-example]").count() == len(names)
    page.wait_for_function("document.querySelector('#examples img').naturalWidth > 0")
    wanted = names[-1]
    page.fill("#examples input", wanted.upper())
    shown = page.locator("#examples [data-example]:visible")
    assert [shown.nth(n).get_attribute("data-example") for n in range(shown.count())] == [wanted]
    shown.first.click()
    wait_for_explanation(page)
    assert controller.clips[wanted].stem in page.inner_text("#clip")
    page.fill("#examples input", "no such clip")
    assert page.locator("#examples .none").is_visible()
    assert page.locator("#examples [data-example]:visible").count() == 0


def test_search_results_play_from_the_right_second(page: Any, controller: AppController) -> None:
    submit_query(page, "a person bowing")
    page.wait_for_selector("#results video")
    hits = controller.search("a person bowing", 12, per_video=True)
    assert page.locator("#results li").count() == len(hits)
    page.wait_for_function("[...document.querySelectorAll('#results video')].every(v => v.readyState >= 1)")
    time.sleep(1)
    players = page.evaluate(
        "[...document.querySelectorAll('#results video')].map(v => [v.src, v.currentTime, v.error])"
    )
    for (source, second, error), hit in zip(players, hits, strict=True):
        assert error is None
        if "#t=" in source:
            assert second == pytest.approx(hit.start, abs=0.05)
        else:
            assert hit.path.endswith(".avi")  # cut and encoded for the browser
    playing = page.evaluate(
        "async () => { const v = document.querySelector('#results video'); await v.play(); return !v.paused; }"
    )
    assert playing
    assert "numbers.avi" in page.inner_text("#results") or all(not hit.path.endswith(".avi") for hit in hits)
    for name in (hit.path for hit in hits):
        assert str(Path(name).parent.parent) not in page.inner_text("#results")  # only the end of the path is shown


def test_find_similar_by_keyboard(page: Any, controller: AppController) -> None:
    submit_query(page, "a person bowing")
    page.wait_for_selector("#results .find-similar")
    hit = controller.search("a person bowing", 12, per_video=True)[1]
    name = "/".join(hit.path.split("/")[-2:])
    button = page.get_by_role(
        "button", name=f"find similar: {name}, {format_timestamp(hit.start)} – {format_timestamp(hit.end)}"
    )
    page.locator("#results video").nth(1).focus()
    for _ in range(20):  # past the buttons of the player
        page.keyboard.press("Tab")
        if button.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.wait_for_selector("#results .reference")
    reference = page.inner_text("#results .reference").removeprefix("back to the results").strip()
    assert reference.startswith(f"Similar to {name}, {format_timestamp(hit.start)} – {format_timestamp(hit.end)}")
    _, others = controller.find_similar(hit.path, hit.window, 12, per_video=True)
    shown = page.locator("#results .name").all_inner_texts()
    assert shown == ["/".join(hit.path.split("/")[-2:]) for hit in others]
    assert name not in shown
    assert page.evaluate("document.activeElement.matches('#results .search-results')")  # the focus moves to the results
    page.locator("#results .back").click()
    page.wait_for_function("!document.querySelector('#results .reference')")
    found = controller.search("a person bowing", 12, per_video=True)
    assert page.locator("#results .name").all_inner_texts() == ["/".join(hit.path.split("/")[-2:]) for hit in found]
    # An id that does not exist.
    page.evaluate("document.querySelector('#results .find-similar').dataset.windowId = '0'.repeat(32)")
    page.locator("#results .find-similar").first.click()
    page.wait_for_selector("#results .error")
    assert "the app no longer knows this window; search again" in page.inner_text("#results")


def test_filters_and_downloads(page: Any, controller: AppController, world: Path) -> None:
    folder = Path(controller.search("a person bowing", 12, per_video=True)[2].path).parent.name
    page.get_by_role("tab", name="Search").click()
    page.get_by_text("Filters").click()
    page.fill("#path textarea, #path input", f"{folder}/*.mp4")
    page.fill("#shortest input", "0.5")
    submit_query(page, "a person bowing")
    page.wait_for_selector("#results .name")
    expected = controller.search("a person bowing", 12, per_video=True, path=f"{folder}/*.mp4", min_duration=0.5)
    names = ["/".join(hit.path.split("/")[-2:]) for hit in expected]
    assert page.locator("#results .name").all_inner_texts() == names
    assert names
    assert all(name.startswith(f"{folder}/") for name in names)

    def download(link: Any) -> str:
        with page.expect_download() as event:
            link.click()
        return Path(event.value.path()).read_text()

    rows = json.loads(download(page.locator("#results .downloads a", has_text="JSON")))
    assert [row["name"] for row in rows] == names
    page.get_by_role("tab", name="Clip").click()
    clip = sorted(world.rglob("*.mp4"))[1]
    upload(page, clip)
    page.wait_for_selector("#predictions .downloads")
    analysis = controller.analyze(clip, clip.name)
    timeline = controller.rank(analysis, "\n".join(controller.concepts.action_names))[0].timeline
    assert download(page.locator("#predictions .downloads a", has_text="WebVTT").first) == to_webvtt(timeline)


def test_unplayable_clips_are_encoded_for_the_player(page: Any, tmp_path: Path) -> None:
    upload(page, write_video(tmp_path / "old.avi", numbered_frames(30), "mpeg4", rate=10))
    wait_for_explanation(page)
    page.wait_for_function("(document.querySelector('#player video') || {}).readyState >= 2")
    assert page.evaluate("document.querySelector('#player video').duration") == pytest.approx(3.0, abs=0.11)
    assert page.get_by_label("old.avi").count() >= 1
    page.reload()
    (tmp_path / "nothing.mp4").write_bytes(b"")
    upload(page, tmp_path / "nothing.mp4")
    page.wait_for_selector("#predictions .error")
    assert page.inner_text("#predictions").strip() == "nothing.mp4: the file is empty"
    time.sleep(1)
    assert page.locator("#player video").count() == 0
    assert page.locator("[data-testid=toast-body], .toast-body").count() == 0


def test_player_error_is_shown(page: Any, world: Path) -> None:
    page.route("**/clips/*", lambda route: route.fulfill(status=404))
    upload(page, sorted(world.rglob("*.mp4"))[1])
    page.wait_for_selector("#player .failed .unplayable")
    assert "This browser cannot play the clip" in page.inner_text("#player")
    assert page.locator("#player video").is_hidden()


def test_hostile_texts_are_not_executed(page: Any, world: Path, tmp_path: Path) -> None:
    hostile_clip = tmp_path / "<img src=x onerror=window.hacked=1>.mp4"
    hostile_clip.write_bytes(sorted(world.rglob("*.mp4"))[0].read_bytes())
    upload(page, hostile_clip)
    wait_for_explanation(page)
    page.fill("#actions textarea", "\n".join(HOSTILE))
    wait_for_text(page, "onerror")
    wait_for_explanation(page)
    assert "{{7*7}}" in page.inner_text("#predictions")
    assert page.locator("#predictions img").count() == 0
    submit_query(page, HOSTILE[0])
    page.wait_for_selector("#results li")
    assert page.evaluate("window.hacked") is None


def test_inputs_over_the_limits_are_rejected(page: Any, world: Path, tmp_path: Path) -> None:
    upload(page, sorted(world.rglob("*.mp4"))[0])
    wait_for_explanation(page)
    page.evaluate(
        """() => { const box = document.querySelector('#actions textarea'); box.removeAttribute('maxlength');
        box.value = 'x'.repeat(1000000); box.dispatchEvent(new Event('input', {bubbles: true})); }"""
    )
    wait_for_text(page, "has 1,000,000 characters")
    page.click("#reset")
    page.wait_for_selector("#predictions .rank")
    page.reload()
    upload(page, write_video(tmp_path / "long.mp4", numbered_frames(60), rate=5))
    wait_for_text(page, "long.mp4: 12 s is over the limit of 10 s")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_and_phone_layout(browser: Any, address: str, world: Path, scheme: str) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True)
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(address)
    page.wait_for_selector("#clip")
    upload(page, sorted(world.rglob("*.mp4"))[2])
    wait_for_explanation(page)
    worst = page.evaluate(CONTRAST)
    assert len(worst) > 30
    assert worst[0][0] >= 4.5, worst[:5]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    tops = [page.locator(selector).bounding_box()["y"] for selector in ("#predictions", "#examples", "#actions")]
    assert tops == sorted(tops)  # the answer comes first
    # All frames fit, below the name of their row, which takes the full width.
    rows = page.evaluate(
        """[...document.querySelectorAll('#explanation .strip-row:not(:has(.heading))')].map(row => {
        const [name, cells] = [...row.children].map(one => one.getBoundingClientRect());
        const last = row.lastElementChild.lastElementChild.getBoundingClientRect();
        return [name.bottom <= cells.top, name.left, last.right, row.lastElementChild.children.length]; })"""
    )
    assert len(rows) > 8
    assert all(above and left >= 0 and right <= 390 and count == 8 for above, left, right, count in rows), rows
    submit_query(page, "waving")
    page.wait_for_selector("#results li")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.evaluate(CONTRAST)[0][0] >= 4.5
    context.close()


def test_controls_are_labeled_and_reachable_by_keyboard(page: Any, world: Path) -> None:
    upload(page, sorted(world.rglob("*.mp4"))[2])
    wait_for_explanation(page)
    reached = set()
    page.keyboard.press("Tab")
    for _ in range(40):
        where = page.evaluate(
            "() => { const a = document.activeElement; const o = a && a.closest('[id]'); "
            "let p = a; while (p && !['clip','examples','actions','reset','part'].includes(p.id)) p = p.parentElement; "
            "return p ? p.id : (o ? o.id : ''); }"
        )
        reached.add(where)
        page.keyboard.press("Tab")
    assert {"clip", "examples", "actions", "reset", "part"} <= reached
    assert page.locator("#explanation .strip").count() == 2  # the keyboard focus alone changes nothing
    for label in ("Actions, one per line", "Example clips", "Part to explain"):
        assert page.get_by_label(label, exact=True).count() >= 1, label
    assert page.locator("html[lang]").count() == 1
    nameless = page.evaluate(
        "[...document.querySelectorAll('button')].filter(b => b.offsetParent && !b.innerText.trim() && "
        "!b.getAttribute('aria-label') && !b.title).length"
    )
    assert nameless == 0


def test_concurrent_requests_are_queued(address: str, controller: AppController, world: Path) -> None:
    clips = sorted(world.rglob("*.mp4"))[3:6]
    actions = "\n".join(controller.concepts.action_names)

    def visit(clip: Path) -> str:
        with launch_chromium() as browser:
            page = browser.new_page()
            page.set_default_timeout(WAIT)
            page.goto(address)
            page.wait_for_selector("#clip")
            upload(page, clip)
            return wait_for_explanation(page)

    with ThreadPoolExecutor(len(clips)) as pool:
        texts = list(pool.map(visit, clips))
    for clip, text in zip(clips, texts, strict=True):
        name, probability = controller.rank(controller.analyze(clip, clip.name), actions)[0].ranking[0]
        assert f"{name} {100 * probability:.1f} %" in text


@pytest.fixture
def review(world: Path, tmp_path: Path) -> Iterator[tuple[ReviewQueue, str]]:
    """A queue of five videos in a running app; the first one is an AVI file, which is encoded for the browser."""
    encoder = VideoEncoder.from_pretrained("playground")
    old = write_video(tmp_path / "old.avi", numbered_frames(30), "mpeg4", rate=10)
    files = [old, *sorted(world.rglob("*.mp4"))[::10]]
    names = ConceptSet.load("playground").action_names
    items = [ReviewItem(str(file), [(name, 0.1) for name in names[:5]]) for file in files]
    queue = ReviewQueue(items, names, tmp_path / "review.csv")
    controller = AppController(
        {"encoder": encoder}, ConceptSet.load("playground"), window_config=WindowConfig(1.0), review=queue
    )
    with serve_app(controller) as url:
        yield queue, url


def test_review_by_keyboard(browser: Any, review: tuple[ReviewQueue, str]) -> None:
    queue, url = review
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(url)

    def wait_for_count(done: int) -> None:
        page.wait_for_function(f"(document.querySelector('#review .count')?.innerText ?? '').startsWith('{done} of 5')")

    def labels() -> list[str]:
        return list(read_reviewed(queue.labels_file).values())

    wait_for_count(0)
    page.wait_for_function("(document.querySelector('#review video') || {}).readyState >= 2")
    names = queue.actions
    page.keyboard.press("Enter")
    wait_for_count(1)
    page.keyboard.press("3")
    wait_for_count(2)
    page.keyboard.press("o")  # an action without a key
    page.keyboard.type(names[9])
    page.keyboard.press("Enter")
    wait_for_count(3)
    assert labels() == [names[0], names[2], names[9]]
    page.keyboard.press("u")
    wait_for_count(2)
    page.locator("#review .choice").nth(1).click()
    wait_for_count(3)
    assert labels() == [names[0], names[2], names[1]]
    first = page.inner_text("#review .pair .note")
    page.keyboard.press("s")
    page.wait_for_function("name => document.querySelector('#review .pair .note').innerText !== name", arg=first)
    page.get_by_role("tab", name="Clip").click()
    page.keyboard.press("1")  # on another tab, keys label nothing
    page.get_by_role("tab", name="Review").click()
    page.keyboard.press("1")  # the tab has the focus
    wait_for_count(4)
    page.reload()
    wait_for_count(4)
    assert page.inner_text("#review .pair .note") == first  # which was skipped
    page.keyboard.press("u")
    wait_for_count(3)
    page.reload()
    wait_for_count(3)
    page.keyboard.press("o")  # the first choice on a page that is not that of the start
    page.keyboard.type(names[4])
    page.keyboard.press("Enter")
    wait_for_count(4)
    page.keyboard.press("1")
    page.wait_for_selector("#review h3")
    assert page.inner_text("#review h3") == "All videos are labeled."
    assert labels()[-2:] == [names[4], names[0]]
    assert len(labels()) == 5
    context.close()


def test_a_slow_first_page_does_not_replace_the_answer(
    browser: Any, review: tuple[ReviewQueue, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(queue: ReviewQueue, clip_store: Any) -> str:
        page = review_html(queue, clip_store)
        if not queue.progress[0]:
            time.sleep(2)
        return page

    monkeypatch.setattr(review_page, "review_html", render)
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(review[1])
    page.wait_for_selector("#review .choice")
    page.keyboard.press("Enter")
    count = "document.querySelector('#review .count').innerText"
    page.wait_for_function(f"{count}.startsWith('1 of 5')")
    time.sleep(2.5)
    assert page.evaluate(count).startswith("1 of 5")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_review_on_a_phone(browser: Any, review: tuple[ReviewQueue, str], scheme: str) -> None:
    queue, url = review
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, color_scheme=scheme, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.wait_for_selector("#review .choice")
    worst = page.evaluate(CONTRAST)
    assert worst[0][0] >= 4.5, worst[:5]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = page.evaluate("[...document.querySelectorAll('#review button')].map(b => b.offsetHeight)")
    assert min(heights) >= 44
    page.locator("#review .choice").first.tap()
    page.wait_for_function("(document.querySelector('#review .count')?.innerText ?? '').startsWith('1 of')")
    assert queue.progress[0] == 1
    context.close()


def test_overview_shows_clusters_without_full_paths(page: Any, controller: AppController) -> None:
    page.get_by_role("tab", name="Overview").click()
    page.get_by_role("button", name="Show what the index contains").click()
    page.wait_for_selector("#overview .collection")
    assert controller.searcher is not None
    videos = len(controller.searcher.index.file_signatures())
    assert page.locator("#overview circle").count() == videos
    sizes = [text.split(" video")[0] for text in page.locator("#overview .group p").all_inner_texts()]
    assert sum(map(int, sizes)) == videos
    assert str(controller.searcher.index.folder.parent) not in page.content()
    assert controller.overview() is controller.overview()
