"""The page: its controls, and what happens when they are used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import escape

from verbspace.app.controller import AppController, ClipAnalysis
from verbspace.app.html import (
    WindowIds,
    analysis_html,
    clip_html,
    examples_html,
    explanation_html,
    hits_html,
    overview_html,
    rejection_html,
)
from verbspace.app.limits import RequestRejected
from verbspace.app.media import ClipStore, OpaqueIds
from verbspace.app.review_page import build_review_tab
from verbspace.inference.timeline import Segment
from verbspace.utils.text import format_timestamp

TITLE = "verbspace"
WHOLE_CLIP = "the whole clip"
NO_CLIP_HINT = "Upload a clip, or choose an example."
_MAX_SHOWN_HITS = 50  # each has a player
_MAX_QUEUE = 32  # requests that may wait
_MAX_SESSIONS = 64  # sessions whose clips are kept
_MAX_WINDOWS = 4096  # windows of the index for which similar ones can be requested
_PLAYER_ERROR_JS = """element.addEventListener('error', event => {
  const player = event.target.closest('.clip');
  if (player) player.classList.add('failed');
}, true);"""
# The page sends the id of a window. Anything else is answered with an error message.
_FIND_SIMILAR_JS = """let requested = false;
element.addEventListener('click', event => {
  const button = event.target.closest('[data-window-id]');
  if (button) { requested = true; trigger('click', {window_id: button.dataset.windowId}); }
  else if (event.target.closest('.back')) { requested = true; trigger('click', {back: true}); }
});
if (typeof watch === 'function') watch('value', () => {
  const results = requested && element.querySelector('.verbspace');
  if (results) { requested = false; results.focus({preventScroll: true}); results.scrollIntoView(); }
});"""
# The page sends the name of a clip. The filter compares parts of names, and changes only what is shown.
_PICK_EXAMPLE_JS = """const buttons = () => [...element.querySelectorAll('[data-example]')];
element.addEventListener('click', event => {
  const button = event.target.closest('[data-example]');
  if (!button) return;
  for (const each of buttons()) each.setAttribute('aria-pressed', each === button);
  trigger('click', {example: button.dataset.example});
});
element.addEventListener('input', event => {
  const wanted = event.target.value.toLowerCase();
  for (const each of buttons()) each.parentElement.hidden = !each.dataset.example.toLowerCase().includes(wanted);
  element.querySelector('.none').hidden = buttons().some(each => !each.parentElement.hidden);
});"""
# The encoders handle one request at a time. Endpoints are not part of a public API.
_ENCODER_QUEUE: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "encoders", "api_visibility": "private"}


def build_page(controller: AppController, clip_store: ClipStore) -> Any:
    """Build the page as Gradio Blocks."""
    try:
        import gradio as gr
    except ImportError:
        raise ValueError("the app needs gradio; pip install 'verbspace[app]'") from None

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown(
            "# verbspace\nUpload a clip to see its predicted actions, when they occur, and why. Edit the actions, and "
            "the predictions are updated."
        )
        gr.HTML(_hint(str(escape(controller.description()))), elem_id="description", padding=False)
        with gr.Tabs():
            if controller.review is not None:
                with gr.Tab("Review"):
                    build_review_tab(gr, controller.review, clip_store)
            with gr.Tab("Clip"), gr.Row(elem_id="clip-row"):
                _build_clip_tab(gr, controller, clip_store)
            if controller.searcher is not None:
                with gr.Tab("Search"):
                    _build_search_tab(gr, controller, clip_store)
                with gr.Tab("Overview"):
                    _build_overview_tab(gr, controller)
    page.queue(max_size=_MAX_QUEUE, api_open=False)
    page.state_session_capacity = _MAX_SESSIONS
    return page


def _build_clip_tab(gr: Any, controller: AppController, clip_store: ClipStore) -> None:
    initial_actions = "\n".join(controller.concepts.action_names)
    state = gr.State(None, time_to_live=3600)  # the ClipAnalysis
    with gr.Column(scale=2, min_width=300):
        # Not gr.Video, which shows an error message for files that browsers cannot play.
        upload = gr.File(label="Clip", elem_id="clip", height=140)
        player = gr.HTML(elem_id="player", js_on_load=_PLAYER_ERROR_JS)
        examples = gr.HTML(
            examples_html(list(controller.clips)), elem_id="examples", js_on_load=_PICK_EXAMPLE_JS,
            visible=bool(controller.clips),
        )  # fmt: skip
        actions = gr.Textbox(
            initial_actions, label="Actions, one per line", lines=8, max_lines=14, elem_id="actions",
            max_length=controller.limits.max_actions * controller.limits.max_chars,
        )  # fmt: skip
        reset = gr.Button("Reset actions", size="sm", elem_id="reset")
    with gr.Column(scale=5, min_width=300):
        predictions = gr.HTML(_hint(NO_CLIP_HINT), elem_id="predictions")
        part = gr.Dropdown(
            [WHOLE_CLIP], value=WHOLE_CLIP, label="Part to explain", elem_id="part", interactive=True, visible=False
        )
        explanation = gr.HTML(elem_id="explanation")

    def show_player(path: str | None) -> str:
        if path is None:
            return ""
        try:
            controller.limits.check_clip(Path(path), Path(path).name)
        except RequestRejected:
            return ""  # the reason is shown instead of the predictions
        return clip_html(Path(path).name, clip_store.full_clip_url(Path(path)))

    def rank(analysis: ClipAnalysis | None, action_lines: str) -> tuple[Any, ...]:
        if analysis is None:
            return _hint(NO_CLIP_HINT), gr.update(visible=False), ""
        try:
            ranked = controller.rank(analysis, action_lines)
        except RequestRejected as error:
            return rejection_html(str(error)), gr.update(visible=False), ""
        parts = list(_explainable_parts(ranked[0].timeline, analysis))
        return analysis_html(analysis, ranked), gr.update(choices=parts, value=WHOLE_CLIP, visible=True), ""

    progress = gr.Progress()

    def analyze_clip(path: str | None, action_lines: str, progress: Any = progress) -> tuple[Any, ...]:
        def on_progress(stage: str, done: int, total: int, _: Mapping[str, float]) -> None:
            progress((done, total), desc=stage, unit="windows")

        try:
            analysis = None if path is None else controller.analyze(Path(path), Path(path).name, on_progress)
        except RequestRejected as error:
            return None, rejection_html(str(error)), gr.update(visible=False), ""
        return (analysis, *rank(analysis, action_lines))

    def explain_part(analysis: ClipAnalysis | None, action_lines: str, part_name: str) -> str:
        if analysis is None:
            return ""
        try:
            timeline = controller.rank(analysis, action_lines)[0].timeline
            bounds = _explainable_parts(timeline, analysis).get(part_name)
            if bounds is None:
                raise RequestRejected("this part belongs to a previous list of actions; choose a part again")
            return explanation_html(controller.explain(analysis, action_lines, *bounds))
        except RequestRejected as error:
            return rejection_html(str(error))

    explain_inputs, results = [state, actions, part], [predictions, part, explanation]
    upload.change(analyze_clip, [upload, actions], [state, *results], **_ENCODER_QUEUE).then(
        explain_part, explain_inputs, explanation, **_ENCODER_QUEUE
    )
    upload.change(show_player, upload, player, concurrency_limit=1, concurrency_id="players", api_visibility="private")

    def pick(event: Any) -> Any:
        path = controller.clips.get(str(_event_data(event).get("example")))
        return gr.skip() if path is None else str(path)

    pick.__annotations__["event"] = gr.EventData  # Gradio reads the annotation; gr is not imported above
    examples.click(pick, None, upload, api_visibility="private")
    actions.change(
        rank, [state, actions], results, trigger_mode="always_last", show_progress="hidden", **_ENCODER_QUEUE
    ).then(explain_part, explain_inputs, explanation, show_progress="hidden", **_ENCODER_QUEUE)
    reset.click(lambda: initial_actions, None, actions, api_visibility="private")
    part.input(explain_part, explain_inputs, explanation, **_ENCODER_QUEUE)


def _build_search_tab(gr: Any, controller: AppController, clip_store: ClipStore) -> None:
    with gr.Row(equal_height=True):
        query = gr.Textbox(
            label="Query", elem_id="query", scale=5, max_length=controller.limits.max_chars,
            placeholder="a person bowing · or “a person running” − “outdoors”",
        )  # fmt: skip
        top = gr.Slider(1, _MAX_SHOWN_HITS, 12, step=1, label="Number of results", elem_id="top", scale=2)
        per_video = gr.Checkbox(
            True, label="One result per video", elem_id="per-video", scale=2, container=False, min_width=200
        )
        button = gr.Button("Search", variant="primary", elem_id="search-button", scale=1, min_width=120)
    with gr.Accordion("Filters", open=False, elem_id="filters"), gr.Row(equal_height=True):
        path = gr.Textbox(label="Path contains (* and ? match anything)", elem_id="path", max_length=500)
        shortest = gr.Number(0, label="Shortest video, seconds", minimum=0, elem_id="shortest")
        longest = gr.Number(0, label="Longest video, seconds (0: any)", minimum=0, elem_id="longest")
    results = gr.HTML(elem_id="results", js_on_load=_FIND_SIMILAR_JS)
    found = gr.State("")  # the results of the last search, to return to
    window_ids: WindowIds = OpaqueIds(_MAX_WINDOWS)

    def search(
        text: str, count: int, one_per_video: bool, pattern: str, shortest: float | None, longest: float | None
    ) -> tuple[str, str]:
        try:
            hits = controller.search(
                text or "", min(count, _MAX_SHOWN_HITS), per_video=one_per_video, path=pattern,
                min_duration=shortest or None, max_duration=longest or None,
            )  # fmt: skip
            html = hits_html(hits, clip_store, window_ids)
        except RequestRejected as error:
            html = rejection_html(str(error))
        return html, html

    def on_click(count: int, one_per_video: bool, last: str, event: Any) -> str:
        data = _event_data(event)
        if data.get("back"):
            return last
        return _similar_html(controller, clip_store, window_ids, data, count, one_per_video)

    on_click.__annotations__["event"] = gr.EventData  # Gradio reads the annotation; gr is not imported above
    inputs = [query, top, per_video, path, shortest, longest]
    gr.on([button.click, query.submit], search, inputs, [results, found], **_ENCODER_QUEUE)
    results.click(on_click, [top, per_video, found], results, **_ENCODER_QUEUE)


def _build_overview_tab(gr: Any, controller: AppController) -> None:
    button = gr.Button("Show what the index contains", variant="primary", elem_id="overview-button")
    overview = gr.HTML(_hint("Clusters, outliers and copies. This reads some of the videos."), elem_id="overview")

    def show_overview() -> str:
        try:
            return overview_html(controller.overview())
        except RequestRejected as error:
            return rejection_html(str(error))

    button.click(show_overview, None, overview, **_ENCODER_QUEUE)


def _event_data(event: Any) -> dict[str, Any]:
    """Return what the page sent with an event, which can be anything; {} if it is not an object."""
    data = getattr(event, "_data", None)
    return data if isinstance(data, dict) else {}


def _explainable_parts(timeline: Sequence[Segment], analysis: ClipAnalysis) -> dict[str, tuple[float, float]]:
    """Return the parts of a clip that can be explained, by the name that the page shows."""
    parts = {
        f"{format_timestamp(part.start)} – {format_timestamp(part.end)}: {part.action}": (part.start, part.end)
        for part in timeline
    }
    return {WHOLE_CLIP: (0.0, analysis.duration), **parts}


def _similar_html(
    controller: AppController, clip_store: ClipStore, window_ids: WindowIds, data: Any, count: int, per_video: bool
) -> str:
    """Render the windows similar to a window. `data` comes from the browser and can be anything."""
    window_id = data.get("window_id") if isinstance(data, dict) else None
    window = window_ids.lookup(window_id) if isinstance(window_id, str) else None
    try:
        if window is None:
            raise RequestRejected("the app no longer knows this window; search again")
        reference, hits = controller.find_similar(*window, min(count, _MAX_SHOWN_HITS), per_video=per_video)
    except RequestRejected as error:
        return rejection_html(str(error))
    return hits_html(hits, clip_store, window_ids, reference)


def _hint(text: str) -> str:
    return f'<div class="verbspace"><p class="soft">{text}</p></div>'
