"""The page: what is shown where, and what happens on which click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from verbspace.app.controller import AppController, ClipAnalysis
from verbspace.app.html import (
    WindowIds,
    analysis_html,
    clip_html,
    explanation_html,
    hits_html,
    local_file,
    rejection_html,
)
from verbspace.app.limits import RequestRejected
from verbspace.app.media import ClipStore
from verbspace.app.opaque_ids import OpaqueIds
from verbspace.utils.text import format_timestamp

WHOLE_CLIP = "the whole clip"
TITLE = "verbspace"
_MAX_QUEUE = 32  # people who may wait
_MAX_SESSIONS = 64  # whose clips are remembered
_MAX_WINDOWS = 4096  # windows of the index that more can be asked of
_PLAYER_ERROR_JS = """element.addEventListener('error', event => {
  const player = event.target.closest('.clip');
  if (player) player.classList.add('failed');
}, true);"""
# The page names a window by the key that it was given; whatever else comes is answered with a sentence.
_FIND_SIMILAR_JS = """let asked = false;
element.addEventListener('click', event => {
  const button = event.target.closest('[data-more]');
  if (button) { asked = true; trigger('click', {key: button.dataset.more}); }
});
if (typeof watch === 'function') watch('value', () => {
  const found = asked && element.querySelector('.verbspace');
  if (found) { asked = false; found.focus({preventScroll: true}); found.scrollIntoView(); }
});"""


def build_page(controller: AppController, clip_store: ClipStore) -> Any:
    """The page as Gradio Blocks. Raises ValueError where gradio is missing."""
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the app needs gradio; pip install 'verbspace[app]'") from None

    one_at_a_time: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "encoders", "api_visibility": "private"}
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# verbspace\nDrop a clip to see what it is taken for, when, and why. Change the actions, and the scores "
            "follow."
        )
        memory = gr.State(None, time_to_live=3600)
        with gr.Tabs():
            with gr.Tab("Clip"), gr.Row():
                with gr.Column(scale=2, min_width=300):
                    # Not gr.Video: that shows what was uploaded as it is, and complains of what browsers do not play.
                    video = gr.File(label="A clip", elem_id="clip", height=140)
                    player = gr.HTML(elem_id="player", js_on_load=_PLAYER_ERROR_JS)
                    picked = gr.Dropdown(
                        list(controller.clips), value=None, label="Or pick one", elem_id="pick", interactive=True,
                        visible=bool(controller.clips),
                    )  # fmt: skip
                    actions = gr.Textbox(
                        "\n".join(controller.concepts.action_names), label="Actions, one a line", lines=8, max_lines=14,
                        elem_id="actions", max_length=controller.limits.max_actions * controller.limits.max_chars,
                    )  # fmt: skip
                    again = gr.Button("Back to the first actions", size="sm", elem_id="reset")
                with gr.Column(scale=5, min_width=300):
                    answers = gr.HTML(_hint("Drop a clip, or pick one."), elem_id="answers")
                    part = gr.Dropdown(
                        [WHOLE_CLIP], value=WHOLE_CLIP, label="Explain", elem_id="part", interactive=True, visible=False
                    )
                    why = gr.HTML(elem_id="why")
            if controller.searcher is not None:
                with gr.Tab("Search"):
                    with gr.Row(equal_height=True):
                        query = gr.Textbox(
                            label="What to look for", elem_id="query", scale=5, max_length=controller.limits.max_chars,
                            placeholder="a person bowing · or “a person running” − “outdoors”",
                        )  # fmt: skip
                        top = gr.Slider(1, 50, 12, step=1, label="How many", elem_id="top", scale=2)
                        each = gr.Checkbox(
                            True,
                            label="The best of each video",
                            elem_id="each",
                            scale=2,
                            container=False,
                            min_width=200,
                        )
                        go = gr.Button("Search", variant="primary", elem_id="go", scale=1, min_width=120)
                    results = gr.HTML(elem_id="results", js_on_load=_FIND_SIMILAR_JS)
                    windows: WindowIds = OpaqueIds(_MAX_WINDOWS)

                    def find_similar(count: int, per_video: bool, event: Any) -> str:
                        return _similar_html(
                            controller, clip_store, windows, getattr(event, "_data", None), count, per_video
                        )

                    find_similar.__annotations__["event"] = gr.EventData  # Gradio goes by it, and is not known above
                    gr.on(
                        [go.click, query.submit], lambda *asked: _search_html(controller, clip_store, windows, *asked),
                        [query, top, each], results, **one_at_a_time,
                    )  # fmt: skip
                    results.click(find_similar, [top, each], results, **one_at_a_time)

        def show_preview(path: str | None) -> str:
            """A clip to play, where it may be looked at; where it may not, the answers say why."""
            if path is None:
                return ""
            try:
                controller.limits.check_clip(Path(path), Path(path).name)
            except RequestRejected:
                return ""
            return clip_html(Path(path).name, clip_store.full_clip_url(Path(path)))

        def analyze_clip(path: str | None, words: str) -> tuple[Any, ...]:
            """A new clip: what it is, said side by side, and which parts of it can be explained."""
            if path is None:
                return None, _hint("Drop a clip, or pick one."), gr.update(visible=False), ""
            try:
                looked = controller.analyze(Path(path), Path(path).name)
                return (looked, *_ranking_updates(gr, controller, looked, words))
            except RequestRejected as reason:
                return None, rejection_html(str(reason)), gr.update(visible=False), ""

        def update_ranking(looked: ClipAnalysis | None, words: str) -> tuple[Any, ...]:
            """New words for the clip that was looked at."""
            if looked is None:
                return _hint("Drop a clip, or pick one."), gr.update(visible=False), ""
            try:
                return _ranking_updates(gr, controller, looked, words)
            except RequestRejected as reason:
                return rejection_html(str(reason)), gr.update(visible=False), ""

        def explain_part(looked: ClipAnalysis | None, words: str, which: str) -> str:
            """Why, for one of the parts."""
            if looked is None:
                return ""
            try:
                start, end = _part_bounds(controller, looked, words, which)
                return explanation_html(controller.explain(looked, words, start, end))
            except RequestRejected as reason:
                return rejection_html(str(reason))

        first = "\n".join(controller.concepts.action_names)
        shown = [answers, part, why]
        video.change(analyze_clip, [video, actions], [memory, *shown], **one_at_a_time).then(
            explain_part, [memory, actions, part], why, **one_at_a_time
        )
        video.change(
            show_preview, video, player, concurrency_limit=1, concurrency_id="players", api_visibility="private"
        )
        # Not `input`: that comes when a keyboard passes by, too, and would take the clip away.
        picked.change(
            lambda name: str(controller.clips[name]) if name else gr.skip(), picked, video, api_visibility="private"
        )
        actions.change(
            update_ranking,
            [memory, actions],
            shown,
            trigger_mode="always_last",
            show_progress="hidden",
            **one_at_a_time,
        ).then(explain_part, [memory, actions, part], why, show_progress="hidden", **one_at_a_time)
        again.click(lambda: first, None, actions, api_visibility="private")
        part.input(explain_part, [memory, actions, part], why, **one_at_a_time)
    page.queue(max_size=_MAX_QUEUE, api_open=False)
    page.state_session_capacity = _MAX_SESSIONS
    return page


def _ranking_updates(gr: Any, controller: AppController, analysis: ClipAnalysis, action_lines: str) -> tuple[Any, ...]:
    answers = controller.rank(analysis, action_lines)
    parts = _explainable_parts(answers[0].timeline, analysis)
    return analysis_html(analysis, answers), gr.update(choices=list(parts), value=WHOLE_CLIP, visible=True), ""


def _explainable_parts(timeline: Any, analysis: ClipAnalysis) -> dict[str, tuple[float, float]]:
    """The stretches that can be explained, by what the page calls them."""
    parts = {WHOLE_CLIP: (0.0, analysis.duration)}
    for one in timeline:
        parts[f"{format_timestamp(one.start)} – {format_timestamp(one.end)}: {one.action}"] = (one.start, one.end)
    return parts


def _part_bounds(
    controller: AppController, analysis: ClipAnalysis, action_lines: str, part_name: str
) -> tuple[float, float]:
    parts = _explainable_parts(controller.rank(analysis, action_lines)[0].timeline, analysis)
    if part_name not in parts:
        raise RequestRejected("this part belongs to other actions; choose one again")
    return parts[part_name]


def _search_html(
    controller: AppController, clip_store: ClipStore, window_ids: WindowIds, text: str, count: int, per_video: bool
) -> str:
    try:
        hits = controller.search(text or "", count, per_video=per_video)
    except RequestRejected as reason:
        return rejection_html(str(reason))
    return hits_html(hits, clip_store, [local_file(hit) for hit in hits], window_ids)


def _similar_html(
    controller: AppController,
    clip_store: ClipStore,
    window_ids: WindowIds,
    event_data: Any,
    count: int,
    per_video: bool,
) -> str:
    """asked: what the browser says, which may be anything."""
    key = event_data.get("key") if isinstance(event_data, dict) else None
    window = window_ids.lookup(key) if isinstance(key, str) else None
    try:
        if window is None:
            raise RequestRejected("the app does not know this window any more; search again")
        like, hits = controller.find_similar(*window, count, per_video=per_video)
    except RequestRejected as reason:
        return rejection_html(str(reason))
    return hits_html(hits, clip_store, [local_file(hit) for hit in hits], window_ids, like)


def _hint(text: str) -> str:
    return f'<div class="verbspace"><p class="soft">{text}</p></div>'
